"""Folders that Hugging Face's transformers loads, in both directions; neither transformers nor PyTorch is needed.

T5 1.0 (`relu`, output projection tied to the embedding, states scaled), T5 1.1, LM-adapted and Flan (`gated-gelu`, a
projection of its own), UL2 (`gated-silu`). In `config.json`, `tie_word_embeddings` came to mean that the states are
scaled (`scale_decoder_outputs` since transformers 5); whether the projection is the embedding shows in the tensors.
Shared tensors may stand there once, or under every name.
"""

import itertools
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  Lets numpy, and so safetensors, know bfloat16 by its name.
import numpy as np
import safetensors
from safetensors.numpy import save_file

from cd_jax.errors import RequestError, RunError
from cd_jax.nets.config import T5Config
from cd_jax.rundir import files
from cd_jax.weights import names, safetensors_folder, tokenizers
from cd_jax.weights.safetensors_folder import INDEX, WEIGHTS, Stored

CONFIG = "config.json"
_MEND = "copy it again, whole"
# T5Config's name, Hugging Face's name, its default there.
_FIELDS = (
    ("vocab_size", "vocab_size", 32128),
    ("emb_dim", "d_model", 512),
    ("num_heads", "num_heads", 8),
    ("head_dim", "d_kv", 64),
    ("mlp_dim", "d_ff", 2048),
    ("num_encoder_layers", "num_layers", 6),
    ("num_decoder_layers", "num_decoder_layers", None),
    ("dropout_rate", "dropout_rate", 0.1),
    ("relative_attention_num_buckets", "relative_attention_num_buckets", 32),
    ("relative_attention_max_distance", "relative_attention_max_distance", 128),
)
# Their name, T5X's, and the name of the first of them in a configuration's `dense_act_fn`.
_ACTIVATIONS = {
    "relu": (("relu",), "relu"),
    "gated-gelu": (("gelu", "linear"), "gelu_new"),
    "gated-silu": (("silu", "linear"), "silu"),
}
# What the solver has no other of, with the value that is meant where it is not given.
_FIXED = {
    "layer_norm_epsilon": (1e-6, 1e-6),
    "pad_token_id": (0, 0),
    "eos_token_id": (1, 1),
    "decoder_start_token_id": (0, 0),
}
_MAX_FILE_BYTES = 5 * 10**9  # As transformers splits.

# Names

_HEAD, _EMBEDDING = "lm_head.weight", "shared.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Stands in T5 1.0's files, and nothing reads it.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_WHOLE = {
    "token_embedder/embedding": _EMBEDDING,
    "decoder/logits_dense/kernel": _HEAD,
    "encoder/relpos_bias/rel_embedding": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "decoder/relpos_bias/rel_embedding": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
    "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
}
_SUBLAYERS = {
    "encoder": {
        "pre_attention_layer_norm": "layer.0.layer_norm",
        "attention": "layer.0.SelfAttention",
        "pre_mlp_layer_norm": "layer.1.layer_norm",
        "mlp": "layer.1.DenseReluDense",
    },
    "decoder": {
        "pre_self_attention_layer_norm": "layer.0.layer_norm",
        "self_attention": "layer.0.SelfAttention",
        "pre_cross_attention_layer_norm": "layer.1.layer_norm",
        "encoder_decoder_attention": "layer.1.EncDecAttention",
        "pre_mlp_layer_norm": "layer.2.layer_norm",
        "mlp": "layer.2.DenseReluDense",
    },
}
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}


def _their_name(name: str) -> str:
    """Hugging Face's name of what T5X calls e.g. `encoder/layers_0/attention/query/kernel`."""
    if name in _WHOLE:
        return _WHOLE[name]
    stack, layer, sublayer, *projection = name.split("/")[:-1]
    block = f"{stack}.block.{layer.removeprefix('layers_')}.{_SUBLAYERS[stack][sublayer]}"
    return ".".join([block, *(_PROJECTIONS.get(part, part) for part in projection), "weight"])


def _is_transposed(name: str) -> bool:
    """PyTorch keeps kernels as `[out, in]`, and the relative position bias as `[buckets, heads]`."""
    return name.endswith(("/kernel", "/rel_embedding"))


