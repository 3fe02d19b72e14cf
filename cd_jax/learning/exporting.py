"""A run's parameters, written for Hugging Face's transformers or for T5X."""

import jax.numpy as jnp
from etils import epath

from cd_jax.errors import RequestError
from cd_jax.learning import compose
from cd_jax.learning.student import Settings
from cd_jax.learning.trained import TrainedWeights
from cd_jax.rundir import files, lock
from cd_jax.rundir.checkpoints import Checkpoints
from cd_jax.solver.solver import TrainState
from cd_jax.weights import huggingface, t5x_checkpoints


def export(model_dir: str, kind: str, output: str | None = None) -> None:
    """Writes a run's best parameters for another program.

    Args:
      model_dir: of the run.
      kind: `hf` for Hugging Face's transformers, `t5x` for T5X's scripts, `t5x_legacy` for its older format.
      output: folder; None for `model_dir/export/<kind>`, which is written anew.

    Raises:
      RequestError: the output is there already, the other program has no such network, or a run in a bucket is to be
        written into its own folder.
      RunError: it cannot be written.
    """
    if not output and files.is_remote(model_dir):
        raise RequestError(f"--model_dir={model_dir}: is in a bucket; give a local folder to write to, --output=DIR")
    target = epath.Path(output or epath.Path(model_dir) / "export" / kind)
    trained = TrainedWeights(model_dir)
    with lock.exclusive(target, "export"):
        if output:
            lock.check_empty(target, "--output")
        else:
            # What was killed may have been of another format.
            files.clean_up(target.parent)
        with files.new_folder(target) as new:
            if kind == "hf":
                _write_hf(new, trained)
            else:
                _write_t5x(new, trained, orbax=kind == "t5x")
    print(f"step {trained.best_step} of {model_dir} in {target}")


def _write_hf(folder: epath.Path, trained: TrainedWeights) -> None:
    length = Settings().sequence_length["targets"]  # type: ignore[call-arg]
    huggingface.write(folder, trained.params, trained.solver.config, trained.directory / compose.VOCABULARY, length)


def _write_t5x(folder: epath.Path, trained: TrainedWeights, orbax: bool) -> None:
    solver = trained.solver
    state = TrainState(jnp.int32(trained.best_step), trained.params, None)
    if "imported" not in trained.progress.identity:
        # Imported models have no state of an optimiser; T5X goes on with that of the others.
        checkpoints = Checkpoints(trained.directory, read_only=True)
        state, _, _ = checkpoints.restore(trained.best_step, solver.abstract_state())
        checkpoints.close()
    t5x_checkpoints.write(folder, state, solver.config, orbax)
    files.write_bytes(folder / compose.VOCABULARY, (trained.directory / compose.VOCABULARY).read_bytes())
