"""Checkpoints that T5X's own `train.py`, `eval.py` and `infer.py` restore; see `t5x_checkpoints` for the formats."""

import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import serialization, traverse_util
from jax.experimental import multihost_utils

from cd_jax.errors import RequestError, RunError
from cd_jax.nets.config import T5Config
from cd_jax.rundir import files
from cd_jax.solver.solver import TrainState
from cd_jax.weights import t5x_checkpoints_adafactor as adafactor

_VERSION = 3  # Of the legacy format since June 2021: bfloat16 is written as such.
_CHUNK_BYTES = 64 * 2**20
_NETWORK_FIELDS = (
    "vocab_size",
    "emb_dim",
    "num_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "head_dim",
    "mlp_dim",
    "mlp_activations",
    "logits_via_embedding",
    "dropout_rate",
    "dtype",
)
_NETWORK_GIN = """from __gin__ import dynamic_registration

from t5x.examples.t5 import network

network.T5Config:
"""


def write(directory: str | os.PathLike, state: TrainState, config: T5Config, orbax: bool = True) -> str:
    """Writes `directory/checkpoint_<step>`, and `directory/network.gin`, which binds T5X's network to this shape.

    Every device's part is written by the host that holds it. Adafactor's state goes along where T5X's Adafactor would
    have the same (`t5x_checkpoints_adafactor.param_states`).

    Args:
      directory: a `model_dir` of T5X, or what is to become one.
      state: of `Solver`.
      config: of `Solver`.
      orbax: in Orbax's format, which T5X's scripts write; False for the legacy one, which they read as well as
        `use_orbax = False` and older programs do.

    Returns:
      The folder of the checkpoint.

    Raises:
      RequestError: T5X's network cannot be of this shape, or there is a checkpoint already.
      RunError: it cannot be written.
    """
    if (config.relative_attention_num_buckets, config.relative_attention_max_distance) != (32, 128):
        raise RequestError(
            f"T5Config.relative_attention_num_buckets={config.relative_attention_num_buckets}, "
            f"relative_attention_max_distance={config.relative_attention_max_distance}: T5X's network has 32 and 128; "
            "this one cannot be exported to it"
        )
    directory = os.path.abspath(directory)
    folder = os.path.join(directory, f"checkpoint_{int(state.step)}")
    if os.path.exists(folder):
        raise RequestError(f"{folder}: is there already; give another folder, or remove it")
    try:
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "network.gin"), "w", encoding="utf-8") as file:
            file.writelines([_NETWORK_GIN, *(f"  {name} = {getattr(config, name)!r}\n" for name in _NETWORK_FIELDS)])
        (_write_orbax if orbax else _write_legacy)(folder, _state_dict(state))
    except (OSError, ValueError) as error:
        # TensorStore reports a full disk as a ValueError, which ends in what the system said.
        message = str(error).partition(" [tensorstore_spec")[0]
        raise RunError(f"{folder}: the checkpoint cannot be written ({message})") from error
    return folder


def _state_dict(state: TrainState) -> dict[str, Any]:
    """T5X's train state, flat; arrays on the devices, or on the host where all is zeros."""
    target = {f"target/{name}": array for name, array in adafactor.per_layer(state.params).items()}
    moments = adafactor.param_states(state.params, state.opt_state)
    moments = {f"state/param_states/{name}": array for name, array in moments.items()}
    return target | moments | {"state/step": state.step}


def _write_orbax(folder: str, flat: dict[str, Any]) -> None:
    tree = traverse_util.unflatten_dict(flat, sep="/")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(folder, args=ocp.args.Composite(state=ocp.args.PyTreeSave(tree)))


def _write_legacy(folder: str, flat: dict[str, Any]) -> None:
    # Before the file `checkpoint` is there, which is written last and at once, nobody takes the folder for one.
    if jax.process_index() == 0:
        os.makedirs(folder)
    multihost_utils.sync_global_devices(f"make {folder}")
    entries = {name: _write_array(folder, name, array) for name, array in flat.items()}
    multihost_utils.sync_global_devices(f"write {folder}")
    if jax.process_index() == 0:
        contents = {"version": _VERSION, "optimizer": traverse_util.unflatten_dict(entries, sep="/")}
        files.write_bytes(os.path.join(folder, "checkpoint"), serialization.msgpack_serialize(contents))
    multihost_utils.sync_global_devices(f"commit {folder}")


def _chunks(shard: tuple[int, ...], itemsize: int) -> list[int]:
    """A device's part, or even pieces of it: two hosts never write to one chunk, and a chunk is quickly read."""
    rows = shard[0]
    while rows % 2 == 0 and rows * math.prod(shard[1:]) * itemsize > _CHUNK_BYTES:
        rows //= 2
    return [rows, *shard[1:]]


def _write_array(folder: str, name: str, array: jax.Array | np.ndarray) -> Any:
    """Writes what T5X partitions to an array of its own, every host its devices' part; what goes into the msgpack."""
    partitioned = name.startswith("target/") or name.endswith(("/v", "/m"))
    if not partitioned or array.shape in ((), (1,)):
        return multihost_utils.process_allgather(array, tiled=True)
    array = jnp.asarray(array)
    shards = array.addressable_shards
    chunks = _chunks(array.sharding.shard_shape(array.shape), array.dtype.itemsize)
    kvstore = {"driver": "file", "path": name.replace("/", ".") + "/"}
    spec = {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": kvstore,
        "metadata": {"compressor": {"id": "gzip", "level": 1}, "shape": list(array.shape), "chunks": chunks},
    }
    here = {
        "kvstore": kvstore | {"path": os.path.join(folder, kvstore["path"])},
        "store_data_equal_to_fill_value": True,
    }
    store = ts.open(spec | here, create=True, open=True).result()
    for write in [store[shard.index].write(np.asarray(shard.data)) for shard in shards if shard.replica_id == 0]:
        write.result()
    return spec
