"""The command line: verbs, flags, gin, and errors in one line."""

import argparse
import io
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from cd_jax import __version__
from cd_jax.config import library
from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import interrupt

VERBS = {
    "demo": "the main job: distil, train, evaluate and compare three agents",
    "tasks": "list tasks; `tasks NAME` prints examples as the model sees them",
    "distill": "let a teacher explain the source task: updates.jsonl, vocabulary",
    "train": "fine-tune the solver of one agent on the source task",
    "eval": "decode source and targets with a trained run: results.json",
    "infer": "decode a task or a --prompt with a trained run",
    "import": "make a model_dir of a model of Hugging Face's or T5X's",
    "export": "write a run's parameters for Hugging Face's transformers or T5X",
    "aot": "compile a step for a TPU pod that is not there: memory, time",
    "report": "gather results into a table, results.json and report.html",
}
# The gin file that a verb reads where none is given; eval, infer and export read the run's own.
DEFAULT_GIN = {verb: f"runs/{verb}.gin" for verb in ("demo", "tasks", "distill", "train", "eval", "infer", "import")}
DEFAULT_GIN["aot"] = "runs/aot.gin"
DEFAULT_GIN["export"] = DEFAULT_GIN["infer"]
DIRECTIONS = {"babi_to_com2sense": "runs/babi_to_com2sense.gin", "com2sense_to_babi": "runs/com2sense_to_babi.gin"}
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cd_jax",
        description="Contrastive distillation: sequence models that learn from explanations (arXiv 2212.11353).",
        epilog="Every binding of gin can be given as --gin.NAME=VALUE, e.g. --gin.BATCH_SIZE=32.",
    )
    parser.add_argument("--version", action="version", version=f"cd_jax {__version__}")
    exchange = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, line in VERBS.items():
        sub = exchange.add_parser(verb, help=line, description=line, allow_abbrev=False)
        sub.gin_file = DEFAULT_GIN.get(verb, "")
        sub.add_argument(
            "--model_dir",
            required=verb not in ("tasks", "demo", "aot"),
            help="folder of what the verb reads and writes",
        )
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
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        _add_own_flags(verb, sub)
    return parser


def _number(least: int) -> Callable[[str], int]:
    """Reads a whole number that is not below `least`."""

    def whole_number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not {least} or more")
        return int(text)

    return whole_number


def _add_own_flags(verb: str, parser: argparse.ArgumentParser) -> None:
    if verb in ("demo", "train", "eval", "infer"):
        parser.add_argument(
            "--strict_lengths", action="store_true", help="refuse prompts, updates and memories that do not fit whole"
        )
    if verb == "demo":
        parser.set_defaults(model_dir="runs/demo")
        parser.add_argument("--direction", choices=DIRECTIONS, help="the paper's low-data set-up, from which to which")
        parser.add_argument("--seeds", type=int, nargs="+", help="one run of every agent for each")
    if verb == "tasks":
        parser.add_argument("name", nargs="?", help="task or mixture")
        parser.add_argument("--split", default="train", choices=("train", "validation", "test", "unlabelled"))
        parser.add_argument("--num_examples", type=_number(0), default=3)
        parser.add_argument(
            "--write", metavar="DIR", help="write stories made for a bAbI task, as the original files are"
        )
        parser.add_argument(
            "--num_questions", type=_number(1), default=1000, help="with --write: of train; others a tenth"
        )
        parser.add_argument("--seed", type=int, default=0, help="with --write: of the stories")
    if verb == "infer":
        parser.add_argument("--prompt", default="", help="a context and question, instead of a task")
    if verb == "aot":
        parser.add_argument("--topology", default="v5e:4x4", help="a slice of a pod, such as v5e:8x8 or tpu7x:4x4x4")
        parser.add_argument("--mesh", help="devices along the axes, DATAxMODEL; all along data where it is not given")
        parser.add_argument("--sweep", action="store_true", help="try meshes, batches, remat and rules; the best first")
        parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    if verb == "import":
        parser.add_argument("source", help="a folder of Hugging Face's, a checkpoint of T5X's, or another --model_dir")
        parser.add_argument("--vocabulary", help="a SentencePiece model, where the source has none")
    if verb == "export":
        parser.add_argument(
            "--format",
            choices=("hf", "t5x", "t5x_legacy"),
            required=True,
            help="of Hugging Face's transformers, of T5X as it writes today (Orbax), of T5X's older files",
        )
        parser.add_argument("--output", help="folder; without it DIR/export/FORMAT, which is written anew")


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


def _check_local(args: argparse.Namespace) -> None:
    """Raises RequestError where a flag names a bucket and what the verb does works in local folders only."""
    for flag in ("model_dir", "output", "write", "vocabulary"):
        value = getattr(args, flag, None) or ""
        if "://" in value:
            raise RequestError(
                f"--{flag}={value}: give a local path; `gcloud storage cp -r` copies to and from a bucket"
            )


