"""The memory's nearest-neighbour back ends: on the device, exact or approximate, or ScaNN on the host."""

import dataclasses
import functools
from typing import Any, Protocol

import gin
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd_jax.config.ranges import NonNegativeInt, Share
from cd_jax.errors import RequestError
from cd_jax.memory import retrieval
from cd_jax.memory.index import nearest, sharded
from cd_jax.memory.index.scann import ScannIndex

__all__ = ["DeviceIndex", "Index", "ScannIndex"]

DTYPES = ("float32", "bfloat16")

_put = jax.jit(nearest.put, static_argnames="metric")
_drop = jax.jit(nearest.drop)
_sharded_put = jax.jit(sharded.put, static_argnames=("metric", "mesh", "axes"))
_sharded_drop = jax.jit(sharded.drop, static_argnames=("mesh", "axes"))


class Index(Protocol):
    """Finds the nearest keys by `squared_euclidean` distance, `inner_product` or `cosine`; see `nearest.METRICS`.

    Attributes:
      keys: a pytree of device arrays, `look_up`'s first argument inside a jitted step; its shapes never change.
    """

    keys: Any

    @property
    def left_out(self) -> int:
        """How many rows were given a key that is not finite; they are not found."""
        ...

    def __init__(
        self, keys: np.ndarray, capacity: int = 0, metric: str = "squared_euclidean", *, mesh: Mesh | None = None
    ):
        """Writes keys `[n, embed]` into the first of `capacity` rows; 0: as many rows as keys."""
        ...

    @property
    def look_up(self) -> retrieval.LookUp:
        """As `search`, of `(keys, queries, count)`: traceable, and the same static argument while the index lives."""
        ...

    def replace(self, keys: jax.Array | np.ndarray, held: np.ndarray) -> None:
        """Writes keys `[capacity, embed]` into all rows; those not `held`, bool `[capacity]`, are emptied."""
        ...

    def wait(self) -> None:
        """Waits until all updates are seen by searches."""
        ...

    def settings(self) -> dict[str, Any]:
        """What decides which rows are found, for a checkpoint to record."""
        ...

    def update(self, rows: np.ndarray, keys: np.ndarray) -> None:
        """Writes keys `[n, embed]` into rows `[n]`, none twice, in place of what they held."""
        ...

    def remove(self, rows: np.ndarray) -> None:
        """Empties rows."""
        ...

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows, and distances or similarities, best first: `[queries, embed]` to two `[queries, count]`.

        Where there are fewer keys, the row is -1, and the value infinitely bad.
        """
        ...


@gin.configurable
class DeviceIndex:
    """All keys scored by one matrix product on the device; they may lie on many. The default.

    Attributes:
      keys: see `Index`; for `nearest.nearest` (or `sharded.nearest`).
      look_up: see `Index`; that of any other index of the same bindings.
    """

    def __init__(
        self,
        keys: np.ndarray,
        capacity: NonNegativeInt = 0,
        metric: str = "squared_euclidean",
        recall_target: Share = 1.0,
        mesh: Mesh | None = None,
        axes: sharded.Axes = "data",
        dtype: str = "float32",
    ):
        """Writes the first keys.

        Args:
          keys: float32 `[n, embed]`.
          capacity: rows, which no update changes; 0: n.
          metric: one of `nearest.METRICS`.
          recall_target: 1 finds all of the nearest; less goes to `jax.lax.approx_max_k`, which is faster on a TPU.
          mesh: the devices over which the rows lie; None: one device.
          axes: of the mesh, along which they lie.
          dtype: of the keys: `float32`; or `bfloat16`, with which they take half the room and a TPU half the time.

        Raises:
          RequestError: a binding is wrong.
        """
        if dtype not in DTYPES:
            raise RequestError(f"DeviceIndex.dtype={dtype!r} is none of {', '.join(DTYPES)}; bind one of them")
        nearest.check("DeviceIndex", metric, recall_target)
        self._capacity = nearest.checked_capacity("DeviceIndex", capacity, len(keys))
        self._metric, self._dtype = metric, dtype
        shards = sharded.shards(mesh, axes) if mesh else 1
        self._where = {"mesh": mesh, "axes": axes} if shards > 1 else {}
        self._sharding = NamedSharding(mesh, PartitionSpec(axes)) if mesh else None
        self.look_up = _DeviceLookUp(metric, recall_target, mesh if shards > 1 else None, axes)
        unit = nearest.BLOCK * shards
        # Rows that are never filled let every block, and every device's part, be whole.
        self._rows = -(-self._capacity // unit) * unit
        first = np.zeros((self._capacity, keys.shape[1]), np.float32)
        first[: len(keys)] = keys
        self.replace(first, np.arange(self._capacity) < len(keys))

    def settings(self) -> dict[str, Any]:
        """See `Index`."""
        found = {"metric": self._metric, "recall_target": self.look_up.recall_target, "dtype": self._dtype}
        return {"name": "DeviceIndex"} | found

    def replace(self, keys: jax.Array | np.ndarray, held: np.ndarray) -> None:
        """See `Index`. Keys that are on the devices stay there."""
        self._held = np.array(held, bool)
        self.keys = _build(keys, held, self._rows, self._metric, self._dtype, self._sharding)

    def update(self, rows: np.ndarray, keys: np.ndarray) -> None:
        """See `Index`. Raises RequestError for a row that is none."""
        self._held[nearest.checked_rows(rows, self._capacity)] = True
        rows, keys = self._filled_up(rows), np.asarray(keys, np.float32)
        keys = np.pad(keys, ((0, len(rows) - len(keys)), (0, 0)))
        put = _sharded_put if self._where else _put
        self.keys = put(self.keys, rows, keys, metric=self._metric, **self._where)

    def remove(self, rows: np.ndarray) -> None:
        """See `Index`. Raises RequestError for a row that is none."""
        drop = _sharded_drop if self._where else _drop
        self._held[nearest.checked_rows(rows, self._capacity)] = False
        self.keys = drop(self.keys, self._filled_up(rows), **self._where)

    @property
    def left_out(self) -> int:
        """See `Index`. Waits for the devices."""
        return int(self._held.sum()) - int(_finite(self.keys.bias))

    def _filled_up(self, rows: np.ndarray) -> np.ndarray:
        """Rows to the next power of two, so that few sizes are compiled; the added ones lie beyond the last."""
        rows = nearest.checked_rows(rows, self._capacity)
        size = 1 << max(len(rows) - 1, 0).bit_length()
        return np.pad(rows, (0, size - len(rows)), constant_values=len(self.keys.bias))

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Index`. Raises RequestError for more neighbours than the capacity."""
        nearest.check_count(count, self._capacity)
        rows, values = jax.device_get(_search(self.look_up, self.keys, np.asarray(queries, np.float32), count))
        return rows, values

    def wait(self) -> None:
        """See `Index`: they are seen at once."""


