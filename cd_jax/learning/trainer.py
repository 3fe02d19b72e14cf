"""The trainer: fits the solver to the lessons of a round."""

import dataclasses
from typing import Any

import gin
import jax
import numpy as np

from cd_jax.config.ranges import NonNegativeFloat, PositiveInt
from cd_jax.errors import RequestError, RunError
from cd_jax.feed.pipeline import Feed
from cd_jax.feed.tokens import TokenisedExamples
from cd_jax.learning.ledger import Ledger
from cd_jax.learning.progress import ProgressLine, clock
from cd_jax.learning.student import Student
from cd_jax.proposal.iterator import DeterministicIterator
from cd_jax.rundir import interrupt, metrics, results
from cd_jax.rundir.checkpoints import Progress
from cd_jax.solver.solver import TrainState
from cd_jax.types import Lesson


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Budget:
    """When training ends. Steps and seconds are of all rounds together, each of which has an equal share.

    Attributes:
      steps: at most.
      seconds: of training, evaluations included and interruptions left out; 0 for no limit. Looked at after every
        evaluation, so that the last parameters are evaluated ones.
      patience: evaluations of a round without a smaller validation error after which it has stopped improving.
    """

    steps: PositiveInt
    seconds: NonNegativeFloat = 0.0
    patience: PositiveInt = 5

    def until(self, share: float) -> int:
        """The step at which a round ends at the latest, of which and those before it this is the share."""
        return round(self.steps * share)

    def verdict(self, step: int, progress: Progress, share: float = 1.0) -> tuple[str, str]:
        """`Progress.stopped_by` and `Progress.budget`; both empty while the round goes on.

        Args:
          step: of the run.
          progress: of the run.
          share: of all rounds, those until the end of this one.
        """
        if progress.validation and progress.evaluations_since_best() >= self.patience:
            return "plateau", ""
        if step >= self.until(share):
            return "budget", "steps"
        if self.seconds and progress.train_seconds >= self.seconds * share:
            return "budget", "seconds"
        return "", ""


@dataclasses.dataclass(frozen=True)
class Periods:
    """How often something is said, in steps.

    Attributes:
      evaluation: between evaluations on the validation split; each is also saved.
      log: between lines of progress and metrics; divides `evaluation`.
    """

    evaluation: int
    log: int

    def __post_init__(self):
        """Raises RequestError where not every evaluation comes with a line of metrics."""
        if self.evaluation < 1 or self.log < 1 or self.evaluation % self.log:
            raise RequestError(
                f"train.log_period={self.log} does not divide EVAL_PERIOD={self.evaluation}; bind "
                "--gin.train.log_period to 1 or more that does"
            )


class Trainer:
    """Fits a student to lessons, round after round."""

    def __init__(
        self,
        student: Student,
        ledger: Ledger,
        source: TokenisedExamples,
        validation: TokenisedExamples,
        proposal: DeterministicIterator,
        budget: Budget,
        periods: Periods,
    ):
        """Trains nothing yet.

        Args:
          student: whose solver is fitted.
          ledger: of the run.
          source: the examples.
          validation: decides when it has stopped improving.
          proposal: orders the examples.
          budget: when it ends.
          periods: how often it is evaluated and logged.
        """
        self._student, self._ledger, self._source, self._validation = student, ledger, source, validation
        self._proposal, self._budget, self._periods = proposal, budget, periods

    def fit(self, state: TrainState, lessons: list[list[Lesson]], share: float = 1.0) -> TrainState:
        """Trains until the validation error stops improving, or the round's share of the budget is spent.

        Args:
          state: to go on from: of the round's beginning, or of a checkpoint within it.
          lessons: of each example of the source.
          share: of all rounds, those until the end of this one.

        Returns:
          The state in the end.

        Raises:
          RunError: the loss is not a number.
        """
        progress = self._ledger.progress
        feed = self._student.study(self._source, self._proposal.batch_size, lessons)
        validation = self._student.eval_feed(self._validation)
        self._ledger.write_set_up()
        progress.stopped_by = progress.budget = ""
        self._ledger.start_clock()
        fitting = _Fitting(self._student, self._ledger, self._proposal, self._budget, self._periods, share)
        return fitting.run(state, feed, validation)

    def check(self, lessons: list[list[Lesson]]) -> None:
        """Looks at what would be learnt, for the errors."""
        self._student.study(self._source, self._proposal.batch_size, lessons)
        self._student.eval_feed(self._validation)

    def is_fitted(self, step: int, share: float) -> bool:
        """Whether the round, which has ended, still would end here, and does not go on with a larger budget."""
        progress = self._ledger.progress
        return bool(progress.stopped_by) and any(self._budget.verdict(step, progress, share))

    def ended(self, step: int) -> str:
        """At which step, after how long, and why."""
        progress = self._ledger.progress
        why = {
            "plateau": f"no smaller validation error in {self._budget.patience} evaluations (plateau)",
            "steps": "all its steps are done (budget)" if progress.rounds[1:] else "all steps are done (budget)",
            "seconds": f"{self._budget.seconds:g} seconds are over (budget), before the schedule's end",
        }
        reason = why.get(progress.budget or progress.stopped_by, progress.stopped_by)
        return f"{step} of {self._budget.steps} steps in {clock(progress.train_seconds)}; {reason}"


