"""Compiles a lowered step for a pod, and says what it needs."""

import dataclasses
import re
import time

from cd_jax.aot.chips import Topology
from cd_jax.aot.hlo_costs import Costs, costs
from cd_jax.aot.roofline import roofline, utilisation

# Two ways in which the TPU's compiler says it: "Used 20.1G of 15.75G hbm", "(18.04G) exceeds available HBM".
_NEEDED = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm|\(([\d.]+)([KMGT]?)\) exceeds available HBM")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class DoesNotFit(Exception):
    """The compiler found that the step needs more memory than a chip has; `peak_bytes`: what it would need, if told."""

    def __init__(self, message: str, peak_bytes: int | None):
        super().__init__(message)
        self.peak_bytes = peak_bytes


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A compiled step; bytes, FLOPs and collectives are those of one device in one step.

    Attributes:
      argument_bytes: parameters, optimiser state and batch.
      temporary_bytes: activations and scratch.
      peak_bytes: most that is held at once.
      hbm_capacity_bytes: what the device has.
      flops: matrix products and elementwise arithmetic.
      matmul_flops: matrix products alone.
      hbm_bytes: moved to and from HBM.
      bytes_accessed: operands and outputs wherever they lie, as XLA's cost analysis counts.
      collectives: by kind, how many and their bytes.
      compute_seconds, hbm_seconds, collective_seconds, roofline_seconds: see `roofline.Roofline`.
      model_flops: of the whole pod.
      utilisation_estimate: model FLOPs utilisation at the roofline time.
      lower_seconds, compile_seconds: on this machine; `compile_cpu_seconds` of all its cores.
      xla_flops, xla_bytes_accessed: what `cost_analysis()` says, where the body of a loop counts once.
      uncounted_loops: loops whose length is not known, counted once.
    """

    argument_bytes: int
    temporary_bytes: int
    peak_bytes: int
    hbm_capacity_bytes: int
    flops: int
    matmul_flops: int
    hbm_bytes: int
    bytes_accessed: int
    collectives: dict[str, tuple[int, int]]
    compute_seconds: float
    hbm_seconds: float
    collective_seconds: float
    roofline_seconds: float
    model_flops: float
    utilisation_estimate: float
    lower_seconds: float
    compile_seconds: float
    compile_cpu_seconds: float
    xla_flops: float
    xla_bytes_accessed: float
    uncounted_loops: int


def compile_step(lowered):
    """`lowered.compile()`.

    Args:
      lowered: a `jax.stages.Lowered`.

    Raises:
      DoesNotFit: the step needs more memory than the chip has.
    """
    try:
        return lowered.compile()
    except Exception as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        needed = [part for part in _NEEDED.findall(text)[0] if part] if _NEEDED.search(text) else []
        peak = round(float(needed[0]) * _UNITS["".join(needed[1:])]) if needed else None
        raise DoesNotFit(text.splitlines()[0], peak) from error


def measure(
    lower, topology: Topology, model_flops: float, assumed_trips: int | None = None
) -> tuple[Measurement, Costs]:
    """Lowers, compiles and counts.

    Args:
      lower: called without arguments, returns a `jax.stages.Lowered`.
      topology: the slice whose devices it was lowered for.
      model_flops: what the step must compute, over the whole pod.
      assumed_trips: of loops whose length depends on an argument.

    Returns:
      The measurement, and the kernels it was made from.

    Raises:
      DoesNotFit: as `compile_step`.
    """
    start = time.perf_counter()
    lowered = lower()
    lower_seconds = time.perf_counter() - start
    start, cpu_start = time.perf_counter(), time.process_time()
    compiled = compile_step(lowered)
    compile_seconds, compile_cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    analysis = compiled.cost_analysis() or {}
    counted = costs(compiled.as_text(), assumed_trips)
    times = roofline(counted, topology)
    memory = compiled.memory_analysis()
    measurement = Measurement(
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=_peak_bytes(memory),
        hbm_capacity_bytes=topology.device_hbm_bytes,
        flops=counted.flops,
        matmul_flops=counted.matmul_flops,
        hbm_bytes=counted.hbm_bytes,
        bytes_accessed=counted.bytes_accessed,
        collectives=counted.collectives,
        compute_seconds=times.compute,
        hbm_seconds=times.hbm,
        collective_seconds=times.collectives,
        roofline_seconds=times.total,
        model_flops=model_flops,
        utilisation_estimate=utilisation(model_flops, times.total, topology),
        lower_seconds=lower_seconds,
        compile_seconds=compile_seconds,
        compile_cpu_seconds=compile_cpu_seconds,
        xla_flops=analysis.get("flops", 0.0),
        xla_bytes_accessed=analysis.get("bytes accessed", 0.0),
        uncounted_loops=counted.uncounted_loops,
    )
    return measurement, counted


def _peak_bytes(memory) -> int:
    """Arguments live through the step; outputs count unless they take the place of an argument."""
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return max(getattr(memory, "peak_memory_in_bytes", 0), held + memory.temp_size_in_bytes)