@jax.jit
def _finite(bias: jax.Array) -> jax.Array:
    # On the devices: a process may hold a part of it only.
    return jnp.isfinite(bias).sum()


@functools.partial(jax.jit, static_argnames=("rows", "metric", "dtype", "sharding"))
def _build(keys, held, rows: int, metric: str, dtype: str, sharding: NamedSharding | None) -> nearest.Keys:
    # What stands in a row that is not held may be no number, and must not outlive its bias.
    built = nearest.build(jnp.where(held[:, None], keys, 0.0), rows, metric, dtype)
    bias = jnp.where(jnp.pad(held, (0, rows - len(held))), built.bias, -jnp.inf)
    built = nearest.Keys(built.vectors, bias)
    return jax.lax.with_sharding_constraint(built, sharding) if sharding else built


@dataclasses.dataclass(frozen=True)
class _DeviceLookUp:
    """`DeviceIndex.look_up`. It compares by its settings, so that what was compiled for one index serves others."""

    metric: str
    recall_target: float
    mesh: Mesh | None
    axes: sharded.Axes

    def __call__(self, keys: nearest.Keys, queries: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        if self.mesh is None:
            return nearest.nearest(keys, queries, count, self.metric, self.recall_target)
        return sharded.nearest(keys, queries, count, self.metric, self.mesh, self.axes, self.recall_target)


@functools.partial(jax.jit, static_argnames=("look_up", "count"))
def _search(look_up: retrieval.LookUp, keys: Any, queries: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    return look_up(keys, queries, count)
