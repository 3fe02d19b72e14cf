"""The train step in every setting of meshes, batches, remat and rules, compiled for a pod that need not be there."""

import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator, Sequence

import gin

from cd_jax.aot import roofline, sharding, table
from cd_jax.aot.chips import Topology
from cd_jax.aot.compile import compile_step, describe, make_solver, mesh_axes, start
from cd_jax.aot.table import Row
from cd_jax.config.ranges import PositiveInt
from cd_jax.errors import RequestError, RunError
from cd_jax.learning.progress import clock
from cd_jax.nets.config import REMAT_POLICIES, T5Config


@gin.configurable(denylist=["topology_name", "mesh", "as_json"])
def aot_sweep(
    topology_name: str,
    mesh: str | None,
    as_json: bool,
    batch_sizes: Sequence[PositiveInt] = (64, 128),
    remat_policies: Sequence[str] = REMAT_POLICIES,
    sharding_rules: Sequence[str] = sharding.NAMES,
    passages: PositiveInt = 1,
    input_length: PositiveInt = 512,
    target_length: PositiveInt = 128,
) -> None:
    """Compiles the train step in every setting, and prints those that fit, the best estimated utilisation first.

    Args:
      topology_name: a slice, such as `v5e:8x8`.
      mesh: the only `DATAxMODEL` to be tried; None: all that divide the batch and the heads.
      as_json: JSON lines, as they come, instead of a table.
      batch_sizes: to be tried.
      remat_policies: to be tried.
      sharding_rules: of gin/sharding; those that use no axis `model` are tried where it is 1, the others elsewhere.
      passages: of an example.
      input_length: tokens of a passage.
      target_length: tokens of the target.

    Raises:
      RequestError: as `aot`.
      RunError: nothing fits.
    """
    slice_, chips = start(topology_name)
    base = T5Config()
    rows: list[Row] = []
    shapes = [roofline.Shape(size, passages, input_length, target_length) for size in batch_sizes]
    settings = [
        (shape, axes, rules, remat)
        for shape in shapes
        for axes in ([mesh_axes(mesh, slice_, shape)] if mesh else _meshes(slice_, shape, base.num_heads))
        for rules, remat in itertools.product(sharding.that_use(axes, sharding_rules), remat_policies)
    ]
    if not settings:
        raise RequestError(
            f"--sweep: no mesh of {slice_.num_devices} devices divides batches of {list(batch_sizes)}; "
            "bind aot_sweep.batch_sizes"
        )
    started = time.monotonic()
    for number, (shape, axes, rules, remat) in enumerate(settings, 1):
        rows.append(_try(base, chips, slice_, axes, shape, describe(slice_, axes, shape, remat, rules)))
        left = (time.monotonic() - started) / number * (len(settings) - number)
        print(
            f"[aot] {number}/{len(settings)} {table.summary(rows[-1])} | ETA {clock(left)}", file=sys.stderr, flush=True
        )
        if as_json:
            print(rows[-1].json(), flush=True)
    if not as_json:
        print(table.frontier(rows), table.ESTIMATE, sep="\n\n")
    if not any(row.fits for row in rows):
        raise RunError(f"no setting fits {slice_.name}; try a larger slice, or smaller aot_sweep.batch_sizes")


def _meshes(slice_: Topology, shape: roofline.Shape, heads: int) -> Iterator[tuple[int, int]]:
    for model in range(1, slice_.num_devices + 1):
        data, rest = divmod(slice_.num_devices, model)
        if not rest and not shape.batch_size % data and not heads % model:
            yield data, model


def _try(
    base: T5Config, chips: list, slice_: Topology, axes: tuple[int, int], shape: roofline.Shape, setting: dict
) -> Row:
    """A setting of a sweep: whatever goes wrong with it is told in its row, and the sweep goes on."""
    try:
        config = dataclasses.replace(base, remat_policy=setting["remat_policy"])
        solver = make_solver(config, chips, axes, logical_axis_rules=sharding.rules(setting["rules"]))
        return compile_step("train_step", solver, slice_, shape, setting)
    except Exception as error:
        return Row("train_step", setting, None, " ".join(str(error).split())[:100])
