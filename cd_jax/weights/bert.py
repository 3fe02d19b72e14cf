"""Parameters of BERT's kin under the names of the original, which is TensorFlow's, and of the PyTorch models."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from cd_jax.errors import RequestError
from cd_jax.nets.bert import ACTIVATIONS, BertConfig
from cd_jax.rundir import files
from cd_jax.weights import names, safetensors_folder
from cd_jax.weights.tensor_bundle import TensorBundle

_MEND = "copy it again, whole"

# Configuration

# The name in BertConfig, those in files, and the largest value: what is larger is damaged, and would be tried.
_SIZES = (
    ("vocab_size", ("vocab_size",), 2**24),
    ("hidden_size", ("hidden_size",), 2**16),
    ("num_hidden_layers", ("num_hidden_layers",), 128),
    ("num_attention_heads", ("num_attention_heads",), 2**16),
    ("intermediate_size", ("intermediate_size",), 2**20),
    ("max_position_embeddings", ("max_position_embeddings",), 2**20),
    ("type_vocab_size", ("type_vocab_size",), 2**10),
    ("embedding_size", ("embedding_size", "input_embedding_size"), 2**16),
)
_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps")
_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", **{name: name for name in ACTIVATIONS}}


def read_config(path: str | os.PathLike, gelu: str) -> BertConfig:
    """The network that a `bert_config.json` or `config.json` describes.

    Args:
      path: of the file.
      gelu: the activation that is called `gelu` there: `gelu_tanh` in the original BERT and in BLEURT, `gelu` in
        PyTorch models.

    Raises:
      RequestError: it is missing or malformed, or describes another kind of network.
    """
    file = pathlib.Path(path)
    given = files.read_json(file, _MEND)
    if given.get("position_embedding_type", "absolute") != "absolute":
        raise RequestError(
            f"{file}: position_embedding_type={given['position_embedding_type']!r}; only 'absolute' is read"
        )
    fields: dict[str, Any] = {ours: _size(file, given, theirs, most) for ours, theirs, most in _SIZES}
    defaults = {field.name: field.default for field in dataclasses.fields(BertConfig)}
    for name in [name for name, value in fields.items() if value is None]:
        if defaults[name] is dataclasses.MISSING:
            raise RequestError(f"{file}: lacks {name}; {_MEND}")
        del fields[name]
    if fields["hidden_size"] % fields["num_attention_heads"]:
        heads, width = fields["num_attention_heads"], fields["hidden_size"]
        raise RequestError(f"{file}: num_attention_heads={heads} do not divide hidden_size={width}; {_MEND}")
    fields |= {name: _rate(file, name, given[name]) for name in _RATES if given.get(name) is not None}
    return BertConfig(**fields, hidden_act=_activation(file, given, gelu))


def _size(file: pathlib.Path, given: Mapping[str, Any], theirs: tuple[str, ...], most: int) -> Any:
    name = next((name for name in theirs if given.get(name) is not None), None)
    if name is None:
        return None
    if type(given[name]) is not int or not 1 <= given[name] <= most:
        raise RequestError(f"{file}: {name}={str(given[name])[:40]!r} is not a whole number in 1..{most}; {_MEND}")
    return given[name]


def _rate(file: pathlib.Path, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise RequestError(f"{file}: {name}={str(value)[:40]!r} is not in 0..1, 1 left out; {_MEND}")
    return value


def _activation(file: pathlib.Path, given: Mapping[str, Any], gelu: str) -> str:
    name = given.get("hidden_act", "gelu")
    known = {**_ACTIVATIONS, "gelu": gelu}
    if not isinstance(name, str) or name not in known:
        raise RequestError(f"{file}: hidden_act={str(name)[:40]!r}; only {', '.join(known)} can be read")
    return known[name]


# Names

_LAYER = {
    "query": "attention/self/query",
    "key": "attention/self/key",
    "value": "attention/self/value",
    "attention_out": "attention/output/dense",
    "attention_norm": "attention/output/LayerNorm",
    "mlp_in": "intermediate/dense",
    "mlp_out": "output/dense",
    "mlp_norm": "output/LayerNorm",
}
_ELSE = {
    "embeddings/norm": "embeddings/LayerNorm",
    "embeddings/mapping": "encoder/embedding_hidden_mapping_in",
    "pooler": "pooler/dense",
}
_PREFIXES = ("bert.", "rembert.", "bleurt.")
# Numbers of rows, which some PyTorch models save; and the pooler's state of others is of no use to a reader.
_BUFFERS = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")


def original_name(name: str) -> str:
    """The original BERT's name of e.g. `bert/layers_0/query/kernel`; BLEURT's regression is `dense` there."""
    *path, last = name.split("/")
    if path == ["head"]:
        return f"dense/{last}"
    if last == "embedding":
        return name.removesuffix("/embedding")
    if path[1].startswith("layers_"):
        module = f"encoder/layer_{path[1].removeprefix('layers_')}/{_LAYER[path[2]]}"
    else:
        module = _ELSE["/".join(path[1:])]
    is_norm = module.endswith("LayerNorm")
    return f"bert/{module}/{ {'scale': 'gamma', 'bias': 'beta'}[last] if is_norm else last }"


def pytorch_name(name: str) -> str:
    """The PyTorch models' name of the same, as `BertModel` has it within another model."""
    original = original_name(name)
    if original.startswith("dense/"):
        original = original.replace("dense/", "classifier/")
    if name.endswith("/embedding"):
        original += "/weight"
    *path, last = original.replace("/layer_", "/layer/").split("/")
    return ".".join([*path, {"kernel": "weight", "gamma": "weight", "beta": "bias"}.get(last, last)])


