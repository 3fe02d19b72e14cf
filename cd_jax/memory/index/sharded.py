"""Nearest neighbours among keys whose rows lie on many devices.

Each device searches its own rows; only its candidates, as many as are asked for, go to the others. The rows of a device
follow one another, and so of equally near keys the first rows are found, as on one device.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd_jax.errors import RequestError
from cd_jax.memory.index import nearest as on_one
from cd_jax.memory.index.nearest import Keys

Axes = str | tuple[str, ...]


def shards(mesh: Mesh, axes: Axes) -> int:
    """Into how many parts the rows are cut.

    Raises:
      RequestError: the mesh has no such axis.
    """
    names = (axes,) if isinstance(axes, str) else axes
    missing = [name for name in names if name not in mesh.shape]
    if missing:
        raise RequestError(f"the mesh has no axis {missing[0]!r} for a memory's keys; it has {', '.join(mesh.shape)}")
    return math.prod(mesh.shape[name] for name in names)


def place(keys: Keys, mesh: Mesh, axes: Axes) -> Keys:
    """Lays the rows out over the devices.

    Args:
      keys: the memory; its rows must divide by `shards`.
      mesh: the devices.
      axes: of the mesh, along which the rows lie.

    Raises:
      RequestError: the mesh has no such axis, or its devices do not divide the rows.
    """
    _rows_of_shard(keys, mesh, axes)
    return jax.device_put(keys, NamedSharding(mesh, PartitionSpec(axes)))


def put(keys: Keys, rows: jax.Array, vectors: jax.Array, metric: str, mesh: Mesh, axes: Axes) -> Keys:
    """`nearest.put`, each device writing what is its own."""

    def of_shard(keys, rows, vectors):
        return on_one.put(keys, own(rows, len(keys.bias), axes), vectors, metric)

    none, along = PartitionSpec(), PartitionSpec(axes)
    return mapped(of_shard, mesh, (along, none, none), along)(keys, jnp.asarray(rows), vectors)


def drop(keys: Keys, rows: jax.Array, mesh: Mesh, axes: Axes) -> Keys:
    """`nearest.drop`, each device emptying what is its own."""

    def of_shard(keys, rows):
        return on_one.drop(keys, own(rows, len(keys.bias), axes))

    along = PartitionSpec(axes)
    return mapped(of_shard, mesh, (along, PartitionSpec()), along)(keys, jnp.asarray(rows))


def nearest(
    keys: Keys,
    queries: jax.Array,
    count: int,
    metric: str,
    mesh: Mesh,
    axes: Axes,
    recall_target: float = 1.0,
    batch_axes: Axes = (),
) -> tuple[jax.Array, jax.Array]:
    """`nearest.nearest` over rows that lie on many devices.

    Args:
      keys: the memory, laid out by `place`.
      queries: float32 `[queries, embed]`.
      count: how many, at most the rows of the memory.
      metric: one of `METRICS`, as the keys were put.
      mesh: the devices.
      axes: of the mesh, along which the rows lie.
      recall_target: of each device's search.
      batch_axes: other axes of the mesh, along which the queries lie; where they lie along `axes`, as a batch may, they
        are sent to all of its devices first.

    Returns:
      Rows and distances or similarities, as `nearest.nearest`; laid out as the queries.

    Raises:
      RequestError: as `nearest.nearest` and `place`.
    """
    on_one.check("nearest", metric, recall_target)
    on_one.check_count(count, len(keys.bias))
    own_rows = _rows_of_shard(keys, mesh, axes)
    queries = on_one.prepared(queries, metric)

    def of_shard(keys, queries):
        scores, rows = on_one.best(keys, queries, min(count, own_rows), recall_target)
        rows += jax.lax.axis_index(axes) * own_rows
        gather = functools.partial(jax.lax.all_gather, axis_name=axes, axis=1, tiled=True)
        return on_one.merged(gather(scores), gather(rows), count)

    batch = PartitionSpec(batch_axes)
    scores, rows = mapped(of_shard, mesh, (PartitionSpec(axes), batch), batch)(keys, queries)
    return on_one.finished(scores, rows, queries, metric)


def mapped(function, mesh: Mesh, in_specs, out_specs):
    """`jax.shard_map`, of functions that gather and sum by themselves."""
    # What is gathered is the same everywhere, which the types of shard_map cannot tell.
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _rows_of_shard(keys: Keys, mesh: Mesh, axes: Axes) -> int:
    rows, parts = len(keys.bias), shards(mesh, axes)
    if rows % parts:
        raise RequestError(f"{parts} devices do not divide a memory of {rows} rows; make it a multiple of {parts}")
    return rows // parts


def own(rows: jax.Array, own_rows: int, axes: Axes) -> jax.Array:
    """Rows as the device counts its own `own_rows`; those of others, and none (below 0), lie beyond its last."""
    rows = rows - jax.lax.axis_index(axes) * own_rows
    return jnp.where((rows < 0) | (rows >= own_rows), own_rows, rows)
