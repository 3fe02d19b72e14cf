"""Mesh and shardings: logical axis names, T5X's, to the mesh axes `data` and `model`, by rules that gin binds."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gin
import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd_jax.config.ranges import PositiveInt
from cd_jax.errors import RequestError
from cd_jax.nets.config import T5Config

Axes = str | tuple[str, ...] | None
Rules = Sequence[tuple[str, Axes]]

# Parameters along `model`, batches along `data`: gin/sharding/model.gin.
MODEL_RULES: Rules = (
    ("batch", "data"),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("embed", None),
    ("embed_out", None),
    ("kv", None),
    ("relpos_buckets", None),
    ("length", None),
    ("layers", None),
)


def _as_tuple(axes: Axes) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def batch_axes(rules: Rules) -> tuple[str, ...]:
    """The axes of the mesh that a batch lies along."""
    return _as_tuple(dict(rules).get("batch"))


def batch_shards(rules: Rules, mesh_shape: Mapping[str, int]) -> int:
    """In how many parts a batch lies on the devices."""
    return math.prod(mesh_shape.get(axis, 1) for axis in batch_axes(rules))


@gin.configurable(denylist=["devices"])
@dataclasses.dataclass(frozen=True)
class Partitioner:
    """Which devices there are, and how parameters and batches are laid out on them; named as in T5X.

    Attributes:
      mesh_data: devices along the mesh's axis `data`; -1 takes all that `mesh_model` leaves.
      mesh_model: devices along `model`.
      logical_axis_rules: which logical axis lies along which axis of the mesh.
      devices: of the mesh; None takes all there are.
    """

    mesh_data: Literal[-1] | PositiveInt = -1
    mesh_model: PositiveInt = 1
    logical_axis_rules: Rules = MODEL_RULES
    devices: Sequence[jax.Device] | None = None

    def __post_init__(self):
        """Raises RequestError where a rule names no axis of the mesh."""
        for rule in self.logical_axis_rules:
            if len(rule) != 2 or not set(_as_tuple(rule[1])) <= {"data", "model"}:
                raise RequestError(
                    f"Partitioner.logical_axis_rules: {rule!r} is not a pair of a logical axis and 'data', 'model', "
                    "both or None; include one of gin/sharding/*.gin, or bind the rules so"
                )

    @functools.cached_property
    def mesh(self) -> Mesh:
        """Axes `data` and `model`, laid out so that neighbours in it are neighbours in the network of chips.

        Raises:
          RequestError: `mesh_data * mesh_model` is not the number of devices.
        """
        # Several steps in flight on fake CPU devices wait for one another's threads, and XLA ends the process. JAX
        # reads the setting when it first looks for devices; it does not concern accelerators.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        devices = jax.devices() if self.devices is None else self.devices
        data, model = self.mesh_data, self.mesh_model
        if data == -1 and model > 0:
            data = len(devices) // model
        if data < 1 or model < 1 or data * model != len(devices):
            raise RequestError(
                f"MESH_DATA={data} x MESH_MODEL={model} does not make {len(devices)} devices; "
                f"bind MESH_MODEL to a divisor of {len(devices)} and leave MESH_DATA at -1"
            )
        layout = mesh_utils.create_device_mesh((data, model), devices, allow_split_physical_axes=True)
        return Mesh(np.asarray(layout), ("data", "model"))

    @property
    def replicated(self) -> NamedSharding:
        """Of what every device has whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_sharding(self) -> NamedSharding:
        """Of `[batch, ...]`."""
        return NamedSharding(self.mesh, PartitionSpec(batch_axes(self.logical_axis_rules)))

    @property
    def batch_shards(self) -> int:
        """In how many parts a batch lies on the devices."""
        return batch_shards(self.logical_axis_rules, self.mesh.shape)

    def parameter_shardings(self, boxed: Any, config: T5Config) -> Any:
        """Shardings of the parameters from their logical names (`boxed`: abstract parameters with Flax metadata).

        Raises:
          RequestError: an axis of the mesh does not divide the axis of a parameter, or the heads.
        """
        mesh, rules = self.mesh, self.logical_axis_rules
        specs = nn.get_partition_spec(boxed)
        shardings = nn.logical_to_mesh_sharding(specs, mesh, rules)
        across = math.prod(mesh.shape[axis] for axis in _as_tuple(dict(rules).get("heads")))
        if config.num_heads % across:
            raise RequestError(
                f"the mesh's {dict(rules)['heads']} axis, {across}, does not divide the {config.num_heads} heads "
                f"(T5Config.num_heads); bind MESH_MODEL to a divisor of {config.num_heads}"
            )
        abstract = jax.tree_util.tree_leaves_with_path(nn.unbox(boxed))
        names = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
        for (path, leaf), axes, sharding in zip(abstract, names, jax.tree.leaves(shardings), strict=True):
            for size, axis, along in zip(leaf.shape, axes, sharding.spec, strict=False):
                across = math.prod(mesh.shape[axis] for axis in _as_tuple(along))
                if size % across:
                    name = "/".join(key.key for key in path)
                    raise RequestError(
                        f"{name} {list(leaf.shape)}: the mesh's {along} axis, {across}, does not divide its "
                        f"axis {axis!r}, {size}; bind another mesh, or another rule in Partitioner.logical_axis_rules"
                    )
        return shardings

    def optimizer_shardings(self, abstract_state: Any, abstract_params: Any, param_shardings: Any) -> Any:
        """State of a parameter's own shape is sharded like it; Adafactor's factored rows and columns are replicated."""
        shardings = jax.tree.leaves(param_shardings)
        params = jax.tree_util.tree_leaves_with_path(abstract_params)
        owners = {path: (leaf.shape, sharding) for (path, leaf), sharding in zip(params, shardings, strict=True)}

        def shard(path, leaf):
            # The parameter's path ends that of its state, wherever the optimiser keeps it.
            found = [owners[path[start:]] for start in range(len(path)) if path[start:] in owners]
            return found[0][1] if found and found[0][0] == leaf.shape else self.replicated

        return jax.tree_util.tree_map_with_path(shard, abstract_state)

    def local_rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a batch lie on this process's devices, int64 `[rows]`, ascending: those that it loads.

        Processes among whose devices a model is split load the same ones.
        """
        parts = self.batch_sharding.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[part] for part in parts]))

    def shard_batch(self, batch: Any, whole: bool = False) -> Any:
        """Puts rows on the devices.

        Args:
          batch: arrays `[batch, ...]`: of `local_rows`, equally many on every process; or, on the devices, all.
          whole: every process has all rows.
        """
        sharding = self.batch_sharding

        def put(rows):
            if isinstance(rows, jax.Array) and rows.sharding.device_set == sharding.device_set:
                return jax.device_put(rows, sharding)
            return jax.make_array_from_process_local_data(sharding, rows, rows.shape if whole else None)

        return jax.tree.map(put, batch)