def _files(args: argparse.Namespace, search_paths: list[str]) -> list[str]:
    """The verb's file, then the run's own where the verb evaluates one, then the files asked for."""
    asked = [library.find(name, search_paths) for name in args.gin_file]
    if args.verb == "demo":
        given = args.babi_dir or args.com2sense_dir or args.tfds_data_dir
        paper = args.direction or ("babi_to_com2sense" if given else None)
        return [library.packaged(DIRECTIONS[paper] if paper else DEFAULT_GIN["demo"]), *asked]
    own = pathlib.Path(args.model_dir or "") / "config.gin"
    if args.verb in ("eval", "infer", "export"):
        if not own.is_file() and not asked:
            raise RequestError(f"{own}: no such file; train a run with this --model_dir first, or give its --gin_file")
        # The run's own comes second: what it binds counts, and a run of `train` lacks what evaluation needs.
        run = [str(own)] if own.is_file() else []
        return [library.packaged(DEFAULT_GIN[args.verb]), *run, *asked]
    return [library.packaged(DEFAULT_GIN[args.verb]), *asked]


def _configure(args: argparse.Namespace, statements: list[str]) -> None:
    """Reads the gin files and the bindings of the command line.

    Raises:
      RequestError: gin cannot read them, or nothing reads a binding.
    """
    from cd_jax.config import configuration

    statements = statements + [_normalised(binding) for binding in args.gin_bindings]
    for statement in statements:
        name = statement.partition("=")[0].strip()
        if args.verb == "demo" and name in ("AGENT", "SEED"):
            raise RequestError(f"--gin.{name}: the demo binds it for each run; bind {name}S, a list, instead")
    places = (("BABI_DIR", args.babi_dir), ("COM2SENSE_DIR", args.com2sense_dir), ("TFDS_DATA_DIR", args.tfds_data_dir))
    statements = statements + [f"{macro} = {_folder(value)!r}" for macro, value in places if value]
    if args.task_jsonl:
        statements.append(f"JSONL = {_named_folders(args.task_jsonl)}")
    if getattr(args, "strict_lengths", False):
        statements.append("SelfLearningProcess.strict_lengths = True")
    if getattr(args, "seeds", None):
        statements.append(f"SEEDS = {args.seeds}")
    search_paths = [folder for given in args.gin_search_paths for folder in given.split(",") if folder]
    configuration.configure(
        _files(args, search_paths), statements, search_paths, args.module_import, trust=args.trust_gin
    )


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


def _verb(args: argparse.Namespace) -> Callable[[], object]:
    from cd_jax.learning import distillation, evaluation, training
    from cd_jax.verbs import aot as pods
    from cd_jax.verbs import demo, exchange, tasks
    from cd_jax.verbs.report import report

    return {
        "demo": lambda: demo.demo(args.model_dir),
        "tasks": lambda: (
            tasks.write_stories(args.name, args.write, args.num_questions, args.seed)
            if args.write
            else tasks.show_tasks(args.name, args.model_dir, args.split, args.num_examples)
        ),
        "distill": lambda: distillation.distill(args.model_dir),
        "train": lambda: training.train(args.model_dir),
        "eval": lambda: evaluation.evaluate(args.model_dir),
        "infer": lambda: evaluation.infer(
            args.model_dir, **({"task": None, "prompt": args.prompt} if args.prompt else {})
        ),
        "import": lambda: exchange.import_model(args.source, args.model_dir, args.vocabulary),
        "export": lambda: exchange.export(args.model_dir, args.format, args.output),
        "aot": lambda: (pods.aot_sweep if args.sweep else pods.aot)(args.topology, args.mesh, args.json),
        "report": lambda: print(report(args.model_dir)),
    }[args.verb]


def _run(arguments: Sequence[str]) -> None:
    others, statements = _split_gin(arguments)
    args = _parser().parse_args(others)
    _check_local(args)
    # TensorFlow serves the input pipeline only, and its start-up notices are not about the user's work.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from absl import logging as absl_logging

    if args.verb == "aot":
        from cd_jax.aot.devices import prepare_environment

        prepare_environment()
    # Orbax and SeqIO tell of their own settings as warnings, and Orbax logs the traceback of a failed save before it
    # raises; what the user must know, we say.
    absl_logging.set_verbosity(absl_logging.ERROR if args.debug else absl_logging.FATAL)
    if args.verb != "report":
        _configure(args, statements)
    elif statements or args.gin_file or args.gin_bindings or args.module_import:
        raise RequestError("report reads results and nothing of gin; leave --gin_file, --gin.… and --module_import out")
    _verb(args)()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Returns:
      0; 1 where the run failed; 2 where the request was wrong; 130 after SIGINT, 143 after SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What models and files say may have no place in the terminal's encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with interrupt.listening():
            _run(arguments)
        # Here, where an error of it is told, and not when Python ends.
        sys.stdout.flush()
    except interrupt.Interrupted as stopped:
        kept = f"{stopped.kept}; " if stopped.kept else ""
        return _fail(f"interrupted by {stopped}: {kept}the same command goes on from there", stopped.status)
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
    if isinstance(error, OSError):
        return f"{error.filename or 'the disk'}: {error.strerror or error}; mend it and run again, which resumes", 1
    return f"{type(error).__name__}: {error} (unforeseen; run again with --debug to see where)", 1


def _fail(text: str, status: int) -> int:
    print(f"cd_jax: {_one_line(text)}", file=sys.stderr)
    return status
