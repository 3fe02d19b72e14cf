"""BERT and RemBERT in Flax Linen (arXiv 1810.04805, 2010.12821), and BLEURT's regression on top (arXiv 2004.04696).

Dropout happens where the caller gives a `dropout` rng, and only there. Everything is float32.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from cd_jax.nets import attention

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    # The original BERT's, by tanh; and the one of most PyTorch models, by the error function.
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Hyper-parameters of BERT, named as in its `bert_config.json`.

    Attributes:
      vocab_size: rows of the word embedding.
      hidden_size: width of the residual stream.
      num_hidden_layers: blocks.
      num_attention_heads: of every block; they divide `hidden_size`.
      intermediate_size: width of the feed-forward layer.
      max_position_embeddings: the longest input in tokens.
      type_vocab_size: rows of the segment embedding.
      embedding_size: width of the embeddings; where it is given (RemBERT), they are projected to `hidden_size`.
      hidden_act: a name of `ACTIVATIONS`.
      hidden_dropout_prob: of the embeddings and of what every sublayer adds.
      attention_probs_dropout_prob: of what is attended to, the same for all queries.
      layer_norm_eps: added to the variance.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    embedding_size: int | None = None
    hidden_act: str = "gelu_tanh"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12


def _norm(config: BertConfig, name: str) -> nn.LayerNorm:
    # The mean of squares less the squared mean, Flax's default, loses digits where the mean is large.
    return nn.LayerNorm(epsilon=config.layer_norm_eps, use_fast_variance=False, name=name)


class _Dropout(nn.Module):
    """Dropout where there is a `dropout` rng."""

    rate: float
    shared: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dropout(self.rate, broadcast_dims=self.shared)(x, deterministic=not self.has_rng("dropout"))


class Layer(nn.Module):
    """A block of BERT: attention and feed-forward layer, each added to its input and normalised.

    Attributes:
      config: of the network.
    """

    config: BertConfig

    def _heads(self, x: jax.Array, name: str) -> jax.Array:
        """`[batch, length, hidden]`, projected, to `[batch, heads, length, head_width]`."""
        x = nn.Dense(self.config.hidden_size, name=name)(x)
        return jnp.swapaxes(x.reshape(*x.shape[:-1], self.config.num_attention_heads, -1), 1, 2)

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array, mask: jax.Array) -> jax.Array:
        """The new states of some positions.

        Args:
          x: `[batch, queries, hidden]`, their states.
          context: `[batch, length, hidden]`, the states of all positions.
          mask: float32 `[batch, length]`, 0 or `attention.MASKED`.

        Returns:
          `[batch, queries, hidden]`.
        """
        config = self.config
        query, key, value = (self._heads(of, to) for of, to in ((x, "query"), (context, "key"), (context, "value")))
        value = _Dropout(config.attention_probs_dropout_prob, shared=(-1,))(value)
        no_bias = jnp.zeros((1, 1, 1, 1), jnp.float32)
        attended = attention.attend(query / query.shape[-1] ** 0.5, key, value, no_bias, mask)
        attended = jnp.swapaxes(attended, 1, 2).reshape(x.shape)
        x = self._add(x, nn.Dense(config.hidden_size, name="attention_out")(attended), "attention_norm")
        inner = ACTIVATIONS[config.hidden_act](nn.Dense(config.intermediate_size, name="mlp_in")(x))
        return self._add(x, nn.Dense(config.hidden_size, name="mlp_out")(inner), "mlp_norm")

    def _add(self, x: jax.Array, change: jax.Array, name: str) -> jax.Array:
        return _norm(self.config, name)(x + _Dropout(self.config.hidden_dropout_prob)(change))


class Embeddings(nn.Module):
    """The sum of the embeddings of words, segments and positions, normalised, and projected where RemBERT does.

    Attributes:
      config: of the network.
    """

    config: BertConfig

    @nn.compact
    def __call__(self, ids: jax.Array, segments: jax.Array) -> jax.Array:
        """Int32 `[batch, length]`, twice, to `[batch, length, hidden]`."""
        config = self.config
        width = config.embedding_size or config.hidden_size
        x = nn.Embed(config.vocab_size, width, name="word_embeddings")(ids)
        x += nn.Embed(config.type_vocab_size, width, name="token_type_embeddings")(segments)
        positions = jnp.arange(ids.shape[1])[None]
        x += nn.Embed(config.max_position_embeddings, width, name="position_embeddings")(positions)
        x = _Dropout(config.hidden_dropout_prob)(_norm(config, "norm")(x))
        return nn.Dense(config.hidden_size, name="mapping")(x) if config.embedding_size else x


class Bert(nn.Module):
    """The encoder.

    Attributes:
      config: of the network.
    """

    config: BertConfig

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array, segments: jax.Array, first_only: bool = False):
        """Reads texts.

        Args:
          ids: int32 `[batch, length]`.
          mask: the same, 1 for tokens and 0 for padding.
          segments: the same, the row of the segment embedding.
          first_only: the last block computes nothing but the state of the first position, which all others are read
            for.

        Returns:
          The states `[batch, length or 1, hidden]`, and `[batch, hidden]`, the pooled state of the first position.
        """
        config = self.config
        x = Embeddings(config, name="embeddings")(ids, segments)
        bias = jnp.where(mask > 0, 0.0, attention.MASKED)
        for layer in range(config.num_hidden_layers):
            last = first_only and layer == config.num_hidden_layers - 1
            x = Layer(config, name=f"layers_{layer}")(x[:, :1] if last else x, x, bias)
        return x, jnp.tanh(nn.Dense(config.hidden_size, name="pooler")(x[:, 0]))


class BertRegressor(nn.Module):
    """BLEURT: a linear regression on the pooled state of `[CLS]`.

    Attributes:
      config: of the network.
    """

    config: BertConfig

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array, segments: jax.Array) -> jax.Array:
        """Scores `[batch]` of pairs; see `Bert`."""
        _, pooled = Bert(self.config, name="bert")(ids, mask, segments, first_only=True)
        return nn.Dense(1, name="head")(pooled)[:, 0]
