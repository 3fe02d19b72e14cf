"""Queries to the memory: the context's own embedding, and its projections onto the memory's principal axes."""

import jax
import jax.numpy as jnp


@jax.jit(static_argnames="count")
def principal_axes(keys: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The leading principal axes of the centred keys.

    Args:
      keys: float32 `[keys, embed]`.
      count: axes; at most `min(keys, embed)`.

    Returns:
      Their mean `[embed]`, and orthonormal axes `[count, embed]`, by falling variance, each with the sign that makes
      its largest component positive.
    """
    mean = keys.mean(0)
    _, _, axes = jnp.linalg.svd(keys - mean[None], full_matrices=False)
    axes = axes[:count]
    largest = jnp.take_along_axis(axes, jnp.abs(axes).argmax(-1, keepdims=True), axis=-1)
    return mean, axes * jnp.sign(largest)


@jax.jit
def candidate_queries(embeddings: jax.Array, mean: jax.Array, axes: jax.Array) -> jax.Array:
    """The key itself, then its projection onto each axis: `[rows, embed]` to `[rows, 1 + axes, embed]`.

    A projection is a point of the key's space, on the line through the mean along the axis: what is nearest to it
    agrees with the context in this one direction and is typical in all others.
    """
    # A TPU would multiply in bfloat16 otherwise.
    coordinates = jnp.matmul(embeddings - mean[None], axes.T, precision="highest")
    projections = mean[None, None] + coordinates[:, :, None] * axes[None]
    return jnp.concatenate([embeddings[:, None], projections], axis=1)
