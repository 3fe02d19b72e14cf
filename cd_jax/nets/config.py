"""The shape of a T5 solver, and how it is executed."""

import dataclasses
from typing import Annotated, Any

import gin
from annotated_types import Interval

from cd_jax.config.ranges import NonNegativeInt, PositiveInt, Rate
from cd_jax.errors import RequestError

ACTIVATIONS = ("gelu", "linear", "relu", "silu")
REMAT_POLICIES = ("none", "minimal", "full")
# How the same parameters are computed with; a checkpoint does not depend on it.
_EXECUTION = ("dropout_rate", "dtype", "scan_layers", "remat_policy", "logits_chunk")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class T5Config:
    """Hyper-parameters of T5, named as in T5X's `network.T5Config`.

    The defaults are of T5 1.1, LM-adapted and Flan models; `mlp_activations=('relu',)` with `logits_via_embedding=True`
    is T5 1.0.

    Attributes:
      vocab_size: rows of the embedding; 0 takes the vocabulary's size up to the next multiple of 128, which shards
        evenly.
      emb_dim: width of the residual stream.
      num_heads: attention heads, in every layer.
      head_dim: width of one head.
      mlp_dim: width of the feed-forward layer.
      num_encoder_layers: encoder blocks.
      num_decoder_layers: decoder blocks.
      mlp_activations: of the feed-forward layer's projections, which are multiplied: `('gelu', 'linear')`, `('relu',)`,
        or UL2's `('silu', 'linear')`.
      logits_via_embedding: the output projection is the embedding, and the states are scaled by `emb_dim ** -0.5`.
      dropout_rate: applied to the embeddings, to attention weights, to every sublayer's output and inside the
        feed-forward layer; one draw serves all positions of a sequence.
      dtype: of the activations, `float32` or `bfloat16`; parameters, softmax and loss are always float32.
      relative_attention_num_buckets: buckets of the relative position bias.
      relative_attention_max_distance: distance in tokens from which on all positions share one bucket.
      scan_layers: compile one layer and loop over the stack; False unrolls it, which takes longer to compile.
      remat_policy: what the backward pass computes anew: `none`, `minimal` (all but matrix products) or `full` (whole
        layers).
      logits_chunk: target positions of every row whose float32 logits exist at once in the loss; 0 for all.
    """

    vocab_size: NonNegativeInt = 0
    emb_dim: PositiveInt = 512
    num_heads: PositiveInt = 6
    head_dim: PositiveInt = 64
    mlp_dim: PositiveInt = 1024
    num_encoder_layers: PositiveInt = 8
    num_decoder_layers: PositiveInt = 8
    mlp_activations: tuple = ("gelu", "linear")
    logits_via_embedding: bool = False
    dropout_rate: Rate = 0.1
    dtype: str = "float32"
    relative_attention_num_buckets: Annotated[int, Interval(ge=4)] = 32
    relative_attention_max_distance: PositiveInt = 128
    scan_layers: bool = True
    remat_policy: str = "none"
    logits_chunk: NonNegativeInt = 0

    def __post_init__(self):
        """Raises RequestError where a value is none of those it may be."""
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        unknown = set(self.mlp_activations) - set(ACTIVATIONS)
        if unknown or not self.mlp_activations:
            raise RequestError(f"T5Config.mlp_activations={self.mlp_activations!r}: bind some of {ACTIVATIONS}")
        for name, allowed in (("remat_policy", REMAT_POLICIES), ("dtype", ("float32", "bfloat16"))):
            if getattr(self, name) not in allowed:
                raise RequestError(f"T5Config.{name}={getattr(self, name)!r}: bind one of {', '.join(allowed)}")

    def shape(self) -> dict[str, Any]:
        """What decides the parameters and what they mean: as a checkpoint records it."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _EXECUTION}
