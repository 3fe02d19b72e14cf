"""The contrastive term: InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) of one positive and k weighted negatives.

It takes scores in the units of InfoNCE's exponents, of either form:

    sequence    the length-normalised log p(u | x) of the solver: `sequence_scores`
    embedding   the cosine of the context's and the update's embeddings over a temperature: `embedding_scores`

and the weights with which `memory.negatives` drew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_SHORTEST = 1e-6


class Mixtures(NamedTuple):
    """Synthetic negatives: `anchor_share * anchor + (1 - anchor_share) * (share * first + (1 - share) * second)`.

    Attributes:
      first: int32 `[mixtures]`, positions among the k real negatives of `mixed`.
      second: int32 `[mixtures]`.
      share: float32 `[mixtures]`, of the first.
      anchor_share: float32 `[mixtures]`, of the anchor's own embedding; 0 for a mixture of two negatives.
    """

    first: jax.Array
    second: jax.Array
    share: jax.Array
    anchor_share: jax.Array


def sequence_scores(nats: jax.Array, weights: jax.Array) -> jax.Array:
    """`log p(u | x)` per token.

    Args:
      nats: float32 `[..., length]`, `-log p` of each token of an update (`losses.token_nats`).
      weights: float32 `[..., length]`; 1 on the update's tokens, 0 on padding.

    Returns:
      float32 `[...]`; 0 for an update without tokens.
    """
    return -(nats * weights).sum(-1) / jnp.maximum(weights.sum(-1), 1.0)


def normalize(embeddings: jax.Array) -> jax.Array:
    """Embeddings of length 1 along the last axis; with a finite gradient at 0."""
    squared = (embeddings**2).sum(-1, keepdims=True)
    return embeddings * jax.lax.rsqrt(jnp.maximum(squared, _SHORTEST**2))


def embedding_scores(anchors: jax.Array, updates: jax.Array, temperature: float) -> jax.Array:
    """Cosine over temperature of each anchor and each of its updates.

    Args:
      anchors: float32 `[..., embed]`, f(x).
      updates: float32 `[..., k, embed]`, g(u).
      temperature: above 0.

    Returns:
      float32 `[..., k]`.
    """
    # A TPU would multiply in bfloat16 otherwise, which a low temperature magnifies.
    cosines = jnp.einsum("...d,...kd->...k", normalize(anchors), normalize(updates), precision="highest")
    return cosines / temperature


def mixed_embeddings(anchors: jax.Array, negatives: jax.Array, mixtures: Mixtures) -> jax.Array:
    """The synthetic negatives of MoCHi (arXiv 2010.01028), of length 1 as all that they are mixed of.

    No gradient goes through them: in the paper the negatives come from a queue, which has none.

    Args:
      anchors: float32 `[..., embed]`.
      negatives: float32 `[..., k, embed]`, the real ones in the order of `negatives.mixed`.
      mixtures: of `negatives.mixtures`, each `[..., mixtures]`.

    Returns:
      float32 `[..., mixtures, embed]`.
    """
    anchors, negatives = jax.lax.stop_gradient((normalize(anchors), normalize(negatives)))
    first = jnp.take_along_axis(negatives, mixtures.first[..., None], axis=-2)
    second = jnp.take_along_axis(negatives, mixtures.second[..., None], axis=-2)
    share, anchor_share = mixtures.share[..., None], mixtures.anchor_share[..., None]
    pair = share * first + (1.0 - share) * second
    return normalize(anchor_share * anchors[..., None, :] + (1.0 - anchor_share) * pair)


def info_nce(positive: jax.Array, negatives: jax.Array, log_weights: jax.Array) -> jax.Array:
    """`-log(e^s+ / (e^s+ + sum_j w_j e^s_j))`.

    Args:
      positive: float32 `[...]`, s+.
      negatives: float32 `[..., k]`, s_j.
      log_weights: float32 `[..., k]`, log w_j; -inf leaves a negative out. Without gradient.

    Returns:
      float32 `[...]` in nats.
    """
    weighted = _weighted(negatives, log_weights)
    return jax.nn.logsumexp(jnp.concatenate([positive[..., None], weighted], -1), axis=-1) - positive


def debiased_info_nce(
    positive: jax.Array,
    negatives: jax.Array,
    log_weights: jax.Array,
    positive_mass: tuple[jax.Array, jax.Array],
    lowest: float,
) -> jax.Array:
    """InfoNCE less what the false negatives are expected to add (DCL, arXiv 2007.00224).

    The sum over negatives is `max(sum_j w_j e^s_j - N+ e^s+, N- e^lowest)`. With the weights of `negatives.debiased` it
    is over the whole pool, and N- times the paper's estimator g, which is a mean over true negatives.

    Args:
      positive: float32 `[...]`.
      negatives: float32 `[..., k]`.
      log_weights: float32 `[..., k]`.
      positive_mass: N+ and N-, each float32 `[...]` (`negatives.positive_mass`).
      lowest: below which no score can be: -1 / temperature for the embedding form.

    Returns:
      float32 `[...]` in nats.
    """
    # Scaled by the largest term, so that nothing overflows.
    weighted = _weighted(negatives, log_weights)
    largest = jax.lax.stop_gradient(jnp.maximum(positive, weighted.max(-1)))
    false, true = positive_mass
    of_negatives = jnp.exp(weighted - largest[..., None]).sum(-1) - false * jnp.exp(positive - largest)
    of_negatives = jnp.maximum(of_negatives, true * jnp.exp(lowest - largest))
    return jnp.log(jnp.exp(positive - largest) + of_negatives) + largest - positive


def _weighted(negatives: jax.Array, log_weights: jax.Array) -> jax.Array:
    log_weights = jax.lax.stop_gradient(log_weights)
    # Whatever stands in a place left free, not even its gradient may be seen.
    return jnp.where(log_weights > -jnp.inf, negatives, 0.0) + log_weights
