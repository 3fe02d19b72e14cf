"""Information gain: how much better the solver knows an answer when it is given an update (arXiv 2212.11353).

    IG(u; y) = log p(y | x, u) - log p(y | x), the mean over the answer's tokens and its end of sequence, in nats

An agent with memory reads u in a passage; one without has said it, before the answer.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cd_jax.learning.likelihood import Likelihood
from cd_jax.types import Example
from cd_jax.update import constraints

# An example, and an update that is given to the solver with it.
Pair = tuple[Example, str]
Numbers = dict[str, Any]


def gains(likelihood: Likelihood, pairs: Sequence[Pair], place: int = 0) -> np.ndarray:
    """The information gain of each update about its example's answer.

    Args:
      likelihood: of the solver.
      pairs: examples, each with an update.
      place: of the passage in which an update is read.

    Returns:
      float32 `[pairs]`; above 0 where the update helps.
    """
    # What is asked without an update is asked once, however many updates there are of it.
    alone = {(example.prompt, example.answer): likelihood.explained(example, "") for example, _ in pairs}
    numbers = {key: number for number, key in enumerate(alone)}
    owners = [numbers[example.prompt, example.answer] for example, _ in pairs]
    given = [likelihood.explained(example, update, place) for example, update in pairs]
    return likelihood.losses(list(alone.values()))[owners] - likelihood.losses(given)


def measured(likelihood: Likelihood, pairs: Sequence[Pair], seed: int) -> Numbers:
    """What is recorded of a set of updates.

    Args:
      likelihood: of the solver.
      pairs: examples, each with an update, at least one.
      seed: of what is permuted.

    Returns:
      `gain`, the mean, `positive`, the share that is above 0, and `n`; `length` and `compression`, see `constraints`;
      and sensitivity to positions, where there are several: `sentences`, the mean of the absolute change of the gain
      when the sentences of a context are put into another order, and `passages`, the mean of the largest gain less the
      smallest one over the passages in which an update may stand.
    """
    found = gains(likelihood, pairs)
    updates, prompts = [update for _, update in pairs], [example.prompt for example, _ in pairs]
    numbers = {
        "gain": float(found.mean()),
        "positive": float((found > 0).mean()),
        "n": len(pairs),
        "length": constraints.length(updates, likelihood.vocabulary),
        "compression": constraints.compression(updates, prompts, likelihood.vocabulary),
    }
    random = np.random.default_rng((seed, 7))
    told = [(i, other) for i, (example, _) in enumerate(pairs) if (other := permuted(example, random)) is not None]
    if told:
        moved = gains(likelihood, [(other, updates[i]) for i, other in told])
        numbers["sentences"] = float(np.abs(moved - found[[i for i, _ in told]]).mean())
    if likelihood.passages > 1:
        others = [gains(likelihood, pairs, place) for place in range(1, likelihood.passages)]
        numbers["passages"] = float(np.ptp(np.stack([found, *others]), axis=0).mean())
    return numbers


def permuted(example: Example, random: np.random.Generator) -> Example | None:
    """The example with the sentences of its context in another order; None where there is none."""
    sentences = example.sentences
    if len(set(sentences)) < 2:
        return None
    while (order := random.permutation(sentences).tolist()) == sentences:
        pass
    return dataclasses.replace(example, context=" ".join(order))
