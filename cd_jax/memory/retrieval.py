"""Retrieval by several queries: pure functions of what the memory holds, for the inside of a jitted step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cd_jax.memory import queries
from cd_jax.memory.layout import Layout

# Of an index: its keys, queries [n, embed] and a number of neighbours, to rows and distances, see `Index.look_up`.
LookUp = Callable[[Any, jax.Array, int], tuple[jax.Array, jax.Array]]


class Store(NamedTuple):
    """A memory as a step reads it; a pytree of arrays that keep their shapes.

    Attributes:
      keys: what the index's `look_up` reads.
      owners: int32 `[rows]`, whose a row's entry is; -1 where there is nothing to be found.
      mean: float32 `[embed]`, of the keys.
      axes: float32 `[num_axes, embed]`, their leading principal axes; zero where there are fewer.
    """

    keys: Any
    owners: jax.Array
    mean: jax.Array
    axes: jax.Array


class Retrieved(NamedTuple):
    """Neighbours of a batch of contexts, one for each query.

    Attributes:
      rows: int32 `[batch, queries]`, of the memory; no row twice for a context, -1 where nothing was left.
      queries: int32 `[batch, queries]`, which query found it: 0 the key itself, i the projection onto axis i.
      distances: float32 `[batch, queries]`, as the index measures them; infinite where nothing was left.
    """

    rows: jax.Array
    queries: jax.Array
    distances: jax.Array


def retrieve(
    look_up: LookUp,
    store: Store,
    embeddings: jax.Array,
    owners: jax.Array,
    picked: jax.Array,
    count: int,
    layout: Layout,
) -> Retrieved:
    """One query after the other takes the nearest entry that is not the context's own and was not taken before.

    Args:
      look_up: of the memory's index.
      store: the memory.
      embeddings: float32 `[batch, embed]`, under the parameters of the keys.
      owners: int32 `[batch]`, whose entries are left out; -1: nobody's.
      picked: int32 `[batch, queries]`, which candidates of `queries.candidate_queries` to ask.
      count: neighbours looked up for each query: at least the queries and the most entries of one owner together, for
        one to be left each time.
      layout: of the memory.
    """
    batch, num_queries = picked.shape
    candidates = queries.candidate_queries(embeddings, store.mean, store.axes)
    asked = jnp.take_along_axis(candidates, picked[:, :, None], axis=1)
    found, distances = look_up(store.keys, asked.reshape(batch * num_queries, -1), count)
    shape = (batch, num_queries, count)
    found = found.reshape(shape)
    # An index that is being rebuilt may still find what is no longer there.
    found_owners = layout.take(store.owners, found, -1)
    return _first_free(found, distances.reshape(shape), found_owners, owners, picked)


def _first_free(
    found: jax.Array, distances: jax.Array, found_owners: jax.Array, owners: jax.Array, picked: jax.Array
) -> Retrieved:
    free = (found_owners >= 0) & (found_owners != owners[:, None, None])
    rows, nearest = [], []
    for q in range(picked.shape[1]):
        first = free[:, q].argmax(-1)[:, None]
        left = jnp.take_along_axis(free[:, q], first, 1)
        row = jnp.where(left, jnp.take_along_axis(found[:, q], first, 1), -1)
        rows.append(row)
        nearest.append(jnp.where(left, jnp.take_along_axis(distances[:, q], first, 1), jnp.inf))
        free &= found != row[:, :, None]
    return Retrieved(jnp.concatenate(rows, 1), picked, jnp.concatenate(nearest, 1))
