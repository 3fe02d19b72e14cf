"""`cd_jax demo`, the main job: plan, distil, run each, report."""

import time

from cd_jax import verbs
from cd_jax.config import library
from cd_jax.errors import RequestError

_GIN_FILE = "runs/demo.gin"
_DIRECTIONS = {"babi_to_com2sense": "runs/babi_to_com2sense.gin", "com2sense_to_babi": "runs/com2sense_to_babi.gin"}


def _add_flags(parser) -> None:
    verbs.add_strict_lengths(parser)
    parser.set_defaults(model_dir="runs/demo")
    parser.add_argument("--direction", choices=_DIRECTIONS, help="the paper's low-data set-up, from which to which")
    parser.add_argument("--seeds", type=int, nargs="+", help="one run of every agent for each")


def _gin_files(args) -> list[str]:
    """The paper's set-up where the original data are given, else the embedded worlds'."""
    given = args.babi_dir or args.com2sense_dir or args.tfds_data_dir
    paper = args.direction or ("babi_to_com2sense" if given else None)
    return [library.packaged(_DIRECTIONS[paper] if paper else _GIN_FILE)]


def _statements(args, given) -> list[str]:
    for name in (statement.partition("=")[0].strip() for statement in given):
        if name in ("AGENT", "SEED"):
            raise RequestError(f"--gin.{name}: the demo binds it for each run; bind {name}S, a list, instead")
    return [*verbs.strict_lengths(args), *([f"SEEDS = {args.seeds}"] if args.seeds else [])]


def _run(args, configuration) -> None:
    from cd_jax.experiment import plan, runner
    from cd_jax.learning import distillation
    from cd_jax.learning.progress import clock
    from cd_jax.report import gather
    from cd_jax.rundir import hosts, lock

    started = time.monotonic()
    with lock.exclusive(args.model_dir, "demo"):
        experiment = runner.Experiment(args.model_dir, configuration, plan.plan(args.model_dir))
        experiment.check()
        hosts.first("distill", lambda: distillation.distill(args.model_dir))
        experiment.begin()
        for run in experiment.runs:
            experiment.do(run)
        hosts.first("report", lambda: print(gather.report(args.model_dir)))
    print(f"done in {clock(time.monotonic() - started)}")


VERB = verbs.Verb(
    help="the main job: distil, train, evaluate and compare three agents",
    place=1,
    run=_run,
    several=True,
    gin_file=_GIN_FILE,
    needs_model_dir=False,
    add_flags=_add_flags,
    gin_files=_gin_files,
    statements=_statements,
)
