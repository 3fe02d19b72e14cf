"""`cd_jax import` and `cd_jax export`: models of Hugging Face and of T5X, in and out."""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import gin
import jax
import jax.numpy as jnp

from cd_jax import evaluate, run
from cd_jax.checkpoints import Checkpoints, Progress
from cd_jax.errors import RequestError
from cd_jax.interop import huggingface, t5x_checkpoints, tokenizers
from cd_jax.solver.solver import TrainState

VOCABULARY = "vocabulary.model"
# Its value may be chosen anew; the others describe the tensors.
_FREE = ("dropout_rate",)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What is to be imported.

    Attributes:
      kind: what it is, for the user.
      fields: of `T5Config`.
      step: of the checkpoint.
      read: reads the parameters into the places of an abstract tree.
      vocabulary: a SentencePiece model; None where the folder has none.
    """

    kind: str
    fields: dict[str, Any]
    step: int
    read: Callable[[Any], Any]
    vocabulary: pathlib.Path | None


def import_model(source: str, model_dir: str, vocabulary: str | None = None) -> None:
    """Makes a `model_dir` of a model: `checkpoints/` (parameters alone), `config.gin`, `vocabulary.model`.

    Args:
      source: a folder of Hugging Face's, a checkpoint of T5X's, or a run's `model_dir`.
      model_dir: where to.
      vocabulary: a SentencePiece model; None takes the source's.

    Raises:
      RequestError: what the source holds is damaged, or cannot be a solver.
    """
    found = _recognise(source)
    path = pathlib.Path(vocabulary) if vocabulary else found.vocabulary
    if path is None:
        raise RequestError(f"{source}: {found.kind} holds no vocabulary; give --vocabulary=FILE, a SentencePiece model")
    pieces = len(tokenizers.read(path).pieces)
    if pieces > found.fields["vocab_size"]:
        raise RequestError(f"{path}: has {pieces} pieces, the embedding of {source} {found.fields['vocab_size']} rows")
    folder = pathlib.Path(model_dir)
    _check_empty(folder, "--model_dir")
    _bind(found.fields, source)
    solver = run.make_solver(found.fields["vocab_size"])
    params = found.read(solver.abstract_state().params)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / VOCABULARY)
    (folder / "config.gin").write_text(gin.config_str(), encoding="utf-8")
    origin = source if "://" in source else os.path.abspath(source)
    identity = {"agent": "baseline", "seed": 0, "network": solver.config.shape(), "imported": origin}
    checkpoints = Checkpoints(folder)
    checkpoints.save(found.step, TrainState(jnp.int32(found.step), params, None), {}, Progress(identity))
    checkpoints.close()
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{size:,} parameters of {found.kind} {source} in {folder}; cd_jax infer --model_dir={folder} --prompt='…'")


def _check_empty(folder: pathlib.Path, flag: str) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise RequestError(f"{folder}: is not empty; choose another {flag}")


def _recognise(source: str) -> _Source:
    folder = pathlib.Path(source)
    if (folder / "checkpoints").is_dir():
        return _own(folder)
    if huggingface.is_checkpoint(folder):
        return _Source(
            "Hugging Face's", huggingface.read_config(folder), 0, lambda abstract: huggingface.read(folder, abstract),
            _existing(folder / huggingface.VOCABULARY),
        )  # fmt: skip
    if t5x_checkpoints.is_checkpoint(source):
        return _Source(
            "T5X's", t5x_checkpoints.read_config(source), t5x_checkpoints.step(source),
            lambda abstract: t5x_checkpoints.read(source, abstract), _existing(folder / VOCABULARY),
        )  # fmt: skip
    raise RequestError(
        f"{source}: holds no model: neither {huggingface.CONFIG} (Hugging Face's), nor checkpoint_<step> (T5X's), "
        "nor checkpoints/ (a run's)"
    )


def _existing(file: pathlib.Path) -> pathlib.Path | None:
    return file if file.is_file() else None


def _own(folder: pathlib.Path) -> _Source:
    checkpoints = Checkpoints(folder, read_only=True)
    step, progress = checkpoints.best()
    return _Source(
        "a run", progress.identity["network"], step, lambda abstract: checkpoints.restore_params(step, abstract),
        folder / VOCABULARY,
    )  # fmt: skip


def _bind(fields: dict[str, Any], source: str) -> None:
    """Binds `T5Config`, so that config.gin describes the network."""
    for name, value in fields.items():
        try:
            bound = gin.query_parameter(f"T5Config.{name}")
        except ValueError:
            with gin.unlock_config():
                gin.bind_parameter(f"T5Config.{name}", value)
            continue
        if bound != value and name not in _FREE:
            raise RequestError(f"--gin.T5Config.{name}={bound!r}: {source} has {value!r}; leave the binding out")


def export(model_dir: str, kind: str, output: str | None = None) -> None:
    """Writes a run's best parameters for another program.

    Args:
      model_dir: of the run.
      kind: `hf` for Hugging Face's transformers, `t5x` for T5X's scripts, `t5x_legacy` for its older format.
      output: folder; None for `model_dir/export/<kind>`, which is written anew.

    Raises:
      RequestError: the output is there already, or the other program has no such network.
      RunError: it cannot be written.
    """
    target = pathlib.Path(output or pathlib.Path(model_dir) / "export" / kind)
    if output:
        _check_empty(target, "--output")
    trained = evaluate.TrainedRun(model_dir)
    # In one piece: half a model is not to be taken for a whole one.
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        if kind == "hf":
            _write_hf(temporary, trained)
        else:
            _write_t5x(temporary, trained, orbax=kind == "t5x")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"step {trained.best_step} of {model_dir} in {target}")


def _write_hf(folder: pathlib.Path, trained: evaluate.TrainedRun) -> None:
    length = trained.process.settings()["sequence_length"]["targets"]
    config = trained.process.solver.config
    huggingface.write(folder, trained.params, config, trained.directory / VOCABULARY, length)


def _write_t5x(folder: pathlib.Path, trained: evaluate.TrainedRun, orbax: bool) -> None:
    solver = trained.process.solver
    state = TrainState(jnp.int32(trained.best_step), trained.params, None)
    if "imported" not in trained.progress.identity:
        # Imported models have no state of an optimiser; T5X goes on with that of the others.
        checkpoints = Checkpoints(trained.directory, read_only=True)
        state, _, _ = checkpoints.restore(trained.best_step, solver.abstract_state())
        checkpoints.close()
    t5x_checkpoints.write(folder, state, solver.config, orbax)
    shutil.copyfile(trained.directory / VOCABULARY, folder / VOCABULARY)
