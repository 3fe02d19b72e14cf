"""Samplers of negatives for the contrastive term, as pure functions of scores: jit-, vmap- and grad-safe.

Every sampler has the signature of `Sampler`: it draws, for one anchor, k of a pool of candidates, and weighs them so
that

    sum_j exp(log_weights[j] + score(indices[j]))                                                                   (1)

stands for the negatives' part of the partition sum of InfoNCE over the whole pool. What it stands for exactly:

    uniform, in_batch, mixed   the sum of exp(score) over all candidates, without bias
    debiased                   the same; the loss then takes `positive_mass` of the positive's own term away
    bayesian                   the sum of posterior * exp(score), the expected sum over true negatives, without bias
    hard                       the k largest terms only: always too little, and with the false negatives

The scores of (1) are those of the loss; the draw may use older ones (of keys encoded an epoch ago, say), which costs
variance and never bias. All scores are in the units of InfoNCE's exponents, e.g. cosine / temperature.

A candidate whose score is not finite or whose prior is 1 is not in the pool: padding of a memory of fixed capacity, the
anchor's own update. It is never drawn. Where fewer than k candidates are left, the free places repeat the first index
with the weight 0 (its logarithm is -inf).

Of a pool that lies on many devices each has a part, and `over` says how they come together (see `parts.Parts`): sums
and the best of each part go over the network, never the scores, and the draw is that of one device.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from cd_jax.losses.contrastive import Mixtures
from cd_jax.memory.negatives import ranks
from cd_jax.memory.negatives.parts import WHOLE, Parts

# Where exp(x) is so small that 1 - exp(-exp(x)) is exp(x) - exp(x)^2 / 2 in float32.
_SMALL_EXPONENT = -10.0


class Sampler(Protocol):
    """Draws negatives for one anchor; `jax.vmap` it over a batch, with a key for each row."""

    def __call__(
        self, key: jax.Array, scores: jax.Array, prior: jax.Array, k: int, over: Parts = WHOLE
    ) -> tuple[jax.Array, jax.Array]:
        """Draws.

        Args:
          key: a PRNG key.
          scores: float32 `[pool]`, of each candidate against the anchor; of a pool in parts, of this device's.
          prior: float32 `[pool]`, the probability that a candidate is a false negative, e.g. of `prior.false_negative`.
          k: negatives; static, at most the pool.
          over: the pool, of which these are a part.

        Returns:
          int32 indices `[k]`, and float32 logarithms of their weights `[k]`. Neither has a gradient.
        """
        ...


def eligible(scores: jax.Array, prior: jax.Array) -> jax.Array:
    """Which candidates are in the pool: bool of the arrays' common shape."""
    return jnp.isfinite(scores) & (prior < 1.0)


def cdf_logit(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """`log(F / (1 - F))` of the empirical distribution function F of the scores, in O(pool log pool).

    F is taken at mid-ranks: (candidates below + those not above) / (2 * candidates). Equal scores have equal F; F is
    never 0 or 1, as arXiv 2204.06520 has it for the best candidate, which could then never be drawn; and a pool whose
    scores are all the same has F = 1/2, from which nothing follows. The logit is made from counts, so that it
    is exact at the top of a pool of millions, where F itself rounds to 1.

    Args:
      scores: float32 `[pool]`.
      mask: bool `[pool]`, the candidates that count.

    Returns:
      float32 `[pool]`; 0 outside the mask.
    """
    numbers = _whole_numbers(jnp.where(mask, scores, jnp.inf))
    ordered = jnp.sort(numbers)
    # Twice the mid-rank, and what is left of twice the pool.
    below = jnp.searchsorted(ordered, numbers, side="left") + jnp.searchsorted(ordered, numbers, side="right")
    return jnp.where(mask, _log_odds(below, 2 * mask.sum() - below), 0.0)


def _whole_numbers(scores: jax.Array) -> jax.Array:
    """Int32 in the order of the float32: XLA sorts these an order of magnitude faster on a CPU."""
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0.0, 0.0, scores.astype(jnp.float32)), jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.iinfo(jnp.int32).max, bits)


def _log_odds(below: jax.Array, above: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(below, 1).astype(jnp.float32)) - jnp.log(jnp.maximum(above, 1).astype(jnp.float32))


