"""Published peaks of the TPU chips, and the slices of their pods.

Source: the pages "TPU v3", "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x (Ironwood)" of Cloud TPU's
documentation (system architecture, https://cloud.google.com/tpu/docs/system-architecture-tpu-vm). FLOP/s are those of
bfloat16. ICI is what a chip sends, over all its links: half of the published bidirectional bandwidth (v5e, v5p, v6e,
tpu7x), or the pod's published all-reduce bandwidth divided by its chips (v3: 340 TB/s over 1,024, v4: 1.1 PB/s over
4,096; the same rule gives v5e's).
"""

import dataclasses
import itertools
import math
import re

from cd_jax.errors import RequestError

GIB = 2**30
Shape = tuple[int, ...]
_TOPOLOGY = re.compile(r"^(\w+):(\d+(?:x\d+)*)$")


def _cubes(most: int) -> tuple[Shape, ...]:
    """Slices of a pod that is wired of cubes of 4x4x4: parts of one cube, or whole cubes, shorter sides first.

    Args:
      most: chips of the largest slice.
    """
    sides = range(4, most // 16 + 1, 4)
    cubes = ((a, b, c) for a in sides for b in sides[a // 4 - 1 :] for c in range(b, most // (a * b) + 1, 4))
    return ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), *cubes)


_SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
      flops: bfloat16 operations a second.
      hbm_bytes: its memory.
      hbm_bandwidth: bytes a second to and from it.
      ici_bandwidth: bytes a second that it sends to other chips, over all its links.
      slices: of its pods, chips along each dimension of the torus.
      devices: that XLA sees in one chip: 2 where each core is a device of its own (v3, tpu7x), else 1.
      options: of libtpu's topology, beside the name.
    """

    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float
    slices: tuple[Shape, ...]
    devices: int = 1
    options: tuple[tuple[str, object], ...] = ()

    @property
    def dimensions(self) -> int:
        """Of the torus that its pods form."""
        return len(self.slices[0])


CHIPS = {
    "v3": Chip(123e12, 32 * GIB, 900e9, 332e9, (*_SQUARES[1:2], *_SQUARES[3:], (16, 32), (32, 32)), devices=2),
    # Both cores of a chip as one device, as Cloud TPU runs v4; libtpu's default splits them.
    "v4": Chip(275e12, 32 * GIB, 1200e9, 268e9, _cubes(4096), options=(("chip_config_name", "megacore"),)),
    "v5e": Chip(197e12, 16 * GIB, 819e9, 200e9, _SQUARES),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, 600e9, _cubes(6144)),
    "v6e": Chip(918e12, 32 * GIB, 1638e9, 400e9, _SQUARES),
    "tpu7x": Chip(2307e12, 192 * GIB, 7380e9, 600e9, _cubes(9216), devices=2),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of a pod.

    Attributes:
      name: such as `v5e:8x8`.
      chip: its kind.
      shape: chips along each dimension of the torus.
    """

    name: str
    chip: Chip
    shape: Shape

    @property
    def num_chips(self) -> int:
        """Chips of the slice."""
        return math.prod(self.shape)

    @property
    def num_devices(self) -> int:
        """What XLA sees; the figures below are those of one of them."""
        return self.num_chips * self.chip.devices

    @property
    def device_flops(self) -> float:
        """Bfloat16 operations a second."""
        return self.chip.flops / self.chip.devices

    @property
    def device_hbm_bytes(self) -> int:
        """Its share of the chip's memory."""
        return self.chip.hbm_bytes // self.chip.devices

    @property
    def device_hbm_bandwidth(self) -> float:
        """Bytes a second to and from it."""
        return self.chip.hbm_bandwidth / self.chip.devices

    def device_ici_bandwidth(self, group: int) -> float:
        """Bytes a second that a device sends in a collective of `group` devices.

        A group of all devices uses the links of all dimensions of the torus; a smaller one is taken to lie along one
        dimension, and to use the links of that one.
        """
        whole = self.chip.ici_bandwidth / self.chip.devices
        return whole if group >= self.num_devices else whole / self.chip.dimensions


def topology(name: str) -> Topology:
    """The slice of this name.

    Raises:
      RequestError: the chip is not known, or its pods have no such slice.
    """
    match = _TOPOLOGY.match(name)
    if not match or match[1] not in CHIPS:
        raise RequestError(
            f"--topology={name}: write CHIP:SHAPE, such as v5e:8x8 or v4:4x4x4; chips: {', '.join(CHIPS)}"
        )
    chip = CHIPS[match[1]]
    shape = tuple(int(size) for size in match[2].split("x"))
    if shape not in chip.slices:
        nearest = sorted(chip.slices, key=lambda known: _distance(known, shape))[:2]
        said = " and ".join("x".join(map(str, known)) for known in nearest)
        raise RequestError(f"--topology={name}: {match[1]} has no such slice; the nearest are {said}")
    return Topology(name, chip, shape)


def _distance(known: Shape, asked: Shape) -> tuple[float, float]:
    """In chips first, then in shape."""
    chips = abs(math.log(math.prod(known) / max(math.prod(asked), 1)))
    return chips, sum(abs(a - b) for a, b in itertools.zip_longest(known, sorted(asked), fillvalue=1))
