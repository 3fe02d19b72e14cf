"""`cd_jax import` and `cd_jax export`: models of Hugging Face and of T5X, in and out."""

import os
import pathlib
import shutil

import gin
import jax
import jax.numpy as jnp

from cd_jax.errors import RequestError
from cd_jax.learning import compose, evaluation
from cd_jax.rundir import files, lock
from cd_jax.rundir.checkpoints import Checkpoints, Progress
from cd_jax.solver.solver import TrainState
from cd_jax.weights import huggingface, sources, t5x_checkpoints, vocabularies


def import_model(source: str, model_dir: str, vocabulary: str | None = None) -> None:
    """Makes a `model_dir` of a model: `checkpoints/` (parameters alone), `config.gin`, `vocabulary.model`.

    It appears in one piece: a call that is ended before leaves nothing.

    Args:
      source: a folder of Hugging Face's, a checkpoint of T5X's, or a run's `model_dir`.
      model_dir: where to.
      vocabulary: a SentencePiece model; None takes the source's.

    Raises:
      RequestError: what the source holds is damaged, or cannot be a solver.
      RunError: it cannot be written.
    """
    folder = pathlib.Path(model_dir)
    with lock.exclusive(folder, "import"):
        _check_empty(folder, "--model_dir")
        found = sources.recognise(source)
        model = _vocabulary(found, source, vocabulary)
        _bind(found, source)
        solver = compose.make_solver(found.fields["vocab_size"])
        params = found.read(solver.abstract_state().params)
        identity = {
            "agent": "baseline",
            "seed": 0,
            "network": solver.config.shape(),
            "imported": source if "://" in source else os.path.abspath(source),
            "vocabulary": compose.digest(model),
        }
        with files.new_folder(folder) as new:
            files.write_bytes(new / compose.VOCABULARY, model)
            files.write_text(new / "config.gin", gin.config_str())
            checkpoints = Checkpoints(new)
            checkpoints.save(found.step, TrainState(jnp.int32(found.step), params, None), {}, Progress(identity))
            checkpoints.close()
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{size:,} parameters of {found.kind} {source} in {folder}; cd_jax infer --model_dir={folder} --prompt='…'")


def _vocabulary(found: sources.Source, source: str, given: str | None) -> bytes:
    rows = found.fields["vocab_size"]
    model = vocabularies.with_sentinels(pathlib.Path(given), rows) if given else found.vocabulary()
    found.check_pieces(model, given or source, source)
    return model


def _check_empty(folder: pathlib.Path, flag: str) -> None:
    if any(path.name != lock.NAME for path in folder.iterdir()):
        raise RequestError(f"{folder}: is not empty; choose another {flag}")


def _bind(found: sources.Source, source: str) -> None:
    """Binds `T5Config`, so that config.gin describes the network."""
    for name, value in found.fields.items():
        try:
            bound = gin.query_parameter(f"T5Config.{name}")
        except ValueError:
            with gin.unlock_config():
                gin.bind_parameter(f"T5Config.{name}", value)
            continue
        if bound != value and not found.leaves_open(name, bound):
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
    trained = evaluation.TrainedRun(model_dir)
    with lock.exclusive(target, "export"):
        if output:
            _check_empty(target, "--output")
        else:
            # What was killed may have been of another format.
            files.clean_up(target.parent)
        with files.new_folder(target) as new:
            if kind == "hf":
                _write_hf(new, trained)
            else:
                _write_t5x(new, trained, orbax=kind == "t5x")
    print(f"step {trained.best_step} of {model_dir} in {target}")


def _write_hf(folder: pathlib.Path, trained: evaluation.TrainedRun) -> None:
    length = trained.student.settings()["sequence_length"]["targets"]
    config = trained.student.solver.config
    huggingface.write(folder, trained.params, config, trained.directory / compose.VOCABULARY, length)


def _write_t5x(folder: pathlib.Path, trained: evaluation.TrainedRun, orbax: bool) -> None:
    solver = trained.student.solver
    state = TrainState(jnp.int32(trained.best_step), trained.params, None)
    if "imported" not in trained.progress.identity:
        # Imported models have no state of an optimiser; T5X goes on with that of the others.
        checkpoints = Checkpoints(trained.directory, read_only=True)
        state, _, _ = checkpoints.restore(trained.best_step, solver.abstract_state())
        checkpoints.close()
    t5x_checkpoints.write(folder, state, solver.config, orbax)
    shutil.copyfile(trained.directory / compose.VOCABULARY, folder / compose.VOCABULARY)
