"""Where the rows of a memory lie: every table of it in equal parts along the same axes of the mesh, one copy in all."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd_jax.memory.index import nearest, sharded


@dataclasses.dataclass(frozen=True)
class Layout:
    """Rows one after the other, an equal part on each device along `axes`. A static argument of a step.

    Attributes:
      capacity: rows that may hold an entry; those after them let every device's part be whole.
      mesh: the devices; None: one.
      axes: of the mesh, along which the rows lie; along others each device has a copy.
    """

    capacity: int
    mesh: Mesh | None = None
    axes: sharded.Axes = "data"

    @property
    def shards(self) -> int:
        """Into how many parts the rows are cut. Raises RequestError where the mesh has no such axis."""
        return sharded.shards(self.mesh, self.axes) if self.mesh else 1

    @property
    def rows(self) -> int:
        """Of a table: a multiple of `nearest.BLOCK` on every device."""
        unit = nearest.BLOCK * self.shards
        return -(-self.capacity // unit) * unit

    @property
    def sharding(self) -> NamedSharding | None:
        """Of a table `[rows, ...]`; None: it lies where JAX puts it."""
        return NamedSharding(self.mesh, PartitionSpec(self.axes)) if self.mesh else None

    @property
    def replicated(self) -> NamedSharding | None:
        """Of what all devices hold."""
        return NamedSharding(self.mesh, PartitionSpec()) if self.mesh else None

    # Tables

    def place(self, table: np.ndarray, fill: Any = 0) -> jax.Array:
        """The host's table on the devices; each process gives the rows of its own devices and no others.

        Args:
          table: `[capacity, ...]` or less; the same on every host.
          fill: what stands in the rows after them.

        Returns:
          `[rows, ...]`.
        """

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            start, stop, _ = (index[0] if index else slice(None)).indices(self.rows)
            own = table[start:stop]
            rest = ((0, stop - start - len(own)), *((0, 0),) * (table.ndim - 1))
            return np.pad(own, rest, constant_values=fill)

        if self.sharding is None:
            return jnp.asarray(part(None))
        return jax.make_array_from_callback((self.rows, *table.shape[1:]), self.sharding, part)

    def zeros(self, *shape: int, dtype: Any = jnp.float32) -> jax.Array:
        """A table `[rows, *shape]`, made where it lies."""
        return jax.jit(lambda: jnp.zeros((self.rows, *shape), dtype), out_shardings=self.sharding)()

    def fit(self, table: jax.Array | np.ndarray) -> jax.Array:
        """A table of the same rows that lies otherwise, or was filled up for another number of devices.

        Args:
          table: `[capacity or more, ...]`.

        Returns:
          `[rows, ...]`; the very array, where it lies so already.
        """
        sharding = self.sharding
        if not isinstance(table, jax.Array):
            return self.place(table[: self.capacity])
        if sharding and table.sharding.device_set != sharding.device_set:
            return self.place(np.asarray(table)[: self.capacity])
        if len(table) == self.rows and (sharding is None or table.sharding.is_equivalent_to(sharding, table.ndim)):
            return table
        # From whatever mesh of the same devices.
        return jax.jit(_fitted, static_argnames="layout", out_shardings=sharding)(table, layout=self)

    def on_host(self, array: jax.Array) -> np.ndarray:
        """The whole of an array, on every host: for small ones."""
        return np.asarray(array if self.replicated is None else _everywhere(array, self.replicated))

    # Inside a step

    def take(self, table: jax.Array, rows: jax.Array, fill: int = 0) -> jax.Array:
        """Some rows of a table; traceable.

        Each device gives those that it holds and zeros for the others, and they are summed where the batch lies: a
        device receives the rows of its own part of the batch (`psum_scatter`), half of what a sum on all devices would
        send. A table never moves.

        Args:
          table: `[rows, ...]`.
          rows: int32 `[batch, ...]`; below 0 is none.
          fill: what stands for none.

        Returns:
          `[*rows.shape, ...]`; along the axes of the rows where they divide the batch, else everywhere.
        """
        there = rows.reshape(*rows.shape, *(1,) * (table.ndim - 1)) >= 0
        if self.shards == 1:
            return jnp.where(there, table[rows], jnp.array(fill, table.dtype))
        scattered = not len(rows) % self.shards

        def of_shard(table, rows):
            own = sharded.own(rows, len(table), self.axes)
            found = table.at[own].get(mode="fill", fill_value=0)
            if scattered:
                return jax.lax.psum_scatter(found, self.axes, scatter_dimension=0, tiled=True)
            return jax.lax.psum(found, self.axes)

        along, none = PartitionSpec(self.axes), PartitionSpec()
        found = self.map(of_shard, (along, none), along if scattered else none)(table, rows)
        return jnp.where(there, found, jnp.array(fill, table.dtype)) if fill else found

    def map(self, function: Any, in_specs: Any, out_specs: Any) -> Any:
        """`jax.shard_map` over the mesh, of functions that gather and sum by themselves."""
        assert self.mesh
        return sharded.mapped(function, self.mesh, in_specs, out_specs)


def _fitted(table: jax.Array, layout: Layout) -> jax.Array:
    table = table[: layout.capacity]
    return jnp.pad(table, ((0, layout.rows - len(table)), *((0, 0),) * (table.ndim - 1)))


@functools.partial(jax.jit, static_argnames="sharding")
def _everywhere(array: jax.Array, sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, sharding)


@functools.partial(jax.jit, static_argnames="layout", donate_argnums=0)
def counted(counts: jax.Array, rows: jax.Array, layout: Layout) -> jax.Array:
    """Adds 1 to the counts int32 `[rows]` of some rows, int32 of any shape; below 0 is none. Each device its own."""

    def of_shard(counts, rows):
        own = sharded.own(rows, len(counts), layout.axes) if layout.shards > 1 else rows
        return counts.at[jnp.where(own < 0, len(counts), own)].add(1, mode="drop")

    if layout.shards == 1:
        return of_shard(counts, rows)
    along = PartitionSpec(layout.axes)
    return layout.map(of_shard, (along, PartitionSpec()), along)(counts, rows)
