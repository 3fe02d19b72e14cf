"""Layers of T5 in Flax Linen (arXiv 1910.10683, 2002.05202), every parameter with logical axis names.

The names are T5X's: `vocab`, `embed`, `joined_kv`, `mlp`, `heads`, `relpos_buckets`, `layers`; the solver's rules map
them to the mesh. Where a matrix writes to the residual stream that axis is `embed_out`, so that a rule can cut every
matrix along its first axis: a TPU gathers no slices of a last axis that are thinner than its tiles of 128. Dropout
happens where the caller gives a `dropout` rng, and only there.
"""

import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from cd_jax.nets import attention
from cd_jax.nets.config import T5Config

Cache = dict[str, jax.Array]
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}


def _named(init, *names):
    return nn.with_logical_partitioning(init, names)


class Dense(nn.Module):
    """A linear layer. T5 has no biases anywhere, and initialises by fan-in.

    Attributes:
      features: of the output.
      names: logical axes of the kernel.
      dtype: of the product.
      scale: of the variance of the initial kernel.
    """

    features: int
    names: tuple[str, str]
    dtype: str
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., inputs]` to `[..., features]`."""
        init = _named(nn.initializers.variance_scaling(self.scale, "fan_in", "truncated_normal"), *self.names)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        # As one matrix: the gradient of the kernel is then a plain product, which is three times as fast on the CPU.
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        return (rows @ kernel.astype(self.dtype)).reshape(*x.shape[:-1], self.features)


def layer_norm(config: T5Config, name: str | None = None) -> nn.RMSNorm:
    """T5's layer norm: root mean square only, no centring, no bias."""
    init = _named(nn.initializers.ones_init(), "embed")
    return nn.RMSNorm(epsilon=1e-6, dtype=config.dtype, scale_init=init, name=name)


class Dropout(nn.Module):
    """One draw for all positions of a sequence, as in T5X: `[batch, 1, embed]` random bits are next to none.

    Attributes:
      rate: share of what is dropped.
      axis: along which a draw is shared.
    """

    rate: float
    axis: int = -2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`x`, some of it 0 and the rest scaled up; `x` itself where there is no `dropout` rng."""
        drop = nn.Dropout(self.rate, broadcast_dims=(self.axis,))
        return drop(x, deterministic=not self.has_rng("dropout"))


class RelativePositionBias(nn.Module):
    """Bucketed relative position bias, one table for each stack.

    Attributes:
      config: the solver's shape.
      bidirectional: True in the encoder; the decoder only looks back.
    """

    config: T5Config
    bidirectional: bool

    @nn.compact
    def __call__(self, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
        """Positions `[queries]` and `[keys]` to a float32 bias `[heads, queries, keys]`."""
        config = self.config
        init = _named(nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"), "heads", "relpos_buckets")
        table = self.param("rel_embedding", init, (config.num_heads, config.relative_attention_num_buckets))
        buckets = attention.bucket(
            key_positions[None, :] - query_positions[:, None],
            self.bidirectional,
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        )
        return table[:, buckets]


class Attention(nn.Module):
    """Multi-head attention; kernels keep heads and head width in one axis, `joined_kv`."""

    config: T5Config

    def setup(self):
        """Makes the projections."""
        config = self.config
        project = functools.partial(Dense, config.num_heads * config.head_dim, ("embed", "joined_kv"), config.dtype)
        self.query = project(scale=1.0 / config.head_dim)
        self.key, self.value = project(), project()
        self.out = Dense(config.emb_dim, ("joined_kv", "embed_out"), config.dtype)
        self.dropout = Dropout(config.dropout_rate, axis=-1)

    def _heads(self, x: jax.Array) -> jax.Array:
        """`[batch, length, joined_kv]` to `[batch, heads, length, head_dim]`."""
        x = x.reshape(*x.shape[:-1], self.config.num_heads, self.config.head_dim)
        return nn.with_logical_constraint(jnp.swapaxes(x, 1, 2), ("batch", "heads", "length", "kv"))

    def __call__(self, x: jax.Array, context: jax.Array, bias: jax.Array, mask: jax.Array) -> jax.Array:
        """Attends from `x` `[batch, queries, embed]` to `context` `[batch, keys, embed]`; see `attention.attend`."""
        query, key, value = self._heads(self.query(x)), self._heads(self.key(context)), self._heads(self.value(context))
        # T5X drops attention weights for all queries at once: which is to drop rows of the values.
        attended = attention.attend(query, key, self.dropout(value), bias, mask)
        attended = jnp.swapaxes(attended, 1, 2)
        return self.out(attended.reshape(*attended.shape[:-2], -1))

    def probabilities(self, x: jax.Array, context: jax.Array, mask: jax.Array) -> jax.Array:
        """How `x` attends to `context` where there is no bias: float32 `[batch, heads, queries, keys]`."""
        return attention.probabilities(self._heads(self.query(x)), self._heads(self.key(context)), mask)

    def keys_and_values(self, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What `step` reads: `[batch, heads, head_dim, keys]` and `[batch, heads, keys, head_dim]`."""
        return jnp.swapaxes(self._heads(self.key(context)), -1, -2), self._heads(self.value(context))

    def step(self, x: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array) -> jax.Array:
        """Single positions `[rows, embed]` attend to `keys_and_values`, which several rows may share."""
        query = self.query(x).reshape(len(key), -1, self.config.num_heads, self.config.head_dim)
        return self.out(attention.attend_once(query, key, value, bias).reshape(len(x), -1))


class MlpBlock(nn.Module):
    """The feed-forward layer: gated GELU in T5 1.1 (arXiv 2002.05202), gated SiLU in UL2, ReLU in T5 1.0."""

    config: T5Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., embed]` to the same shape."""
        config, factors = self.config, []
        for i, activation in enumerate(config.mlp_activations):
            name = f"wi_{i}" if len(config.mlp_activations) > 1 else "wi"
            wide = Dense(config.mlp_dim, ("embed", "mlp"), config.dtype, name=name)(x)
            factors.append(_ACTIVATIONS[activation](wide))
        product = functools.reduce(operator.mul, factors)
        if x.ndim == 3:
            product = nn.with_logical_constraint(product, ("batch", "length", "mlp"))
        product = Dropout(config.dropout_rate)(product)
        return Dense(config.emb_dim, ("mlp", "embed_out"), config.dtype, name="wo")(product)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normalised before and added after."""

    config: T5Config

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        """`[batch, length, embed]` to the same shape, and nothing, as `nn.scan` wants it."""
        config = self.config
        y = layer_norm(config, "pre_attention_layer_norm")(x)
        x = x + Dropout(config.dropout_rate)(Attention(config, name="attention")(y, y, bias, mask))
        y = layer_norm(config, "pre_mlp_layer_norm")(x)
        x = x + Dropout(config.dropout_rate)(MlpBlock(config, name="mlp")(y))
        return nn.with_logical_constraint(x, ("batch", "length", "embed")), None


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's states, feed-forward."""

    config: T5Config

    def setup(self):
        """Makes the sublayers, which the step of decoding shares."""
        config = self.config
        self.pre_self_attention_layer_norm = layer_norm(config)
        self.self_attention = Attention(config)
        self.pre_cross_attention_layer_norm = layer_norm(config)
        self.encoder_decoder_attention = Attention(config)
        self.pre_mlp_layer_norm = layer_norm(config)
        self.mlp = MlpBlock(config)
        self.dropout = Dropout(config.dropout_rate)

    def __call__(self, x, encoded, bias, mask, cross_mask) -> tuple[jax.Array, None]:
        """`[batch, targets, embed]` to the same shape; `encoded` is `[batch, positions, embed]`."""
        y = self.pre_self_attention_layer_norm(x)
        x = x + self.dropout(self.self_attention(y, y, bias, mask))
        y = self.pre_cross_attention_layer_norm(x)
        nowhere = jnp.zeros((1, 1, 1, 1), jnp.float32)
        x = x + self.dropout(self.encoder_decoder_attention(y, encoded, nowhere, cross_mask))
        x = x + self.dropout(self.mlp(self.pre_mlp_layer_norm(x)))
        return nn.with_logical_constraint(x, ("batch", "length", "embed")), None

    def attended(self, x, encoded, bias, mask, cross_mask, weights) -> tuple[jax.Array, jax.Array]:
        """What `__call__` gives, and how far `encoded` is attended to: float32 `[batch, positions]`.

        Of the cross-attention's probabilities this is the mean over heads, and the sum over targets weighed by
        `weights`, float32 `[batch, targets]`.
        """
        y = self.pre_self_attention_layer_norm(x)
        y = self.pre_cross_attention_layer_norm(x + self.self_attention(y, y, bias, mask))
        probabilities = self.encoder_decoder_attention.probabilities(y, encoded, cross_mask)
        x, _ = self(x, encoded, bias, mask, cross_mask)
        return x, jnp.einsum("bhtk,bt->bk", probabilities, weights) / self.config.num_heads

    def start(self, encoded: jax.Array, max_length: int) -> tuple[Cache, Cache]:
        """What decoding keeps of this layer: the encoder's keys and values, for good, and room for its own."""
        config = self.config
        key, value = self.encoder_decoder_attention.keys_and_values(encoded)
        own = (len(encoded), config.num_heads, config.head_dim, max_length)
        return (
            {"key": key, "value": value},
            {"key": jnp.zeros(own, config.dtype), "value": jnp.zeros((*own[:2], own[3], own[2]), config.dtype)},
        )

    def step(self, x, cross: Cache, own: Cache, position, bias, cross_bias) -> tuple[jax.Array, Cache]:
        """One position `[rows, embed]`, and `own` with it.

        Args:
          x: `[rows, embed]`, of `batch` examples one after the other.
          cross: keys and values of the encoder's states, of `start`, for the batch.
          own: keys and values of the positions before, for the rows.
          position: scalar.
          bias: float32 `[heads, max_length]`.
          cross_bias: float32 `[batch, 1, 1, keys]`.
        """
        y = self.pre_self_attention_layer_norm(x)
        key, value = self.self_attention.keys_and_values(y[:, None])
        own = {
            "key": jax.lax.dynamic_update_slice(own["key"], key, (0, 0, 0, position)),
            "value": jax.lax.dynamic_update_slice(own["value"], value, (0, 0, position, 0)),
        }
        x = x + self.self_attention.step(y, own["key"], own["value"], bias[None, :, None])
        y = self.pre_cross_attention_layer_norm(x)
        x = x + self.encoder_decoder_attention.step(y, cross["key"], cross["value"], cross_bias)
        return x + self.mlp(self.pre_mlp_layer_norm(x)), own
