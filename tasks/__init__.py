"""SeqIO tasks and mixtures. Importing this package registers those that need no files; see `registry.register`."""

from cd_jax.tasks.registry import examples, names, register, seqio_task, sources, splits, subtasks
from cd_jax.tasks.sample import Sample

__all__ = ["Sample", "examples", "names", "register", "seqio_task", "sources", "splits", "subtasks"]

register()
