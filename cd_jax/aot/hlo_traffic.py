"""Bytes that an instruction moves, by the memory they come from or go to.

An instruction reads its operands and writes its outputs, with the padding of their tiles. Of an operand of which a
fusion takes a slice, the slice is read; of an output that is an operand with a part replaced, the part is written
(XLA does that in place). What only names memory (tuples, bitcasts, parameters, constants) moves nothing, and of a pair
of start and done the start moves all.

On the TPU XLA's own "bytes accessed" is larger, by an eighth in a T5: it counts the done of a copy, and a
concatenation that is a mere bitcast, as if they moved their operands once more.
"""

import dataclasses

from cd_jax.aot.hlo_text import Array, Computation, Instruction, Module

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_STARTS = tuple(f"{kind}-start" for kind in COLLECTIVES)
# fmt: off
_STILL = frozenset([
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "add-dependency", "opt-barrier", "optimization-barrier", "domain", "while", "call", "conditional", "async-start",
    "infeed", "outfeed",
])
# fmt: on
_STILL_CALLS = ("AllocateBuffer", "ConcatBitcast", "Sharding", "AsyncCollectiveDone")
_SLICES = ("dynamic-slice", "slice", "gather")
_THROUGH = frozenset(["bitcast", "reshape", "convert", "copy", "transpose", "negate"])
_FUSED_TRANSFER = (*COLLECTIVES, "custom-call")
HBM = 0


@dataclasses.dataclass(frozen=True)
class Move:
    """Bytes read from, or written to, a memory (0: HBM)."""

    bytes: int
    space: int


def moves(instruction: Instruction, computation: Computation, module: Module) -> list[Move]:
    """What an instruction reads and writes."""
    opcode = instruction.opcode
    if opcode in _STILL or opcode.endswith("-done") or opcode.endswith("-update"):
        return []
    inputs = [array for name in instruction.operands for array in _arrays(name, computation)]
    if opcode == "custom-call" and any(f'"{name}"' in instruction.attributes for name in _STILL_CALLS):
        return []
    if opcode == "fusion":
        return _of_fusion(instruction, computation, module)
    if opcode in _SLICES:
        return [Move(instruction.outputs[0].bytes, inputs[0].space), *_all(inputs[1:]), *_all(instruction.outputs)]
    if opcode == "dynamic-update-slice":
        return [*_all(inputs[1:]), Move(inputs[1].bytes, instruction.outputs[0].space)]
    if opcode == "scatter":
        update = Move(inputs[-1].bytes, instruction.outputs[0].space)
        return [*_all(inputs[1:]), update, update]
    if opcode in ("copy-start", "slice-start"):
        # Outputs: of a copy (to, from, semaphore), of a slice ((from), to, semaphore).
        to = instruction.outputs[0 if opcode == "copy-start" else 1]
        return [Move(to.bytes, inputs[0].space), Move(to.bytes, to.space)]
    outputs = instruction.outputs[len(inputs) :] if opcode in _STARTS[1:] else instruction.outputs
    return _all(inputs) + _all(outputs)


def _all(arrays: list[Array]) -> list[Move]:
    return [Move(array.bytes, array.space) for array in arrays]


def _arrays(name: str, computation: Computation) -> list[Array]:
    instruction = computation.instructions.get(name)
    return instruction.outputs if instruction else []


def _of_fusion(instruction: Instruction, computation: Computation, module: Module) -> list[Move]:
    fused = module.computations[instruction.called["calls"]]
    reads = []
    for number, name in enumerate(instruction.operands):
        arrays = _arrays(name, computation)
        share = _share(fused.parameters[number], fused, module, 1.0) if number in fused.parameters else 0.0
        reads += [Move(round(array.bytes * share), array.space) for array in arrays]
    return reads + _written(fused, instruction.outputs, module)


def _share(value: Instruction, fused: Computation, module: Module, outside: float) -> float:
    """The share of a value that a fused computation reads.

    Args:
      value: an instruction of the computation.
      outside: the share of the computation's result that its caller reads.
    """
    share = outside if value.root and value.opcode != "parameter" else 0.0
    for user in fused.users[value.name]:
        for position, name in enumerate(user.operands):
            if name == value.name:
                share += _share_of_user(value, user, position, fused, module, outside)
        if share >= 1:
            return 1.0
    return share


def _share_of_user(
    value: Instruction, user: Instruction, position: int, fused: Computation, module: Module, outside: float
) -> float:
    opcode = user.opcode
    if opcode in _THROUGH or opcode == "get-tuple-element":
        return _share(user, fused, module, outside)
    if opcode in _SLICES and position == 0:
        return user.outputs[0].elements / max(value.outputs[0].elements, 1)
    if opcode == "dynamic-update-slice" and position == 0:
        return 0.0 if _only_returned(user, fused) else 1.0
    if opcode == "fusion":
        inner = module.computations[user.called["calls"]]
        # What the inner fusion hands on is read as far as its own users read it.
        return _share(inner.parameters[position], inner, module, _share(user, fused, module, outside))
    if opcode == "tuple" or opcode in _FUSED_TRANSFER:
        return 0.0
    return 1.0


def _only_returned(value: Instruction, fused: Computation) -> bool:
    """Whether a value goes to the computation's result and nowhere else, as what is replaced in place does."""
    users = fused.users[value.name]
    return all(
        (user.opcode == "tuple" and user.root) or (user.opcode == "bitcast" and _only_returned(user, fused))
        for user in users
    )


def _written(fused: Computation, outputs: list[Array], module: Module) -> list[Move]:
    root = fused.root
    if root.opcode == "tuple":
        results = [fused.instructions[name] for name in root.operands]
        if len(results) != len(outputs):
            return _all(outputs)
    elif len(outputs) > 1:
        # One instruction with several outputs: a reduction of several arrays, or the start of a collective.
        return [] if root.opcode in _FUSED_TRANSFER else _all(outputs)
    else:
        results = [root]
    return [
        Move(_written_bytes(result, fused, output, module), output.space)
        for result, output in zip(results, outputs, strict=True)
    ]


def _written_bytes(result: Instruction, fused: Computation, output: Array, module: Module) -> int:
    """What is written of an output, which is `result` in the fused computation."""
    opcode = result.opcode
    if opcode == "parameter" or opcode in _FUSED_TRANSFER:
        return 0
    if opcode == "dynamic-update-slice":
        return fused.instructions[result.operands[1]].outputs[0].bytes
    if opcode == "bitcast":
        inner = fused.instructions[result.operands[0]]
        return output.bytes if inner.opcode == "parameter" else _written_bytes(inner, fused, output, module)
    if opcode == "fusion" and len(result.outputs) == 1:
        called = module.computations[result.called["calls"]]
        return _written_bytes(called.root, called, output, module) or output.bytes
    return output.bytes
