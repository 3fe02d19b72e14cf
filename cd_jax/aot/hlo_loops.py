"""How often the body of a compiled loop runs.

XLA writes the count beside loops whose count it knows (`known_trip_count`), the TPU's compiler does not: there it is
the distance between the two values that the loop's condition compares, as they stand before the loop, over the
step by which the body changes one of them (the compiler unrolls some loops by two). A loop that may stop early
(decoding, where every row has ended) is counted as if it did not.
"""

import dataclasses
from typing import Optional

from cd_jax.aot.hlo_text import Computation, Instruction, Module

_SAME_VALUE = ("copy", "bitcast", "convert", "reshape", "copy-done", "copy-start", "optimization-barrier")


@dataclasses.dataclass(frozen=True)
class Scope:
    """A computation, and what its parameters are bound to.

    Attributes:
      computation: where values are looked up.
      arguments: the operands of the caller, in the caller's scope.
      outer: the caller's scope; None at the entry.
    """

    computation: Computation
    arguments: tuple[str, ...] = ()
    outer: Optional["Scope"] = None


def trip_count(loop: Instruction, scope: Scope, module: Module) -> int | None:
    """Of a `while`; None where neither XLA nor the condition tells."""
    if known := loop.attribute(r'known_trip_count"?:?=?\{"?n"?:"?(\d+)'):
        return int(known)
    condition = Scope(module.computations[loop.called["condition"]], tuple(loop.operands), scope)
    body = Scope(module.computations[loop.called["body"]], tuple(loop.operands), scope)
    return _bound(condition.computation.root, condition, body, module)


def _bound(test: Instruction, scope: Scope, body: Scope, module: Module) -> int | None:
    """Trips that a condition allows: the fewest, where several must hold."""
    find = scope.computation.instructions
    if test.opcode == "compare":
        sides = [find[name] for name in test.operands]
        ends = [_value(side, scope) for side in sides]
        direction = test.attribute(r"direction=(\w\w)")
        if None in ends or direction == "EQ":
            return None
        distance = abs(ends[1] - ends[0]) + (direction in ("LE", "GE"))  # type: ignore[operator]
        steps = [_step(element, body, module) for side in sides if (element := _element(side, scope)) is not None]
        return -(-distance // max(steps, default=1))
    if test.opcode == "fusion":
        fused = Scope(module.computations[test.called["calls"]], tuple(test.operands), scope)
        return _bound(fused.computation.root, fused, body, module)
    if test.opcode in ("and", *_SAME_VALUE):
        bounds = [_bound(find[name], scope, body, module) for name in test.operands]
        return min((bound for bound in bounds if bound is not None), default=None)
    return None


def _element(instruction: Instruction, scope: Scope) -> int | None:
    """Which element of the loop's state a value in its condition is; None where it is none."""
    find = scope.computation.instructions
    if instruction.opcode in _SAME_VALUE:
        return _element(find[instruction.operands[0]], scope)
    if instruction.opcode == "get-tuple-element":
        return int(instruction.attribute(r"index=(\d+)") or 0)
    if instruction.opcode == "parameter" and scope.outer and scope.arguments[0] in scope.outer.computation.instructions:
        # Of a fusion in the condition.
        argument = scope.arguments[int(instruction.operands[0])]
        return _element(scope.outer.computation.instructions[argument], scope.outer)
    return None


def _step(element: int, body: Scope, module: Module) -> int:
    """By how much the body changes an element of its state in one trip; 1 where that does not show."""
    root = body.computation.root
    if root.opcode != "tuple":
        return 1
    scope, value = body, body.computation.instructions[root.operands[element]]
    while value.opcode in ("fusion", *_SAME_VALUE):
        if value.opcode == "fusion":
            scope = Scope(module.computations[value.called["calls"]], tuple(value.operands), scope)
            value = scope.computation.root
        else:
            value = scope.computation.instructions[value.operands[0]]
    if value.opcode not in ("add", "subtract"):
        return 1
    operands = [scope.computation.instructions[name] for name in value.operands]
    steps = [abs(number) for operand in operands if (number := _constant(operand, scope)) is not None]
    return max(steps, default=1) or 1


def _constant(instruction: Instruction, scope: Scope) -> int | None:
    """The value where it is the same in every trip."""
    return None if _element(instruction, scope) is not None else _value(instruction, scope)


def _value(instruction: Instruction, scope: Scope, element: int | None = None) -> int | None:
    """The whole number that a value, or an element of a tuple, has before the loop; None where it is not constant."""
    opcode, operands = instruction.opcode, instruction.operands
    find = scope.computation.instructions
    if opcode == "constant":
        digits = operands[0].strip("{}") if operands else ""
        return int(digits) if digits.lstrip("-").isdigit() else None
    if opcode in _SAME_VALUE:
        return _value(find[operands[0]], scope, None if opcode == "copy-done" else element)
    if opcode == "get-tuple-element":
        return _value(find[operands[0]], scope, int(instruction.attribute(r"index=(\d+)") or 0))
    if opcode == "tuple" and element is not None:
        return _value(find[operands[element]], scope)
    if opcode == "parameter" and scope.outer:
        argument = scope.arguments[int(operands[0])]
        return _value(scope.outer.computation.instructions[argument], scope.outer, element)
    return None
