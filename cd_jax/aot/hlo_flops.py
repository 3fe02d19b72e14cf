"""Floating-point operations of an instruction, counted as XLA's own cost analysis counts them.

A multiply-add is two operations. Matrix products and convolutions are counted by what they multiply (of a convolution,
the places where the window lies on the input and not on its padding: the TPU's compiler turns batched products into
padded convolutions); elementwise arithmetic as one operation for each element of its output; a reduction as one for
each element it takes in. Transcendental functions, data movement and what runs in custom calls count nothing.
Source: openxla/xla, `xla/service/hlo_cost_analysis.cc`.
"""

import functools
import math
import re

from cd_jax.aot.hlo_text import Array, Computation, Instruction, Module

# fmt: off
_ELEMENTWISE = frozenset([
    "abs", "add", "and", "ceil", "clamp", "compare", "convert", "divide", "floor", "maximum", "minimum", "multiply",
    "negate", "not", "or", "remainder", "round-nearest-afz", "round-nearest-even", "select", "shift-left",
    "shift-right-arithmetic", "shift-right-logical", "sign", "subtract", "xor",
])
# fmt: on
_WINDOW_SIZES = ("size", "stride", "lhs_dilate", "rhs_dilate")


def matmul_flops(instruction: Instruction, computation: Computation) -> int:
    """Of a dot or a convolution; 0 for anything else."""
    if instruction.opcode not in ("dot", "convolution"):
        return 0
    left, right = (_array(name, computation) for name in instruction.operands[:2])
    return (_dot if instruction.opcode == "dot" else _convolution)(instruction, left, right)


def other_flops(instruction: Instruction, computation: Computation) -> int:
    """Of elementwise arithmetic and of reductions."""
    if instruction.opcode in _ELEMENTWISE:
        return instruction.outputs[0].elements
    if instruction.opcode in ("reduce", "reduce-window"):
        return _array(instruction.operands[0], computation).elements - instruction.outputs[0].elements
    return 0


def flops(instruction: Instruction, computation: Computation, module: Module) -> tuple[int, int]:
    """Of the instruction and of the computations fused into it: matrix products, and the rest."""
    if instruction.opcode != "fusion":
        return matmul_flops(instruction, computation), other_flops(instruction, computation)
    fused = module.computations[instruction.called["calls"]]
    counts = [flops(inner, fused, module) for inner in fused.instructions.values()]
    return sum(matmul for matmul, _ in counts), sum(other for _, other in counts)


def _array(name: str, computation: Computation) -> Array:
    return computation.instructions[name].outputs[0]


def _dot(instruction: Instruction, left: Array, right: Array) -> int:
    contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    depth = math.prod(left.dims[int(axis)] for axis in contracted.split(",") if axis)
    return 2 * instruction.outputs[0].elements * depth


def _convolution(instruction: Instruction, left: Array, right: Array) -> int:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not labels:
        raise ValueError(f"{instruction.name}: a convolution without dim_labels")
    of_input, of_kernel, of_output = labels.groups()
    spatial = sorted(label for label in of_input if label.isdigit())
    groups = {name: int(instruction.attribute(rf"{name}_group_count=(\d+)") or 1) for name in ("feature", "batch")}
    places = 1
    for number, label in enumerate(spatial):
        size, stride, base_dilation, window_dilation, padding = _window(instruction, number)
        places *= _valid_places(
            left.dims[of_input.index(label)],
            instruction.outputs[0].dims[of_output.index(label)],
            size,
            stride,
            base_dilation,
            window_dilation,
            padding,
        )
    output = instruction.outputs[0].dims
    # The kernel's input features are those of one group already, and the output's batch is what is left of all groups.
    return (
        2
        * places
        * right.dims[of_kernel.index("i")]
        * output[of_output.index("f")]
        * (left.dims[of_input.index("b")] // groups["batch"])
    )


def _window(instruction: Instruction, axis: int) -> tuple[int, int, int, int, int]:
    """Size, stride, dilation of the input and of the window, and padding before it, along a spatial axis."""
    window = instruction.attribute(r"window=\{([^}]*)\}") or ""
    fields = dict(field.split("=") for field in window.split())
    sizes = [int(fields[name].split("x")[axis]) if name in fields else 1 for name in _WINDOW_SIZES]
    padding = int(fields["pad"].split("x")[axis].split("_")[0]) if "pad" in fields else 0
    return sizes[0], sizes[1], sizes[2], sizes[3], padding


@functools.cache
def _valid_places(
    length: int, outputs: int, size: int, stride: int, base_dilation: int, window_dilation: int, padding: int
) -> int:
    """Pairs of an output and a place of the window that lie on an element of the input."""
    if size == 1 and stride == 1 and base_dilation == 1 and not padding:
        return min(outputs, length)
    reach = (length - 1) * base_dilation + 1
    count = 0
    for place in range(size):
        for output in range(outputs):
            index = output * stride - padding + place * window_dilation
            count += 0 <= index < reach and index % base_dilation == 0
    return count
