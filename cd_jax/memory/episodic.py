"""The episodic memory (arXiv 2212.11353, section 3): updates, found by the contexts that they came from."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from cd_jax.config.ranges import NonNegativeInt, PositiveInt
from cd_jax.errors import RequestError
from cd_jax.memory import machine, queries, retrieval
from cd_jax.memory.entries import Entry, Line, Owners, read_lines, write_lines
from cd_jax.memory.index.device import DeviceIndex, Index
from cd_jax.memory.layout import Layout, counted
from cd_jax.memory.retrieval import Retrieved, Store
from cd_jax.rundir import files
from cd_jax.types import Example

__all__ = ["Entry", "EpisodicMemory", "Retrieved", "Store"]

EVICT = ("oldest", "least_used", "lowest_score")
TRAIN_RETRIEVAL = ("random", "fixed", "off")
# Bytes of a row at least: what is known of its entry; and for each dimension of the keys, which are in the index and
# encoded anew.
_ROW_BYTES, _DIMENSION_BYTES = 32, 8


@gin.configurable
class EpisodicMemory:
    """Keys are context embeddings under the current parameters; values are updates.

    It has a fixed number of rows: as it fills, evicts and is re-encoded, no array of a step changes its shape.

    Attributes:
      entries: of each row; None: it is free.
    """

    def __init__(
        self,
        capacity: PositiveInt = 1000,
        num_queries: PositiveInt = 2,
        num_axes: NonNegativeInt = 8,
        index: Callable[..., Index] = DeviceIndex,
        evict: str = "oldest",
        train_retrieval: str = "random",
        leave_out_own: bool = True,
        mesh: Mesh | None = None,
    ):
        """Makes an empty memory.

        Args:
          capacity: rows.
          num_queries: retrieved updates of a context, one a query.
          num_axes: principal axes among which training draws its queries.
          index: the nearest-neighbour back end.
          evict: which entry makes room where none is left: the `oldest`, the `least_used` (by retrievals), or that of
            the `lowest_score` (one without a score is below any other); of equal ones the oldest.
          train_retrieval: how training asks: queries at `random`; the `fixed` ones of evaluation; or not at all, `off`.
          leave_out_own: never to retrieve what explains the context itself, or one of its family.
          mesh: the devices of the steps that read the memory; None: one.

        Raises:
          RequestError: a binding is wrong.
        """
        _check(capacity, num_queries, num_axes, evict, train_retrieval)
        _check_room(capacity, _ROW_BYTES)
        if not callable(index):
            raise RequestError("EpisodicMemory.index is no back end; bind @DeviceIndex or @ScannIndex")
        self.capacity, self.num_queries, self.num_axes = capacity, num_queries, num_axes
        self.train_retrieval, self.leave_out_own = train_retrieval, leave_out_own
        self._make_index, self._evict, self._mesh = index, evict, mesh
        self.entries: list[Entry | None] = [None] * capacity
        self._index: Index | None = None
        self._layout = Layout(capacity, mesh)
        self._mean: jax.Array | None = None
        self._axes: jax.Array | None = None
        self._row_of: dict[tuple[str, str], int] = {}
        self._owners = Owners()
        # By row: the owner's number (-1: free), whether the entry has a key, and the number of its addition.
        self._owner = np.full(capacity, -1, np.int32)
        self._keyed = np.zeros(capacity, bool)
        self._added = np.zeros(capacity, np.int32)
        self._additions = 0
        # Rows of the group of owners that has the most.
        self._most = 0
        self._used = self._layout.zeros(dtype=jnp.int32)

    # Entries

    def add(self, entries: Sequence[Entry]) -> np.ndarray:
        """Takes entries in; they are found once `write` has given them a key.

        An entry of the same prompt and the same update as one that is there is not stored again: that one stands for
        both, and neither's owner is shown anything of the other's. Where there is no room, entries of before are
        evicted, and of the new ones only those that there is no room for either.

        Returns:
          The row of each, int32; -1 for one that did not stay.
        """
        fresh: dict[tuple[str, str], Entry] = {}
        for entry in entries:
            row = self._row_of.get(entry.content)
            if row is not None:
                self._meet_again(row, entry)
            else:
                known = fresh.get(entry.content)
                fresh[entry.content] = known.met_again(entry) if known else entry
        self._store(list(fresh.values()))
        return np.array([self._row_of.get(entry.content, -1) for entry in entries], np.int32)

    def introduce(self, examples: Iterable[Example]) -> None:
        """Tells whose examples have the prompt of an entry: whatever explains it is not shown to them, either."""
        owner_of = {entry.prompt: entry.owner for entry in self.entries if entry}
        for entry in self.entries:
            if entry:
                self._owners.join([owner_of[entry.prompt], entry.owner])
        for example in examples:
            if example.prompt in owner_of:
                self._owners.join([owner_of[example.prompt], example.family])
        self._place_owners()

    def _meet_again(self, row: int, entry: Entry) -> None:
        held = self.entries[row]
        assert held is not None
        self.entries[row] = held.met_again(entry)
        self._owners.join([held.owner, entry.owner, *entry.other_owners])

    def _store(self, fresh: list[Entry]) -> None:
        added = self._additions + np.arange(len(fresh))
        self._additions += len(fresh)
        # They would all leave again at once.
        surplus = max(len(fresh) - self.capacity, 0)
        first_out = self._eviction_order(fresh, np.zeros(len(fresh)), added)[:surplus]
        staying = np.setdiff1d(np.arange(len(fresh)), first_out)
        free = np.flatnonzero(self._owner < 0)
        if len(free) < len(staying):
            rows = self.rows()
            order = self._eviction_order([self.entries[row] for row in rows], self.used[rows], self._added[rows])
            self._free(rows[order[: len(staying) - len(free)]])
            free = np.flatnonzero(self._owner < 0)
        for i, row in zip(staying, free, strict=False):
            entry = fresh[i]
            self.entries[row], self._row_of[entry.content] = entry, int(row)
            self._owner[row] = self._owners.join([entry.owner, *entry.other_owners])
            self._added[row] = added[i]
        self._place_owners()

    def _eviction_order(self, entries: Sequence[Entry | None], used: np.ndarray, added: np.ndarray) -> np.ndarray:
        """Positions, the first to go first."""
        worth = np.zeros(len(entries))
        if self._evict == "least_used":
            worth = used
        elif self._evict == "lowest_score":
            worth = np.array([-np.inf if e is None or e.score is None else e.score for e in entries], np.float64)
        return np.lexsort((added, worth))

    def remove(self, rows: Sequence[int] | np.ndarray) -> None:
        """Frees rows; those that are free stay so."""
        rows = np.unique(np.asarray(rows, np.int32))
        self._free(rows[self._owner[rows] >= 0])
        self._place_owners()

    def _free(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        for row in rows:
            entry = self.entries[row]
            assert entry is not None
            del self._row_of[entry.content]
            self.entries[row] = None
        keyed = rows[self._keyed[rows]]
        if self._index and len(keyed):
            self._index.remove(keyed)
        self._owner[rows], self._keyed[rows] = -1, False
        used = self.used.copy()
        used[rows] = 0
        self.set_used(used)

    def rows(self) -> np.ndarray:
        """The rows that hold an entry, ascending."""
        return np.flatnonzero(self._owner >= 0).astype(np.int32)

    def prompts(self) -> list[str]:
        """From which the keys are encoded, of all rows; empty where a row is free."""
        return [entry.prompt if entry else "" for entry in self.entries]

    def owner_ids(self, owners: Sequence[str]) -> np.ndarray:
        """Numbers for `retrieval.retrieve`, int32; they hold until entries are added.

        Args:
          owners: families of contexts, or their ids where they stand alone.

        Returns:
          -1 for those who own nothing, and for all where nothing is left out.
        """
        return self._owners.groups_of(owners) if self.leave_out_own else np.full(len(owners), -1, np.int32)

    def check_enough(self) -> None:
        """Raises RequestError where less is left, without the context's own, than is to be retrieved."""
        held = len(self.rows())
        if held - self._most < self.num_queries:
            raise RequestError(
                f"EpisodicMemory.num_queries={self.num_queries} of a memory of {held} updates; "
                "bind it lower or distill more"
            )

    # Keys

    def write(
        self, keys: jax.Array | np.ndarray, mean_and_axes: tuple[jax.Array | np.ndarray, ...] | None = None
    ) -> None:
        """Replaces all keys, and with them the axes; waits until they are found.

        Args:
          keys: `[capacity, embed]`, of `prompts`; those of free rows are ignored. On the devices they stay there, and
            `[layout.rows, embed]`, laid out so, are taken over: they are not to be used any more.
          mean_and_axes: of `Store`, where they are known.
        """
        self._write(keys, self._owner >= 0, mean_and_axes)

    def _write(self, keys: jax.Array | np.ndarray, keyed: np.ndarray, mean_and_axes: Any) -> None:
        self.make_index(keys.shape[1])
        assert self._index
        keys = self._layout.fit(keys if isinstance(keys, jax.Array) else np.asarray(keys, np.float32))
        self._keyed = keyed.copy()
        if mean_and_axes is None:
            # On one device as many rows are summed as there were before they were filled up.
            rows = self.capacity if self._layout.shards == 1 else len(keys)
            mean_and_axes = _mean_and_axes(
                keys, self._layout.place(keyed), self.num_axes, rows, self._layout.replicated
            )
        self._mean, self._axes = jax.device_put(tuple(mean_and_axes), self._layout.replicated)
        self._index.replace(keys, keyed)
        self._place_owners()
        self._index.wait()

    @property
    def keys(self) -> jax.Array | np.ndarray | None:
        """`[capacity, embed]`, as the index compares them; no number in rows that are not found. None before."""
        return self.stored()["keys"][: self.capacity] if self.is_written else None

    @property
    def is_written(self) -> bool:
        """Whether any keys were."""
        return self._mean is not None

    def stored(self) -> dict[str, jax.Array | np.ndarray]:
        """What `write` takes, once keys were written: `keys`, `[layout.rows, embed]` where they lie, `mean`, `axes`."""
        assert self._index is not None and self._mean is not None and self._axes is not None
        return {"keys": self._index.stored(), "mean": self._mean, "axes": self._axes}

    @property
    def left_out(self) -> int:
        """How many entries cannot be found, as their keys are not finite."""
        return self._index.left_out if self._index else 0

    def make_index(self, embed: int) -> None:
        """Makes the index, if there is none yet, for keys of so many dimensions; RequestError for a wrong binding."""
        if self._index is None:
            if jax.default_backend() == "cpu":
                _check_room(self.capacity, _ROW_BYTES + _DIMENSION_BYTES * embed)
            none = np.zeros((0, embed), np.float32)
            self._index = self._make_index(none, capacity=self.capacity, mesh=self._mesh)
            used, self._layout = self.used, self._index.layout
            self.set_used(used)

    @property
    def layout(self) -> Layout:
        """Where its rows lie, and those of all tables beside it; once there is an index."""
        return self._layout

    def settings(self) -> dict[str, Any]:
        """What retrieval depends on beside the entries; once there is an index."""
        assert self._index is not None
        return {
            "capacity": self.capacity,
            "train_retrieval": self.train_retrieval,
            "leave_out_own": self.leave_out_own,
            "index": self._index.settings(),
        }

    def _place_owners(self) -> None:
        groups = self._owners.groups(self._owner)
        self._most = int(np.bincount(groups[groups >= 0]).max(initial=0)) if self.leave_out_own else 0
        self._row_owners = self._layout.place(np.where(self._keyed, groups, -1).astype(np.int32), -1)

    # Retrieval

    @property
    def store(self) -> Store:
        """What `retrieval.retrieve` reads; once keys were written."""
        assert self._index is not None and self._mean is not None and self._axes is not None
        return Store(self._index.keys, self._row_owners, self._mean, self._axes)

    @property
    def look_up(self) -> retrieval.LookUp:
        """The index's, a static argument; once keys were written."""
        assert self._index is not None
        return self._index.look_up

    @property
    def count(self) -> int:
        """Neighbours to be looked up for each query. It seldom changes: each value compiles a step."""
        owned = self._most
        return min(self.capacity, self.num_queries + (1 << (owned - 1).bit_length() if owned else 0))

    @property
    def picked(self) -> queries.Pick:
        """Which queries are asked; a static argument."""
        return queries.Pick(self.num_queries, self.num_axes)

    def retrieve(
        self, embeddings: jax.Array | np.ndarray, owners: Sequence[str], key: jax.Array | None = None
    ) -> Retrieved:
        """`retrieval.retrieve` for the host.

        Args:
          embeddings: `[rows, embed]`, under the same parameters as the keys.
          owners: the family of each row, or its id where it stands alone.
          key: see `picked`.
        """
        picked = self.picked(key, len(embeddings))
        owned = self.owner_ids(owners)
        found = _retrieve(self.look_up, self.store, embeddings, owned, picked, self.count, self._layout)
        return jax.tree.map(self._layout.on_host, found)

    def count_use(self, rows: jax.Array) -> None:
        """Counts rows that were retrieved, int32 of any shape; -1 is none. The host does not wait for it."""
        self._used = counted(self._used, rows, self._layout)

    @property
    def used(self) -> np.ndarray:
        """How often each row was retrieved, int32 `[capacity]`."""
        return self._layout.on_host(self._used)[: self.capacity]

    def set_used(self, used: np.ndarray | jax.Array) -> None:
        """Takes up what was counted before, `used` of a memory with the same entries in the same rows."""
        self._used = self._layout.place(np.asarray(used, np.int32))

    @property
    def added(self) -> np.ndarray:
        """The running number of each row's addition, int32 `[capacity]`; 0 where it is free."""
        return np.where(self._owner >= 0, self._added, 0).astype(np.int32)

    # Files

    def save(self, directory: files.Path) -> None:
        """Writes `entries.jsonl`, of the rows that hold an entry. Keys go with the parameters, and are not kept."""
        used = self.used
        lines = ((self.entries[row], int(used[row]), int(self._added[row])) for row in self.rows())
        write_lines(directory, [Line(entry, used, added) for entry, used, added in lines if entry])

    @classmethod
    def load(cls, directory: files.Path, **settings: Any) -> "EpisodicMemory":
        """A saved memory; its entries stand in the first rows, and are found once `write` has given them keys.

        Args:
          directory: of `save`.
          **settings: of `EpisodicMemory`.

        Raises:
          RequestError: there is none, a line of it is malformed, or it has more entries than `capacity`.
        """
        lines, memory = read_lines(directory), cls(**settings)
        if len(lines) > memory.capacity:
            raise RequestError(
                f"EpisodicMemory.capacity={memory.capacity} has no room for the {len(lines)} updates of {directory}; "
                f"bind it to {len(lines)} or more"
            )
        memory._take_counts(memory.add([line.entry for line in lines]), lines)
        return memory

    def _take_counts(self, rows: np.ndarray, lines: list[Line]) -> None:
        used = np.zeros(self.capacity, np.int32)
        used[rows] = [line.used for line in lines]
        self.set_used(used)
        self._added[rows] = [line.added for line in lines]
        self._additions = max((line.added + 1 for line in lines), default=0)


