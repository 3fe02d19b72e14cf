"""`cd_jax remember`."""

from cd_jax import verbs

_GIN_FILE = "runs/remember.gin"


def _statements(args, given) -> list[str]:
    """SOURCE is the run's own, of which training took in what it could, unless the user names another."""
    names = {statement.partition("=")[0].strip() for statement in given}
    return [] if names & {"SOURCE", "remember.source"} else ["remember.source = None"]


def _run(args, configuration) -> None:
    from cd_jax.learning import remembering

    remembering.remember(args.model_dir)


VERB = verbs.Verb(
    help="tell a trained run explained examples; memory alone changes",
    place=5,
    run=_run,
    several=True,
    gin_file=_GIN_FILE,
    gin_files=verbs.with_own_config(_GIN_FILE),
    statements=_statements,
)
