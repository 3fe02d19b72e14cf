"""Proposals of the Bayesian sampler over a pool that lies on many devices, drawn exactly without sorting all of it.

A candidate's posterior depends on its rank among all candidates, which no device knows. Each device sorts its own
scores; a few of them, of all devices, and how many candidates of the whole pool are below each, bound every rank from
below, and so every proposal from above. The candidates with the largest bounds are ranked exactly, by asking all
devices how many of theirs are below them, until no other can be among the largest. One round nearly always does: where
bounds are off by log 2, twice as many are asked for as are drawn.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cd_jax.memory.negatives.parts import Parts

# Of twice the mid-rank `below`, of scores and priors: the logarithms of the posterior and of the proposal.
Judge = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]

# Scores that bound the ranks, of all devices together.
_BOUNDS = 128
# By how much rounding may lower a bound: absolutely, and of its size.
_SLACK = 1e-3, 1e-5


def top_proposals(
    judge: Judge, noise: jax.Array, scores: jax.Array, ranks: jax.Array, prior: jax.Array, mask: jax.Array, k: int,
    over: Parts,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """The k largest sums of a proposal and its noise, of the whole pool.

    Args:
      judge: falls with `below`.
      noise: float32 `[own rows]`.
      scores: float32 `[own rows]`.
      ranks: int32 `[own rows]`, in the order of the scores.
      prior: float32 `[own rows]`.
      mask: bool `[own rows]`, the candidates.
      k: how many.
      over: the pool.

    Returns:
      Of each, the largest first: the sum (minus infinity where there are no more), the row, the logarithms of posterior
      and proposal; `[k]`.
    """
    ordered = jnp.sort(jnp.where(mask, ranks, jnp.iinfo(jnp.int32).max))
    own_candidates = mask.sum()
    least = _least_below(ordered, ranks, own_candidates, over)
    bounds = jnp.where(mask, judge(least, scores, prior)[1] + noise, -jnp.inf)
    own_rows = len(scores)
    some = min(2 * k, own_rows)
    first = over.first(own_rows)

    def look(found):
        best, bounds, _ = found
        reached, own = jax.lax.top_k(bounds, some)
        bounds = bounds.at[own].set(-jnp.inf)
        asked = over.gathered((own + first, reached, noise[own], scores[own], prior[own], ranks[own]))
        rows, reached, its_noise, its_scores, its_prior, its_ranks = asked
        below = over.summed(_below(ordered, its_ranks, own_candidates))
        log_true, log_proposals = judge(below, its_scores, its_prior)
        value = jnp.where(reached > -jnp.inf, log_proposals + its_noise, -jnp.inf)
        met = (-value, rows, log_true, log_proposals)
        # Of equal ones the first row, as of a pool that is whole.
        joined = [jnp.concatenate(pair) for pair in zip(best, met, strict=True)]
        best = tuple(column[:k] for column in jax.lax.sort(joined, num_keys=2))
        left = over.largest(bounds.max())
        left += _SLACK[0] + _SLACK[1] * jnp.abs(left)
        return best, bounds, (left > -jnp.inf) & (left >= -best[0][-1])

    nothing = jnp.zeros(k, jnp.float32)
    none = (jnp.full(k, jnp.inf), jnp.full(k, jnp.iinfo(jnp.int32).max), nothing, nothing)
    best, _, _ = jax.lax.while_loop(lambda found: found[2], look, (none, bounds, jnp.array(True)))
    return -best[0], best[1], best[2], best[3]


def _below(ordered: jax.Array, ranks: jax.Array, own_candidates: jax.Array) -> jax.Array:
    """How many of a device's candidates are below each of some ranks, and how many not above, added up."""
    both = [jnp.searchsorted(ordered, ranks, side=side) for side in ("left", "right")]
    return jnp.minimum(jnp.stack(both), own_candidates).sum(0)


def _least_below(ordered: jax.Array, ranks: jax.Array, own_candidates: jax.Array, over: Parts) -> jax.Array:
    """What `below` of each candidate is at least: of the next bound below it, and itself."""
    # Densest at the top, where a rank more or less changes the posterior most.
    places = np.unique(np.geomspace(1, max(len(ordered), 2), 48).astype(np.int32)) - 1
    bounds = ordered[jnp.maximum(own_candidates - 1 - places, 0)]
    bounds = -jnp.sort(-over.gathered(bounds))
    if len(bounds) > _BOUNDS:
        dense = len(bounds) // len(places)
        chosen = np.union1d(np.arange(min(dense, _BOUNDS // 2)), np.linspace(0, len(bounds) - 1, _BOUNDS // 2))
        bounds = bounds[chosen.astype(np.int32)]
    bounds = bounds[::-1]
    below = over.summed(jnp.minimum(jnp.searchsorted(ordered, bounds, side="left"), own_candidates))
    more = 2 * jnp.diff(below, prepend=0)
    return 1 + jnp.where(bounds[None] <= ranks[:, None], more[None], 0).sum(-1)
