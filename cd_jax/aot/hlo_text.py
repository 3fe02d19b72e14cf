"""The text of a compiled HLO module (`compiled.as_text()`), read into computations, instructions and shapes.

The syntax is that of XLA's printer (openxla/xla, `xla/hlo/parser/hlo_parser.cc`): no well-kept library reads it in
Python, and the protocol buffer of the module says nothing that its text leaves out.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_HEADER = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([^\s=]+) = ")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\s*([a-z][a-z0-9]*)\[([^\]]*)\](?:\{([^{}]*)\})?")
_CALLED = re.compile(r"(?<![a-z_])(calls|body|condition|to_apply|true_computation|false_computation)=%?([^\s,}]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BITS = re.compile(r"(\d+)")
_OPEN, _CLOSE = "({[", ")}]"


@dataclasses.dataclass(frozen=True)
class Array:
    """An array on a device.

    Attributes:
      dtype: as XLA spells it: bf16, f32, s32, pred, …
      dims: its sizes.
      layout: minor-to-major order, tiles and memory space, as printed between braces.
    """

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def elements(self) -> int:
        """How many, without padding."""
        return math.prod(self.dims)

    @functools.cached_property
    def space(self) -> int:
        """Its memory: 0 is HBM; others (vector memory, scalar memory, semaphores) lie on the chip itself."""
        match = re.search(r"S\((\d+)\)", self.layout)
        return int(match[1]) if match else 0

    @functools.cached_property
    def bytes(self) -> int:
        """What it takes in memory, with the padding of its tiles."""
        return -(-math.prod(self._padded()) * bits(self.dtype) // 8)

    def _padded(self) -> list[int]:
        order, _, tiles = self.layout.partition(":")
        tile = re.search(r"T\(([\d,]+)\)", tiles)
        if not tile or not order:
            return list(self.dims)
        physical = [self.dims[int(axis)] for axis in order.split(",")]
        for place, size in zip(range(len(physical)), map(int, reversed(tile[1].split(","))), strict=False):
            physical[place] = -(-physical[place] // size) * size
        return physical


@functools.cache
def bits(dtype: str) -> int:
    """Bits of an element; 0 for what is no array (`token`, `opaque`)."""
    if dtype == "pred":
        return 8
    match = _BITS.search(dtype)
    return int(match[1]) if match else 0


@dataclasses.dataclass
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in the module.
      opcode: `fusion`, `dot`, `all-reduce-start`, …
      outputs: its arrays, nested tuples flattened.
      operands: names of its operands; for a parameter or a constant what stands between the parentheses.
      attributes: the rest of the line.
      root: whether it is what the computation returns.
    """

    name: str
    opcode: str
    outputs: list[Array]
    operands: list[str]
    attributes: str
    root: bool

    @functools.cached_property
    def called(self) -> dict[str, str]:
        """Computations that it calls, by role (`calls`, `body`, `condition`, `to_apply`, `branch0`, …)."""
        found = dict(_CALLED.findall(self.attributes))
        if branches := _BRANCHES.search(self.attributes):
            names = [name.strip().lstrip("%") for name in branches[1].split(",")]
            found |= {f"branch{number}": name for number, name in enumerate(names)}
        return found

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern among the attributes; None where it does not occur."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else None


@dataclasses.dataclass
class Computation:
    """The instructions of a computation, by name, in the order in which they run."""

    name: str
    instructions: dict[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        """What it returns."""
        return next(instruction for instruction in self.instructions.values() if instruction.root)

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """By number."""
        return {
            int(instruction.operands[0]): instruction
            for instruction in self.instructions.values()
            if instruction.opcode == "parameter"
        }

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads each instruction."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                if operand in users:
                    users[operand].append(instruction)
        return users


@dataclasses.dataclass
class Module:
    """All computations of a module, by name, and the one where it starts."""

    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Module:
    """Reads `compiled.as_text()`.

    Raises:
      ValueError: it has no ENTRY computation.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in text.splitlines():
        if current is None:
            if header := _HEADER.match(line):
                current = Computation(header[2], {})
                computations[current.name] = current
                entry = current if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif instruction := _instruction(line):
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text of the HLO module has no ENTRY computation")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    head = _INSTRUCTION.match(line)
    if not head:
        return None
    end = _shape_end(line, head.end())
    opcode = _OPCODE.match(line, end)
    if not opcode:
        return None
    close = _closing(line, opcode.end() - 1)
    return Instruction(
        name=head[2],
        opcode=opcode[1],
        outputs=_arrays(line[head.end() : end]),
        operands=[_operand(operand) for operand in _split(line[opcode.end() : close])],
        attributes=line[close + 1 :],
        root=bool(head[1]),
    )


def _operand(text: str) -> str:
    """Its name: some versions of the printer put its shape before it."""
    return text.rsplit(" ", 1)[-1].lstrip("%")


def _shape_end(line: str, start: int) -> int:
    if line[start] == "(":
        return _closing(line, start) + 1
    return line.find(" ", start)


def _closing(line: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for place in range(start, len(line)):
        character = line[place]
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
            if not depth:
                return place
    return len(line)


def _split(text: str) -> Iterator[str]:
    """The parts between the commas that stand in no bracket, without the printer's comments."""
    depth, start = 0, 0
    for place, character in enumerate(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character == "," and not depth:
            yield _bare(text[start:place])
            start = place + 1
    if last := _bare(text[start:]):
        yield last


def _bare(text: str) -> str:
    return text.rpartition("*/")[2].strip()


def _arrays(shape: str) -> list[Array]:
    """The arrays of a shape, those of nested tuples in a row."""
    return [
        Array(dtype, tuple(int(size.lstrip("<=")) for size in dims.split(",") if size), layout)
        for dtype, dims, layout in _ARRAY.findall(shape)
    ]