# config.json


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Whether it is a folder of Hugging Face's kind."""
    return (pathlib.Path(path) / CONFIG).is_file()


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The fields of `T5Config` that `config.json` gives.

    Args:
      path: the folder.

    Raises:
      RequestError: it is missing or malformed, or describes a network that the solver cannot be.
    """
    file = pathlib.Path(path) / CONFIG
    given = files.read_json(file, _MEND)
    if given.get("model_type") not in ("t5", "mt5"):
        raise RequestError(f"{file}: model_type={given.get('model_type')!r}; only 't5' and 'mt5' can be imported")
    for name, (wanted, default) in _FIXED.items():
        if (given.get(name) if given.get(name) is not None else default) not in (wanted, [wanted]):
            raise RequestError(f"{file}: {name}={given[name]!r}; the solver has {wanted!r} and no other")
    fields: dict[str, Any] = {
        ours: default if given.get(theirs) is None else given[theirs] for ours, theirs, default in _FIELDS
    }
    if fields["num_decoder_layers"] is None:
        fields["num_decoder_layers"] = fields["num_encoder_layers"]
    _check_ranges(file, fields)
    return fields | {"mlp_activations": _activations(file, given), "logits_via_embedding": _is_scaled(file, given)}


def _check_ranges(file: pathlib.Path, fields: Mapping[str, Any]) -> None:
    for ours, theirs, _ in _FIELDS:
        value, most = fields[ours], names.most(ours)
        if ours == "dropout_rate":
            if type(value) not in (int, float) or not 0 <= value < 1:
                raise RequestError(f"{file}: {theirs}={value!r} is not in 0..1, 1 left out; {_MEND}")
        elif type(value) is not int or not 1 <= value <= most:
            raise RequestError(f"{file}: {theirs}={str(value)[:40]!r} is not a whole number in 1..{most}; {_MEND}")
    buckets, distance = fields["relative_attention_num_buckets"], fields["relative_attention_max_distance"]
    if buckets < 4 or distance <= buckets // 2:
        raise RequestError(
            f"{file}: relative_attention_num_buckets={buckets} do not reach to relative_attention_max_distance="
            f"{distance}; {_MEND}"
        )


def _activations(file: pathlib.Path, given: Mapping[str, Any]) -> tuple[str, ...]:
    kind = given.get("feed_forward_proj", "relu")
    if not isinstance(kind, str) or kind not in _ACTIVATIONS:
        raise RequestError(f"{file}: feed_forward_proj={kind!r}; only {', '.join(_ACTIVATIONS)} can be imported")
    activations, first = _ACTIVATIONS[kind]
    # transformers derives these two, and takes them from the file where they are there.
    for name, implied in (("dense_act_fn", first), ("is_gated_act", len(activations) > 1)):
        if given.get(name, implied) != implied:
            raise RequestError(
                f"{file}: {name}={given[name]!r} contradicts feed_forward_proj={kind!r}, which means {implied!r}; "
                "set right which of them is wrong"
            )
    return activations


def _is_scaled(file: pathlib.Path, given: Mapping[str, Any]) -> bool:
    """Whether the decoder's states are scaled before the output projection, which in T5 is the embedding then."""
    for name in ("scale_decoder_outputs", "tie_word_embeddings"):
        if not isinstance(given.get(name, True), bool | None):
            raise RequestError(f"{file}: {name}={given[name]!r} is neither true nor false; {_MEND}")
    scaled = given.get("scale_decoder_outputs")
    return scaled if scaled is not None else given.get("tie_word_embeddings") is not False


def _config_json(config: T5Config) -> dict[str, Any]:
    fields = {theirs: getattr(config, ours) for ours, theirs, _ in _FIELDS}
    kinds = {activations: kind for kind, (activations, _) in _ACTIVATIONS.items()}
    if config.mlp_activations not in kinds:
        allowed = " or ".join(map(repr, kinds))
        raise RequestError(f"T5Config.mlp_activations={config.mlp_activations!r}: Hugging Face's T5 has {allowed}")
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        **fields,
        "feed_forward_proj": kinds[config.mlp_activations],
        # Programs before transformers 5 look at the first, later ones at the second.
        "tie_word_embeddings": config.logits_via_embedding,
        "scale_decoder_outputs": config.logits_via_embedding,
        **{name: wanted for name, (wanted, _) in _FIXED.items()},
    }


# Tensors


