"""Imports and exports that are killed or copied in part: whole or refused; and what an error says mends it."""

import dataclasses
import functools
import json
import pathlib
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import runs
import test_huggingface
import test_tokenizers
import test_vocabularies
from safetensors.numpy import load_file
from test_interop_verbs import PROMPT, command, said

from cd_jax.errors import RequestError
from cd_jax.rundir import files
from cd_jax.solver.solver import TrainState
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.weights import huggingface, sources, t5x_checkpoints

# Kills the command line in the middle: when so many calls of a function are done.
_KILLED = """
import importlib, os, signal, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # As cd_jax does, before anything is imported.
from cd_jax import cli
module, function, left = sys.argv[1], sys.argv[2], [int(sys.argv[3])]
found = importlib.import_module(module)
plain = getattr(found, function)
def until(*given, **more):
    result = plain(*given, **more)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(found, function, until)
sys.exit(cli.main(sys.argv[4:]))
"""
SMALL = dataclasses.replace(test_huggingface.OURS, num_encoder_layers=1, num_decoder_layers=1)
SETTINGS = {name.replace(".", "__"): value for name, value in runs.LENGTHS.items()}


def kill(environment: dict[str, str], after: tuple[str, str, int], given: list[str]) -> None:
    program = [sys.executable, "-c", _KILLED, *map(str, after), *given]
    ended = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == -9, ended.stderr


def left_over(folder: pathlib.Path) -> list[pathlib.Path]:
    return list(folder.rglob("*.tmp"))


# Killed

