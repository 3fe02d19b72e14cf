"""A pool of negatives as one device sees it: a part of the rows, with sums, draws and look-ups over all of them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import random as extended

from cd_jax.memory.layout import Layout


@dataclasses.dataclass(frozen=True)
class Parts:
    """Of the pool's rows each device holds a part, inside `jax.shard_map`; rows are numbered over the whole pool.

    Attributes:
      axes: of the mesh, along which the rows lie; none: the pool is whole.
      rows: of the pool, for which random numbers are drawn, without those that fill up the last part; 0: all.
    """

    axes: Any = ()
    rows: int = 0

    @classmethod
    def of(cls, layout: Layout | None) -> "Parts":
        """Of a memory's tables; None: of a pool that is whole and that nothing fills up."""
        if layout is None:
            return cls()
        return cls(layout.axes if layout.shards > 1 else (), layout.capacity)

    def first(self, own_rows: int) -> jax.Array | int:
        """The row that a device's part begins with."""
        return jax.lax.axis_index(self.axes) * own_rows if self.axes else 0

    def summed(self, values: Any) -> Any:
        """Arrays of each part, added up."""
        return jax.lax.psum(values, self.axes) if self.axes else values

    def total(self, values: jax.Array) -> jax.Array:
        """The sum over the pool of `[own rows]`."""
        return self.summed(values.sum())

    def largest(self, value: jax.Array) -> jax.Array:
        """The largest of all parts' scalars."""
        return jax.lax.pmax(value, self.axes) if self.axes else value

    def gathered(self, values: Any) -> Any:
        """Arrays `[some, ...]` of each part, one part after the other."""
        if not self.axes:
            return values
        gather = functools.partial(jax.lax.all_gather, axis_name=self.axes, tiled=True)
        return jax.tree.map(gather, values)

    def top_k(self, values: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
        """As `jax.lax.top_k` of the whole pool, from the best of each part: `[own rows]` to values and rows `[k]`."""
        own_rows = len(values)
        best, rows = jax.lax.top_k(values, min(k, own_rows))
        best, rows = self.gathered((best, rows + self.first(own_rows)))
        if not self.axes:
            return best, rows
        best, positions = jax.lax.top_k(best, min(k, len(best)))
        return best, rows[positions]

    def at(self, values: jax.Array, rows: jax.Array) -> jax.Array:
        """Of `[own rows]` those of some rows, of any shape, that there are."""
        if not self.axes:
            return values[rows]
        own = rows - self.first(len(values))
        mine = (own >= 0) & (own < len(values))
        # Its dtype is kept: also what is minus infinity is found so.
        return self.summed(jnp.where(mine, values[jnp.clip(own, 0, len(values) - 1)], jnp.zeros((), values.dtype)))

    def gumbel(self, key: jax.Array, own_rows: int, dtype: Any) -> jax.Array:
        """Gumbel noise of the own rows, `[own rows]`: a part of what `jax.random` draws for the whole pool."""
        if self.rows or self.axes:
            key = _shifted(key, self.first(own_rows), self.rows)
        # Precise in the upper tail: the winner of a large pool has noise that float32 is too coarse for otherwise.
        return jax.random.gumbel(key, (own_rows,), dtype, mode="high")


def _shifted(key: jax.Array, first: jax.Array | int, rows: int) -> jax.Array:
    """A key whose draws `[..., own]` are the columns from `first` on of those `[..., rows]` of a threefry key."""
    where = jnp.array([first, rows], jnp.uint32)
    return jax.random.wrap_key_data(jnp.concatenate([jax.random.key_data(key), where]), impl=_SHIFTED)


def _shifted_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """Threefry's 32 bits of each position, as `jax_threefry_partitionable` counts them."""
    if bit_width != 32:
        raise ValueError(f"{bit_width} bits are not drawn of a part of a pool")
    leading = jnp.arange(shape[0] if len(shape) > 1 else 1, dtype=jnp.uint32)[:, None]
    position = leading * key[3] + key[2] + jnp.arange(shape[-1], dtype=jnp.uint32)[None]
    position = position.reshape(shape)
    high, low = extended.threefry2x32_p.bind(key[0], key[1], jnp.zeros_like(position), position)
    return high ^ low


def _refused(*_: Any) -> Any:
    raise NotImplementedError("a key of a part of a pool draws, and no more")


_SHIFTED = extended.define_prng_impl(
    key_shape=(4,),
    seed=_refused,
    split=_refused,
    fold_in=_refused,
    random_bits=_shifted_bits,
    name="threefry of a part",
)
WHOLE = Parts()