def read(path: str | os.PathLike, abstract_params: Any) -> Any:
    """The parameters, straight onto the mesh, float32; of every tensor a device's slice is read.

    Args:
      path: the folder.
      abstract_params: `Solver.abstract_state().params`, of a solver of this `read_config`.

    Raises:
      RequestError: a file is missing or damaged, or a tensor is missing, one too many, of another shape or type.
    """
    expected = names.shapes(abstract_params)
    stored = safetensors_folder.read(pathlib.Path(path))
    safetensors_folder.check_floating(stored, path)
    _resolve_embedding(path, stored, tied="decoder/logits_dense/kernel" not in expected)
    theirs = {_their_name(name): shape[::-1] if _is_transposed(name) else shape for name, shape in expected.items()}
    names.check({name: tensor.shape for name, tensor in stored.items()}, theirs, path)
    ours = {name: stored[_their_name(name)] for name in expected}
    tensors = {name: tensor.transposed() if _is_transposed(name) else tensor for name, tensor in ours.items()}
    return names.stack(tensors, abstract_params, path)


def _resolve_embedding(path: Any, stored: dict[str, Stored], tied: bool) -> None:
    """Leaves the embedding once, and the output projection where the network has one."""
    stored.pop(_UNUSED, None)
    copies = [name for name in (_EMBEDDING, *_COPIES) if name in stored]
    if not copies and _HEAD in stored:
        copies = [_HEAD]  # transformers 5 takes whichever of the tied ones is there.
    embedding = stored[copies[0]] if copies else None
    for name in copies[1:]:
        if not _are_equal(stored[copies[0]], stored.pop(name)):
            raise RequestError(f"{path}: {copies[0]} and {name} differ; in T5 they are one tensor")
    if embedding is None:
        return
    stored.pop(copies[0], None)
    stored[_EMBEDDING] = embedding
    if not tied:
        stored.setdefault(_HEAD, embedding)
    elif _HEAD in stored and not _are_equal(embedding, stored.pop(_HEAD)):
        raise RequestError(
            f"{path}: {_HEAD} is not {_EMBEDDING}, but {CONFIG} says that they are tied; "
            "set tie_word_embeddings and scale_decoder_outputs to false there if it is a T5 1.1"
        )


def _are_equal(one: Stored, other: Stored, rows: int = 4096) -> bool:
    if one.shape != other.shape or not one.shape:
        return one.shape == other.shape
    ends = range(0, one.shape[0] + rows, rows)
    parts = [(slice(start, min(end, one.shape[0])),) for start, end in itertools.pairwise(ends)]
    return all(np.array_equal(one[part], other[part]) for part in parts)


# Export


def write(directory: str | os.PathLike, params: Any, config: T5Config, vocabulary: files.Path, length: int) -> None:
    """Writes a folder for `T5ForConditionalGeneration.from_pretrained` and `AutoTokenizer.from_pretrained`.

    Args:
      directory: an empty or new folder.
      params: of `Solver`; weights are written as float32, a file of at most 5 GB at a time on the host.
      config: of `Solver`.
      vocabulary: the SentencePiece model.
      length: tokens that `generate` writes at most, where it is not told otherwise.

    Raises:
      RequestError: Hugging Face's T5 cannot be of this shape.
      RunError: the disk is full.
    """
    folder = pathlib.Path(directory)
    described = _config_json(config)
    tokenizers.read(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    generation = {name: described[name] for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")}
    for name, content in ((CONFIG, described), ("generation_config.json", generation | {"max_new_tokens": length})):
        files.write_json(folder / name, content)
    tokenizers.write(folder, vocabulary)
    _write_weights(folder, params)


def _write_weights(folder: pathlib.Path, params: Any) -> None:
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in names.shapes(params).items()}
    parts = _divided(sizes)
    of = {_their_name(name): _file_name(part, len(set(parts.values()))) for name, part in parts.items()}
    tensors = ((name, array.T if _is_transposed(name) else array) for name, array in names.unstack(params))
    for file, group in itertools.groupby(tensors, key=lambda pair: of[_their_name(pair[0])]):
        # PyTorch's mark: transformers refuses files without it.
        content = {_their_name(name): np.ascontiguousarray(array, np.float32) for name, array in group}
        try:
            save_file(content, folder / file, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise RunError(f"{folder / file}: cannot be written ({error})") from error
        # safetensors makes it readable by its owner alone.
        shutil.copymode(folder / CONFIG, folder / file)
    if len(set(of.values())) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": of}
        files.write_json(folder / INDEX, index)


def _divided(sizes: Mapping[str, int]) -> dict[str, int]:
    """The file of each tensor: as many tensors in one as fit."""
    parts: dict[str, int] = {}
    part, filled = 0, 0
    for name, size in sizes.items():
        if filled and filled + size > _MAX_FILE_BYTES:
            part, filled = part + 1, 0
        parts[name], filled = part, filled + size
    return parts


def _file_name(part: int, parts: int) -> str:
    return WEIGHTS if parts == 1 else f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
