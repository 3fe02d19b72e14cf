"""Checkpoints of a run, through Orbax: saved asynchronously, restored exactly, refused where they are not its own."""

import contextlib
import dataclasses
import errno
import hashlib
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint.checkpoint_managers import preservation_policy

from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import files
from cd_jax.solver.solver import TrainState

Read = TypeVar("Read")

_NOT_EVALUATED = 2.0
# What is kept of each of the memory's rows, for which one device may lack the room.
_TABLES = ("keys", "vectors", "states")
_LONGEST = 200  # characters of what others say
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
      budget: of a run that its budget stopped: whether it was `steps` or `seconds` that ended.
      trained_on: `{"task", "examples", "updates"}`, the source and how much there is of it.
      bindings: of gin, in force, see `resumption`.
      changes: `[step, {binding: value}]`, what was changed later, and from which step on.
      arm: of the experiment that the run belongs to; empty in older runs, whose arm is their agent.
      rounds: of the self-learning process, as far as they were begun: `first_step`, and what was done in each, see
        `loop.learn`; empty for runs of before there were any.
      pending: losses since the last line of metrics.
      parameters: digests of the parameters at each step that was saved.
      fingerprints: of the state beside it, by the names of its leaves; see `fingerprints`.
    """

    identity: dict[str, Any]
    validation: list[list[float]] = dataclasses.field(default_factory=list)
    train_seconds: float = 0.0
    stopped_by: str = ""
    budget: str = ""
    trained_on: dict[str, Any] = dataclasses.field(default_factory=dict)
    bindings: dict[str, str] = dataclasses.field(default_factory=dict)
    changes: list[list[Any]] = dataclasses.field(default_factory=list)
    rounds: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    pending: list[float] = dataclasses.field(default_factory=list)
    parameters: dict[str, str] = dataclasses.field(default_factory=dict)
    fingerprints: dict[str, int] = dataclasses.field(default_factory=dict)
    arm: str = ""

    def evaluations(self, number: int) -> list[list[float]]:
        """`validation` of a round."""
        first = [one["first_step"] for one in self.rounds] or [0]
        ends = [*first[1:], math.inf]
        return [pair for pair in self.validation if first[number] < pair[0] <= ends[number]]

    def last_evaluated(self) -> int:
        """The number of the last round with an evaluation; 0 where there is none."""
        return max((n for n in range(len(self.rounds)) if self.evaluations(n)), default=0)

    def best(self, number: int | None = None) -> list[float]:
        """The `[step, error]` with the smallest error in a round (None: the last one with any); the first of them."""
        return min(self.evaluations(self.last_evaluated() if number is None else number), key=lambda pair: pair[1])

    def evaluations_since_best(self) -> int:
        """How many evaluations of the last round brought no improvement since its best one; at least one was made."""
        of_round = self.evaluations(len(self.rounds) - 1 if self.rounds else 0)
        return len(of_round) - 1 - of_round.index(min(of_round, key=lambda pair: pair[1]))


class Checkpoints:
    """`model_dir/checkpoints/<step>`: the latest and the best by validation error."""

    def __init__(self, model_dir: files.Path, read_only: bool = False):
        """Opens them; nothing is written before the first save.

        Args:
          model_dir: of the run.
          read_only: for evaluation, which must work beside a run that is still training.
        """
        self._directory = files.located(model_dir) / "checkpoints"
        if files.is_remote(self._directory):
            _check_client(self._directory)
        self._read_only = read_only
        self._manager: ocp.CheckpointManager | None = None
        self._seen = self._steps_there()
        if self._directory.is_dir():
            self._open()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            policy = preservation_policy.AnyPreservationPolicy([preservation_policy.LatestN(1), _BestOfEachRound()])
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

    def was_replaced(self) -> bool:
        """Whether another process has saved or removed checkpoints since these were opened."""
        return self._steps_there() != self._seen

    def _steps_there(self) -> set[str]:
        return {path.name for path in _within(self._directory) if path.name.isdecimal()}

    def _newest_first(self) -> list[int]:
        return sorted(self._manager.all_steps(), reverse=True) if self._manager else []

    def best(self, number: int | None = None) -> tuple[int, Progress]:
        """The step of the best parameters of a round (None: the last one that was evaluated), and the progress of the
        newest checkpoint that can be read.

        Raises:
          RequestError: there is no checkpoint, or none that can be read.
        """
        if self.latest_step() is None:
            runs = sorted(path.name for path in _within(self._directory.parent) if (path / "checkpoints").is_dir())
            mend = (
                f"give one of its runs: {', '.join(runs)}" if runs else "run `cd_jax train` with this --model_dir first"
            )
            raise RequestError(f"{self._directory.parent}: holds no checkpoint; {mend}")
        latest, progress = self._first_whole(self._newest_first(), lambda step: self.progress(step))
        # An imported model, and a run that was interrupted before, were never evaluated.
        return int(progress.best(number)[0]) if progress.validation else latest, progress

    @staticmethod
    def _first_whole(steps: list[int], read: Callable[[int], Read]) -> tuple[int, Read]:
        """The first of these checkpoints that can be read, and what was read; those before it are told."""
        for step in steps[:-1]:
            try:
                return step, read(step)
            except RequestError as error:
                print(f"cd_jax: {error}; meanwhile the one before it serves", file=sys.stderr, flush=True)
        return steps[-1], read(steps[-1])

    def progress(self, step: int) -> Progress:
        """The progress saved at a step.

        Raises:
          RequestError: it cannot be read.
        """
        with self._reading(step):
            restored = self._open().restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
            return _parsed(restored["progress"])

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

    def restore_newest(self, abstract_state: TrainState) -> tuple[TrainState, dict, Progress]:
        """State, what was kept of the memory, and progress of the newest checkpoint that is whole.

        Newer ones that are damaged are told, and removed: what is saved next would bear their steps.

        Args:
          abstract_state: names the devices of the state.

        Raises:
          RequestError: none is whole.
        """
        steps = self._newest_first()
        step, restored = self._first_whole(steps, lambda step: self.restore(step, abstract_state))
        for damaged in steps[: steps.index(step)]:
            self._open().delete(damaged)
        return restored

    def restore(self, step: int, abstract_state: TrainState) -> tuple[TrainState, dict, Progress]:
        """As `restore_newest`, of one step.

        Raises:
          RequestError: it cannot be read, or is not what was saved.
        """
        items = {"state": ocp.args.StandardRestore(abstract_state), "progress": ocp.args.JsonRestore()}
        with self._reading(step):
            memory = self._directory / str(step) / "memory"
            if memory.exists():
                items["memory"] = ocp.args.StandardRestore(_laid_out(memory, abstract_state.step.sharding))
            restored = self._open().restore(step, args=ocp.args.Composite(**items))
            progress = _parsed(restored["progress"])
        self._check_fingerprints(step, restored["state"], progress)
        return restored["state"], dict(restored.get("memory") or {}), progress

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """The parameters alone, on the devices that `abstract_params` names; nothing else is read.

        Raises:
          RequestError: a parameter is missing, of another shape, cannot be read, or is not what was saved.
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
        self._check_fingerprints(step, {"params": params}, self.progress(step))
        return params

    def restore_best(self, abstract_params: Any, number: int | None = None) -> tuple[int, Any]:
        """The step and the parameters of a round's best checkpoint that is whole; better ones that are not are told.

        Args:
          abstract_params: names the devices.
          number: of the round; None: the last one that was evaluated.

        Raises:
          RequestError: none is whole.
        """
        best, progress = self.best(number)
        of_round = progress.evaluations(progress.last_evaluated() if number is None else number)
        error = {int(step): error for step, error in of_round}
        there = [step for step in self._newest_first() if step in error or number is None] or [best]
        steps = sorted(there, key=lambda step: (step != best, error.get(step, math.inf), step))
        return self._first_whole(steps, lambda step: self.restore_params(step, abstract_params))

    def _check_fingerprints(self, step: int, tree: Any, progress: Progress) -> None:
        """Raises RequestError where a leaf is not what was saved, or, of an old checkpoint, is not finite."""
        where = f"{self._directory}/{step}"
        found = fingerprints(tree)
        for name, value in found.items():
            if progress.fingerprints and progress.fingerprints.get(name) != value:
                raise RequestError(
                    f"{where}: the tensor {name} is not what was saved; copy the checkpoint again, whole"
                )
        if not progress.fingerprints:
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                if not bool(jnp.isfinite(leaf).all()):
                    raise RequestError(
                        f"{where}: the tensor {_name(path)} has values that are not finite; "
                        "copy the checkpoint again, whole"
                    )

    def save(
        self,
        step: int,
        state: TrainState,
        remembered: dict[str, np.ndarray],
        progress: Progress,
        evaluated: bool = True,
    ) -> None:
        """Starts to save; returns once the state is copied off the devices.

        Args:
          step: of the state.
          state: of the solver.
          remembered: what is kept of the memory; empty without one.
          progress: of the run; gets the fingerprints of the state.
          evaluated: whether its last evaluation is of this step.

        Raises:
          RunError: this checkpoint, or the one before it, cannot be written.
        """
        progress.fingerprints = fingerprints(state)
        progress.parameters[str(step)] = _digest(progress.fingerprints)
        items = {
            "state": ocp.args.StandardSave(state),
            "progress": ocp.args.JsonSave(dataclasses.asdict(progress)),
        }
        if remembered:
            items["memory"] = ocp.args.StandardSave(remembered)
        args = ocp.args.Composite(**items)
        # Worse than any where there is none, so that it never takes the place of the best.
        error = progress.validation[-1][1] if evaluated and progress.validation else _NOT_EVALUATED
        metrics = {"error": float(error), "step": step, "round": max(len(progress.rounds) - 1, 0)}
        with self._writing():
            if self._manager and not self._directory.is_dir():
                raise OSError(errno.ENOENT, "it was removed while the run went on")
            if step in self._open().all_steps():
                # Saved when its evaluation was broken off; were this one lost, an older one comes to the same.
                self._open().delete(step)
            self._open().save(step, args=args, metrics=metrics, force=True)

    def close(self) -> None:
        """Waits until all is on disk. Raises RunError where it cannot be written."""
        if self._manager:
            with self._writing():
                self._manager.wait_until_finished()
                self._manager.close()
                if not self._directory.is_dir():
                    raise OSError(errno.ENOENT, "it was removed while the run went on")
            self._manager = None

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax raises this very class, too.
            tensor = _STORED.search(str(error))
            what = f"the tensor {tensor[1].replace('.', '/')}" if tensor else str(error).partition(" [")[0]
            raise RequestError(
                f"{self._directory}/{step}: cannot be read ({' '.join(what.split())[:_LONGEST]}); "
                "copy the checkpoint again, whole"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # TensorStore reports a full disk as a ValueError, which ends in what the system said.
            if not (files.is_of_storage(error) or isinstance(error, ValueError)):
                raise
            what = str(error).partition(" [tensorstore_spec")[0].rpartition(": ")[2]
            raise RunError(
                f"{self._directory}: a checkpoint cannot be written ({what}); "
                f"mend it and run again, which resumes from step {self.latest_step() or 0}"
            ) from error


def _laid_out(memory: epath.Path, sharding: Any) -> dict[str, Any]:
    """What to restore arrays into, on whatever devices they were saved: tables in parts along `data`, where the devices
    divide them; all others whole on each."""
    # Not the manager's, which knows no metadata of what it has not yet read or written.
    with ocp.StandardCheckpointer() as checkpointer:
        there = checkpointer.metadata(memory).item_metadata

    def abstract(name: str, one: Any) -> jax.ShapeDtypeStruct:
        where = sharding
        if name in _TABLES and isinstance(sharding, NamedSharding) and not one.shape[0] % sharding.mesh.shape["data"]:
            where = NamedSharding(sharding.mesh, PartitionSpec("data"))
        return jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=where)

    return {name: abstract(name, one) for name, one in there.items()}