def _check(capacity: int, num_queries: int, num_axes: int, evict: str, train_retrieval: str) -> None:
    if capacity < 1:
        raise RequestError(f"EpisodicMemory.capacity={capacity} has no room for an update; bind 1 or more")
    if num_queries < 1:
        raise RequestError(f"EpisodicMemory.num_queries={num_queries} retrieves nothing; bind 1 or more")
    if num_axes < num_queries - 1:
        raise RequestError(
            f"EpisodicMemory.num_axes={num_axes} gives fewer queries than num_queries={num_queries}; bind it higher"
        )
    for name, value, known in (
        ("evict", evict, EVICT),
        ("train_retrieval", train_retrieval, TRAIN_RETRIEVAL),
    ):
        if value not in known:
            raise RequestError(f"EpisodicMemory.{name}={value!r} is none of {', '.join(known)}; bind one of them")


def _check_room(capacity: int, row: int) -> None:
    machine.check_room(capacity * row, f"EpisodicMemory.capacity={capacity} needs {{}}; bind it lower")


@functools.partial(jax.jit, static_argnames=("num_axes", "rows", "sharding"))
def _mean_and_axes(
    keys: jax.Array, keyed: jax.Array, num_axes: int, rows: int, sharding: NamedSharding | None
) -> tuple[jax.Array, jax.Array]:
    keys, keyed = keys[:rows], keyed[:rows]
    keys = jnp.where(keyed[:, None], keys.astype(jnp.float32), 0.0)
    mean, axes = queries.principal_axes(keys, num_axes, keyed)
    axes = jnp.pad(axes, ((0, num_axes - len(axes)), (0, 0)))
    # Among n keys there are n - 1 directions; the others would be what rounding makes of them.
    there = jnp.arange(num_axes) < keyed.sum() - 1
    found = mean, jnp.where(there[:, None], axes, 0.0)
    return jax.lax.with_sharding_constraint(found, sharding) if sharding else found


_retrieve = jax.jit(retrieval.retrieve, static_argnames=("look_up", "count", "layout"))
