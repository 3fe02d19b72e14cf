"""Mesh and shardings: logical axis names of the parameters to the mesh axes `data` and `model`."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd_jax.errors import RequestError

LOGICAL_AXIS_RULES = (
    ("batch", "data"),
    ("vocab", "model"),
    ("joined_kv", "model"),
    ("mlp", "model"),
    ("embed", None),
    ("heads", None),
    ("relpos_buckets", None),
    ("length", None),
)


def make_mesh(data: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with axes `data` and `model`.

    Args:
      data: devices along `data`; -1 takes all that `model` leaves.
      model: devices along `model`.
      devices: to be laid out; None takes all there are.

    Raises:
      RequestError: `data * model` is not the number of devices.
    """
    # Several steps in flight on fake CPU devices wait for one another's threads, and XLA ends the process. JAX reads
    # the setting when it first looks for devices; it does not concern accelerators.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    devices = jax.devices() if devices is None else devices
    if data == -1 and model > 0:
        data = len(devices) // model
    if data < 1 or model < 1 or data * model != len(devices):
        raise RequestError(
            f"MESH_DATA={data} x MESH_MODEL={model} does not make {len(devices)} devices; "
            f"bind MESH_MODEL to a divisor of {len(devices)} and leave MESH_DATA at -1"
        )
    return Mesh(np.asarray(devices).reshape(data, model), ("data", "model"))


def parameter_shardings(mesh: Mesh, boxed: Any) -> Any:
    """Shardings of the parameters from their logical names (`boxed`: abstract parameters with Flax metadata)."""
    return nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, LOGICAL_AXIS_RULES)


def optimizer_shardings(mesh: Mesh, optimizer, abstract_state, abstract_params, param_shardings) -> Any:
    """State of a parameter's own shape is sharded like it; Adafactor's factored rows and columns are replicated."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def shard(state, param, sharding):
        return sharding if state.shape == param.shape else replicated

    return optax.tree_map_params(
        optimizer,
        shard,
        abstract_state,
        abstract_params,
        param_shardings,
        transform_non_params=lambda _: replicated,
    )


def shard_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this host's rows `[batch, ...]` on the devices, split along `data`."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
