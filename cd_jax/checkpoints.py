"""Checkpoints of a run, through Orbax: saved asynchronously, restored exactly, refused where they are not its own."""

import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from cd_jax.errors import RequestError, RunError
from cd_jax.solver.solver import TrainState

# In TensorStore's description of what it could not read.
_STORED = re.compile(r"'path': '(?:params|opt_state)\.([\w.]+)/'")


@dataclasses.dataclass
class Progress:
    """What a run knows of itself beside its parameters.

    Attributes:
      identity: what the run is (agent, source, seed, network, …); a checkpoint of another identity is refused.
      validation: `[step, error]` of every evaluation so far; the error is 1 - accuracy.
      train_seconds: spent, over all interruptions.
      stopped_by: `plateau` or `budget`; empty while the run goes on.
    """

    identity: dict[str, Any]
    validation: list[list[float]] = dataclasses.field(default_factory=list)
    train_seconds: float = 0.0
    stopped_by: str = ""

    def best(self) -> list[float]:
        """The `[step, error]` with the smallest error; the first of them."""
        return min(self.validation, key=lambda pair: pair[1])

    def evaluations_since_best(self) -> int:
        """How many evaluations brought no improvement since the best one."""
        return len(self.validation) - 1 - self.validation.index(self.best())


class Checkpoints:
    """`model_dir/checkpoints/<step>`: the latest and the best by validation error."""

    def __init__(self, model_dir: str | pathlib.Path, read_only: bool = False):
        """Opens them; nothing is written before the first save.

        Args:
          model_dir: of the run.
          read_only: for evaluation, which must work beside a run that is still training.
        """
        self._directory = pathlib.Path(model_dir).absolute() / "checkpoints"
        self._read_only = read_only
        self._manager: ocp.CheckpointManager | None = None
        if self._directory.is_dir():
            self._open()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            policy = preservation_policy.AnyPreservationPolicy(
                [
                    preservation_policy.LatestN(1),
                    # On a tie BestN keeps the later one; the small term makes it the first, as `Progress.best` has it.
                    preservation_policy.BestN(get_metric_fn=lambda m: m["error"] + 1e-9 * m["step"], reverse=True, n=1),
                ]
            )
            options = ocp.CheckpointManagerOptions(
                preservation_policy=None if self._read_only else policy,
                # Without it Orbax does not keep the metrics, and a resumed run would keep all checkpoints before it.
                best_fn=None if self._read_only else (lambda metrics: metrics["error"]),
                best_mode="min",
                read_only=self._read_only,
                cleanup_tmp_directories=not self._read_only,
            )
            self._manager = ocp.CheckpointManager(
                self._directory, options=options, item_names=("state", "memory", "progress")
            )
        return self._manager

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        return self._manager.latest_step() if self._manager else None

    def best(self) -> tuple[int, Progress]:
        """The step of the best parameters, and the progress of the newest checkpoint.

        Raises:
          RequestError: there is no checkpoint.
        """
        latest = self.latest_step()
        if latest is None:
            runs = sorted(path.parent.name for path in self._directory.parent.glob("*/checkpoints"))
            mend = (
                f"give one of its runs: {', '.join(runs)}" if runs else "run `cd_jax train` with this --model_dir first"
            )
            raise RequestError(f"{self._directory.parent}: holds no checkpoint; {mend}")
        progress = self.progress(latest)
        # An imported model was never evaluated.
        return int(progress.best()[0]) if progress.validation else latest, progress

    def progress(self, step: int) -> Progress:
        """The progress saved at a step."""
        restored = self._open().restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
        return Progress(**restored["progress"])

    def check_identity(
        self, identity: dict[str, Any], mend: str = "choose another --model_dir or ask for what it holds"
    ) -> None:
        """Compares what is asked for with what is in the directory.

        Args:
          identity: as of `Progress`.
          mend: what to do where they differ.

        Raises:
          RequestError: a checkpoint of another model, agent, source or seed is there.
        """
        step = self.latest_step()
        if step is None:
            return
        # Through JSON, so that tuples and lists compare equal.
        there, asked = _flat(self.progress(step).identity), _flat(json.loads(json.dumps(identity)))
        for name in sorted(there.keys() | asked.keys()):
            held, wanted = there.get(name), asked.get(name)
            if held != wanted:
                raise RequestError(
                    f"{self._directory}: holds a checkpoint with {name}={held!r}, not {wanted!r}; {mend}"
                )

    def restore(self, step: int, abstract_state: TrainState) -> tuple[TrainState, dict, Progress]:
        """State, what was kept of the memory, and progress; the state on the devices that `abstract_state` names."""
        items = {"state": ocp.args.StandardRestore(abstract_state), "progress": ocp.args.JsonRestore()}
        if (self._directory / str(step) / "memory").exists():
            items["memory"] = ocp.args.StandardRestore()
        with self._reading(step):
            restored = self._open().restore(step, args=ocp.args.Composite(**items))
        remembered = {k: np.asarray(v) for k, v in (restored.get("memory") or {}).items()}
        return restored["state"], remembered, Progress(**restored["progress"])

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """The parameters alone, on the devices that `abstract_params` names; nothing else is read.

        Raises:
          RequestError: a parameter is missing, of another shape, or cannot be read.
        """
        wanted = {"params": abstract_params}
        args = ocp.args.PyTreeRestore(
            wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
        )
        # Not through the manager, which reads an item in one way only.
        with self._reading(step), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            params = checkpointer.restore(self._directory / str(step) / "state", args=args)["params"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                name = "/".join(key.key for key in path)
                raise RequestError(f"{self._directory}/{step}: lacks the tensor {name} {list(leaf.shape)}")
        return params

    def save(self, step: int, state: TrainState, remembered: dict[str, np.ndarray], progress: Progress) -> None:
        """Starts to save; returns once the state is copied off the devices. `remembered` is empty without memory.

        Raises:
          RunError: this checkpoint, or the one before it, cannot be written.
        """
        items = {
            "state": ocp.args.StandardSave(state),
            "progress": ocp.args.JsonSave(dataclasses.asdict(progress)),
        }
        if remembered:
            items["memory"] = ocp.args.StandardSave(remembered)
        args = ocp.args.Composite(**items)
        error = progress.validation[-1][1] if progress.validation else 1.0
        with self._writing():
            self._open().save(step, args=args, metrics={"error": float(error), "step": step}, force=True)

    def close(self) -> None:
        """Waits until all is on disk. Raises RunError where it cannot be written."""
        if self._manager:
            with self._writing():
                self._manager.wait_until_finished()
                self._manager.close()
            self._manager = None

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax raises this very class, too.
            tensor = _STORED.search(str(error))
            what = f"the tensor {tensor[1].replace('.', '/')}" if tensor else str(error).partition(" [")[0]
            raise RequestError(
                f"{self._directory}/{step}: cannot be read ({what}); copy the checkpoint again, whole"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            # TensorStore reports a full disk as a ValueError, which ends in what the system said.
            raise RunError(
                f"{self._directory}: a checkpoint cannot be written ({str(error).rpartition(': ')[2]}); "
                f"mend it and run again, which resumes from step {self.latest_step() or 0}"
            ) from error


def _flat(identity: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names what differs inside, `network.emb_dim`, instead of all of it."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
