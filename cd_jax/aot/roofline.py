"""How long a step must take at least, and the utilisation of the chips that this implies.

Both are estimates from the compiled program and the chip's published peaks; nothing is run.
"""

import dataclasses

from cd_jax.aot.chips import Topology
from cd_jax.aot.hlo_costs import Costs, Kernel
from cd_jax.nets.config import T5Config

# Copies between memories that run beside the kernels.
_ASYNCHRONOUS_COPIES = ("copy-start", "slice-start")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of a batch: `encoder_input_tokens` [batch_size, passages, input_length], targets [batch_size, target_length]."""

    batch_size: int
    passages: int
    input_length: int
    target_length: int


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step on one device, were every part at its published peak.

    Attributes:
      compute: matrix products at the peak of the matrix units.
      hbm: all bytes to and from HBM at its bandwidth.
      collectives: bytes that a device sends at the bandwidth of its links.
      total: of the step; see `roofline`.
    """

    compute: float
    hbm: float
    collectives: float
    total: float


def roofline(costs: Costs, topology: Topology) -> Roofline:
    """The roofline time of a compiled step.

    Kernels run one after the other, each in the longer of its compute and its HBM time (the sum of these is
    between the maximum and the sum of the totals). Copies that the compiler started ahead, and collectives that it
    overlaps with kernels, run beside them; collectives that it does not overlap are added:
    `total = exposed collectives + max(kernels, all HBM traffic, overlapped collectives)`. Latency counts nothing,
    nor does elementwise arithmetic, for which no peak is published.
    """
    kernels = sum(
        kernel.times * max(_compute(kernel, topology), kernel.hbm_bytes / topology.device_hbm_bandwidth)
        for kernel in costs.kernels
        if not kernel.collectives and kernel.opcode not in _ASYNCHRONOUS_COPIES
    )
    compute = costs.matmul_flops / topology.device_flops
    hbm = costs.hbm_bytes / topology.device_hbm_bandwidth
    exposed = _collective_seconds(costs, topology, overlapped=False)
    overlapped = _collective_seconds(costs, topology, overlapped=True)
    return Roofline(compute, hbm, exposed + overlapped, exposed + max(kernels, hbm, overlapped))


def _compute(kernel: Kernel, topology: Topology) -> float:
    return kernel.matmul_flops / topology.device_flops


def _collective_seconds(costs: Costs, topology: Topology, overlapped: bool) -> float:
    return sum(
        kernel.times * collective.wire_bytes / topology.device_ici_bandwidth(collective.group)
        for kernel in costs.kernels
        for collective in kernel.collectives
        if collective.overlapped == overlapped
    )


def forward_flops(config: T5Config, shape: Shape) -> float:
    """Model FLOPs of a forward pass: 2 for each parameter of a matrix and token that it sees, and attention.

    Parameters of the encoder, and those that make the keys and values of cross-attention, see the encoder's tokens;
    all others of the decoder, and the head, the decoder's. Attention costs 4 for each query, key and
    dimension of all heads, masked or not; passages are encoded alone. Looking up embeddings costs nothing.
    """
    joined_kv = config.num_heads * config.head_dim
    projection = config.emb_dim * joined_kv
    mlp = (len(config.mlp_activations) + 1) * config.emb_dim * config.mlp_dim
    source, target = shape.passages * shape.input_length, shape.target_length
    encoder = config.num_encoder_layers * (
        2 * (4 * projection + mlp) * source + 4 * joined_kv * source * shape.input_length
    )
    decoder = config.num_decoder_layers * (
        2 * (6 * projection + mlp) * target + 2 * 2 * projection * source + 4 * joined_kv * target * (target + source)
    )
    head = 2 * config.emb_dim * config.vocab_size * target
    return float(shape.batch_size) * (encoder + decoder + head)


def train_flops(config: T5Config, shape: Shape) -> float:
    """Of a train step: the backward pass costs twice the forward one; what remat computes again is not counted."""
    return 3 * forward_flops(config, shape)


def utilisation(model_flops: float, seconds: float, topology: Topology) -> float:
    """Model FLOPs utilisation: model FLOPs over what all chips could do in that time."""
    return model_flops / (seconds * topology.num_devices * topology.device_flops)
