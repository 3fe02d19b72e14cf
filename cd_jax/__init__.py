"""Contrastive distillation in JAX: sequence models that learn from explanations (arXiv 2212.11353).

import cd_jax
run = cd_jax.load("runs/mine")
print(run.ask("John went to the office. Where is John?").prediction)
"""

import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cd_jax.learning.trained import TrainedRun

__version__ = importlib.metadata.version("cd_jax")
__all__ = ["__version__", "load"]


def load(model_dir: str, *bindings: str) -> "TrainedRun":
    """A trained run, to be asked: `load(…).ask(prompt)`.

    Args:
      model_dir: of a run, or of an imported model.
      *bindings: of gin, over those of the run, such as `"Decoding.num_beams = 4"`.

    Raises:
      RequestError: there is no run, or a binding is wrong.
    """
    from cd_jax import api

    return api.load(model_dir, bindings)