def cdf_logit_of(candidate: jax.Array, scores: jax.Array, mask: jax.Array, over: Parts = WHOLE) -> jax.Array:
    """`cdf_logit(scores, mask)[candidate]` of the whole pool, without sorting: a float32 scalar."""
    score = over.at(scores, candidate)
    below = over.total(mask & (scores < score)) + over.total(mask & (scores <= score))
    counts = over.at(mask.astype(jnp.int32), candidate) > 0
    return jnp.where(counts, _log_odds(below, 2 * over.total(mask) - below), 0.0)


def unmixed(cdf_logit: jax.Array, prior: jax.Array) -> jax.Array:
    """From the F of a pool of true and false negatives to the F of which the posterior's densities are made.

    The posterior supposes the densities 2 f (1 - F) of true negatives and 2 f F of false ones (arXiv 2204.06520). A
    pool with a share p of false ones then has the distribution function `(1 - p) (2 F - F^2) + p F^2`, which is F
    itself for p = 1/2 only. It is solved for F as in BCL (arXiv 2301.11673, its `cdf_trans` with alpha = 1). Then the
    posteriors of a pool have the mean 1 - p, as they should; with F of the pool in its stead, far too many candidates
    are suspected where p is small.

    Args:
      cdf_logit: float32 `[...]`, of the pool.
      prior: float32, broadcast to it; p, the mean of the pool's priors.

    Returns:
      float32 `[...]`.
    """
    root = jnp.sqrt(prior**2 + (1.0 - 2.0 * prior) * jax.nn.sigmoid(-cdf_logit))
    return cdf_logit + jnp.log(prior + root) - jnp.log(1.0 - prior + root)


def log_posterior(cdf_logit: jax.Array, prior: jax.Array) -> jax.Array:
    """The logarithm of the posterior that a candidate is a true negative (arXiv 2204.06520, its `unbias`).

    `(1 - F) (1 - p) / (1 - F - p + 2 F p)` is one over `1 + (F / (1 - F)) (p / (1 - p))`: the odds of a false negative
    are the prior's times the score's.

    Args:
      cdf_logit: float32 `[pool]`, of `unmixed`.
      prior: float32 `[pool]`, p.

    Returns:
      float32 `[pool]`; -inf where p is 1.
    """
    return jax.nn.log_sigmoid(-(cdf_logit + jnp.log(prior) - jnp.log1p(-prior)))


def gumbel_top_k(key: jax.Array, log_proposals: jax.Array, k: int, over: Parts = WHOLE) -> tuple[jax.Array, jax.Array]:
    """Draws k without replacement, one after the other in proportion to `exp(log_proposals)` of those left.

    The k largest of the logarithms, each with Gumbel noise, are such a draw (Kool et al. 2019, arXiv 1903.06059). Given
    the (k+1)-th largest, the threshold, the candidate with logarithm `l_i` is drawn with the probability
    `q_i = 1 - exp(-exp(l_i - threshold))`, and `sum_drawn f_i / q_i` is an unbiased estimate of `sum f_i` (the same;
    its proof is that of priority sampling, Duffield et al. 2007). The weights `1 / (k p_i)` of a draw with replacement
    would not be.

    Args:
      key: a PRNG key.
      log_proposals: float32 `[pool]`, up to a constant; -inf is never drawn.
      k: static, at most the pool.
      over: the pool.

    Returns:
      int32 indices `[k]` in the order of the draw, and float32 `log q` `[k]`; +inf in places left free.

    Raises:
      ValueError: k is below 1 or above the pool.
    """
    pool = log_proposals.shape[0]
    if k < 1 or (k > pool and not over.axes):
        raise ValueError(f"cannot draw {k} negatives of a pool of {pool}")
    noise = over.gumbel(key, pool, log_proposals.dtype)
    best, indices = over.top_k(log_proposals + noise, k + 1 if over.axes else min(k + 1, pool))
    return _drawn(best, indices, over.at(log_proposals, indices), k)


