"""`cd_jax demo`, the main job: distil, train and evaluate every agent, report. Nothing but those stages in a row."""

import contextlib
import io
import pathlib
import time

import gin

from cd_jax.config.ranges import Seed
from cd_jax.errors import RequestError
from cd_jax.learning.compose import VOCABULARY, make_solver, run_name
from cd_jax.learning.distillation import distill
from cd_jax.learning.evaluation import check_targets, evaluate
from cd_jax.learning.progress import clock
from cd_jax.learning.training import train
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.rundir import files, interrupt, lock
from cd_jax.solver.decoding import Decoding
from cd_jax.step.terms.contrastive import Contrast
from cd_jax.verbs.report import report

_RECORD = "config.gin"
# Bindings that may change between calls on one folder: they lengthen the work and do not alter what was done.
_EXTENDABLE = (
    *("AGENT", "SEED", "AGENTS", "SEEDS", "TRAIN_STEPS", "TRAIN_SECONDS", "PATIENCE"),
    *("EVAL_PER_TASK", "SOURCE_PER_TASK", "SAMPLE_SEED"),
)


@gin.configurable
def demo(model_dir: str, agents: list[str], seeds: list[Seed]) -> None:
    """Runs the stages; what an earlier call on the same folder has done is not done again.

    Args:
      model_dir: of the experiment; each run has its own folder `<agent>-seed<seed>` in it.
      agents: of `process.AGENTS`.
      seeds: of the runs; the teacher's seed is its own.

    Raises:
      RequestError: the folder holds an experiment of other bindings.
    """
    started, directory = time.monotonic(), pathlib.Path(model_dir)
    with lock.exclusive(model_dir, "demo"):
        _check_record(directory)
        _check_bindings(agents, seeds)
        distill(model_dir)
        if not _is_recorded(directory):
            # Nothing must be refused once the bindings are those of the experiment.
            _check_stages(directory, agents, seeds[0])
        files.write_text_where_changed(directory / _RECORD, gin.config_str())
        for seed in seeds:
            for agent in agents:
                interrupt.check(f"all before {run_name(agent, seed)} is done")
                run_dir = _bind(directory, agent, seed)
                train(run_dir, distilled=model_dir)
                evaluate(run_dir, only_missing=True)
        print(report(model_dir))
    print(f"done in {clock(time.monotonic() - started)}")


def _bind(directory: pathlib.Path, agent: str, seed: int) -> str:
    """Makes the run the one that gin is about; its folder."""
    with gin.unlock_config():
        gin.parse_config(f"AGENT = {agent!r}\nSEED = {seed}")
    return str(directory / run_name(agent, seed))


def _check_bindings(agents: list[str], seeds: list[int]) -> None:
    """Bindings that do not go together are to show before anything is written: what is made here is thrown away."""
    if not agents or not seeds:
        raise RequestError(f"AGENTS={agents} and SEEDS={seeds} make no run; name one or more of each")
    make_solver(128)
    Decoding(), Contrast()
    EpisodicMemory()


def _check_stages(directory: pathlib.Path, agents: list[str], seed: int) -> None:
    """The same of bindings that do not go with the data."""
    # What there is to say of it, of lengths for one thing, is said when it is used.
    with contextlib.redirect_stdout(io.StringIO()):
        for agent in agents:
            train(_bind(directory, agent, seed), distilled=str(directory), check_only=True)
        check_targets(directory / VOCABULARY)


def _is_recorded(directory: pathlib.Path) -> bool:
    """Whether an experiment was begun there; a record that is empty was cut by a full disk."""
    record = directory / _RECORD
    return record.is_file() and record.stat().st_size > 0


def _check_record(directory: pathlib.Path) -> None:
    """An experiment goes on with the bindings that it began with.

    Raises:
      RequestError: some binding is another one.
    """
    record = directory / _RECORD
    if not _is_recorded(directory):
        return
    before = _bindings(files.read_text(record, "delete it, or choose another --model_dir"))
    now = _bindings(gin.config_str())
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name) and name not in _EXTENDABLE:
            raise RequestError(
                f"{record}: was begun with {name} = {before.get(name)}, not {now.get(name)}; "
                "choose another --model_dir or bind it so"
            )


def _bindings(text: str) -> dict[str, str]:
    """Statements of a gin file as `gin.config_str` writes it, by their left side."""
    joined = text.replace("\\\n", " ")
    pairs = (line.partition("=") for line in joined.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): " ".join(value.split()) for name, _, value in pairs}
