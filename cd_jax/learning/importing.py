"""A `model_dir` made of a model of Hugging Face's or of T5X's."""

import gin
import jax
import jax.numpy as jnp
from etils import epath

from cd_jax.errors import RequestError
from cd_jax.learning import compose
from cd_jax.rundir import files, lock
from cd_jax.rundir.checkpoints import Checkpoints, Progress
from cd_jax.solver.solver import TrainState
from cd_jax.weights import sources, vocabularies


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
    folder = epath.Path(model_dir)
    with lock.exclusive(folder, "import"):
        lock.check_empty(folder, "--model_dir")
        found = sources.recognise(source)
        model = _vocabulary(found, source, vocabulary)
        _bind(found, source)
        solver = compose.make_solver(found.fields["vocab_size"])
        params = found.read(solver.abstract_state().params)
        identity = {
            "agent": "baseline",
            "seed": 0,
            "network": solver.config.shape(),
            "imported": files.address(source),
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
    model = vocabularies.with_sentinels(epath.Path(given), rows) if given else found.vocabulary()
    found.check_pieces(model, given or source, source)
    return model


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
