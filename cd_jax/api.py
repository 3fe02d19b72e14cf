"""What `cd_jax.load` does: a run from Python, as `cd_jax infer` has it."""

from collections.abc import Sequence

from etils import epath

from cd_jax.config import library
from cd_jax.config.configuration import Configuration
from cd_jax.errors import RequestError
from cd_jax.learning.trained import TrainedRun


def load(model_dir: str, bindings: Sequence[str] = ()) -> TrainedRun:
    """See `cd_jax.load`; what gin was told before is forgotten."""
    own = epath.Path(model_dir) / "config.gin"
    if not own.is_file():
        raise RequestError(f"{own}: no such file; give the folder of a trained run")
    Configuration([library.packaged("runs/infer.gin"), str(own)], bindings).apply()
    return TrainedRun(model_dir)
