"""The episodic memory (arXiv 2212.11353, section 3): updates, found by the contexts that they came from."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Callable

import gin
import numpy as np

from cd_jax.errors import RequestError
from cd_jax.memory import queries
from cd_jax.memory.index import DeviceIndex, Index
from cd_jax.types import Example, Update


@dataclasses.dataclass(frozen=True)
class Entry:
    """What stands beside a key: the update, and the context whose embedding the key is.

    Attributes:
      example_id: the example that the update explains.
      prompt: its context and question.
      update: the text.
      family: of the example, see `Example.family`; empty where it stands alone.
    """

    example_id: str
    prompt: str
    update: str
    family: str = ""

    @property
    def owner(self) -> str:
        """To whom the entry is not shown in training."""
        return self.family or self.example_id


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """Neighbours of a batch of contexts, one for each query.

    Attributes:
      entries: int32 `[rows, queries]`, indices of entries; no entry twice in a row.
      queries: int32 `[rows, queries]`, which query found it: 0 the key itself, i the projection onto axis i.
      distances: float32 `[rows, queries]`, squared Euclidean.
    """

    entries: np.ndarray
    queries: np.ndarray
    distances: np.ndarray


def choose_entries(examples: list[Example], updates: dict[str, list[Update]], capacity: int, seed: int) -> list[Entry]:
    """Fills a memory: one update of every example in a random order, then a second one, until it is full."""
    order = np.random.default_rng(seed).permutation(len(examples))
    entries = []
    for sample in range(max((len(u) for u in updates.values()), default=0)):
        for i in order:
            explained = updates.get(examples[i].example_id, [])
            if sample < len(explained):
                example = examples[i]
                entries.append(Entry(example.example_id, example.prompt, explained[sample].update, example.family))
            if len(entries) == capacity:
                return entries
    return entries


@gin.configurable
class EpisodicMemory:
    """Keys are context embeddings under the current parameters; values are updates."""

    def __init__(
        self,
        entries: list[Entry],
        num_queries: int = 2,
        num_axes: int = 8,
        index: Callable[[np.ndarray], Index] = DeviceIndex,
    ):
        """Makes a memory whose keys are still to be written.

        Args:
          entries: see `choose_entries`.
          num_queries: retrieved updates of a context, one a query.
          num_axes: principal axes among which training draws its queries.
          index: the nearest-neighbour back end.

        Raises:
          RequestError: fewer entries, those of the context's own family left out, than what is to be retrieved.
        """
        most_owned = max(collections.Counter(e.owner for e in entries).values(), default=0)
        if len(entries) - most_owned < max(num_queries, 1):
            raise RequestError(
                f"EpisodicMemory.num_queries={num_queries} of a memory of {len(entries)} updates; "
                "bind it lower or distill more"
            )
        if num_axes < num_queries - 1:
            raise RequestError(
                f"EpisodicMemory.num_axes={num_axes} gives fewer queries than num_queries={num_queries}; bind it higher"
            )
        self.entries = entries
        self.num_queries = num_queries
        self.num_axes = num_axes
        self._make_index = index
        self.keys = np.zeros((len(entries), 0), np.float32)
        owners = {e.owner: i for i, e in enumerate(entries)}
        self._owner = np.array([owners[e.owner] for e in entries])
        self._owners = owners
        self._most_owned = most_owned

    def write(self, keys: np.ndarray) -> None:
        """Replaces all keys, `[entries, embed]`, and rebuilds the index and the axes."""
        self.keys = np.asarray(keys, np.float32)
        self._index = self._make_index(self.keys)
        self._mean, self._axes = queries.principal_axes(self.keys, min(self.num_axes, *self.keys.shape))

    def _pick(self, rows: int, rng: np.random.Generator | None) -> np.ndarray:
        """Which queries to ask: `num_queries` at random (training), or the leading axes and the key (evaluation)."""
        if rng is None:
            evaluation = [*range(1, self.num_queries), 0]
            return np.tile(np.array(evaluation), (rows, 1))
        scores = rng.random((rows, 1 + len(self._axes)))
        return scores.argsort(-1)[:, : self.num_queries]

    def retrieve(self, embeddings: np.ndarray, owners: list[str], rng: np.random.Generator | None = None) -> Retrieved:
        """Finds updates for contexts; never one of the context's own family, which would give the answer away.

        Args:
          embeddings: `[rows, embed]`, under the same parameters as the keys.
          owners: the family of each row, or its id where it stands alone.
          rng: draws the queries (training); None asks the fixed ones (evaluation).
        """
        rows = len(embeddings)
        picked = self._pick(rows, rng)
        candidates = np.asarray(queries.candidate_queries(embeddings, self._mean, self._axes))
        asked = np.take_along_axis(candidates, picked[:, :, None], axis=1).reshape(rows * self.num_queries, -1)
        # Enough neighbours that one is left after the context's own and those of the other queries.
        count = min(len(self.entries), self._most_owned + self.num_queries)
        found, distances = self._index.search(asked, count)
        shape = (rows, self.num_queries, count)
        found, distances = np.asarray(found, np.int32).reshape(shape), np.asarray(distances).reshape(shape)
        own = np.array([self._owners.get(owner, -1) for owner in owners])
        return self._first_free(found, distances, picked.astype(np.int32), own)

    def _first_free(self, found: np.ndarray, distances: np.ndarray, picked: np.ndarray, own: np.ndarray) -> Retrieved:
        taken = self._owner[found] == own[:, None, None]
        entries, nearest = [], []
        for q in range(self.num_queries):
            first = taken[:, q].argmin(-1)[:, None]
            entry = np.take_along_axis(found[:, q], first, 1)
            entries.append(entry)
            nearest.append(np.take_along_axis(distances[:, q], first, 1))
            taken |= found == entry[:, None]
        return Retrieved(np.concatenate(entries, 1), picked, np.concatenate(nearest, 1))

    def save(self, directory: str | pathlib.Path) -> None:
        """Writes `entries.jsonl` and `keys.npy`."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        # ASCII escapes: neither a lone surrogate nor one of Unicode's line ends may break the file.
        lines = (json.dumps(dataclasses.asdict(entry)) + "\n" for entry in self.entries)
        (directory / "entries.jsonl").write_bytes("".join(lines).encode("ascii"))
        np.save(directory / "keys.npy", self.keys)


def load_entries(directory: str | pathlib.Path) -> list[Entry]:
    """Entries of a saved memory.

    Raises:
      RequestError: there is none, or a line of it is malformed.
    """
    path = pathlib.Path(directory) / "entries.jsonl"
    if not path.is_file():
        raise RequestError(f"{path}: no such memory; `cd_jax train` writes it")
    entries = []
    # Read as bytes: only b"\n" ends a line here, and text that is not UTF-8 is reported with its line.
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), 1):
        try:
            entries.append(_parse(line))
        except (ValueError, TypeError) as error:
            raise RequestError(
                f"{path}:{number}: not an entry of a memory ({error}); train again to write it"
            ) from error
    return entries


def _parse(line: bytes) -> Entry:
    entry = Entry(**json.loads(line))
    if not all(isinstance(value, str) for value in dataclasses.astuple(entry)):
        raise TypeError("a field is not text")
    return entry
