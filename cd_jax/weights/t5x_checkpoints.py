"""T5X's two checkpoint formats: `checkpoint_<step>` folders that T5X wrote, or that T5X is to read.

* Legacy: a msgpack file `checkpoint`, which holds the tree, small arrays in it and for each of the others the
  TensorStore spec of a zarr array in a folder beside it. The published T5 checkpoints have this format.
* Orbax: the tree is in `state/_METADATA`, the arrays in an OCDBT database or one zarr array a folder. T5X's scripts
  write this one unless they are told otherwise, and read both.

Both hold `target/<parameter>`, `state/step` and, of Adafactor, `state/param_states/<parameter>/{v_row,v_col,v,m}`. They
say nothing of the network but its shapes.
"""

import functools
import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization, traverse_util

from cd_jax.errors import RequestError
from cd_jax.rundir import files
from cd_jax.weights import names
from cd_jax.weights.t5x_checkpoints_write import write

__all__ = ["is_checkpoint", "read", "read_config", "step", "write"]

_PLACEHOLDER = "PLACEHOLDER://"
# Devices whose slices are of one chunk share one reading of it.
_CACHE_BYTES = 2**30
# Elements; a chunk that is larger than its array may have as many.
_LARGE_CHUNK = 2**24
_STEP_FOLDER = re.compile(r"checkpoint_(\d+)")


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Whether T5X's scripts would look for a checkpoint there.

    Args:
      path: a `checkpoint_<step>` folder, a folder of such, or a legacy checkpoint's msgpack file.
    """
    return _find(path) is not None


def step(path: str | os.PathLike) -> int:
    """The number of updates that the parameters have seen.

    Args:
      path: as of `is_checkpoint`; of several the newest.

    Raises:
      RequestError: there is no checkpoint, or it cannot be read.
    """
    stored = _tensors(path, "state/step").get("state/step")
    # Its shape first, before the whole of it is read.
    found = np.asarray(stored[()]) if stored is not None and not stored.shape else np.array("of another shape")
    if found.dtype.kind not in "iu" or found < 0:
        raise RequestError(f"{path}: its state/step is {str(found)[:40]}, no number of updates; copy it again, whole")
    return int(found)


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The fields of `T5Config` that follow from the parameters' shapes.

    The dropout rate, the type of the activations and the relative position bias's greatest distance (128 in T5X) leave
    no trace in a checkpoint. A gated feed-forward layer is taken for T5 1.1's, ('gelu', 'linear'), the other for T5
    1.0's, ('relu',).

    Args:
      path: as of `is_checkpoint`; of several the newest.

    Raises:
      RequestError: there is no checkpoint, it cannot be read, or it is of another network.
    """
    shapes = {name: tensor.shape for name, tensor in _parameters(path).items()}
    kernel = "encoder/layers_0/attention/query/kernel"
    gated = "encoder/layers_0/mlp/wi_0/kernel" in shapes
    try:
        vocab_size, emb_dim = shapes["token_embedder/embedding"]
        num_heads, buckets = shapes["encoder/relpos_bias/rel_embedding"]
        joined_kv = shapes[kernel][1]
        mlp_dim = shapes["encoder/layers_0/mlp/wo/kernel"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise RequestError(
            f"{path}: is no checkpoint of T5X's t5x.examples.t5.network ({error}); a network of another kind, or one "
            "whose layers were scanned, cannot be imported"
        ) from error
    if not all((vocab_size, emb_dim, num_heads, buckets, joined_kv, mlp_dim)):
        raise RequestError(f"{path}: has a tensor without elements; copy the checkpoint again, whole")
    if joined_kv % num_heads:
        raise RequestError(
            f"{path}: {num_heads} heads (encoder/relpos_bias) do not divide {kernel} {shapes[kernel]}; "
            "copy the checkpoint again, whole"
        )
    sizes = {
        "vocab_size": vocab_size,
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "head_dim": joined_kv // num_heads,
        "mlp_dim": mlp_dim,
        "num_encoder_layers": _layers(shapes, "encoder"),
        "num_decoder_layers": _layers(shapes, "decoder"),
        "relative_attention_num_buckets": buckets,
    }
    for name, size in sizes.items():
        if size > names.most(name):
            raise RequestError(
                f"{path}: its tensors are of {name}={size}, more than {names.most(name)}; copy the checkpoint again, "
                "whole"
            )
    return sizes | {
        "mlp_activations": ("gelu", "linear") if gated else ("relu",),
        "logits_via_embedding": "decoder/logits_dense/kernel" not in shapes,
    }


def read(path: str | os.PathLike, abstract_params: Any) -> Any:
    """The parameters, straight onto the mesh: a device's slices are read by themselves, never the whole.

    Args:
      path: as of `is_checkpoint`; of several the newest.
      abstract_params: `Solver.abstract_state().params`.

    Returns:
      As `abstract_params`; lower precision than float32, in which a checkpoint may have been saved, is widened.

    Raises:
      RequestError: there is no checkpoint, it cannot be read, or it is not of this network.
    """
    return names.stack(_parameters(path), abstract_params, where=path)


def _layers(shapes: Iterable[str], stack: str) -> int:
    return len({name.split("/")[1] for name in shapes if name.startswith(f"{stack}/layers_")})


def _parameters(path: str | os.PathLike) -> dict[str, names.Tensor]:
    tensors = _tensors(path, "target/")
    for name, tensor in tensors.items():
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise RequestError(f"{path}: the tensor {name} is {tensor.dtype}; save it again, as float32 or bfloat16")
        if isinstance(tensor, np.ndarray):
            names.check_finite(tensor, name, path)
    return {name.removeprefix("target/"): tensor for name, tensor in tensors.items()}


# Where it lies


def _find(path: str | os.PathLike) -> epath.Path | None:
    """The msgpack file or Orbax's `_METADATA`, of the newest checkpoint; None where there is neither."""
    folder = epath.Path(path)
    if folder.is_file():
        return folder if "checkpoint" in folder.name else None
    if not folder.is_dir():
        return None
    steps = {int(found[1]): child for child in folder.iterdir() if (found := _STEP_FOLDER.fullmatch(child.name))}
    newest = steps[max(steps)] if steps else folder
    files = [newest / "checkpoint", newest / "state" / "checkpoint", newest / "state" / "_METADATA"]
    # Our own checkpoints have state/_METADATA too; only T5X calls the parameters `target`.
    return next((f for f in files if f.is_file() and (f.name == "checkpoint" or b"'target'" in f.read_bytes())), None)


def _kvstore(folder: epath.Path, name: str) -> dict[str, Any]:
    """TensorStore's address of a folder's folder, whose name ends the addresses of all files in it."""
    address = os.fspath(folder)
    if bucket := re.fullmatch("gs://([^/]+)/(.*)", address):
        return {"driver": "gcs", "bucket": bucket[1], "path": f"{bucket[2]}/{name}"}
    return {"driver": "file", "path": f"{os.path.abspath(address)}/{name}"}


# What it holds: arrays, and specs of arrays


def _entries(file: epath.Path) -> dict[str, Any]:
    """The tree of a checkpoint, flat: small arrays as they are, the others as TensorStore specs."""
    try:
        if file.name == "_METADATA":
            return _orbax_entries(file)
        tree = serialization.msgpack_restore(file.read_bytes())
        flat = traverse_util.flatten_dict(tree.get("optimizer", tree), is_leaf=_is_spec, sep="/")
        return {name: _legacy_entry(file.parent, value) for name, value in flat.items()}
    except Exception as error:  # What msgpack makes of damaged bytes may raise anything.
        message = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise RequestError(f"{file}: is no checkpoint of T5X, or was cut off ({message}); copy it again") from error


def _is_spec(_: Any, value: Mapping) -> bool:
    return value.keys() >= {"driver", "kvstore"}


def _legacy_entry(folder: epath.Path, value: Any) -> Any:
    """Re-roots a spec to where the folder lies now; what is written there may be relative, old, or another bucket."""
    if isinstance(value, str) and value.startswith(_PLACEHOLDER):  # Orbax of 2022 and 2023 had the msgpack file too.
        return _spec(folder, value.removeprefix(_PLACEHOLDER), _is_ocdbt(folder))
    if not isinstance(value, dict):
        array = np.asarray(value)
        if array.dtype.hasobject or array.dtype.kind in "SU":
            raise ValueError(f"an entry is {str(value)[:40]!r}")
        return array
    path = value["kvstore"].get("path") or value.get("path", "")
    return _spec(folder, os.path.basename(path.rstrip("/")), ocdbt=False)


def _is_ocdbt(folder: epath.Path) -> bool:
    return (folder / "manifest.ocdbt").is_file()


def _orbax_entries(file: epath.Path) -> dict[str, Any]:
    metadata = files.parse_json(file.read_bytes())
    spec = functools.partial(
        _spec,
        file.parent,
        ocdbt=metadata.get("use_ocdbt", _is_ocdbt(file.parent)),
        driver="zarr3" if metadata.get("use_zarr3") else "zarr",
    )
    keys = [[key["key"] for key in entry["key_metadata"]] for entry in metadata["tree_metadata"].values()]
    return {"/".join(key): spec(name=".".join(key)) for key in keys}


def _spec(folder: epath.Path, name: str, ocdbt: bool, driver: str = "zarr") -> dict[str, Any]:
    kvstore = _kvstore(folder, f"{name}/")
    if ocdbt:
        kvstore = {"driver": "ocdbt", "base": _kvstore(folder, ""), "path": f"{name}/"}
    # A lost chunk would be read as zeros. Chunks of nothing but zeros, which T5X does not write, occur in the
    # optimiser's state alone.
    return {"driver": driver, "kvstore": kvstore, "fill_missing_data_reads": False}


# Tensors


class _Stored:
    """A tensor on a disk, for `names.stack`."""

    def __init__(self, name: str, where: Any, store: ts.TensorStore):
        self._name, self._where, self._store = name, where, store
        self.shape = tuple(store.shape)
        self.dtype = store.dtype.numpy_dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        try:
            read = np.asarray(self._store[index].read().result())
        except ValueError as error:
            raise _unreadable(self._where, self._name, error) from error
        names.check_finite(read, self._name, self._where)
        return read


def _unreadable(where: Any, name: str, error: ValueError) -> RequestError:
    # In one line, also where it quotes a file with a separator of lines in it.
    message = " ".join(str(error).partition(" [tensorstore_spec")[0].split())
    return RequestError(f"{where}: the tensor {name} cannot be read ({message}); copy the checkpoint again, whole")


def _tensors(path: str | os.PathLike, prefix: str) -> dict[str, Any]:
    """The tensors whose names begin so, opened but not read.

    Raises:
      RequestError: there is no checkpoint, or it cannot be read.
    """
    file = _find(path)
    if file is None:
        raise RequestError(f"{path}: there is no checkpoint of T5X, that is a folder checkpoint_<step>")
    found = {name: entry for name, entry in _entries(file).items() if name.startswith(prefix)}
    if not found:
        raise RequestError(f"{file}: lacks {prefix}, which every checkpoint of T5X has")
    names.check_names(found, file)
    # All at once: a store far away takes its time for each.
    context = ts.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})
    opening = {name: _open(name, path, entry, context) for name, entry in found.items() if isinstance(entry, dict)}
    return {name: _opened(name, path, opening[name]) if name in opening else found[name] for name in found}


def _open(name: str, where: Any, spec: dict[str, Any], context: ts.Context) -> ts.Future:
    try:
        return ts.open(spec, open=True, context=context, recheck_cached_data=False)
    except ValueError as error:
        raise _unreadable(where, name, error) from error


def _opened(name: str, where: Any, future: ts.Future) -> _Stored:
    try:
        store = future.result()
    except ValueError as error:
        raise _unreadable(where, name, error) from error
    chunk = store.chunk_layout.read_chunk.shape or ()
    # A chunk is read whole: one that is larger than its array, and than most are, is damage.
    if math.prod(chunk) > max(math.prod(store.shape), _LARGE_CHUNK):
        raise RequestError(
            f"{where}: the tensor {name} {list(store.shape)} has chunks of {list(chunk)}; "
            "copy the checkpoint again, whole"
        )
    return _Stored(name, where, store)
