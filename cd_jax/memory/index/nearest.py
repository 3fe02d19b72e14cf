"""Nearest neighbours on the device: pure functions of the keys, for the host and for the inside of a jitted step.

Every metric is one matrix product and an added bias, `queries @ keys.T + bias`: the bias is 0 for inner products and
cosines, `-|key|^2 / 2` for squared Euclidean distances, and minus infinity where a row holds no key. So a memory that
fills, or loses a key, keeps its shapes, and nothing is compiled anew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cd_jax.errors import RequestError

METRICS = ("squared_euclidean", "inner_product", "cosine")

# Scores are looked at in blocks of so many keys, the width of a TPU's vector registers.
BLOCK = 128
# Scores that are held at once, 64 MB; with more the CPU's caches are of no use.
_MOST_SCORES = 2**24
# Below it a cosine's vector counts as none, and is similar to nothing.
TINY = 1e-30


class Keys(NamedTuple):
    """A memory's keys, a pytree of arrays that keep their shapes.

    Attributes:
      vectors: `[rows, embed]`, float32 or bfloat16; of length 1 where the metric is the cosine.
      bias: float32 `[rows]`, what is added to a row's inner products; minus infinity where the row holds no key.
    """

    vectors: jax.Array
    bias: jax.Array


def check(owner: str, metric: str, recall_target: float) -> None:
    """Refuses bindings that no search can follow.

    Args:
      owner: whose bindings they are, such as `DeviceIndex`.
      metric: one of `METRICS`.
      recall_target: share of the nearest neighbours to be found, above 0 and at most 1.

    Raises:
      RequestError: one of them is wrong.
    """
    if metric not in METRICS:
        raise RequestError(f"{owner}.metric={metric!r} is no metric; bind one of {', '.join(METRICS)}")
    if not 0.0 < recall_target <= 1.0:
        raise RequestError(f"{owner}.recall_target={recall_target} is no share; bind it above 0 and at most 1")


def check_count(count: int, capacity: int) -> None:
    """Refuses to look for more neighbours than there is room for.

    Raises:
      RequestError: `count` is not in 1..capacity.
    """
    if not 1 <= count <= capacity:
        raise RequestError(f"{count} neighbours of a memory with room for {capacity} keys; ask for 1 to {capacity}")


def checked_capacity(owner: str, capacity: int, keys: int) -> int:
    """The rows of a memory; 0 stands for as many as there are keys.

    Raises:
      RequestError: there are more keys than rows, or no rows.
    """
    rows, needed = capacity or keys, max(keys, 1)
    if rows < needed:
        raise RequestError(f"{owner}.capacity={capacity} has no room for {keys} keys; bind it to {needed} or more")
    return rows


def checked_rows(rows: np.ndarray, capacity: int) -> np.ndarray:
    """Rows as int32 `[n]`.

    Raises:
      RequestError: there is no such row.
    """
    rows = np.asarray(rows, np.int32)
    wrong = rows[(rows < 0) | (rows >= capacity)]
    if wrong.size:
        raise RequestError(f"row {wrong[0]} of a memory with room for {capacity} keys; rows are 0 to {capacity - 1}")
    return rows


def build(vectors: jax.Array, capacity: int, metric: str, dtype=jnp.float32) -> Keys:
    """A memory whose first rows hold keys.

    Args:
      vectors: float32 `[n, embed]`.
      capacity: rows, at least n; searched fastest where it is a multiple of `BLOCK`.
      metric: one of `METRICS`.
      dtype: float32, or bfloat16 for half the memory.
    """
    stored, bias = _stored(vectors, metric, dtype)
    room = capacity - len(stored)
    return Keys(jnp.pad(stored, ((0, room), (0, 0))), jnp.pad(bias, (0, room), constant_values=-jnp.inf))


def put(keys: Keys, rows: jax.Array, vectors: jax.Array, metric: str) -> Keys:
    """Writes keys into rows, in place of what they held.

    Args:
      keys: the memory.
      rows: int32 `[n]`, none twice; beyond the last row nothing is written, so that a batch can be filled up.
      vectors: float32 `[n, embed]`.
      metric: one of `METRICS`, as of the other keys.
    """
    stored, bias = _stored(vectors, metric, keys.vectors.dtype)
    return Keys(keys.vectors.at[rows].set(stored, mode="drop"), keys.bias.at[rows].set(bias, mode="drop"))


def drop(keys: Keys, rows: jax.Array) -> Keys:
    """Empties rows, int32 `[n]`; beyond the last one nothing is done."""
    # A vector that is not finite would outlive the bias otherwise.
    return Keys(keys.vectors.at[rows].set(0, mode="drop"), keys.bias.at[rows].set(-jnp.inf, mode="drop"))


def _stored(vectors: jax.Array, metric: str, dtype) -> tuple[jax.Array, jax.Array]:
    """Vectors and biases of new keys; one that is not finite, also in `dtype` or by its norm, is stored as none."""
    stored = prepared(vectors, metric).astype(dtype)
    bias = jnp.zeros(len(stored), jnp.float32)
    if metric == "squared_euclidean":
        # Of the rounded keys, as the inner products will be.
        bias = -0.5 * jnp.square(stored.astype(jnp.float32)).sum(-1)
    known = jnp.isfinite(stored).all(-1) & jnp.isfinite(bias)
    return jnp.where(known[:, None], stored, 0), jnp.where(known, bias, -jnp.inf)


def prepared(vectors: jax.Array, metric: str) -> jax.Array:
    """Keys or queries, of which inner products are to be taken: of length 1 for cosines, or zero."""
    vectors = jnp.asarray(vectors, jnp.float32)
    if metric == "cosine":
        norms = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        # The squares of a long vector overflow where the vector itself does not.
        long = jnp.isinf(norms) & jnp.isfinite(vectors).all(-1, keepdims=True)
        vectors = jnp.where(long, vectors * 2.0**-70, vectors)
        norms = jnp.where(long, jnp.linalg.norm(vectors, axis=-1, keepdims=True), norms)
        vectors /= jnp.maximum(norms, TINY)
    return vectors


def nearest(
    keys: Keys, queries: jax.Array, count: int, metric: str, recall_target: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """The nearest keys of each query, best first; of equally near ones the first rows.

    Args:
      keys: the memory.
      queries: float32 `[queries, embed]`.
      count: how many, at most the rows of the memory.
      metric: one of `METRICS`, as the keys were put.
      recall_target: 1: all of them; less: `jax.lax.approx_max_k`, which on a TPU finds that share of them in less time,
        and elsewhere finds all.

    Returns:
      int32 rows `[queries, count]`, -1 where there are no more keys, or the query is not finite; and float32 squared
      distances (there: infinite), or inner products or cosines (there: minus infinity).

    Raises:
      RequestError: `count` or another argument is out of range.
    """
    check("nearest", metric, recall_target)
    check_count(count, len(keys.bias))
    queries = prepared(queries, metric)
    scores, rows = best(keys, queries, count, recall_target)
    return finished(scores, rows, queries, metric)


def finished(scores: jax.Array, rows: jax.Array, queries: jax.Array, metric: str) -> tuple[jax.Array, jax.Array]:
    """What `nearest` returns, from what `best` does."""
    scores = jnp.where(jnp.isfinite(queries).all(-1, keepdims=True), scores, -jnp.inf)
    values = scores
    if metric == "squared_euclidean":
        # The query's own norm is the same for every key: the search did without it.
        values = jnp.maximum(jnp.square(queries).sum(-1, keepdims=True) - 2.0 * scores, 0.0)
        values = jnp.where(jnp.isneginf(scores), jnp.inf, values)
    return jnp.where(jnp.isneginf(scores), -1, rows), values


def best(keys: Keys, queries: jax.Array, count: int, recall_target: float) -> tuple[jax.Array, jax.Array]:
    """Float32 scores and int32 rows of the best keys, both `[queries, count]`; chunk by chunk where there are many."""
    rows = len(keys.bias)
    chunk = max(_MOST_SCORES // max(len(queries), 1) // BLOCK * BLOCK, BLOCK, -(-count // BLOCK) * BLOCK)
    if chunk >= rows:
        return _best_of_chunk(keys, queries, count, recall_target)

    def add_chunk(i, found):
        # The last chunk starts early enough to be whole; what the one before has seen is left out.
        start = jnp.minimum(i * chunk, rows - chunk)
        vectors = jax.lax.dynamic_slice_in_dim(keys.vectors, start, chunk)
        bias = jax.lax.dynamic_slice_in_dim(keys.bias, start, chunk)
        bias = jnp.where(start + jnp.arange(chunk) < i * chunk, -jnp.inf, bias)
        scores, within = _best_of_chunk(Keys(vectors, bias), queries, count, recall_target)
        return merged(jnp.concatenate([found[0], scores], 1), jnp.concatenate([found[1], start + within], 1), count)

    none = (jnp.full((len(queries), count), -jnp.inf), jnp.zeros((len(queries), count), jnp.int32))
    return jax.lax.fori_loop(0, -(-rows // chunk), add_chunk, none)


def merged(scores: jax.Array, rows: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The best of candidates `[queries, candidates]`; the first of equal ones."""
    scores, positions = jax.lax.top_k(scores, count)
    return scores, jnp.take_along_axis(rows, positions, axis=1)


