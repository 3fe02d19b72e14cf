"""Damaged files of others and of our own: one clean line, or what was there, or what may well have been meant.

A few mutants of each format are read always, ten thousand of each where `slow` tests are asked for.
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable

import jax
import mutants
import numpy as np
import pytest
import test_bleurt_weights
import test_huggingface
import test_t5x_checkpoints
import test_tokenizers
import test_vocabularies
from memories import entries_of, filled, normal

from cd_jax.errors import RequestError
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.nets.config import T5Config
from cd_jax.tasks import vocabulary
from cd_jax.weights import bleurt, huggingface, t5x_checkpoints, tokenizers, vocabularies

FEW, MANY = 60, 10_000
SMALL = dataclasses.replace(
    test_huggingface.OURS,
    emb_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_decoder_layers=1,
)  # fmt: skip
TEXT = "John went to the <extra_id_0>. Where is John? ☃"


@dataclasses.dataclass
class Format:
    """A file to be damaged.

    Attributes:
      make: writes the folder that it belongs to, and returns the file.
      read: reads it, given that folder.
      check: asserts that what was read is a thing of its kind.
    """

    make: Callable[[pathlib.Path], pathlib.Path]
    read: Callable[[pathlib.Path], object]
    check: Callable[[object], None]


@functools.cache
def small_params() -> dict:
    return test_huggingface.random_params(SMALL)


@functools.cache
def abstract(config: T5Config):
    """Of no device: what is read stays with numpy, which is faster."""
    found = test_huggingface.abstract_params(config)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found)


def check_params(params) -> None:
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda x: x.shape, abstract(SMALL))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


# Hugging Face's


def hugging_face(name: str) -> Callable[[pathlib.Path], pathlib.Path]:
    def make(folder: pathlib.Path) -> pathlib.Path:
        huggingface.write(folder, small_params(), SMALL, vocabulary.EMBEDDED, 16)
        if name == huggingface.INDEX:
            (folder / huggingface.WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
            of = {huggingface._their_name(n): "model-00001-of-00001.safetensors" for n in names_of(small_params())}
            (folder / name).write_text(json.dumps({"weight_map": of}))
        return folder / name

    return make


def names_of(params) -> list[str]:
    return list(huggingface.names.shapes(params))


def check_config(fields) -> None:
    config = T5Config(**fields)
    assert all(type(value) is int and 0 < value <= 2**24 for name, value in fields.items() if "num_" in name)
    assert 0 <= config.dropout_rate < 1 and math.isfinite(config.dropout_rate)
    assert config.mlp_activations in (("relu",), ("gelu", "linear"), ("silu", "linear"))


def tokenizer(name: str) -> Callable[[pathlib.Path], pathlib.Path]:
    def make(folder: pathlib.Path) -> pathlib.Path:
        folder.mkdir()
        model = test_tokenizers.trained(vocab_size=300)
        if name == "tokenizer.json":
            (folder / name).write_text(json.dumps(test_vocabularies.as_transformers_5_writes(model)))
            return folder / name
        (folder / "spiece.model").write_bytes(model)
        size = len(test_vocabularies.pieces_of(model))
        added = {f"<extra_id_{i}>": size + 99 - i for i in range(100)} | {"<sep>": size + 100}
        (folder / "added_tokens.json").write_text(json.dumps(added))
        decoder = {str(number): {"content": token, "special": True} for token, number in added.items()}
        settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "added_tokens_decoder": decoder}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder / name

    return make


def byte_pairs(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    (folder / "small.model").write_bytes(test_tokenizers.trained(model_type="bpe", vocab_size=400))
    tokenizers.write(folder, folder / "small.model")
    (folder / "spiece.model").unlink()
    return folder / "tokenizer.json"


def read_tokenizer(folder: pathlib.Path) -> list:
    (folder / "made").write_bytes(vocabularies.of_folder(folder, 4000))
    return read_vocabulary(folder / "made")


def read_vocabulary(file: pathlib.Path) -> list:
    read = vocabulary.load(file)
    return [read.vocab_size, read.encode(TEXT), read.decode(list(range(3, 50)))]


def check_tokens(found) -> None:
    size, ids, text = found
    assert isinstance(text, str) and all(0 <= i < size for i in ids)


def own_vocabulary(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    (folder / "vocabulary.model").write_bytes(test_tokenizers.with_sentinels(test_tokenizers.trained(vocab_size=300)))
    return folder / "vocabulary.model"


# T5X's


def t5x(name: str, orbax: bool = False) -> Callable[[pathlib.Path], pathlib.Path]:
    def make(folder: pathlib.Path) -> pathlib.Path:
        if orbax:
            state = test_t5x_checkpoints.random_like(test_t5x_checkpoints.make_solver(SMALL).abstract_state())
            t5x_checkpoints.write(folder, state, SMALL)
        else:
            flat = test_t5x_checkpoints.flat(small_params())
            test_t5x_checkpoints.compose(folder, flat, step=7)
        return next(folder.glob(f"checkpoint_*/{name}"))

    return make


def read_t5x(folder: pathlib.Path):
    fields = t5x_checkpoints.read_config(folder)
    t5x_checkpoints.step(folder)
    return t5x_checkpoints.read(folder, abstract(SMALL)) if fields["vocab_size"] == SMALL.vocab_size else fields


def check_t5x(found) -> None:
    if "vocab_size" in found:
        T5Config(**found)
    else:
        check_params(found)


# The memory


def memory(name: str) -> Callable[[pathlib.Path], pathlib.Path]:
    def make(folder: pathlib.Path) -> pathlib.Path:
        kept = filled(entries_of([2, 1, 3]))
        kept.write(normal(6, 4))
        kept.save(folder)
        return folder / name

    return make


def read_memory(folder: pathlib.Path) -> EpisodicMemory:
    return EpisodicMemory.load(folder, capacity=6, num_axes=2)


def check_memory(loaded) -> None:
    held = [entry for entry in loaded.entries if entry]
    assert len({entry.content for entry in held}) == len(held)
    assert all(isinstance(entry.prompt, str) and isinstance(entry.update, str) for entry in held)
    assert (loaded.used >= 0).all() and (loaded.added >= 0).all()
    assert loaded.keys is None or loaded.keys.shape[0] == 6


# BLEURT's


def bleurt_folder(name: str) -> Callable[[pathlib.Path], pathlib.Path]:
    """With `variables/`, or with `model.safetensors` where that is the file."""

    def make(folder: pathlib.Path) -> pathlib.Path:
        test_bleurt_weights.write(folder, safetensors=name.endswith(".safetensors"))
        return folder / name

    return make


def read_bleurt(folder: pathlib.Path):
    checkpoint = bleurt.describe(folder)
    return checkpoint, bleurt.read(checkpoint, test_bleurt_weights.abstract(checkpoint.config))


def check_bleurt(found) -> None:
    checkpoint, params = found
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert 0 <= max(checkpoint.tokenizer.ids("a kitchen, ünd")) < checkpoint.config.vocab_size


FORMATS = {
    "config.json": Format(hugging_face("config.json"), huggingface.read_config, check_config),
    "safetensors": Format(
        hugging_face("model.safetensors"), lambda folder: huggingface.read(folder, abstract(SMALL)), check_params
    ),
    "index": Format(
        hugging_face(huggingface.INDEX), lambda folder: huggingface.read(folder, abstract(SMALL)), check_params
    ),
    "spiece.model": Format(tokenizer("spiece.model"), read_tokenizer, check_tokens),
    "tokenizer.json": Format(tokenizer("tokenizer.json"), read_tokenizer, check_tokens),
    "tokenizer.json of byte pairs": Format(byte_pairs, read_tokenizer, check_tokens),
    "tokenizer_config.json": Format(tokenizer("tokenizer_config.json"), read_tokenizer, check_tokens),
    "added_tokens.json": Format(tokenizer("added_tokens.json"), read_tokenizer, check_tokens),
    "vocabulary.model": Format(
        own_vocabulary, lambda folder: read_vocabulary(folder / "vocabulary.model"), check_tokens
    ),
    "msgpack": Format(t5x("checkpoint"), read_t5x, check_t5x),
    "zarr": Format(t5x("target.token_embedder.embedding/.zarray"), read_t5x, check_t5x),
    "zarr chunk": Format(t5x("target.encoder.layers_0.mlp.wo.kernel/0.0"), read_t5x, check_t5x),
    "_METADATA": Format(t5x("state/_METADATA", orbax=True), read_t5x, check_t5x),
    **{
        f"BLEURT's {name}": Format(bleurt_folder(name), read_bleurt, check_bleurt)
        for name in (
            "variables/variables.index",
            "variables/variables.data-00000-of-00001",
            "bleurt_config.json",
            "bert_config.json",
            "vocab.txt",
            "model.safetensors",
        )
    },
    "entries.jsonl": Format(memory("entries.jsonl"), read_memory, check_memory),
}


def fuzz(form: Format, folder: pathlib.Path, count: int, seed: int) -> dict[str, int]:
    """Reads so many mutants; how many of each outcome there were. Raises what a reader should not."""
    file = form.make(folder)
    form.check(form.read(folder))
    counts = {"refused": 0, "read": 0}
    for mutant in mutants.of(file.read_bytes(), count, seed):
        file.write_bytes(mutant)
        try:
            found = form.read(folder)
        except RequestError as error:
            assert str(error).startswith(str(folder)) and len(str(error).splitlines()) == 1
            counts["refused"] += 1
            continue
        form.check(found)
        counts["read"] += 1
    return counts


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_in_one_line_or_read(name, tmp_path):
    assert fuzz(FORMATS[name], tmp_path / "folder", FEW, 0)["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_ten_thousand_damaged_files(name, tmp_path):
    counts = fuzz(FORMATS[name], tmp_path / "folder", MANY, 1)
    print(f"\n{name}: {counts}")
    assert counts["refused"] > MANY // 20
