"""Losses of the solver."""

import functools

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
    return (nats * weights).sum() / total_weight(weights)


def total_weight(weights: jax.Array) -> jax.Array:
    """What a weighted sum is divided by: never 0."""
    return jnp.maximum(weights.sum(), 1e-9)


def _chunks(x: jax.Array, chunk: int) -> jax.Array:
    """`[batch, length, ...]` to `[chunks, batch, chunk, ...]`, padded with 0; one chunk where `chunk` is 0."""
    length = x.shape[1]
    chunk = min(chunk or length, length)
    padded = jnp.pad(x, ((0, 0), (0, -length % chunk)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(padded.reshape(len(x), -1, chunk, *x.shape[2:]), 1, 0)


def _whole(chunks: jax.Array, length: int) -> jax.Array:
    """The inverse of `_chunks`."""
    return jnp.moveaxis(chunks, 0, 1).reshape(chunks.shape[1], -1, *chunks.shape[3:])[:, :length]


def _project(states: jax.Array, kernel: jax.Array) -> jax.Array:
    """Float32 logits of a chunk; as one matrix product, for its gradients' sake."""
    rows = states.reshape(-1, states.shape[-1])
    return jnp.dot(rows, kernel, preferred_element_type=jnp.float32).reshape(*states.shape[:-1], -1)


def _chosen(logits: jax.Array, targets: jax.Array) -> jax.Array:
    # Not a gather: where the vocabulary is sharded, that would bring all logits together.
    classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    return jnp.where(classes == targets[..., None], logits, 0.0).sum(-1)


def token_nats(states: jax.Array, kernel: jax.Array, targets: jax.Array, chunk: int = 0) -> jax.Array:
    """`-log p(z_t)` of every target token, of at most `chunk` positions of every row at once.

    Args:
      states: of the decoder, `[batch, length, embed]`.
      kernel: of the projection to the vocabulary, `[embed, vocab]`, of the states' dtype.
      targets: int32 `[batch, length]`.
      chunk: positions whose float32 logits exist at once; 0 for all.

    Returns:
      float32 `[batch, length]`. Its gradient computes the logits of a chunk anew.
    """

    @jax.checkpoint
    def of(part):
        logits = _project(part[0], kernel)
        return jax.nn.logsumexp(logits, -1) - _chosen(logits, part[1])

    return _whole(jax.lax.map(of, (_chunks(states, chunk), _chunks(targets, chunk))), targets.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def projected_cross_entropy(
    states: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    z_loss: float = 0.0,
    chunk: int = 0,
    shards: int = 1,
) -> jax.Array:
    """`sum_t w_t (-log p(z_t) + z_loss * log(Z_t)^2)`, exact, from the states of which logits are made.

    The logits of a chunk give its loss and its gradients at once, and are gone before the next: they are never computed
    anew, and float32 logits exist for `chunk` positions of every row only. `log(Z_t)` is the logarithm of the softmax's
    sum, which the z-loss keeps near 0 (T5X, and Mesh TensorFlow before it).

    Args:
      states: of the decoder, `[batch, length, embed]`.
      kernel: of the projection to the vocabulary, `[embed, vocab]`, of the states' dtype.
      targets: int32 `[batch, length]`.
      weights: float32 `[batch, length]`; has no gradient.
      z_loss: factor of the squared logarithm.
      chunk: positions whose float32 logits exist at once; 0 for all.
      shards: of the batch over devices; the kernel's gradient is summed over them once, and not once a chunk.

    Returns:
      A scalar in nats.
    """
    return _loss_and_gradients(states, kernel, targets, weights, z_loss, chunk, shards)[0]


def _loss_and_gradients(states, kernel, targets, weights, z_loss, chunk, shards):
    def of(carry, part):
        total, of_kernel = carry
        states, targets, weights = part
        logits = _project(states, kernel)
        log_z = jax.nn.logsumexp(logits, -1)
        nats = log_z - _chosen(logits, targets) + z_loss * log_z**2
        factor = weights * (1.0 + 2.0 * z_loss * log_z)
        classes = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
        hit = jnp.where(classes == targets[..., None], weights[..., None], 0.0)
        of_logits = (jnp.exp(logits - log_z[..., None]) * factor[..., None] - hit).astype(states.dtype)
        of_states = (of_logits.reshape(-1, of_logits.shape[-1]) @ kernel.T).reshape(states.shape)
        rows, flat = (x.reshape(shards, -1, x.shape[-1]) for x in (states, of_logits))
        of_kernel += jnp.einsum("snd,snv->sdv", rows, flat, preferred_element_type=jnp.float32)
        return (total + (nats * weights).sum(), of_kernel), of_states

    start = (jnp.float32(0), jnp.zeros((shards, *kernel.shape), jnp.float32))
    parts = tuple(_chunks(x, chunk) for x in (states, targets, weights))
    (total, of_kernel), of_states = jax.lax.scan(of, start, parts)
    return total, (_whole(of_states, targets.shape[1]), of_kernel.sum(0).astype(kernel.dtype))


def _cross_entropy_forward(states, kernel, targets, weights, z_loss, chunk, shards):
    total, gradients = _loss_and_gradients(states, kernel, targets, weights, z_loss, chunk, shards)
    return total, (*gradients, weights)


def _cross_entropy_backward(z_loss, chunk, shards, kept, scale):
    of_states, of_kernel, weights = kept
    scaled = tuple((gradient * scale).astype(gradient.dtype) for gradient in (of_states, of_kernel))
    return *scaled, None, jnp.zeros_like(weights)


projected_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)
