"""All that gin can bind: importing the verbs registers ours; optax's are registered here, under their own names."""

import gin
import optax

from cd_jax import demo, distill, evaluate, show, train
from cd_jax.aot import verb as pods
from cd_jax.update import openai_teacher

__all__ = ["VERBS", "openai_teacher"]

VERBS = (
    demo.demo,
    distill.distill,
    evaluate.evaluate,
    evaluate.infer,
    pods.aot,
    pods.aot_sweep,
    show.show_tasks,
    train.train,
)

for function in (optax.adamw, optax.constant_schedule, optax.warmup_cosine_decay_schedule):
    gin.external_configurable(function, module="optax")