class _BestOfEachRound:
    """Keeps of each round the checkpoint with the smallest error, the first of equal ones, as `Progress.best` has it;
    and those of which no metrics are known."""

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """See Orbax's `PreservationPolicy`."""
        best: dict[int, tuple[float, int]] = {}
        for one in checkpoints:
            if one.metrics is not None:
                number, rank = one.metrics.get("round", 0), (one.metrics["error"], one.metrics["step"])
                best[number] = min(best.get(number, rank), rank)
        kept = set(best.values())
        return [one.metrics is None or (one.metrics["error"], one.metrics["step"]) in kept for one in checkpoints]


def _check_client(folder: epath.Path) -> None:
    """Raises RequestError where Orbax lacks what it asks buckets with: it would say so in the middle of a run."""
    for module in ("google.cloud.storage", "google.cloud.storage_control_v2"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise RequestError(
                f"{folder}: checkpoints in a bucket want Google's client; pip install 'cd_jax[gcs]'"
            ) from error


def _within(folder: epath.Path) -> Iterator[epath.Path]:
    # Not `glob`, to which a bracket in the folder's own name is a pattern.
    return folder.iterdir() if folder.is_dir() else iter(())


def _parsed(found: dict[str, Any]) -> Progress:
    """Progress as it was saved. Raises where it is of other kinds."""
    progress = Progress(**found)
    for name, kind in (
        ("identity", dict),
        ("validation", list),
        ("parameters", dict),
        ("fingerprints", dict),
        ("rounds", list),
    ):
        if not isinstance(getattr(progress, name), kind):
            raise TypeError(f"`{name}` is no {kind.__name__}")
    for step, error in progress.validation:
        if not (isinstance(step, int | float) and isinstance(error, int | float)):
            raise TypeError("`validation` is not of numbers")
    return progress


def fingerprints(tree: Any) -> dict[str, int]:
    """A number for each array, by its name, which is another one wherever a single bit is.

    Orbax's files have no checksum that reading compares. Computed where the arrays lie, the same on every mesh: the sum
    over all elements of their bits times an odd number, modulo 2^32.
    """
    numbers = jax.device_get(_fingerprints(tree))
    return {_name(path): int(number) for path, number in jax.tree_util.tree_leaves_with_path(numbers)}


@jax.jit
def _fingerprints(tree: Any) -> Any:
    return jax.tree.map(_fingerprint, tree)


def _fingerprint(array: jax.Array) -> jax.Array:
    kinds = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
    bits = jax.lax.bitcast_convert_type(array, kinds[array.dtype.itemsize]).astype(jnp.uint32)
    place, stride = jnp.zeros(array.shape, jnp.uint32), 1
    for axis in reversed(range(array.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= array.shape[axis]
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)


def _name(path: tuple) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def _digest(numbers: dict[str, int]) -> str:
    """Of the parameters among the fingerprints of a state."""
    own = sorted((name, number) for name, number in numbers.items() if name.startswith("params/"))
    return hashlib.sha256(repr(own).encode()).hexdigest()[:16]


def _flat(identity: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names what differs inside, `network.emb_dim`, instead of all of it."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
