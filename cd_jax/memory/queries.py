"""Queries to the memory: the context's own embedding, and its projections onto the memory's principal axes."""

import dataclasses

import jax
import jax.numpy as jnp

# Up to here the covariance is made and decomposed; past it, its cube would take seconds.
MOST_DIMENSIONS = 4096
# Halko et al. 2011 (arXiv 0909.4061), sections 4.2 and 4.5: a few directions more than are wanted, and products with
# the covariance that make the leading ones stand out where the variances fall slowly.
_OVERSAMPLING = 10
_POWER_ITERATIONS = 4


@jax.jit(static_argnames=("count", "most_dimensions"))
def principal_axes(
    keys: jax.Array, count: int, valid: jax.Array | None = None, most_dimensions: int = MOST_DIMENSIONS
) -> tuple[jax.Array, jax.Array]:
    """The leading principal axes of the centred keys.

    Args:
      keys: float32 `[rows, embed]`.
      count: axes; at most `min(keys, embed)`.
      valid: bool `[rows]`, which rows hold a key; None: all.
      most_dimensions: of an embedding whose covariance is decomposed; more take a randomised singular value
        decomposition (Halko et al. 2011, arXiv 0909.4061, algorithm 4.4).

    Returns:
      Their mean `[embed]`, and orthonormal axes `[count, embed]`, by falling variance, each with the sign that makes
      its largest component positive.
    """
    weight = jnp.ones(len(keys)) if valid is None else valid.astype(jnp.float32)
    mean = (keys * weight[:, None]).sum(0) / jnp.maximum(weight.sum(), 1.0)
    centred = (keys - mean[None]) * weight[:, None]
    decompose = _of_covariance if keys.shape[1] <= most_dimensions else _randomised
    axes = decompose(centred, count)
    largest = jnp.take_along_axis(axes, jnp.abs(axes).argmax(-1, keepdims=True), axis=-1)
    return mean, axes * jnp.sign(largest)


def _product(one: jax.Array, other: jax.Array) -> jax.Array:
    # A TPU would multiply in bfloat16 otherwise.
    return jnp.matmul(one, other, precision="highest")


def _of_covariance(centred: jax.Array, count: int) -> jax.Array:
    _, vectors = jnp.linalg.eigh(_product(centred.T, centred))
    return vectors[:, ::-1][:, :count].T


def _randomised(centred: jax.Array, count: int) -> jax.Array:
    width = min(count + _OVERSAMPLING, *centred.shape)
    # Any directions will do: always the same ones, so that the axes depend on the keys alone.
    basis = jax.random.normal(jax.random.key(0), (centred.shape[1], width))
    for _ in range(_POWER_ITERATIONS):
        basis, _ = jnp.linalg.qr(_product(centred.T, _product(centred, basis)))
    projected = _product(centred, basis)
    # Its right singular vectors: of a product of [width, width], as the rows may lie on many devices.
    _, rotation = jnp.linalg.eigh(_product(projected.T, projected))
    return _product(rotation[:, ::-1][:, :count].T, basis.T)


@jax.jit
def candidate_queries(embeddings: jax.Array, mean: jax.Array, axes: jax.Array) -> jax.Array:
    """The key itself, then its projection onto each axis: `[rows, embed]` to `[rows, 1 + axes, embed]`.

    A projection is a point of the key's space, on the line through the mean along the axis: what is nearest to it
    agrees with the context in this one direction and is typical in all others.
    """
    coordinates = _product(embeddings - mean[None], axes.T)
    projections = mean[None, None] + coordinates[:, :, None] * axes[None]
    return jnp.concatenate([embeddings[:, None], projections], axis=1)


@dataclasses.dataclass(frozen=True)
class Pick:
    """Which queries to ask of a context; traceable.

    Attributes:
      num_queries: asked, none twice.
      num_axes: whose projections are among those that may be.
    """

    num_queries: int
    num_axes: int

    def __call__(self, key: jax.Array | None, rows: int) -> jax.Array:
        """Positions in `candidate_queries`, int32 `[rows, num_queries]`.

        Args:
          key: draws them, different ones for each row (training); None: the leading axes and the key (evaluation).
          rows: of the batch.
        """
        if key is None:
            evaluation = jnp.array([*range(1, self.num_queries), 0], jnp.int32)
            return jnp.tile(evaluation[None], (rows, 1))
        _, drawn = jax.lax.top_k(jax.random.uniform(key, (rows, 1 + self.num_axes)), self.num_queries)
        return drawn
