"""`cd_jax infer`."""

from cd_jax import verbs

_GIN_FILE = "runs/infer.gin"


def _add_flags(parser) -> None:
    verbs.add_strict_lengths(parser)
    parser.add_argument("--prompt", default="", help="a context and question, instead of a task")


def _run(args, configuration) -> None:
    from cd_jax.learning import evaluation

    # What gin binds is left to gin.
    evaluation.infer(args.model_dir, **({"task": None, "prompt": args.prompt} if args.prompt else {}))


VERB = verbs.Verb(
    help="decode a task or a --prompt with a trained run",
    place=7,
    run=_run,
    several=True,
    gin_file=_GIN_FILE,
    gin_files=verbs.with_own_config(_GIN_FILE),
    add_flags=_add_flags,
    statements=verbs.strict_lengths,
)