def _plain(name: str) -> str:
    """A PyTorch model's name of a tensor, as another would have it: of bare encoders, RemBERT's and BLEURT's ports."""
    name = name.replace("encoder.embedding_projection.", "encoder.embedding_hidden_mapping_in.")
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return f"bert.{name.removeprefix(prefix)}"
    return name if name.startswith("classifier.") else f"bert.{name}"


# Parameters


class _Variable:
    """A variable of a bundle, for `names.stack`."""

    def __init__(self, bundle: TensorBundle, name: str):
        self._bundle, self._name, self.shape = bundle, name, bundle.entries[name].shape

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        found = self._bundle.read(self._name)
        names.check_finite(found, self._name, self._bundle.entries[self._name].file)
        return found[index]


def read_variables(prefix: str | os.PathLike, abstract: Any) -> Any:
    """Parameters from a bundle of TensorFlow variables.

    Args:
      prefix: of the bundle's files.
      abstract: the tree: shapes, types and shardings.

    Raises:
      RequestError: the bundle is damaged, or a variable is missing, one too many, of another shape or type.
    """
    bundle = TensorBundle(prefix)
    # How often it was trained is in every bundle.
    entries = {name: entry for name, entry in bundle.entries.items() if name != "global_step"}
    for name, entry in entries.items():
        if entry.dtype.kind == "i":
            raise RequestError(f"{bundle.index}: the variable {name} is {entry.dtype}; save it as float32")
    theirs = _check({name: entry.shape for name, entry in entries.items()}, abstract, original_name, bundle.index)
    return names.stack({ours: _Variable(bundle, name) for ours, name in theirs.items()}, abstract, bundle.index)


def read_safetensors(folder: str | os.PathLike, abstract: Any) -> Any:
    """Parameters from a folder of safetensors under PyTorch's names.

    Args:
      folder: with `model.safetensors`, or with the files of an index.
      abstract: the tree: shapes, types and shardings.

    Raises:
      RequestError: a file is missing or damaged, or a tensor is missing, one too many, of another shape or type.
    """
    found = safetensors_folder.read(pathlib.Path(folder))
    stored = {_plain(name): tensor for name, tensor in found.items() if _plain(name) not in _BUFFERS}
    safetensors_folder.check_floating(stored, folder)
    tensors = {name: tensor.transposed() if _is_kernel(name, tensor) else tensor for name, tensor in stored.items()}
    theirs = _check({name: tensor.shape for name, tensor in tensors.items()}, abstract, pytorch_name, folder)
    return names.stack({ours: tensors[name] for ours, name in theirs.items()}, abstract, folder)


def _is_kernel(name: str, tensor: safetensors_folder.Stored) -> bool:
    """PyTorch keeps kernels as `[out, in]`, embeddings as everyone."""
    is_embedding = name.startswith("bert.embeddings.")
    return len(tensor.shape) == 2 and not is_embedding


def _check(
    found: Mapping[str, tuple[int, ...]], abstract: Any, their_name: Callable[[str], str], where: object
) -> dict[str, str]:
    """Their names by ours, after `names.check`."""
    expected = names.shapes(abstract)
    names.check(found, {their_name(name): shape for name, shape in expected.items()}, where)
    return {name: their_name(name) for name in expected}


def write_safetensors(folder: pathlib.Path, params: Any) -> None:
    """Writes `model.safetensors` under PyTorch's names. Raises RunError where it cannot be written."""
    from safetensors.numpy import save

    content = {}
    for name, leaf in traverse_util.flatten_dict(jax.device_get(params), sep="/").items():
        content[pytorch_name(name)] = np.ascontiguousarray(leaf.T if name.endswith("/kernel") else leaf, np.float32)
    # PyTorch's mark: transformers refuses files without it.
    files.write_bytes(folder / safetensors_folder.WEIGHTS, save(content, metadata={"format": "pt"}))
