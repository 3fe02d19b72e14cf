"""All that gin can bind: importing the verbs registers ours; optax's are registered here, under their own names."""

from typing import Any

import gin
import optax

from cd_jax.config.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Rate
from cd_jax.learning import distillation, evaluation, training
from cd_jax.update.teachers import openai
from cd_jax.verbs import aot as pods
from cd_jax.verbs import demo, tasks

__all__ = ["RANGES", "VERBS", "openai"]

VERBS = (
    demo.demo,
    distillation.distill,
    evaluation.evaluate,
    evaluation.infer,
    pods.aot,
    pods.aot_sweep,
    tasks.show_tasks,
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
