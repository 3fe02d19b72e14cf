"""What a compiled module costs: FLOPs, bytes, collectives, with the bodies of loops counted as often as they run.

`compiled.cost_analysis()` counts the body of a loop once, so that of a network scanned over its layers it reports one
layer. Here the text of the compiled module is walked, and every kernel (an instruction of the entry, of a loop's body,
of a called computation) counts as often as it runs. All figures are those of one device.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from cd_jax.aot import hlo_flops, hlo_traffic
from cd_jax.aot.hlo_loops import Scope, trip_count
from cd_jax.aot.hlo_text import Computation, Instruction, Module, bits, parse
from cd_jax.aot.hlo_traffic import COLLECTIVES, HBM

_SEMAPHORE = 2


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange among devices.

    Attributes:
      kind: `all-reduce`, `all-gather`, `reduce-scatter`, `all-to-all`, `collective-permute`.
      bytes: of the whole array on one device: the larger of what goes in and what comes out.
      group: number of devices that take part.
      overlapped: whether other kernels run between its start and its end.
    """

    kind: str
    bytes: int
    group: int
    overlapped: bool

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends where the devices form a ring."""
        factor = {"all-reduce": 2.0, "collective-permute": self.group / max(self.group - 1, 1)}.get(self.kind, 1.0)
        return self.bytes * factor * (self.group - 1) / self.group


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What one instruction costs each time it runs.

    Attributes:
      name, opcode, op_name: of the instruction; `op_name` is JAX's path of what it computes.
      times: how often it runs in a step.
      matmul_flops: in matrix products and convolutions.
      other_flops: in elementwise arithmetic and reductions.
      bytes_accessed: operands and outputs wherever they lie, which is what XLA's cost analysis counts.
      hbm_bytes: those of them that lie in HBM.
      collectives: those that start here.
    """

    name: str
    opcode: str
    op_name: str
    times: int
    matmul_flops: int
    other_flops: int
    bytes_accessed: int
    hbm_bytes: int
    collectives: tuple[Collective, ...]


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of all kernels of a module, on one device.

    Attributes:
      kernels: each with the times it runs.
      uncounted_loops: loops of unknown length, whose body is counted once.
    """

    kernels: list[Kernel]
    uncounted_loops: int

    @property
    def matmul_flops(self) -> int:
        """Of matrix products and convolutions."""
        return sum(kernel.times * kernel.matmul_flops for kernel in self.kernels)

    @property
    def flops(self) -> int:
        """Of these, of elementwise arithmetic and of reductions."""
        return sum(kernel.times * (kernel.matmul_flops + kernel.other_flops) for kernel in self.kernels)

    @property
    def bytes_accessed(self) -> int:
        """Wherever they lie."""
        return sum(kernel.times * kernel.bytes_accessed for kernel in self.kernels)

    @property
    def hbm_bytes(self) -> int:
        """To and from HBM."""
        return sum(kernel.times * kernel.hbm_bytes for kernel in self.kernels)

    @functools.cached_property
    def collectives(self) -> dict[str, tuple[int, int]]:
        """By kind: how many run in a step, and their bytes."""
        found: dict[str, tuple[int, int]] = {}
        for kernel in self.kernels:
            for collective in kernel.collectives:
                count, size = found.get(collective.kind, (0, 0))
                found[collective.kind] = (count + kernel.times, size + kernel.times * collective.bytes)
        return dict(sorted(found.items()))

    def largest(self, count: int) -> list[Kernel]:
        """The kernels that move most bytes of HBM in a step."""
        return sorted(self.kernels, key=lambda kernel: -kernel.times * kernel.hbm_bytes)[:count]


def costs(text: str, assumed_trips: int | None = None) -> Costs:
    """Of a compiled module.

    Args:
      text: `compiled.as_text()`.
      assumed_trips: of loops whose length depends on an argument; None counts their body once, and tells of it.

    Raises:
      ValueError: it is not the text of a module.
    """
    module = parse(text)
    devices = re.search(r"num_partitions=(\d+)", text[:100_000])
    walk = _Walk(module, int(devices[1]) if devices else 1, assumed_trips)
    kernels = list(walk.kernels(Scope(module.entry), 1))
    return Costs(kernels, walk.uncounted_loops)


class _Walk:
    """Goes through a module as it runs."""

    def __init__(self, module: Module, devices: int, assumed_trips: int | None):
        self.module = module
        self.devices = devices
        self.assumed_trips = assumed_trips
        self.uncounted_loops = 0

    def kernels(self, scope: Scope, times: int, overlapped: bool = False) -> Iterator[Kernel]:
        for instruction in scope.computation.instructions.values():
            if instruction.opcode == "while":
                yield from self._loop(instruction, scope, times)
            elif instruction.opcode == "conditional":
                yield from self._costliest(instruction, scope, times)
            elif instruction.opcode in ("call", "async-start"):
                role = "to_apply" if "to_apply" in instruction.called else "calls"
                yield from self.kernels(self._inner(instruction, role, scope), times, instruction.opcode != "call")
            elif kernel := self._kernel(instruction, scope.computation, times, overlapped):
                yield kernel

    def _inner(self, instruction: Instruction, role: str, scope: Scope) -> Scope:
        return Scope(self.module.computations[instruction.called[role]], tuple(instruction.operands), scope)

    def _loop(self, loop: Instruction, scope: Scope, times: int) -> Iterator[Kernel]:
        known = trip_count(loop, scope, self.module)
        trips = self.assumed_trips if known is None else known
        self.uncounted_loops += trips is None
        trips = 1 if trips is None else trips
        yield from self.kernels(self._inner(loop, "body", scope), times * trips)
        yield from self.kernels(self._inner(loop, "condition", scope), times * (trips + 1))

    def _costliest(self, conditional: Instruction, scope: Scope, times: int) -> Iterator[Kernel]:
        """Of the branches of a condition the one that moves most, as which is taken is not known."""
        branches = [list(self.kernels(self._inner(conditional, role, scope), times)) for role in conditional.called]
        yield from max(branches, key=lambda kernels: sum(kernel.times * kernel.bytes_accessed for kernel in kernels))

    def _kernel(self, instruction: Instruction, computation: Computation, times: int, overlapped: bool):
        matmul, other = hlo_flops.flops(instruction, computation, self.module)
        moves = hlo_traffic.moves(instruction, computation, self.module)
        collectives = tuple(self._collectives(instruction, computation, overlapped))
        if not (matmul or other or moves or collectives):
            return None
        return Kernel(
            name=instruction.name,
            opcode=instruction.opcode,
            op_name=instruction.attribute(r'op_name="([^"]*)"') or "",
            times=times,
            matmul_flops=matmul,
            other_flops=other,
            bytes_accessed=sum(move.bytes for move in moves),
            hbm_bytes=sum(move.bytes for move in moves if move.space == HBM),
            collectives=collectives,
        )

    def _collectives(
        self, instruction: Instruction, computation: Computation, overlapped: bool
    ) -> Iterator[Collective]:
        opcode = instruction.opcode
        kind = opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            yield self._collective(kind, instruction, computation, overlapped or kind != opcode)
        elif opcode == "fusion":
            fused = self.module.computations[instruction.called["calls"]]
            # A fusion that takes semaphores goes on with, or ends, what another has started.
            if any(array.space == _SEMAPHORE for value in fused.parameters.values() for array in value.outputs):
                return
            starts = any('"AsyncCollectiveStart"' in inner.attributes for inner in fused.instructions.values())
            for inner in fused.instructions.values():
                for collective in self._collectives(inner, fused, overlapped or starts):
                    # The TPU's compiler writes a reduce-scatter as an all-reduce of which a slice is kept.
                    sliced = collective.kind == "all-reduce" and fused.root.opcode == "dynamic-slice"
                    yield dataclasses.replace(collective, kind="reduce-scatter") if sliced else collective

    def _collective(
        self, kind: str, instruction: Instruction, computation: Computation, overlapped: bool
    ) -> Collective:
        inputs = [array for name in instruction.operands for array in computation.instructions[name].outputs]
        size, outputs = (
            sum(array.elements * bits(array.dtype) // 8 for array in arrays) for arrays in (inputs, instruction.outputs)
        )
        # The start of a gather returns what goes in beside what comes out.
        outputs -= size if instruction.opcode.endswith("-start") and kind != "all-reduce" else 0
        return Collective(kind, max(size, outputs), self._group(instruction), overlapped)

    def _group(self, instruction: Instruction) -> int:
        if listed := instruction.attribute(r"replica_groups=\{\{([\d,]*)\}"):
            return listed.count(",") + 1
        if shape := instruction.attribute(r"replica_groups=\[\d+,(\d+)\]"):
            return int(shape)
        if axes := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", instruction.attributes):
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
            # 'axis', or a part of one: 'axis':(parts before it)size.
            named = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes[2])
            return math.prod(int(part or sizes[name]) for name, part in named)
        return self.devices
