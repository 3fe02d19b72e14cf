"""Layers of T5 1.1 in Flax Linen (arXiv 1910.10683, 2002.05202), every parameter with logical axis names.

The names are T5X's: `vocab`, `embed`, `joined_kv`, `mlp`, `heads`, `relpos_buckets`; `partitioning.py` maps them to the
mesh. Kernels of the attention keep heads and head width in one axis, `joined_kv`, so that a model axis longer than the
number of heads still divides it.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from cd_jax.solver.config import T5Config

MASKED = -1e10


def _kernel(init, *names):
    return nn.with_logical_partitioning(init, names)


def dense(
    config: T5Config, features: int, names: tuple[str, str], name: str | None = None, scale: float = 1.0
) -> nn.Dense:
    """A linear layer with named axes. T5 1.1 has no biases anywhere, and initialises by fan-in."""
    init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
    return nn.Dense(features, use_bias=False, dtype=config.dtype, kernel_init=_kernel(init, *names), name=name)


def layer_norm(config: T5Config, name: str | None = None) -> nn.RMSNorm:
    """T5's layer norm: root mean square only, no centring, no bias."""
    return nn.RMSNorm(
        epsilon=1e-6, dtype=config.dtype, scale_init=_kernel(nn.initializers.ones_init(), "embed"), name=name
    )


class RelativePositionBias(nn.Module):
    """Bucketed relative position bias, one table for each stack.

    Attributes:
      config: the solver's shape.
      bidirectional: True in the encoder; the decoder only looks back.
    """

    config: T5Config
    bidirectional: bool

    def _bucket(self, relative_position: jax.Array) -> jax.Array:
        """Maps key position minus query position to a bucket (arXiv 1910.10683, section 2.1)."""
        buckets = self.config.relative_attention_num_buckets
        offset = jnp.zeros_like(relative_position)
        distance = -relative_position
        if self.bidirectional:
            buckets //= 2
            offset = jnp.where(distance < 0, buckets, 0)
            distance = jnp.abs(distance)
        distance = jnp.maximum(distance, 0)
        exact = buckets // 2
        log_ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
        log_range = jnp.log(jnp.float32(self.config.relative_attention_max_distance / exact))
        far = exact + (log_ratio / log_range * (buckets - exact)).astype(jnp.int32)
        return offset + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))

    @nn.compact
    def __call__(self, query_positions: jax.Array, key_positions: jax.Array) -> jax.Array:
        """Positions `[queries]` and `[keys]` to a bias `[1, heads, queries, keys]`."""
        table = self.param(
            "rel_embedding",
            _kernel(nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"), "heads", "relpos_buckets"),
            (self.config.num_heads, self.config.relative_attention_num_buckets),
        )
        buckets = self._bucket(key_positions[None, :] - query_positions[:, None])
        return table[:, buckets][None].astype(self.config.dtype)


class Attention(nn.Module):
    """Multi-head attention without scaling of the logits (T5 folds it into the initialisation).

    Called with `decode=True` it works on one position at a time and keeps keys and values in the `cache` collection:
    self-attention adds the new position; cross-attention computes the encoder's once, when the cache is made.
    """

    config: T5Config

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.config.num_heads, self.config.head_dim)

    def _append(self, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Writes one position `[batch, 1, heads, head_dim]` to the cache; returns all of it."""
        filling = self.has_variable("cache", "cached_key")
        cached_key = self.variable("cache", "cached_key", jnp.zeros_like, key)
        cached_value = self.variable("cache", "cached_value", jnp.zeros_like, value)
        index = self.variable("cache", "index", lambda: jnp.array(0, jnp.int32))
        if not filling:
            return key, value
        cached_key.value = jax.lax.dynamic_update_slice(cached_key.value, key, (0, index.value, 0, 0))
        cached_value.value = jax.lax.dynamic_update_slice(cached_value.value, value, (0, index.value, 0, 0))
        index.value = index.value + 1
        return cached_key.value, cached_value.value

    @nn.compact
    def __call__(
        self, queries: jax.Array, keys: jax.Array, bias: jax.Array | None, cross: bool = False, decode: bool = False
    ) -> jax.Array:
        """Attends.

        Args:
          queries: `[batch, queries, embed]`.
          keys: `[batch, keys, embed]`.
          bias: added to the logits, broadcast to `[batch, heads, queries, keys]`.
          cross: keys are the encoder's states.
          decode: keep keys and values in the `cache` collection.

        Returns:
          `[batch, queries, embed]`.
        """
        config = self.config
        joined = config.num_heads * config.head_dim
        project = functools.partial(dense, config, joined, ("embed", "joined_kv"))
        query = self._heads(project("query", scale=1.0 / config.head_dim)(queries))
        key_layer, value_layer = project("key"), project("value")
        if cross and decode:
            # Module.variable calls the initialiser only when the cache is made.
            key = self.variable("cache", "cross_key", lambda: self._heads(key_layer(keys))).value
            value = self.variable("cache", "cross_value", lambda: self._heads(value_layer(keys))).value
        else:
            key, value = self._heads(key_layer(keys)), self._heads(value_layer(keys))
            if decode:
                key, value = self._append(key, value)
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key)
        # Softmax in float32: bfloat16 loses the tail.
        logits = logits.astype(jnp.float32) + (0.0 if bias is None else bias.astype(jnp.float32))
        weights = jax.nn.softmax(logits).astype(config.dtype)
        attended = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
        attended = attended.reshape(*attended.shape[:-2], joined)
        return dense(config, config.emb_dim, ("joined_kv", "embed"), "out")(attended)


class MlpBlock(nn.Module):
    """The gated-GELU feed-forward layer of T5 1.1 (arXiv 2002.05202)."""

    config: T5Config

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        """`[batch, length, embed]` to the same shape."""
        wide = functools.partial(dense, self.config, self.config.mlp_dim, ("embed", "mlp"))
        x = jax.nn.gelu(wide("wi_0")(x), approximate=True) * wide("wi_1")(x)
        x = nn.with_logical_constraint(x, ("batch", "length", "mlp"))
        x = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))(x, deterministic=deterministic)
        return dense(self.config, self.config.emb_dim, ("mlp", "embed"), "wo")(x)
