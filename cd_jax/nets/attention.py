"""Multi-head attention with T5's relative position bias, forwards and backwards.

The probabilities of a layer, `[batch, heads, queries, keys]`, are by far its largest array. They are not kept for the
backward pass but computed anew from their largest and their sum (as in FlashAttention, arXiv 2205.14135), and the
division by the sum is done on the attended values, which are smaller.
"""

import jax
import jax.numpy as jnp

MASKED = -1e10


def _logits(query: jax.Array, key: jax.Array, bias: jax.Array, mask: jax.Array) -> jax.Array:
    # In the activations' dtype, as T5X has it: written to memory and read again they cost most of a layer's time.
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key).astype(jnp.float32) + mask[:, None, None, :]
    return (_in_shards(logits, bias) + bias[:, None]).reshape(logits.shape)


def _in_shards(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`[batch, ...]` to `[shards, batch / shards, ...]`, as many as the bias has."""
    return x.reshape(len(bias), -1, *x.shape[1:])


def _sum_over_rows(x: jax.Array) -> jax.Array:
    """`[shards, rows, ...]` to `[shards, ...]`. On the CPU, XLA's reduction is many times slower than a product."""

    def product(x: jax.Array) -> jax.Array:
        ones = jax.lax.optimization_barrier(jnp.ones(x.shape[1], x.dtype))
        return jnp.einsum("r,srn->sn", ones, x.reshape(*x.shape[:2], -1)).reshape(len(x), *x.shape[2:])

    return jax.lax.platform_dependent(x, cpu=product, default=lambda x: x.sum(1))


@jax.custom_vjp
def attend(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array, mask: jax.Array) -> jax.Array:
    """Attention with softmax in float32, whatever the dtype of the rest. Logits are not scaled, as in T5.

    Args:
      query: `[batch, heads, queries, head_dim]`.
      key: `[batch, heads, keys, head_dim]`.
      value: `[batch, heads, keys, head_dim]`.
      bias: float32 `[shards, heads, queries, keys]`, or `[1, 1, 1, 1]`: relative positions, and what a decoder must not
        see. One copy for each shard of the batch: its gradient is then summed up within the shard in every layer, and
        over the shards once.
      mask: float32 `[batch, keys]`, 0 or `MASKED`; has no gradient.

    Returns:
      `[batch, heads, queries, head_dim]`.
    """
    return _forward(query, key, value, bias, mask)[0]


def _forward(query, key, value, bias, mask):
    logits = _logits(query, key, bias, mask)
    highest = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - highest)
    total = weights.sum(-1, keepdims=True)
    attended = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    attended = (attended / total).astype(value.dtype)
    return attended, (query, key, value, bias, mask, attended, highest, total)


def _backward(kept, gradient):
    query, key, value, bias, mask, attended, highest, total = kept
    dtype = value.dtype
    weights = jnp.exp(_logits(query, key, bias, mask) - highest) / total
    towards = jnp.einsum("bhqd,bhkd->bhqk", gradient, value).astype(jnp.float32)
    inner = jnp.sum(gradient.astype(jnp.float32) * attended.astype(jnp.float32), -1, keepdims=True)
    of_logits = weights * (towards - inner)
    of_bias = jnp.zeros_like(bias) if bias[0].size == 1 else _sum_over_rows(_in_shards(of_logits, bias))
    small, weights = of_logits.astype(dtype), weights.astype(dtype)
    return (
        jnp.einsum("bhqk,bhkd->bhqd", small, key),
        jnp.einsum("bhqk,bhqd->bhkd", small, query),
        jnp.einsum("bhqk,bhqd->bhkd", weights, gradient),
        of_bias,
        jnp.zeros_like(mask),
    )


attend.defvjp(_forward, _backward)


def probabilities(query: jax.Array, key: jax.Array, mask: jax.Array) -> jax.Array:
    """Of `attend` without a bias: float32 `[batch, heads, queries, keys]`, for those who want to see them."""
    return jax.nn.softmax(_logits(query, key, jnp.zeros((1, 1, 1, 1), jnp.float32), mask))


def attend_once(query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array) -> jax.Array:
    """Attention of a few queries, for decoding: what it costs is to read `key` and `value` once.

    Args:
      query: `[batch, queries, heads, head_dim]`.
      key: `[batch, heads, head_dim, keys]`: the keys stand last, along which a processor works on many at once.
      value: `[batch, heads, keys, head_dim]`.
      bias: float32, broadcast to `[batch, heads, queries, keys]`.

    Returns:
      `[batch, queries, heads, head_dim]`.
    """
    logits = jnp.einsum("bqhd,bhdk->bhqk", query, key, preferred_element_type=jnp.float32) + bias
    weights = jax.nn.softmax(logits).astype(value.dtype)
    return jnp.einsum("bhqk,bhkd->bqhd", weights, value)


def bucket(relative_position: jax.Array, bidirectional: bool, num_buckets: int, max_distance: int) -> jax.Array:
    """Maps key position minus query position to a bucket of the relative position bias (arXiv 1910.10683, 2.1)."""
    offset = jnp.zeros_like(relative_position)
    distance = -relative_position
    if bidirectional:
        num_buckets //= 2
        offset = jnp.where(distance < 0, num_buckets, 0)
        distance = jnp.abs(distance)
    distance = jnp.maximum(distance, 0)
    exact = num_buckets // 2
    log_ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
    log_range = jnp.log(jnp.float32(max_distance / exact))
    far = exact + (log_ratio / log_range * (num_buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))