def _drawn(best: jax.Array, indices: jax.Array, log_proposals: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """What `gumbel_top_k` returns, of the largest sums, one more than are drawn where there is one."""
    threshold = best[k] if len(best) > k else -jnp.inf
    drawn = best[:k] > -jnp.inf
    exponent = jnp.where(drawn, log_proposals[:k], log_proposals[0]) - threshold
    indices = jnp.where(drawn, indices[:k], indices[0])
    log_inclusion = jnp.where(
        exponent < _SMALL_EXPONENT, exponent - 0.5 * jnp.exp(exponent), jnp.log(-jnp.expm1(-jnp.exp(exponent)))
    )
    return indices, jnp.where(drawn, log_inclusion, jnp.inf)


def uniform(
    key: jax.Array, scores: jax.Array, prior: jax.Array, k: int, over: Parts = WHOLE
) -> tuple[jax.Array, jax.Array]:
    """Every candidate with the same chance, and the weight candidates / k. See `Sampler`."""
    mask = eligible(scores, prior)
    indices, log_inclusion = gumbel_top_k(key, jnp.where(mask, 0.0, -jnp.inf), k, over)
    # The chance of each, k / candidates, is known: better than what the threshold says of it.
    count = over.total(mask).astype(jnp.float32)
    log_weights = jnp.log(jnp.maximum(count, 1.0)) - jnp.log(jnp.clip(count, 1.0, k))
    return indices, jnp.where(log_inclusion < jnp.inf, log_weights, -jnp.inf)


def in_batch(
    key: jax.Array, scores: jax.Array, prior: jax.Array, k: int, over: Parts = WHOLE
) -> tuple[jax.Array, jax.Array]:
    """The other anchors' updates: `uniform` of a pool of these, or of scores that `within_batch` restricted.

    With k = batch - 1 there is nothing to draw: all of them, each with the weight 1.
    """
    return uniform(key, scores, prior, k, over)


def within_batch(scores: jax.Array, positives: jax.Array) -> jax.Array:
    """Leaves in the pool what is another anchor's positive.

    Args:
      scores: float32 `[batch, pool]`.
      positives: int32 `[batch]`, the index of each anchor's own update.

    Returns:
      float32 `[batch, pool]`: the scores, -inf for all that is nobody's positive, and for the anchor's own.
    """
    candidates = jnp.arange(scores.shape[1])
    somebodys = jnp.zeros(scores.shape[1], bool).at[positives].set(True)
    return jnp.where(somebodys[None] & (candidates[None] != positives[:, None]), scores, -jnp.inf)


def hard(
    key: jax.Array, scores: jax.Array, prior: jax.Array, k: int, over: Parts = WHOLE
) -> tuple[jax.Array, jax.Array]:
    """The top scores, the first index first where they are equal, each with the weight 1; no chance. See `Sampler`."""
    del key
    masked = jax.lax.stop_gradient(jnp.where(eligible(scores, prior), scores, -jnp.inf))
    best, indices = over.top_k(masked, k)
    drawn = best > -jnp.inf
    return jnp.where(drawn, indices, indices[0]), jnp.where(drawn, 0.0, -jnp.inf)


def mixed(
    key: jax.Array, scores: jax.Array, prior: jax.Array, k: int, over: Parts = WHOLE
) -> tuple[jax.Array, jax.Array]:
    """The real negatives of MoCHi (arXiv 2010.01028): a `uniform` draw, its hardest first. See `Sampler`.

    The synthetic negatives are mixed of the leading ones and have no index: `mixtures` says of which, and
    `contrastive.mixed_embeddings` makes them.
    """
    indices, log_weights = uniform(key, scores, prior, k, over)
    drawn_scores = jax.lax.stop_gradient(jnp.where(log_weights > -jnp.inf, over.at(scores, indices), -jnp.inf))
    order = jnp.argsort(-drawn_scores)
    return indices[order], log_weights[order]


def mixtures(key: jax.Array, hardest: int, pairs: int, with_anchor: int) -> Mixtures:
    """Draws of what the synthetic negatives of MoCHi (arXiv 2010.01028) are mixed.

    Args:
      key: a PRNG key.
      hardest: how many of the leading negatives are mixed (the paper's N).
      pairs: mixtures of two of them, with a share in (0, 1) (s).
      with_anchor: mixtures of one of them and the anchor, whose share is in (0, 0.5) (s').
    """
    first_key, second_key, share_key, anchor_key = jax.random.split(key, 4)
    count = pairs + with_anchor
    first = jax.random.randint(first_key, (count,), 0, hardest)
    # Another one: mixed with itself a negative would be a copy.
    second = (first + jax.random.randint(second_key, (count,), 1, max(hardest, 2))) % hardest
    is_pair = jnp.arange(count) < pairs
    share = jnp.where(is_pair, jax.random.uniform(share_key, (count,)), 1.0)
    anchor_share = jnp.where(is_pair, 0.0, jax.random.uniform(anchor_key, (count,), maxval=0.5))
    return Mixtures(first, second, share, anchor_share)


def debiased(
    key: jax.Array, scores: jax.Array, prior: jax.Array, k: int, over: Parts = WHOLE
) -> tuple[jax.Array, jax.Array]:
    """The draw of DCL (arXiv 2007.00224): `uniform`. See `Sampler`.

    What makes it debiased is in the loss, `contrastive.debiased_info_nce`: `positive_mass` times the positive's term
    stands for the false negatives and is taken away.
    """
    return uniform(key, scores, prior, k, over)


def positive_mass(scores: jax.Array, prior: jax.Array, over: Parts = WHOLE) -> tuple[jax.Array, jax.Array]:
    """How many false negatives, and true ones, the prior expects in a pool (N tau+ and N tau- of arXiv 2007.00224).

    Args:
      scores: float32 `[pool]`.
      prior: float32 `[pool]`.
      over: the pool.

    Returns:
      Two float32 scalars.
    """
    mask = eligible(scores, prior)
    false = over.total(jnp.where(mask, prior, 0.0))
    return false, over.total(mask) - false


def bayesian(
    key: jax.Array, scores: jax.Array, prior: jax.Array, k: int, over: Parts = WHOLE, hardness: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Hard true negatives: k without replacement in proportion to `posterior * exp(hardness * score)`. See `Sampler`.

    The posterior is `log_posterior` of the scores' F (`unmixed` of `cdf_logit`) and of the prior.

    A candidate weighs posterior / (its chance to be drawn), the density wanted over the density drawn from. BCL (arXiv
    2301.11673, beta = 1/2) wants the same, the true negatives, and draws uniformly. Here the draw itself is hard, which
    changes the variance of the sum and not its expectation. With `hardness` 1 it is in proportion to the very terms
    that are summed, and few are enough; with 0 it is debiased only.

    Args:
      key: see `Sampler`.
      scores: see `Sampler`.
      prior: see `Sampler`.
      k: see `Sampler`.
      over: see `Sampler`.
      hardness: how much more often a higher score is drawn, per unit of score.

    Returns:
      See `Sampler`.
    """
    scores, prior = jax.lax.stop_gradient((scores, prior))
    mask = eligible(scores, prior)
    prior = jnp.where(mask, prior, 0.0)
    candidates = over.total(mask)
    mean = over.total(prior) / jnp.maximum(candidates, 1)
    if over.axes:

        def judge(below, scores, prior):
            log_true = log_posterior(unmixed(_log_odds(below, 2 * candidates - below), mean), prior)
            return log_true, log_true + hardness * jnp.where(jnp.isfinite(scores), scores, 0.0)

        noise, numbers = over.gumbel(key, len(scores), scores.dtype), _whole_numbers(scores)
        best, indices, log_true, log_proposals = ranks.top_proposals(
            judge, noise, scores, numbers, prior, mask, k + 1, over
        )
        indices, log_inclusion = _drawn(best, indices, log_proposals, k)
        return indices, jnp.where(log_inclusion < jnp.inf, log_true[:k], 0.0) - log_inclusion
    log_true = log_posterior(unmixed(cdf_logit(scores, mask), mean), prior)
    log_proposals = jnp.where(mask, log_true + hardness * jnp.where(mask, scores, 0.0), -jnp.inf)
    indices, log_inclusion = gumbel_top_k(key, log_proposals, k, over)
    return indices, log_true[indices] - log_inclusion


SAMPLERS: dict[str, Sampler] = {
    "uniform": uniform,
    "in_batch": in_batch,
    "hard": hard,
    "mixed": mixed,
    "debiased": debiased,
    "bayesian": bayesian,
}
