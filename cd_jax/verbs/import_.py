"""`cd_jax import`."""

from cd_jax import verbs


def _add_flags(parser) -> None:
    parser.add_argument("source", help="a folder of Hugging Face's, a checkpoint of T5X's, or another --model_dir")
    parser.add_argument("--vocabulary", help="a SentencePiece model, where the source has none")


def _run(args, configuration) -> None:
    from cd_jax.learning import importing

    importing.import_model(args.source, args.model_dir, args.vocabulary)


VERB = verbs.Verb(
    help="make a model_dir of a model of Hugging Face's or T5X's",
    place=8,
    run=_run,
    gin_file="runs/import.gin",
    add_flags=_add_flags,
)
