"""What a run knows of itself, on disk: begun, taken up again, saved."""

import time
from typing import Any

import gin
import numpy as np
from etils import epath

from cd_jax.config import resumption
from cd_jax.learning import compose
from cd_jax.rundir import files, hosts, interrupt
from cd_jax.rundir.checkpoints import Checkpoints, Progress
from cd_jax.solver.solver import Solver, TrainState


class Ledger:
    """The checkpoints of a run and its progress.

    Attributes:
      directory: model_dir of the run.
      name: of the run, for what it says.
      progress: so far; what is changed in it is saved by the next `save`.
      remembered: what the checkpoint from which the run goes on kept of the memory; empty for a fresh run.
      resumed: whether there was a checkpoint.
    """

    def __init__(
        self,
        model_dir: str | epath.Path,
        arm: str,
        identity: dict[str, Any],
        trained_on: dict[str, Any],
        vocabulary: epath.Path,
    ):
        """Looks at what is there.

        Args:
          model_dir: of the run.
          arm: of the experiment that the run belongs to.
          identity: see `Progress`.
          trained_on: see `Progress`.
          vocabulary: the run's file of it.

        Raises:
          RequestError: a checkpoint of another model, agent, source or seed is there.
        """
        self.directory, self._arm, self._vocabulary = epath.Path(model_dir), arm, vocabulary
        self.name = f"{arm} seed {identity['seed']}"
        self._bindings = resumption.bindings()
        self._checkpoints = Checkpoints(self.directory)
        self._checkpoints.check_identity(identity)
        newest = self._checkpoints.latest_step()
        self.resumed = newest is not None
        mend = f"all must read the same {self.directory}, and the same data"
        hosts.agree("the run", lambda: {"the newest checkpoint": newest, **identity}, mend)
        self.progress = Progress(identity, arm=arm, trained_on=trained_on, bindings=self._bindings)
        self.remembered: dict[str, np.ndarray] = {}
        self._started = time.monotonic()
        self._before = 0.0

    def start(self, solver: Solver, seed: int, initial: Any = None) -> TrainState:
        """Fresh parameters, or `initial` ones, or those of the newest checkpoint.

        Raises:
          RequestError: the bindings contradict what was done.
        """
        if not self.resumed:
            return solver.init(seed) if initial is None else solver.start_from(initial)
        state, self.remembered, self.progress = self._checkpoints.restore_newest(solver.abstract_state())
        step = int(state.step)
        # Before a word is said of going on, and anything is written.
        self._take_changes(step)
        if not self.progress.rounds:
            self.progress.rounds = [{"first_step": 0}]  # A run of before there were any.
        print(f"[{self.name}] resumes from step {step} in {self.directory}", flush=True)
        return state

    def _take_changes(self, step: int) -> None:
        """Refuses bindings that contradict what was done, and records those that do not."""
        progress = self.progress
        if not progress.bindings:
            print(
                f"[{self.name}] {self.directory} does not say with which bindings it was begun: any are taken",
                flush=True,
            )
        elif changed := resumption.changes(str(self.directory), progress.bindings, self._bindings):
            progress.changes.append([step, changed])
        progress.bindings, progress.arm = self._bindings, self._arm

    def write_set_up(self) -> None:
        """Writes `config.gin` and `vocabulary.model`, where they are not there yet."""
        files.write_text_where_changed(self.directory / "config.gin", gin.config_str())
        kept = self.directory / compose.VOCABULARY
        if files.located(self._vocabulary) != files.located(kept):
            files.write_bytes(kept, self._vocabulary.read_bytes())

    @property
    def number(self) -> int:
        """Of the round that goes on, or was the last one; -1 before the first."""
        return len(self.progress.rounds) - 1

    def start_clock(self) -> None:
        """Time counts from now on; what comes between two rounds does not."""
        self._before, self._started = self.progress.train_seconds, time.monotonic()

    def seconds(self) -> float:
        """Of training, those of earlier processes included; by the clock of the first host."""
        return hosts.decide("seconds", self._before + time.monotonic() - self._started)

    def save(self, state: TrainState, remembered: dict[str, np.ndarray], evaluated: bool = True) -> None:
        """Starts to save; see `Checkpoints.save`."""
        self.progress.train_seconds = self.seconds()
        self._checkpoints.save(int(state.step), state, remembered, self.progress, evaluated)

    def saved_step(self) -> int:
        """Of the newest checkpoint; 0 where there is none."""
        return self._checkpoints.latest_step() or 0

    def close(self) -> None:
        """Waits until all is on disk."""
        self._checkpoints.close()

    def end_if_asked(self) -> None:
        """Raises `Interrupted` where a signal came, with what was kept."""
        if interrupt.requested():
            step = self.saved_step()
            self.close()
            interrupt.check(f"saved at step {step} in {self.directory}" if step else "nothing was trained yet")
