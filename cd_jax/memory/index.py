"""Nearest neighbours by squared Euclidean distance: exact on the device, or ScaNN on the host."""

from typing import Protocol

import gin
import jax
import jax.numpy as jnp
import numpy as np


class Index(Protocol):
    """Finds the nearest keys. Built anew whenever the keys change."""

    def __init__(self, keys: np.ndarray): ...

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices and squared distances, nearest first: `[queries, embed]` to two `[queries, count]`."""
        ...


@jax.jit(static_argnames="count")
def _nearest(keys: jax.Array, queries: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    # The query's own norm is the same for every key: it is left out of the search and added to the distances.
    scores = 2.0 * jnp.matmul(queries, keys.T, precision="highest") - (keys**2).sum(-1)[None]
    best, indices = jax.lax.approx_max_k(scores, count, recall_target=0.99)
    return indices, (queries**2).sum(-1, keepdims=True) - best


@gin.configurable
class DeviceIndex:
    """`jax.lax.approx_max_k` on the device: one matrix product; exact on CPU and GPU, recall 0.99 on a TPU."""

    def __init__(self, keys: np.ndarray):
        self._keys = jnp.asarray(keys)

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        indices, distances = _nearest(self._keys, jnp.asarray(queries), count)
        return np.asarray(indices), np.asarray(distances)


@gin.configurable
class ScannIndex:
    """ScaNN on the host (arXiv 1908.10396). Below 20,000 keys its own advice is brute force, which is exact."""

    def __init__(self, keys: np.ndarray, leaves: int = 0):
        """Builds the searcher.

        Args:
          keys: float32 `[keys, embed]`.
          leaves: partitions of a tree with asymmetric hashing and exact reordering; 0 scores every key exactly.
        """
        import scann  # Loads TensorFlow's runtime: only those who ask for it wait.

        builder = scann.scann_ops_pybind.builder(np.asarray(keys, np.float32), 10, "squared_l2")
        if leaves:
            builder = builder.tree(num_leaves=leaves, num_leaves_to_search=max(1, leaves // 10))
            builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100)
        else:
            builder = builder.score_brute_force()
        self._searcher = builder.build()

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`."""
        return self._searcher.search_batched(np.asarray(queries, np.float32), final_num_neighbors=count)
