"""Runs the plan of an experiment, each run with a fresh configuration; what is done already is not done again."""

import contextlib
import io
import tokenize
from collections.abc import Sequence

import gin
from etils import epath

from cd_jax.config import statements
from cd_jax.config.configuration import Configuration
from cd_jax.config.macros import resolved
from cd_jax.errors import RequestError
from cd_jax.experiment import plan
from cd_jax.learning.compose import VOCABULARY, make_agent, make_solver
from cd_jax.learning.evaluation import check_targets, evaluate
from cd_jax.learning.training import train
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.rundir import files, interrupt
from cd_jax.solver.decoding import Decoding
from cd_jax.types import Run

_RECORD = "config.gin"
# Bindings that may change between calls on one folder: they lengthen the work and do not alter what was done, and what
# they bind for a run, the run itself knows.
_EXTENDABLE = (
    *("AGENT", "SEED", "ARM", "AGENTS", "SEEDS", "ARMS", "TRAIN_STEPS", "TRAIN_SECONDS", "PATIENCE"),
    *("EVAL_PER_TASK", "SOURCE_PER_TASK", "SAMPLE_SEED", "demo.arms", "train.arm"),
)


class Experiment:
    """The runs of a plan in one folder, with the configuration that they share.

    Attributes:
      runs: in turn.
    """

    def __init__(self, model_dir: str, configuration: Configuration, runs: Sequence[Run]):
        """Writes nothing.

        Args:
          model_dir: of the experiment, with what `cd_jax distill` wrote.
          configuration: of all runs, applied; each binds its own on top.
          runs: of `plan.plan`.
        """
        self.runs = runs
        self._directory = epath.Path(model_dir)
        self._configuration = configuration

    def check(self) -> None:
        """Refuses what can be refused before there is anything to learn from: what is made here is thrown away.

        Raises:
          RequestError: the folder holds an experiment of other bindings, or bindings do not go together.
        """
        self._check_record()
        for run in self._first_runs():
            self._configure(run)
            make_solver(128)
            Decoding()
            if make_agent(resolved(gin.query_parameter("train.agent"))).value:
                EpisodicMemory()
        self._configuration.apply()

    def begin(self) -> None:
        """Records the bindings, with which the experiment goes on from now on; nothing must be refused after that.

        Raises:
          RequestError: bindings do not go with the data.
        """
        if not self._is_recorded():
            # What there is to say of it, of lengths for one thing, is said when it is used.
            with contextlib.redirect_stdout(io.StringIO()):
                self._check_data()
        files.write_text_where_changed(self._directory / _RECORD, gin.config_str())

    def do(self, run: Run) -> None:
        """Trains and evaluates a run, or what is missing of it."""
        interrupt.check(f"all before {epath.Path(run.model_dir).name} is done")
        self._configure(run)
        train(run.model_dir, distilled=str(self._directory))
        evaluate(run.model_dir, only_missing=True)

    def _configure(self, run: Run) -> None:
        """Nothing that another run has bound is left."""
        self._configuration.with_statements(*plan.statements(run)).apply()

    def _first_runs(self) -> list[Run]:
        """One run of each arm."""
        return list({run.arm.name: run for run in reversed(self.runs)}.values())[::-1]

    def _check_data(self) -> None:
        for run in self._first_runs():
            self._configure(run)
            train(run.model_dir, distilled=str(self._directory), check_only=True)
            if run.arm.bindings.keys() - {"AGENT"}:
                check_targets(self._directory / VOCABULARY)
        self._configuration.apply()
        check_targets(self._directory / VOCABULARY)

    def _is_recorded(self) -> bool:
        """Whether an experiment was begun there; a record that is empty was cut by a full disk."""
        record = self._directory / _RECORD
        return record.is_file() and record.stat().length > 0

    def _check_record(self) -> None:
        """An experiment goes on with the bindings that it began with.

        Raises:
          RequestError: some binding is another one.
        """
        if not self._is_recorded():
            return
        record, mend = self._directory / _RECORD, "delete it, or choose another --model_dir"
        try:
            before = statements.bindings(files.read_text(record, mend))
        except (SyntaxError, ValueError, tokenize.TokenError) as error:
            raise RequestError(f"{record}: is not what the demo has written; {mend}") from error
        now = statements.bindings(gin.config_str())
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name) and name not in _EXTENDABLE:
                raise RequestError(
                    f"{record}: was begun with {name} = {before.get(name)!r}, not {now.get(name)!r}; "
                    "choose another --model_dir or bind it so"
                )