class _Fitting:
    """The loop of one round."""

    def __init__(
        self, student: Student, ledger: Ledger, proposal: DeterministicIterator, budget: Budget, periods: Periods,
        share: float,
    ):  # fmt: skip
        self._student, self._ledger, self._proposal = student, ledger, proposal
        self._budget, self._periods, self._share = budget, periods, share
        self._last = budget.until(share)

    def run(self, state: TrainState, feed: Feed, validation: Feed) -> TrainState:
        ledger = self._ledger
        step, first = int(state.step), ledger.progress.rounds[-1]["first_step"]
        if ledger.remembered and step > first:
            # Keys are those of the last evaluation, unless others were saved.
            self._student.set_state(ledger.remembered, state.params)
        ledger.remembered = {}
        self._writer = metrics.open_writer(ledger.directory, step)
        self._line = ProgressLine(ledger.name, self._budget.steps, step)
        try:
            return self._loop(state, step, first, feed, validation)
        finally:
            self._writer.close()

    def _loop(self, state: TrainState, step: int, first: int, feed: Feed, validation: Feed) -> TrainState:
        """Epochs of steps; every so many steps an evaluation and a checkpoint."""
        student, ledger, seed = self._student, self._ledger, self._proposal.seed
        progress, per_epoch = ledger.progress, self._proposal.steps_per_epoch
        losses: list[Any] = [np.float32(loss) for loss in progress.pending]
        assert feed.lessons
        if self._is_evaluated(step) and step > first and step not in [at for at, _ in progress.validation]:
            self._evaluate(step, state, validation)  # It was broken off there.
        while not progress.stopped_by:
            self._look(step, state, losses)
            epoch, skip = divmod(step - first, per_epoch)
            epoch += -(-first // per_epoch)  # Another one in every round, too.
            if skip == 0:
                student.prepare(state.params, epoch, seed)
            for batch in feed.batches(student.draw(self._proposal, feed.lessons.choices, epoch), skip):
                state, scalars = student.solver.train_step(state, batch, seed, *student.reading(feed))
                student.count_use(scalars.pop("seen", {}))
                losses.append(scalars["loss"])
                step += 1
                if step % self._periods.log == 0 or step == self._last:
                    self._log(step, losses, scalars)
                    losses = []
                if self._is_evaluated(step):
                    self._evaluate(step, state, validation)
                self._look(step, state, losses)
                if progress.stopped_by:
                    break
        return state

    def _is_evaluated(self, step: int) -> bool:
        return step % self._periods.evaluation == 0 or step == self._last

    def _look(self, step: int, state: TrainState, losses: list[Any]) -> None:
        """Where we are asked to end: saves, so that the same command goes on as if nothing had been."""
        ledger = self._ledger
        if interrupt.requested() and step and ledger.saved_step() != step:
            ledger.progress.pending = [float(loss) for loss in losses]
            ledger.save(state, self._student.state(encoded=True), evaluated=False)
        ledger.end_if_asked()

    def _log(self, step: int, losses: list[jax.Array], last: dict[str, jax.Array]) -> None:
        scalars = {name: float(value) for name, value in last.items()}
        loss, norm = float(np.mean([np.asarray(loss) for loss in losses])), scalars["grad_norm"]
        # The norm too: a gradient that is not a number has spoilt the parameters, but not yet the loss.
        if not np.isfinite([loss, norm]).all():
            raise RunError(
                f"{self._ledger.directory}: the loss is {loss} at step {step} (norm of its gradient: {norm}); "
                "bind a lower LEARNING_RATE and another --model_dir"
            )
        left = self._budget.seconds - self._ledger.seconds() if self._budget.seconds else None
        rate = self._line.report(step, self._proposal.batch_size, f"loss {loss:.4f}", left)
        learning_rate = float(self._student.solver.learning_rate(step))
        scalars |= {"loss": loss, "learning_rate": learning_rate, "examples_per_second": rate}
        self._writer.write_scalars(step, scalars)

    def _evaluate(self, step: int, state: TrainState, validation: Feed) -> None:
        """Evaluates, and saves."""
        with self._line.paused():
            self._validate(step, state, validation)
            self._ledger.progress.pending = []
            self._ledger.save(state, self._student.state())

    def _validate(self, step: int, state: TrainState, validation: Feed) -> None:
        """Decodes the validation split, with keys of the current parameters, and decides whether to go on."""
        student, ledger, progress = self._student, self._ledger, self._ledger.progress
        student.refresh(state.params)
        attempts = student.attempt(state.params, validation, tell=False, between=lambda: self._look(step, state, []))
        error = 1.0 - float(np.mean([attempt.correct for attempt in attempts]))
        score = float(np.mean([attempt.score for attempt in attempts]))
        self._writer.write_scalars(step, {"validation_error": error, "validation_score": score})
        print(f"[{ledger.name}] step {step} validation accuracy {1 - error:.3f} (n={len(validation.asked.examples)})")
        progress.validation.append([step, error])
        if progress.best()[0] == step:
            # Retrievals are counted as they were under the best parameters so far, which `cd_jax eval` will use.
            student.save_memory(ledger.directory / results.MEMORY)
        progress.train_seconds = ledger.seconds()
        progress.stopped_by, progress.budget = self._budget.verdict(step, progress, self._share)
        progress.rounds[-1] |= {
            "last_step": step,
            "stopped_by": progress.stopped_by,
            "budget": progress.budget,
            "train_seconds": progress.train_seconds,
        }
