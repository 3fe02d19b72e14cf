"""`cd_jax tasks`."""

import argparse
from collections.abc import Callable

from cd_jax import verbs


def _add_flags(parser) -> None:
    parser.add_argument("name", nargs="?", help="task or mixture")
    parser.add_argument("--split", default="train", choices=("train", "validation", "test", "unlabelled"))
    parser.add_argument("--num_examples", type=_number(0), default=3)
    parser.add_argument("--write", metavar="DIR", help="write stories made for a bAbI task, as the original files are")
    parser.add_argument("--num_questions", type=_number(1), default=1000, help="with --write: of train; others a tenth")
    parser.add_argument("--seed", type=int, default=0, help="with --write: of the stories")


def _number(least: int) -> Callable[[str], int]:
    """Reads a whole number that is not below `least`."""

    def whole_number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not {least} or more")
        return int(text)

    return whole_number


def _run(args, configuration) -> None:
    from cd_jax.show import examples, stories

    if args.write:
        stories.write_stories(args.name, args.write, args.num_questions, args.seed)
    else:
        examples.show_tasks(args.name, args.model_dir, args.split, args.num_examples)


VERB = verbs.Verb(
    help="list tasks; `tasks NAME` prints examples as the model sees them",
    place=2,
    run=_run,
    gin_file="runs/tasks.gin",
    needs_model_dir=False,
    add_flags=_add_flags,
)
