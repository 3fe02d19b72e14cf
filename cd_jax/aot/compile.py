"""The train step and decoding, compiled for a pod that need not be there."""

import dataclasses
import re
from collections.abc import Callable

import gin
import jax

from cd_jax.aot import roofline, table
from cd_jax.aot.chips import Topology, topology
from cd_jax.aot.devices import devices
from cd_jax.aot.measure import DoesNotFit, measure
from cd_jax.aot.table import Row
from cd_jax.config.ranges import PositiveInt
from cd_jax.errors import RequestError, RunError
from cd_jax.nets.config import T5Config
from cd_jax.solver.partitioning import Partitioner
from cd_jax.solver.solver import Solver

# Of T5's own vocabulary, padded (t5x/examples/t5/t5_1_1/base.gin), where the configuration leaves it to the vocabulary.
_VOCAB_SIZE = 32128


@gin.configurable(denylist=["topology_name", "mesh", "as_json"])
def aot(
    topology_name: str,
    mesh: str | None,
    as_json: bool,
    batch_size: PositiveInt = 64,
    passages: PositiveInt = 1,
    input_length: PositiveInt = 512,
    target_length: PositiveInt = 128,
) -> None:
    """Compiles the train step and decoding, and prints what they need.

    Args:
      topology_name: a slice, such as `v5e:8x8`.
      mesh: `DATAxMODEL`; None: all devices along data.
      as_json: JSON lines instead of a table.
      batch_size: examples of a step, over all devices.
      passages: of an example.
      input_length: tokens of a passage.
      target_length: tokens of the target, and of what is decoded.

    Raises:
      RequestError: libtpu is lacking, the slice is not known, or the mesh does not go with it.
      RunError: a step does not fit.
    """
    slice_, chips = start(topology_name)
    shape = roofline.Shape(batch_size, passages, input_length, target_length)
    axes = mesh_axes(mesh, slice_, shape)
    solver = make_solver(T5Config(), chips, axes)
    setting = describe(slice_, axes, shape, solver.config.remat_policy)
    setting["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(solver.abstract_state().params))
    rows = []
    for what in ("train_step", "generate"):
        rows.append(compile_step(what, solver, slice_, shape, setting))
        if as_json:
            print(rows[-1].json(), flush=True)
    if not as_json:
        print(_heading(setting), table.details(rows), table.ESTIMATE, sep="\n\n")
    _check(rows, slice_)


def start(topology_name: str) -> tuple[Topology, list]:
    """The slice and its devices. Raises RequestError where there is none, or gin has no model."""
    slice_ = topology(topology_name)
    try:
        gin.query_parameter("Solver.learning_rate")
    except ValueError as error:
        raise RequestError("no model is configured; give one, such as --gin_file=models/large.gin") from error
    return slice_, devices(slice_)


def mesh_axes(text: str | None, slice_: Topology, shape: roofline.Shape) -> tuple[int, int]:
    """Devices along data and model. Raises RequestError where they do not go with the slice or the batch."""
    text = text or f"{slice_.num_devices}x1"
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise RequestError(f"--mesh={text}: write DATAxMODEL, such as {slice_.num_devices}x1")
    data, model = int(match[1]), int(match[2])
    if data * model != slice_.num_devices:
        raise RequestError(
            f"--mesh={text} has {data * model} devices and {slice_.name} has {slice_.num_devices}; "
            f"write a mesh of as many, such as {slice_.num_devices}x1"
        )
    if shape.batch_size % data:
        raise RequestError(
            f"--mesh={text}: {data} devices along data do not divide BATCH_SIZE={shape.batch_size}; "
            f"give a multiple of {data}, --gin.BATCH_SIZE={-(-shape.batch_size // data) * data}"
        )
    return data, model


def describe(slice_: Topology, axes: tuple[int, int], shape: roofline.Shape, remat: str, rules: str = "") -> dict:
    """What is said of a setting in its rows; of a sweep also its rules."""
    setting = {"topology": slice_.name, "mesh": f"{axes[0]}x{axes[1]}"}
    setting |= {"rules": rules} if rules else {}
    return setting | {"remat_policy": remat, **dataclasses.asdict(shape)}


def make_solver(config: T5Config, chips: list, axes: tuple[int, int], **more) -> Solver:
    """The solver that gin describes, on so many devices along data and model."""
    partitioner = Partitioner(*axes, devices=chips, **more)
    return Solver(  # type: ignore[call-arg]  # gin binds the rest
        config, config.vocab_size or _VOCAB_SIZE, partitioner=partitioner
    )


def compile_step(what: str, solver: Solver, slice_: Topology, shape: roofline.Shape, setting: dict) -> Row:
    """The row of a `train_step` or of `generate`. Raises RequestError where the batch cannot be split."""
    sizes = (shape.batch_size, shape.passages, shape.input_length, shape.target_length)
    lower: Callable[..., jax.stages.Lowered]
    trips: int | None
    if what == "train_step":
        lower, model_flops, trips = solver.lower_train_step, roofline.train_flops(solver.config, shape), None
    else:
        # How many tokens to decode is an argument of the program: at most target_length.
        lower, model_flops = solver.lower_generate, roofline.forward_flops(solver.config, shape)
        trips = shape.target_length
    try:
        return Row(what, setting, measure(lambda: lower(*sizes), slice_, model_flops, trips)[0])
    except DoesNotFit as error:
        return Row(what, setting, None, "does not fit", error.peak_bytes)
    except ValueError as error:
        if "divisible" not in f"{type(error).__name__} {error}":
            raise
        raise RequestError(
            f"BATCH_SIZE={shape.batch_size} cannot be split over the mesh {setting['mesh']} as "
            f"Partitioner.logical_axis_rules say; give a multiple of {slice_.num_devices}"
        ) from error


def _heading(setting: dict) -> str:
    return (
        f"{setting['parameters']:,} parameters on {setting['topology']} as {setting['mesh']}; "
        f"batch {setting['batch_size']}, {setting['passages']} x {setting['input_length']} tokens "
        f"to {setting['target_length']}; remat {setting['remat_policy']}"
    )


def _check(rows: list[Row], slice_: Topology) -> None:
    for row in rows:
        if not row.fits:
            peak = row.measured.peak_bytes if row.measured else row.peak_bytes
            raise RunError(
                f"{row.what} does not fit {slice_.name}: {table.gib(peak)} of {table.gib(slice_.device_hbm_bytes)} "
                "a device; shard more (--gin_file=sharding/fsdp.gin), bind --gin.REMAT_POLICY=\"'full'\", "
                "or give a smaller --gin.BATCH_SIZE"
            )
