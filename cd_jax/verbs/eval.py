"""`cd_jax eval`."""

from cd_jax import verbs

_GIN_FILE = "runs/eval.gin"


def _run(args, configuration) -> None:
    from cd_jax.learning import evaluation

    evaluation.evaluate(args.model_dir)


VERB = verbs.Verb(
    help="decode source and targets with a trained run: results.json",
    place=6,
    run=_run,
    several=True,
    gin_file=_GIN_FILE,
    gin_files=verbs.with_own_config(_GIN_FILE),
    add_flags=verbs.add_strict_lengths,
    statements=verbs.strict_lengths,
)