def _best_of_chunk(keys: Keys, queries: jax.Array, count: int, recall_target: float) -> tuple[jax.Array, jax.Array]:
    queries, rows = queries.astype(keys.vectors.dtype), len(keys.bias)
    if recall_target == 1.0 and not rows % BLOCK and rows >= 4 * count * BLOCK:
        # A TPU would have to copy the scores to cut them into blocks; a CPU, the keys to multiply by blocks of them.
        blocks = jax.lax.platform_dependent(queries, keys.vectors, tpu=_products_by_blocks, default=_products_then_cut)
        return _top_k_of_blocks(_known(blocks + keys.bias.reshape(1, -1, BLOCK)), count)
    scores = _known(_products("qd,nd->qn", queries, keys.vectors) + keys.bias[None])
    if recall_target == 1.0:
        return jax.lax.top_k(scores, count)
    return jax.lax.approx_max_k(scores, count, recall_target=recall_target)


def _known(scores: jax.Array) -> jax.Array:
    """Without what is no number, which would be the first neighbour, and make `approx_max_k` forget others."""
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)


def _products_by_blocks(queries: jax.Array, vectors: jax.Array) -> jax.Array:
    return _products("qd,bnd->qbn", queries, vectors.reshape(-1, BLOCK, vectors.shape[1]))


def _products_then_cut(queries: jax.Array, vectors: jax.Array) -> jax.Array:
    return _products("qd,nd->qn", queries, vectors).reshape(len(queries), -1, BLOCK)


def _products(subscripts: str, queries: jax.Array, vectors: jax.Array) -> jax.Array:
    # A TPU would round float32 to bfloat16 otherwise; bfloat16 it multiplies as it is.
    return jnp.einsum(subscripts, queries, vectors, precision="highest", preferred_element_type=jnp.float32)


def _top_k_of_blocks(blocks: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` of scores `[queries, blocks, BLOCK]` in two stages: the best blocks hold the best scores.

    The maxima of all blocks are found in one pass over the scores, which costs a tenth of a sort or a heap; only the
    `count` best blocks are looked into. They are taken in their order, so that of equal scores the first is found.
    """
    queries = len(blocks)
    _, chosen = jax.lax.top_k(blocks.max(-1), count)
    chosen = jnp.sort(chosen, axis=-1)[:, :, None]
    candidates = jnp.take_along_axis(blocks, chosen, axis=1).reshape(queries, -1)
    rows = (chosen * BLOCK + jnp.arange(BLOCK)[None, None]).reshape(queries, -1)
    return merged(candidates, rows, count)