EXPORTS = {
    "hf": ("cd_jax.weights.tokenizers", "write", 1),
    "t5x": ("cd_jax.weights.t5x_checkpoints_write", "_write_orbax", 1),
    "t5x_legacy": ("cd_jax.weights.t5x_checkpoints_write", "_write_array", 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_that_was_killed_is_not_there_and_the_next_cleans_up(
    kind, imported, tmp_path, user_environment, capfd
):
    run = pathlib.Path(shutil.copytree(imported, tmp_path / "run"))
    given = runs.arguments("export", run, f"--format={kind}")
    kill(user_environment, EXPORTS[kind], given)
    target = run / "export" / kind
    assert len(left_over(tmp_path)) == 1 and any(left_over(tmp_path)[0].iterdir())
    told = said(capfd, status=command("import", tmp_path / "again", str(target)))
    assert f"{target}: holds no model" in told
    # The next export cleans up, also where it is of another format.
    assert command("export", run, f"--format={'t5x_legacy' if kind == 'hf' else 'hf'}") == 0
    assert not left_over(tmp_path)
    assert runs.here(given) == 0
    assert command("import", tmp_path / "again", str(target), **SETTINGS) == 0


@pytest.mark.slow
def test_an_export_elsewhere_that_was_killed_is_made_anew(imported, source, tmp_path, user_environment):
    given = runs.arguments("export", imported, "--format=hf", f"--output={tmp_path / 'out'}")
    kill(user_environment, ("cd_jax.weights.huggingface", "_write_weights", 1), given)
    assert len(left_over(tmp_path)) == 1
    assert runs.here(given) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    found, expected = load_file(tmp_path / "out" / huggingface.WEIGHTS), load_file(source / huggingface.WEIGHTS)
    assert found.keys() == expected.keys()


@pytest.mark.slow
def test_an_import_that_was_killed_is_not_there_and_is_made_anew(source, tmp_path, user_environment, capfd):
    given = runs.arguments("import", tmp_path / "model", str(source), **SETTINGS)
    kill(user_environment, ("cd_jax.rundir.checkpoints", "Progress", 1), given)
    assert len(left_over(tmp_path)) == 1
    assert "config.gin: no such file" in said(capfd, status=command("infer", tmp_path / "model", PROMPT))
    assert runs.here(given) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert command("infer", tmp_path / "model", PROMPT) == 0


# Copied in part


@functools.cache
def params() -> dict:
    return test_huggingface.random_params(SMALL)


def exported(folder: pathlib.Path, kind: str) -> pathlib.Path:
    """As `cd_jax export` writes it; the vocabulary has added tokens."""
    config, vocabulary = SMALL, folder / "vocabulary.model"
    folder.mkdir()
    vocabulary.write_bytes(test_tokenizers.with_sentinels(test_tokenizers.trained(vocab_size=300)))
    if kind == "hf":
        huggingface.write(folder, params(), config, vocabulary, 16)
        vocabulary.unlink()
    else:
        on_device = jax.tree.map(jax.device_put, params())
        t5x_checkpoints.write(folder, TrainState(jax.numpy.int32(7), on_device, None), config, kind == "t5x")
    return folder


def contents(folder: pathlib.Path) -> tuple:
    """All that is read of a model."""
    found = sources.recognise(str(folder))
    pieces = test_vocabularies.pieces_of(found.vocabulary())
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params())
    fields = {name: value for name, value in found.fields.items() if name != "dropout_rate"}
    return fields, found.step, pieces, found.read(abstract)


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_that_lacks_a_file_or_the_half_of_it_is_whole_or_refused(kind, tmp_path):
    folder = exported(tmp_path / "export", kind)
    *expected, tree = contents(folder)
    refusals = 0
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for damaged in (None, content[: len(content) // 2], b""):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            try:
                *found, read = contents(folder)
            except RequestError as error:
                assert str(folder) in str(error) and "\n" not in str(error)
                refusals += 1
            else:
                assert found == expected, file
                jax.tree.map(np.testing.assert_array_equal, read, tree)
            file.write_bytes(content)
    assert refusals > 10


# Mends


def refuse(capfd, model: pathlib.Path, folder: pathlib.Path, *flags: str, **bindings) -> str:
    capfd.readouterr()
    told = said(capfd, status=command("import", model, str(folder), *flags, **SETTINGS, **bindings))
    assert not model.exists()
    return told


def rewrite(file: pathlib.Path, **changes) -> None:
    described = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(described | changes))


def lose_vocabulary(copy: pathlib.Path) -> None:
    for name in ("spiece.model", "tokenizer.json"):
        (copy / name).unlink()


def take_another_tokenizer(copy: pathlib.Path) -> None:
    (copy / "spiece.model").unlink()
    rewrite(copy / "tokenizer.json", normalizer={"type": "Lowercase"})


def add_whole_words(copy: pathlib.Path) -> None:
    decoder = {"2688": {"content": "x", "single_word": True}}
    rewrite(copy / "tokenizer_config.json", added_tokens_decoder=decoder)


def bigger_than(rows: int) -> bytes:
    """A vocabulary of more pieces."""
    model = vocabularies.parse(vocabularies.EMBEDDED.read_bytes(), "")
    for number in range(rows + 1 - len(model.pieces)):
        model.pieces.add(piece=f"▁zz{number}", score=-9.0, type=1)
    return model.SerializeToString()


VOCABULARIES = {
    "lost": lose_vocabulary,
    "another tokenizer": take_another_tokenizer,
    "whole words": add_whole_words,
    "another piece": lambda copy: rewrite(copy / "added_tokens.json", **{"<sep>": 7}),
    "no room": lambda copy: (copy / "spiece.model").write_bytes(bigger_than(2688)),
}


@pytest.mark.parametrize("damage", VOCABULARIES)
def test_the_vocabulary_that_an_error_asks_for_mends_it(damage, source, tmp_path, capfd):
    copy = pathlib.Path(shutil.copytree(source, tmp_path / "copy"))
    VOCABULARIES[damage](copy)
    told = refuse(capfd, tmp_path / "model", copy)
    assert "give --vocabulary=FILE" in told
    mend = f"--vocabulary={vocabularies.EMBEDDED}"
    assert command("import", tmp_path / "model", str(copy), mend, **SETTINGS) == 0
    assert command("infer", tmp_path / "model", PROMPT) == 0


def test_a_checkpoint_of_t5xs_without_a_vocabulary_takes_one(imported, tmp_path, capfd):
    assert command("export", imported, "--format=t5x", f"--output={tmp_path / 't5x'}") == 0
    (tmp_path / "t5x" / "vocabulary.model").unlink()
    assert "give --vocabulary=FILE" in refuse(capfd, tmp_path / "model", tmp_path / "t5x")
    mend = f"--vocabulary={vocabularies.EMBEDDED}"
    assert command("import", tmp_path / "model", str(tmp_path / "t5x"), mend, **SETTINGS) == 0


def store_integers(copy: pathlib.Path) -> None:
    test_huggingface.change_tensors(copy, **{test_huggingface.NORM: np.ones(32, np.int8)})


def store_floats(copy: pathlib.Path) -> None:
    test_huggingface.change_tensors(copy, **{test_huggingface.NORM: np.ones(32, np.float16)})


CONFIGS = {
    "tied": (
        lambda copy: test_huggingface.change_config(copy, tie_word_embeddings=True, scale_decoder_outputs=True),
        "set tie_word_embeddings and scale_decoder_outputs to false there",
        lambda copy: test_huggingface.change_config(copy, tie_word_embeddings=False, scale_decoder_outputs=False),
    ),
    "activation": (
        lambda copy: test_huggingface.change_config(copy, dense_act_fn="relu"),
        "set right which of them is wrong",
        lambda copy: test_huggingface.change_config(copy, dense_act_fn="gelu_new"),
    ),
    "integers": (store_integers, "save it as F32, BF16 or F16", store_floats),
}


@pytest.mark.parametrize("damage", CONFIGS)
def test_what_an_error_asks_for_in_the_folder_mends_it(damage, source, tmp_path, capfd):
    break_, message, mend = CONFIGS[damage]
    copy = pathlib.Path(shutil.copytree(source, tmp_path / "copy"))
    break_(copy)
    assert message in refuse(capfd, tmp_path / "model", copy)
    mend(copy)
    assert command("import", tmp_path / "model", str(copy), **SETTINGS) == 0


def test_flags_that_an_error_asks_for_mend_it(source, imported, tmp_path, capfd):
    given = (tmp_path / "model", source)
    assert "leave the binding out" in refuse(capfd, *given, T5Config__emb_dim=64)
    assert "MESH_MODEL" in refuse(capfd, *given, MESH_MODEL=3)
    full = tmp_path / "full"
    full.mkdir()
    files.write_text(full / "file", "")
    assert "choose another --model_dir" in said(capfd, status=command("import", full, str(source), **SETTINGS))
    assert command("import", tmp_path / "model", str(source), **SETTINGS, MESH_MODEL=4) == 0
    exporting = ("export", imported, "--format=hf")
    capfd.readouterr()
    assert "choose another --output" in said(capfd, status=command(*exporting, f"--output={full}"))
    assert command(*exporting, f"--output={tmp_path / 'other'}") == 0


def test_an_imported_model_gives_training_what_it_lacks(source, tmp_path, capfd):
    copy = pathlib.Path(shutil.copytree(source, tmp_path / "copy"))
    lose_vocabulary(copy)
    distilling = {"SOURCE": f"'{runs.SOURCE}'", "distill__vocabulary": f"'{copy}'"}
    told = said(capfd, status=command("distill", tmp_path / "run", **distilling))
    given = told.partition("; give ")[2].partition(", a")[0].replace("FILE", str(vocabularies.EMBEDDED))
    assert told.endswith(", to `cd_jax import`\n")
    assert command("import", tmp_path / "model", str(copy), *shlex.split(given), **SETTINGS) == 0
    distilling["distill__vocabulary"] = f"'{tmp_path / 'model'}'"
    assert command("distill", tmp_path / "run", **distilling) == 0
