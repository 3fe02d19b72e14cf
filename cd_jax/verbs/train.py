"""`cd_jax train`."""

from cd_jax import verbs


def _run(args, configuration) -> None:
    from cd_jax.learning import training

    training.train(args.model_dir)


VERB = verbs.Verb(
    help="fine-tune the solver of one agent on the source task",
    place=4,
    run=_run,
    several=True,
    gin_file="runs/train.gin",
    add_flags=verbs.add_strict_lengths,
    statements=verbs.strict_lengths,
)
