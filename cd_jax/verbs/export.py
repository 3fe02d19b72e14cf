"""`cd_jax export`."""

from cd_jax import verbs

# A run that is written is read as one that is asked.
_GIN_FILE = "runs/infer.gin"


def _add_flags(parser) -> None:
    parser.add_argument(
        "--format",
        choices=("hf", "t5x", "t5x_legacy"),
        required=True,
        help="of Hugging Face's transformers, of T5X as it writes today (Orbax), of T5X's older files",
    )
    parser.add_argument("--output", help="folder; without it DIR/export/FORMAT, which is written anew")


def _run(args, configuration) -> None:
    from cd_jax.learning import exporting

    exporting.export(args.model_dir, args.format, args.output)


VERB = verbs.Verb(
    help="write a run's parameters for Hugging Face's transformers or T5X",
    place=9,
    run=_run,
    gin_file=_GIN_FILE,
    gin_files=verbs.with_own_config(_GIN_FILE),
    add_flags=_add_flags,
)
