"""The command line: from arguments to a verb, gin's flags, errors in one line and exit statuses."""

import argparse
import io
import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cd_jax import __version__, processes, verbs
from cd_jax.config import library
from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import hosts, interrupt
from cd_jax.verbs import Verb

if TYPE_CHECKING:
    from cd_jax.config.configuration import Configuration

# Also with one slash, which a shell's completion or a script may have left.
_BUCKET = re.compile(r"[a-z][a-z0-9]+:/")
_GIN_FLAG = re.compile(r"^--gin\.([^=]+)=(.*)$", re.DOTALL)


class _Parser(argparse.ArgumentParser):
    """Of the command line, or of a verb, whose help ends with what its gin files say.

    Attributes:
      gin_file: read by the verb where none is given; empty where it reads none.
    """

    gin_file = ""

    def error(self, message: str):
        raise RequestError(f"{message}; see `{self.prog} --help`")

    def format_help(self) -> str:
        """The help, with the header and the macros of the verb's gin files."""
        if not self.gin_file:
            return super().format_help()
        told = library.described(self.gin_file)
        return f"{super().format_help()}\nmacros, which --gin.NAME=VALUE binds:\n\n{told}\n"


def _parser(found: Mapping[str, Verb]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cd_jax",
        description="Contrastive distillation: sequence models that learn from explanations (arXiv 2212.11353).",
        epilog="Every binding of gin can be given as --gin.NAME=VALUE, e.g. --gin.BATCH_SIZE=32.",
    )
    parser.add_argument("--version", action="version", version=f"cd_jax {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in found.items():
        sub = subparsers.add_parser(name, help=verb.help, description=verb.help, allow_abbrev=False)
        sub.gin_file = verb.gin_file
        sub.add_argument("--model_dir", required=verb.needs_model_dir, help="folder of what the verb reads and writes")
        sub.add_argument("--gin_file", action="append", default=[], help="gin file, repeatable; looked up in gin/ too")
        sub.add_argument(
            "--gin_search_paths", action="append", default=[], help="folders of gin files, with commas; repeatable"
        )
        sub.add_argument(
            "--trust_gin",
            action="store_true",
            help="let gin files in folders of runs import, which runs code",
        )
        sub.add_argument("--gin_bindings", action="append", default=[], help="'NAME = VALUE', as --gin.NAME=VALUE")
        sub.add_argument(
            "--module_import", action="append", default=[], help="module of your tasks, teachers, verifiers; repeatable"
        )
        sub.add_argument("--gin.NAME", dest="unused", metavar="VALUE", help="binds a macro or a parameter of gin")
        sub.add_argument("--babi_dir", help="folder of the original bAbI archive (tasks_1-20_v1-2)")
        sub.add_argument("--com2sense_dir", help="folder with Com2Sense's train, dev and test.json, pair_id_*.json")
        sub.add_argument("--tfds_data_dir", help="folder in which `tfds build` has prepared either, also gs://…")
        sub.add_argument(
            "--task_jsonl", action="append", default=[], metavar="NAME=DIR",
            help="a task of your own: train, validation and test.jsonl of prompt, answer, explanation; repeatable",
        )  # fmt: skip
        if verb.several:
            processes.add_flags(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        verb.add_flags(sub)
    return parser


def _split_gin(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--gin.NAME=VALUE` out, as T5X does: the other arguments, and gin statements."""
    others, statements = [], []
    for argument in arguments:
        if match := _GIN_FLAG.match(argument):
            statements.append(f"{match[1]} = {match[2]}")
        elif argument.startswith("--gin.") and argument != "--gin.NAME":
            raise RequestError(f"{argument}: write --gin.NAME=VALUE")
        else:
            others.append(argument)
    return others, statements


def _check_places(args: argparse.Namespace) -> None:
    """Raises RequestError where a flag names a bucket and what the verb does works in local folders only."""
    if _BUCKET.match(args.model_dir or "") and not args.model_dir.startswith("gs://"):
        raise RequestError(f"--model_dir={args.model_dir}: give a local path or gs://BUCKET/FOLDER")
    for flag in ("output", "write", "vocabulary"):
        value = getattr(args, flag, None) or ""
        if _BUCKET.match(value):
            raise RequestError(
                f"--{flag}={value}: give a local path; `gcloud storage cp -r` copies to and from a bucket"
            )


def _configuration(args: argparse.Namespace, verb: Verb, given: Sequence[str]) -> "Configuration":
    """What gin is to be told: the verb's files, then those asked for; the statements of the command line.

    Raises:
      RequestError: a file is missing, a flag is malformed, or a statement is not for the verb.
    """
    from cd_jax.config.configuration import Configuration

    given = [*given, *map(_normalised, args.gin_bindings)]
    places = (("BABI_DIR", args.babi_dir), ("COM2SENSE_DIR", args.com2sense_dir), ("TFDS_DATA_DIR", args.tfds_data_dir))
    statements = given + [f"{macro} = {_folder(value)!r}" for macro, value in places if value]
    if args.task_jsonl:
        statements.append(f"JSONL = {_named_folders(args.task_jsonl)}")
    statements += verb.statements(args, given)
    search_paths = [folder for given in args.gin_search_paths for folder in given.split(",") if folder]
    asked = [library.find(name, search_paths) for name in args.gin_file]
    return Configuration([*verb.files(args), *asked], statements, search_paths, args.module_import, args.trust_gin)


def _normalised(binding: str) -> str:
    """A statement as `_split_gin` makes it of a flag."""
    name, equals, value = binding.partition("=")
    if not equals:
        raise RequestError(f"--gin_bindings={binding}: write 'NAME = VALUE'")
    return f"{name.strip()} = {value.strip()}"


def _named_folders(given: Sequence[str]) -> dict[str, str]:
    """Folders by name. Raises RequestError where a flag is no NAME=DIR."""
    pairs = [flag.partition("=") for flag in given]
    for flag, (name, _, folder) in zip(given, pairs, strict=True):
        if not name or not folder:
            raise RequestError(f"--task_jsonl={flag}: write NAME=DIR, such as my_task=data/mine")
    return {name: _folder(folder) for name, _, folder in pairs}


def _folder(path: str) -> str:
    """Absolute, so that a run's config.gin serves from every working folder."""
    return path if "://" in path else os.path.abspath(path)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _run(arguments: Sequence[str], announced: bool) -> None:
    others, statements = _split_gin(arguments)
    found = verbs.find()
    args = _parser(found).parse_args(others)
    verb = found[args.verb]
    _check_places(args)
    # TensorFlow serves the input pipeline only, and its start-up notices are not about the user's work.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from absl import logging as absl_logging

    verb.prepare()
    if verb.several:
        processes.join(processes.Asked.of(args), announced, args.model_dir)
    if args.model_dir and args.model_dir.startswith("gs://"):
        from cd_jax.rundir import files

        files.check_bucket(args.model_dir)
    # Orbax and SeqIO tell of their own settings as warnings, and Orbax logs the traceback of a failed save before it
    # raises; what the user must know, we say.
    absl_logging.set_verbosity(absl_logging.ERROR if args.debug else absl_logging.FATAL)
    configuration = _configuration(args, verb, statements)
    if verb.gin_file:
        configuration.apply()
    hosts.agree("the command", lambda: processes.command(others), "start the same command on all processes")
    verb.run(args, configuration)
    hosts.leave()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Returns:
      0; 1 where the run failed; 2 where the request was wrong; 130 after SIGINT, 143 after SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What models and files say may have no place in the terminal's encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    announced = processes.are_announced(arguments)
    if announced and (status := processes.in_child()) is not None:
        return status
    try:
        with interrupt.listening():
            _run(arguments, announced)
        # Here, where an error of it is told, and not when Python ends.
        sys.stdout.flush()
    except interrupt.Interrupted as stopped:
        kept = f"{stopped.kept}; " if stopped.kept else ""
        where, status = ("", stopped.status) if hosts.count() == 1 else (" on all processes", processes.START_AGAIN)
        return _fail(f"interrupted by {stopped}: {kept}the same command{where} goes on from there", status)
    except BrokenPipeError:
        # Who reads has read enough, as `| head` does; what is left must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exception(error)
        return _fail(*_told(_original(error)))
    return 0


def _original(error: BaseException) -> BaseException:
    """The error that was raised, where gin put others around it that tell the calls it came through."""
    while "\n  In call to configurable" in str(error) and error.__context__:
        error = error.__context__
    return error


def _told(error: BaseException) -> tuple[str, int]:
    """What to say of an error, and the exit status."""
    if isinstance(error, RequestError | RunError):
        return str(error), 2 if isinstance(error, RequestError) else 1
    from cd_jax.rundir import files

    if isinstance(error, OSError):
        return f"{error.filename or 'the disk'}: {error.strerror or error}; mend it and run again, which resumes", 1
    if files.is_of_storage(error):
        return f"the bucket: {error}; see that it is there and that you may read and write it, then run again", 1
    return f"{type(error).__name__}: {error} (unforeseen; run again with --debug to see where)", 1


def _fail(text: str, status: int) -> int:
    print(f"cd_jax: {_one_line(text)}", file=sys.stderr)
    processes.end(_one_line(text), status)
    return status
