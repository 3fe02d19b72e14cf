"""Losses of the solver."""

import jax
import jax.numpy as jnp
import optax


def token_weighted_cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """`-sum_t w_t log p(z_t | x, m, z_<t) / sum_t w_t` over the whole batch.

    Args:
      logits: float32 `[batch, length, vocab]`.
      targets: int32 `[batch, length]`.
      weights: float32 `[batch, length]`; 1 on update tokens, `answer_weight` on the answer, 0 on padding.

    Returns:
      A scalar in nats per unit of weight; 0 where all weights are 0.
    """
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)
    return (nats * weights).sum() / jnp.maximum(weights.sum(), 1e-9)
