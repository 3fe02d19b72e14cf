"""ScaNN on the host (arXiv 1908.10396), rebuilt in the background while the old index serves."""

import bisect
import concurrent.futures
import dataclasses
import importlib.util
import math
import os
import threading
from typing import Any

import gin
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd_jax.config.ranges import NonNegativeInt, Share
from cd_jax.errors import RequestError, RunError
from cd_jax.memory.index import nearest

# Fewer keys are scored exactly, as ScaNN's documentation advises. From there to 100,000 it advises to score all keys by
# hashes, without a tree; with one, 50,000 clustered keys of 512 were searched five times as fast at recall 0.97.
_FEW = 20_000
# Values of a hash, to learn which takes as many keys.
_HASHES = 16
# Recall is measured among so many neighbours of so many keys, drawn at random.
_NEIGHBOURS = 10
_SAMPLE = 256
# Candidates whose exact distances are taken, for each neighbour that is asked for.
_REORDERED = (3, 10, 30, 100, 300)
_CHUNK = 65_536
_CORES = os.cpu_count() or 1
# Of an argument of a callback; what is below 100 KiB is copied at once.
_MOST_BYTES = 2**16


@dataclasses.dataclass(frozen=True)
class _Built:
    """A searcher that serves.

    Attributes:
      searcher: ScaNN's; None where there was no key.
      rows: of the memory, of each key that it holds.
      all_leaves: partitions of its tree; 0 where all keys are scored.
      leaves: of them, those to be searched.
      reordered: for each neighbour, see `_REORDERED`.
    """

    searcher: Any
    rows: np.ndarray
    all_leaves: int = 0
    leaves: int = 0
    reordered: int = 0

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and ScaNN's values, `[queries, count]`; `count` at most the number of keys."""
        positions, values = self._search(queries, count, self.leaves)
        # Few leaves may hold too few keys, which ScaNN tells by values that are no numbers.
        short = np.flatnonzero(~np.isfinite(values).all(-1)) if self.leaves else np.zeros(0, np.int64)
        if len(short):
            positions[short], values[short] = self._search(queries[short], count, self.all_leaves)
        return positions, values

    def _search(self, queries: np.ndarray, count: int, leaves: int) -> tuple[np.ndarray, np.ndarray]:
        tuned = {}
        if leaves:
            reordered = min(len(self.rows), count * self.reordered)
            tuned = {"leaves_to_search": leaves, "pre_reorder_num_neighbors": reordered}
        batch_size = max(1, min(256, -(-len(queries) // _CORES)))
        return self.searcher.search_batched_parallel(queries, count, batch_size=batch_size, **tuned)


@gin.configurable
class ScannIndex:
    """A tree, asymmetric hashing within its leaves, and exact distances for the best.

    `leaves_to_search` and the candidates to be reordered are the least with which a sample of the keys finds the wanted
    share of its neighbours. An update is seen by searches once the index is rebuilt, see `wait`.

    Attributes:
      keys: see `Index`; nothing, as they are on the host.
    """

    keys = ()

    def __init__(
        self,
        keys: np.ndarray,
        capacity: NonNegativeInt = 0,
        metric: str = "squared_euclidean",
        recall_target: Share = 0.95,
        leaves: NonNegativeInt = 0,
        mesh: Mesh | None = None,
    ):
        """Builds the first index.

        Args:
          keys: float32 `[n, embed]`.
          capacity: rows; 0: n.
          metric: one of `nearest.METRICS`.
          recall_target: share of the nearest 10 to be found.
          leaves: partitions of the tree, where there are as many keys; 0: the square root of the number of keys, or
            every key scored where there are fewer than 20,000.
          mesh: of the steps that look keys up; the host searches for all of its devices at once. None: one device.

        Raises:
          RequestError: a binding is wrong.
        """
        nearest.check("ScannIndex", metric, recall_target)
        if importlib.util.find_spec("scann") is None:
            raise RequestError("ScannIndex wants scann, which Linux alone has; bind EpisodicMemory.index=@DeviceIndex")
        if jax.process_count() > 1:
            raise RequestError(
                "ScannIndex searches on the host of one process, and there are "
                f"{jax.process_count()}; bind EpisodicMemory.index=@DeviceIndex"
            )
        if leaves < 0:
            raise RequestError(f"ScannIndex.leaves={leaves} is no number of leaves; bind 0 or more")
        self._capacity = nearest.checked_capacity("ScannIndex", capacity, len(keys))
        self._metric, self._recall_target, self._leaves = metric, recall_target, leaves
        self._keys = np.zeros((self._capacity, keys.shape[1]), np.float32)
        self._keys[: len(keys)] = self._prepared(keys)
        self._held = np.arange(self._capacity) < len(keys)
        self._mesh = mesh
        self._lock = threading.Lock()
        self._version = 0
        self._failure: Exception | None = None
        self._serving = self._build(*self._snapshot(), _CORES)
        self._builder = concurrent.futures.ThreadPoolExecutor(1, "ScannIndex")
        self._last: concurrent.futures.Future | None = None

    def settings(self) -> dict[str, Any]:
        """See `Index`."""
        found = {"metric": self._metric, "recall_target": self._recall_target, "leaves": self._leaves}
        return {"name": "ScannIndex"} | found

    def look_up(self, keys: tuple[()], queries: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        """See `Index`. The step waits for the host; what it finds has no gradient.

        A failure to rebuild the index does not end the step; the next call of another method tells it.
        """
        del keys
        nearest.check_count(count, self._capacity)
        shape = (len(queries), count)
        result = (jax.ShapeDtypeStruct(shape, np.int32), jax.ShapeDtypeStruct(shape, np.float32))
        # On a CPU, JAX copies what is larger in a thread of the pool that runs the step, all of whose threads may be
        # waiting for this very call.
        rows = max(1, _MOST_BYTES // (4 * queries.shape[1]))
        queries = self._everywhere(jax.lax.stop_gradient(queries))
        parts = [queries[start : start + rows] for start in range(0, len(queries), rows)]
        found = jax.pure_callback(lambda *parts: self._find(np.concatenate(parts), count), result, *parts)
        return self._everywhere(found)

    def _everywhere(self, arrays):
        # From there to the one device that calls the host, and back, nothing has to be laid out anew.
        if self._mesh is None:
            return arrays
        return jax.lax.with_sharding_constraint(arrays, NamedSharding(self._mesh, PartitionSpec()))

    def update(self, rows: np.ndarray, keys: np.ndarray) -> None:
        """See `Index`. Raises RequestError for a row that is none, RunError as `wait`."""
        self._write(rows, True, self._prepared(keys))

    def replace(self, keys: jax.Array | np.ndarray, held: np.ndarray) -> None:
        """See `Index`. Raises RunError as `wait`."""
        self._write(np.arange(self._capacity), np.asarray(held), self._prepared(keys))

    def remove(self, rows: np.ndarray) -> None:
        """See `Index`. Raises as `update`."""
        self._write(rows, False, np.zeros((len(rows), self._keys.shape[1]), np.float32))

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`: of the index as it was last rebuilt.

        Raises:
          RequestError: more neighbours than the capacity.
          RunError: as `wait`.
        """
        nearest.check_count(count, self._capacity)
        self._raise_failure()
        return self._find(queries, count)

    def _find(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        serving, queries = self._serving, self._prepared(queries)
        away = self._metric == "squared_euclidean"
        rows = np.full((len(queries), count), -1, np.int32)
        values = np.full((len(queries), count), np.inf if away else -np.inf, np.float32)
        there = min(count, len(serving.rows))
        if there and len(queries):
            positions, found = serving.search(queries, there)
            # What is no number is no neighbour: the key, or the query, is broken.
            known = np.isfinite(found)
            rows[:, :there] = np.where(known, serving.rows[np.where(known, positions, 0)], -1)
            values[:, :there] = np.where(known, found, values[:, :there])
        return rows, values

    def wait(self) -> None:
        """Waits until all updates are seen by searches.

        Raises:
          RunError: the index could not be rebuilt; told once, by the next call of any method. The old one still serves.
        """
        if self._last:
            self._last.result()
        self._raise_failure()

    def _prepared(self, vectors: jax.Array | np.ndarray) -> np.ndarray:
        """`nearest.prepared`, on the host."""
        prepared = np.asarray(vectors, np.float32)
        if self._metric == "cosine":
            # What is not finite stays so, and is left out.
            with np.errstate(invalid="ignore", over="ignore"):
                prepared = prepared / np.maximum(np.linalg.norm(prepared, axis=-1, keepdims=True), nearest.TINY)
        return prepared

    def _write(self, rows: np.ndarray, held: bool | np.ndarray, keys: np.ndarray) -> None:
        rows = nearest.checked_rows(rows, self._capacity)
        self._raise_failure()
        with self._lock:
            self._keys[rows], self._held[rows] = keys, held
            self._version += 1
            self._last = self._builder.submit(self._rebuild, self._version)

    def _rebuild(self, version: int) -> None:
        """In the background thread; whatever goes wrong is kept for the next call."""
        with self._lock:
            if version < self._version:
                return  # Later updates wait in line, and their rebuild will show this one too.
            rows, keys = self._snapshot()
        try:
            # Half of the cores are left to those who search.
            self._serving = self._build(rows, keys, max(1, _CORES // 2))
        except Exception as error:
            self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure:
            reason = (str(failure).splitlines() or [""])[0]
            raise RunError(
                f"ScannIndex could not be rebuilt, and searches what it held before: {type(failure).__name__}: {reason}"
            ) from failure

    def _snapshot(self) -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(self._held & self._finite()).astype(np.int32)
        return rows, self._keys[rows]

    def _finite(self) -> np.ndarray:
        return np.asarray(np.isfinite(self._keys).all(-1))

    @property
    def left_out(self) -> int:
        """See `Index`."""
        return int((self._held & ~self._finite()).sum())

    def _build(self, rows: np.ndarray, keys: np.ndarray, threads: int) -> _Built:
        if not len(rows):
            return _Built(None, rows)
        # It loads TensorFlow's runtime: only those who ask for it wait.
        from scann.scann_ops.py import scann_ops_pybind

        measure = "squared_l2" if self._metric == "squared_euclidean" else "dot_product"
        builder = scann_ops_pybind.builder(keys, _NEIGHBOURS, measure).set_n_training_threads(threads)
        leaves = self._leaves or (math.isqrt(len(rows)) if len(rows) >= _FEW else 0)
        if not leaves or len(rows) < max(leaves, _HASHES):
            return _Built(builder.score_brute_force().build(), rows)
        builder = builder.tree(leaves, leaves, training_sample_size=min(len(rows), 100_000))
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(_NEIGHBOURS)
        return self._tuned(_Built(builder.build(), rows, leaves, leaves, _REORDERED[-1]), keys)

    def _tuned(self, built: _Built, keys: np.ndarray) -> _Built:
        """The fastest search that finds the wanted share."""
        count = min(_NEIGHBOURS + 1, len(keys))  # Each is its own nearest neighbour, which is no achievement.
        chosen = np.random.default_rng(0).choice(len(keys), min(_SAMPLE, len(keys)), replace=False)
        least = self._least_scores(keys, chosen, count)

        def finds(leaves: int, reordered: int, target: float) -> bool:
            tried = dataclasses.replace(built, leaves=leaves, reordered=reordered)
            positions, _ = tried.search(keys[chosen], count)
            # Counted by score, not by row: of equal keys one is as good as the other.
            scores = np.stack([self._scores(keys[p], keys[q][None])[0] for p, q in zip(positions, chosen, strict=True)])
            others = (scores >= least[:, None]) & (positions != chosen[:, None])
            recall = np.minimum(others.sum(-1), count - 1) / max(count - 1, 1)
            # Sure of it but for one sample in forty.
            return recall.mean() - 2.0 * recall.std() / math.sqrt(len(recall)) >= target

        # Hashes and leaves lose neighbours independently: half of what may be lost is the hashes'.
        half = (1.0 + self._recall_target) / 2.0
        reordered = next((r for r in _REORDERED if finds(built.all_leaves, r, half)), _REORDERED[-1])
        fewest = bisect.bisect_left(
            range(1, built.all_leaves), True, key=lambda leaves: finds(leaves, reordered, self._recall_target)
        )
        return dataclasses.replace(built, leaves=fewest + 1, reordered=reordered)

    def _scores(self, keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """Higher is nearer; see `nearest`."""
        bias = -0.5 * np.square(keys).sum(-1) if self._metric == "squared_euclidean" else 0.0
        return queries @ keys.T + bias

    def _least_scores(self, keys: np.ndarray, chosen: np.ndarray, count: int) -> np.ndarray:
        """The score of the last of the `count` nearest keys, less what rounding may do to it."""
        best = np.zeros((len(chosen), 0), np.float32)
        for start in range(0, len(keys), _CHUNK):
            scores = np.concatenate([best, self._scores(keys[start : start + _CHUNK], keys[chosen])], 1)
            best = -np.partition(-scores, count - 1, axis=1)[:, :count] if scores.shape[1] > count else scores
        return best.min(-1) - 1e-5 * np.abs(best).max(-1)
