"""`cd_jax distill`."""

from cd_jax import verbs


def _run(args, configuration) -> None:
    from cd_jax.learning import distillation

    distillation.distill(args.model_dir)


VERB = verbs.Verb(
    help="let a teacher explain the source task: updates.jsonl, vocabulary",
    place=3,
    run=_run,
    gin_file="runs/distill.gin",
)
