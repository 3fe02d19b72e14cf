"""All that gin can bind: importing what verbs start registers ours; optax's are registered here, by their own names."""

from typing import Any

import gin
import optax

from cd_jax.aot import compile, sweep
from cd_jax.config.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Rate
from cd_jax.experiment import plan
from cd_jax.learning import distillation, evaluation, remembering, training
from cd_jax.show import examples
from cd_jax.update import selection
from cd_jax.update.filters import faithful, words
from cd_jax.update.policies import own_chains
from cd_jax.update.teachers import openai
from cd_jax.verifier import bleurt, embedding, tuning

__all__ = [
    "RANGES",
    "VERBS",
    "bleurt",
    "embedding",
    "faithful",
    "openai",
    "own_chains",
    "plan",
    "selection",
    "tuning",
    "words",
]

# What does the work of a verb as soon as it is called.
VERBS = (
    distillation.distill,
    evaluation.evaluate,
    evaluation.infer,
    remembering.remember,
    compile.aot,
    sweep.aot_sweep,
    examples.show_tasks,
    training.train,
)
# Of parameters whose annotations are not ours.
RANGES: dict[Any, dict[str, Any]] = {
    optax.adamw: {
        "learning_rate": NonNegativeFloat,
        "b1": Rate,
        "b2": Rate,
        "eps": PositiveFloat,
        "eps_root": NonNegativeFloat,
        "weight_decay": NonNegativeFloat,
    },
    optax.constant_schedule: {"value": NonNegativeFloat},
    optax.warmup_cosine_decay_schedule: {
        "init_value": NonNegativeFloat,
        "peak_value": NonNegativeFloat,
        "warmup_steps": NonNegativeInt,
        "decay_steps": PositiveInt,
        "end_value": NonNegativeFloat,
        "exponent": PositiveFloat,
    },
}

for function in RANGES:
    gin.external_configurable(function, module="optax")
