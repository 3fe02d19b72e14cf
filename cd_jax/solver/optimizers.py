"""Optimisers of stacked parameters: optax's, each layer by itself."""

from typing import Any

import gin
import jax
import optax

from cd_jax.config.ranges import NonNegativeFloat


@gin.configurable
def adafactor(learning_rate: NonNegativeFloat | optax.Schedule, **options: Any) -> optax.GradientTransformation:
    """`optax.adafactor` (arXiv 1804.04235) for parameters whose layers are stacked.

    Adafactor scales and clips an update by the root mean square over the whole of a parameter. The layers of a stack
    are parameters of their own, as they are in T5X, and each has statistics of its own.

    Args:
      learning_rate: a number or a schedule by step.
      **options: of `optax.adafactor`.
    """
    plain = optax.adafactor(learning_rate, **options)
    # The stacks may differ in length, and each is mapped over its own.
    stacks = {name: _layer_by_layer(plain) for name in ("encoder", "decoder")}
    return optax.partition(stacks | {"other": plain}, _labels)


def _labels(params: Any) -> Any:
    def label(path, _):
        names = [getattr(key, "key", None) for key in path]
        return names[0] if "layers" in names else "other"

    return jax.tree_util.tree_map_with_path(label, params)


def _layer_by_layer(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser, mapped over the first axis of parameters and state."""
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))
