"""`cd_jax train`: fine-tunes the solver of one agent on the source task."""

import dataclasses
import os
import pathlib
import time
from typing import Any

import gin
import jax
import numpy as np

from cd_jax.config import resumption
from cd_jax.config.ranges import NonNegativeFloat, PositiveInt, Seed
from cd_jax.errors import RequestError, RunError
from cd_jax.learning import compose
from cd_jax.learning.progress import ProgressLine, clock
from cd_jax.learning.student import SelfLearningProcess, tokenised
from cd_jax.memory.episodic import EpisodicMemory, choose_entries
from cd_jax.proposal.iterator import DeterministicIterator
from cd_jax.rundir import files, interrupt, lock, metrics
from cd_jax.rundir.checkpoints import Checkpoints, Progress
from cd_jax.solver.solver import TrainState
from cd_jax.types import Update
from cd_jax.weights import sources


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Budget:
    """When training ends.

    Attributes:
      steps: at most.
      seconds: of training, evaluations included and interruptions left out; 0 for no limit. Looked at after every
        evaluation, so that the last parameters are evaluated ones.
      patience: evaluations without a smaller validation error after which it has stopped improving.
    """

    steps: PositiveInt
    seconds: NonNegativeFloat = 0.0
    patience: PositiveInt = 5

    def verdict(self, step: int, progress: Progress) -> tuple[str, str]:
        """`Progress.stopped_by` and `Progress.budget`; both empty while training goes on."""
        if progress.validation and progress.evaluations_since_best() >= self.patience:
            return "plateau", ""
        if step >= self.steps:
            return "budget", "steps"
        if self.seconds and progress.train_seconds >= self.seconds:
            return "budget", "seconds"
        return "", ""


@gin.configurable
def train(
    model_dir: str,
    agent: str,
    source: str,
    seed: Seed,
    batch_size: PositiveInt,
    budget: Budget,
    arm: str = "",
    distilled: str | None = None,
    initial_checkpoint: str | None = None,
    eval_period: PositiveInt = 200,
    eval_per_task: PositiveInt | None = None,
    log_period: PositiveInt = 50,
    check_only: bool = False,
) -> None:
    """Trains until the validation error stops improving or the budget ends; goes on where an earlier call was stopped.

    Args:
      model_dir: where everything about this run is written.
      agent: one of `process.AGENTS`.
      source: task or mixture.
      seed: of the parameters, of the order of the examples, and of every draw.
      batch_size: examples a step, over all hosts.
      budget: when it ends.
      arm: name of the arm of an experiment that the run belongs to; empty: the agent's.
      distilled: folder with the `updates.jsonl` and `vocabulary.model` of `cd_jax distill`; None looks in `model_dir`.
      initial_checkpoint: a run, an imported model, a folder of Hugging Face's or a checkpoint of T5X's, whose (best)
        parameters this run starts from (T5X's INITIAL_CHECKPOINT_PATH); None starts from random ones.
      eval_period: steps between evaluations on the validation split; each is also saved.
      eval_per_task: validation examples of each task; None takes all.
      log_period: steps between lines of progress and metrics; divides `eval_period`.
      check_only: reads everything, for the errors, and trains nothing.

    Raises:
      RequestError: the data, bindings or checkpoint do not fit; nothing was written.
      RunError: the loss is not a number.
    """
    check_periods(eval_period, log_period)
    with lock.exclusive(model_dir, "train"):
        trainer = Trainer(
            model_dir, agent, source, seed, batch_size, budget, arm, distilled, initial_checkpoint, eval_per_task
        )
        if not check_only:
            trainer.run(eval_period, log_period)


def check_periods(eval_period: int, log_period: int) -> None:
    """Raises RequestError where not every evaluation comes with a line of metrics."""
    if eval_period < 1 or log_period < 1 or eval_period % log_period:
        raise RequestError(
            f"train.log_period={log_period} does not divide EVAL_PERIOD={eval_period}; bind --gin.train.log_period "
            "to 1 or more that does"
        )


