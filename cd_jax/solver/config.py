"""The shape of a T5 1.1 solver."""

import dataclasses

import gin


@gin.configurable
@dataclasses.dataclass(frozen=True)
class T5Config:
    """Hyper-parameters of T5 1.1, named as in T5X's `network.T5Config`.

    Attributes:
      vocab_size: rows of the embedding; 0 takes the vocabulary's size up to the next multiple of 128, which shards
        evenly.
      emb_dim: width of the residual stream.
      num_heads: attention heads, in every layer.
      head_dim: width of one head.
      mlp_dim: width of the gated feed-forward layer.
      num_encoder_layers: encoder blocks.
      num_decoder_layers: decoder blocks.
      dropout_rate: applied to the embeddings, to every sublayer's output and inside the feed-forward layer.
      dtype: of the activations, `float32` or `bfloat16`; parameters are always float32.
      relative_attention_num_buckets: buckets of the relative position bias.
      relative_attention_max_distance: distance in tokens from which on all positions share one bucket.
    """

    vocab_size: int = 0
    emb_dim: int = 512
    num_heads: int = 6
    head_dim: int = 64
    mlp_dim: int = 1024
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    dropout_rate: float = 0.1
    dtype: str = "float32"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