class Trainer:
    """One run: its data, its process and its loop."""

    def __init__(
        self, model_dir, agent, source, seed, batch_size, budget, arm, distilled, initial_checkpoint, eval_per_task
    ):
        """Reads everything, so that what is wrong shows before anything is written. See `train`."""
        self._dir = pathlib.Path(model_dir)
        self._arm, self._seed, self._budget = arm or agent, seed, budget
        self._name = f"{self._arm} seed {seed}"
        vocabulary_path, updates = compose.distilled_files(distilled or model_dir, agent)
        self._vocabulary_path = vocabulary_path
        vocabulary = compose.use_vocabulary(vocabulary_path)
        self._source = tokenised(source, "train")
        self._process: SelfLearningProcess = compose.make_process(
            agent, vocabulary, lambda mesh: self._remembered(mesh, updates)
        )
        self._feed = self._process.study(self._source, batch_size, updates)
        self._validation = self._process.eval_feed(tokenised(source, "validation", eval_per_task))
        self._proposal = DeterministicIterator(len(self._source.examples), batch_size, seed)
        self._identity = {
            "agent": agent,
            "source": source,
            "seed": seed,
            "batch_size": batch_size,
            "network": self._process.solver.config.shape(),
            "solver": self._process.solver.settings(),
            "initial_checkpoint": os.path.abspath(initial_checkpoint) if initial_checkpoint else None,
            "optimizer": self._process.solver.optimizer_name,
            "process": self._process.settings(),
            "updates": compose.digest(repr(updates).encode()),
            "vocabulary": compose.digest(vocabulary_path.read_bytes()),
            "source_examples": compose.digest("".join(map(repr, self._source.examples)).encode()),
        }
        self._trained_on = {
            "task": source,
            "examples": len(self._source.examples),
            "updates": len(self._feed.updates.texts),
        }
        self._bindings = resumption.bindings()
        self._checkpoints = Checkpoints(self._dir)
        self._checkpoints.check_identity(self._identity)
        self._initial = None
        if initial_checkpoint and self._checkpoints.latest_step() is None:
            self._initial = self._read_initial(initial_checkpoint)

    def _remembered(self, mesh: jax.sharding.Mesh, updates: dict[str, list[Update]]) -> EpisodicMemory:
        memory = EpisodicMemory(mesh=mesh)
        memory.add(choose_entries(self._source.examples, updates, memory.capacity, self._seed))
        memory.introduce(self._source.examples)
        return memory

    def _read_initial(self, folder: str):
        """The parameters to start from, on the mesh.

        Raises:
          RequestError: there are none, or they are of another network or another vocabulary.
        """
        found, solver = sources.recognise(folder), self._process.solver
        vocabulary = self._vocabulary_path.read_bytes()
        if found.vocabulary() != vocabulary:
            raise RequestError(
                f"{self._vocabulary_path}: is not the vocabulary of {folder}; "
                f"distill into another --model_dir with --gin.distill.vocabulary=\"'{folder}'\""
            )
        found.check_pieces(vocabulary, self._vocabulary_path, folder)
        found.check_network(solver.config.shape(), folder)
        return found.read(solver.abstract_state().params)

    # Set-up: fresh or where the last checkpoint left off

    def _start(self) -> tuple[TrainState, Progress]:
        solver = self._process.solver
        if self._checkpoints.latest_step() is None:
            state = solver.init(self._seed) if self._initial is None else solver.start_from(self._initial)
            return state, Progress(self._identity, arm=self._arm, trained_on=self._trained_on, bindings=self._bindings)
        state, remembered, progress = self._checkpoints.restore_newest(solver.abstract_state())
        step = int(state.step)
        # Before a word is said of going on, and anything is written.
        self._take_changes(step, progress)
        print(f"[{self._name}] resumes from step {step} in {self._dir}", flush=True)
        # Keys are those of the last evaluation, unless others were saved.
        self._process.set_state(remembered, state.params)
        return state, progress

    def _take_changes(self, step: int, progress: Progress) -> None:
        """Refuses bindings that contradict what was done, and records those that do not."""
        if not progress.bindings:
            print(
                f"[{self._name}] {self._dir} does not say with which bindings it was begun: any are taken", flush=True
            )
        elif changed := resumption.changes(str(self._dir), progress.bindings, self._bindings):
            progress.changes.append([step, changed])
        progress.bindings, progress.arm = self._bindings, self._arm

    def _write_set_up(self) -> None:
        files.write_text_where_changed(self._dir / "config.gin", gin.config_str())
        kept = self._dir / "vocabulary.model"
        if self._vocabulary_path.resolve() != kept.resolve():
            files.write_bytes(kept, self._vocabulary_path.read_bytes())

    # The loop

    def run(self, eval_period: int, log_period: int) -> None:
        """Trains to the end. See `train`."""
        try:
            self._run(eval_period, log_period)
        finally:
            # Whatever happened: what is on its way to the disk must arrive.
            self._checkpoints.close()

    def _run(self, eval_period: int, log_period: int) -> None:
        state, progress = self._start()
        step = int(state.step)
        if progress.stopped_by and any(self._budget.verdict(step, progress)):
            print(f"[{self._name}] is done: {self._ended(step, progress)}", flush=True)
            return
        self._write_set_up()
        progress.stopped_by = progress.budget = ""
        reporter = _Reporter(self._dir, self._name, self._budget, step, progress.train_seconds)
        self._loop(state, progress, reporter, eval_period, log_period)
        reporter.writer.close()
        print(f"[{self._name}] ended: {self._ended(self._checkpoints.latest_step() or 0, progress)}", flush=True)

    def _ended(self, step: int, progress: Progress) -> str:
        """At which step, after how long, and why."""
        why = {
            "plateau": f"no smaller validation error in {self._budget.patience} evaluations (plateau)",
            "steps": "all steps are done (budget)",
            "seconds": f"{self._budget.seconds:g} seconds are over (budget), before the schedule's end",
        }
        reason = why.get(progress.budget or progress.stopped_by, progress.stopped_by)
        return f"{step} of {self._budget.steps} steps in {clock(progress.train_seconds)}; {reason}"

    def _loop(self, state, progress, reporter: "_Reporter", eval_period: int, log_period: int) -> None:
        """Epochs of steps; every `eval_period` steps an evaluation and a checkpoint."""
        step, per_epoch = int(state.step), self._proposal.steps_per_epoch
        losses: list[Any] = [np.float32(loss) for loss in progress.pending]
        while not progress.stopped_by:
            self._look(step, state, progress, reporter, losses)
            epoch, skip = divmod(step, per_epoch)
            if skip == 0:
                self._process.prepare(state.params, epoch, self._seed)
            draw = self._process.draw(self._proposal, self._feed.updates.choices, epoch)
            for batch in self._feed.batches(draw, skip):
                state, step_metrics = self._process.train_step(state, batch, self._feed, self._seed)
                losses.append(step_metrics["loss"])
                step += 1
                last = step == self._budget.steps
                if step % log_period == 0 or last:
                    self._log(step, losses, step_metrics, reporter)
                    losses = []
                if step % eval_period == 0 or last:
                    with reporter.line.paused():
                        self._evaluate(step, state, progress, reporter)
                        progress.pending = []
                        self._checkpoints.save(step, state, self._process.state(), progress)
                self._look(step, state, progress, reporter, losses)
                if progress.stopped_by:
                    break

    def _look(self, step: int, state, progress: Progress, reporter: "_Reporter", losses: list[Any]) -> None:
        """Where we are asked to end: saves, so that the same command goes on as if nothing had been."""
        if not interrupt.requested():
            return
        if step and self._checkpoints.latest_step() != step:
            progress.pending = [float(loss) for loss in losses]
            progress.train_seconds = reporter.seconds()
            self._checkpoints.save(step, state, self._process.state(encoded=True), progress, evaluated=False)
        self._checkpoints.close()
        interrupt.check(f"saved at step {step} in {self._dir}" if step else "nothing was trained yet")

    def _log(self, step: int, losses: list[jax.Array], last: dict[str, jax.Array], reporter: "_Reporter") -> None:
        scalars = {name: float(value) for name, value in last.items()}
        loss, norm = float(np.mean([np.asarray(loss) for loss in losses])), scalars["grad_norm"]
        # The norm too: a gradient that is not a number has spoilt the parameters, but not yet the loss.
        if not np.isfinite([loss, norm]).all():
            raise RunError(
                f"{self._dir}: the loss is {loss} at step {step} (norm of its gradient: {norm}); "
                "bind a lower LEARNING_RATE and another --model_dir"
            )
        left = self._budget.seconds - reporter.seconds() if self._budget.seconds else None
        rate = reporter.line.report(step, self._proposal.batch_size, f"loss {loss:.4f}", left)
        learning_rate = float(self._process.solver.learning_rate(step))
        scalars |= {"loss": loss, "learning_rate": learning_rate, "examples_per_second": rate}
        reporter.writer.write_scalars(step, scalars)

    def _evaluate(self, step: int, state: TrainState, progress: Progress, reporter: "_Reporter") -> None:
        """Decodes the validation split, with keys of the current parameters, and decides whether to go on."""
        self._process.remember(state.params)
        attempts = self._process.attempt(state.params, self._validation, tell=False)
        error = 1.0 - float(np.mean([attempt.correct for attempt in attempts]))
        score = float(np.mean([attempt.score for attempt in attempts]))
        reporter.writer.write_scalars(step, {"validation_error": error, "validation_score": score})
        print(f"[{self._name}] step {step} validation accuracy {1 - error:.3f} (n={len(attempts)})", flush=True)
        progress.validation.append([step, error])
        if progress.best()[0] == step:
            # The keys under the best parameters so far, which are those that `cd_jax eval` will use.
            self._process.save_memory(self._dir)
        progress.train_seconds = reporter.seconds()
        progress.stopped_by, progress.budget = self._budget.verdict(step, progress)


class _Reporter:
    """Where a run tells how it goes: metrics, the progress line, the clock."""

    def __init__(self, directory: pathlib.Path, name: str, budget: Budget, step: int, seconds_before: float):
        self.writer = metrics.open_writer(directory, step)
        self.line = ProgressLine(name, budget.steps, step)
        self._before, self._started = seconds_before, time.monotonic()

    def seconds(self) -> float:
        """Of training, those of earlier processes included."""
        return self._before + time.monotonic() - self._started
