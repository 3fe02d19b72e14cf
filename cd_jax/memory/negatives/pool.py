"""The memory as a pool of negatives: what is known of each candidate, the draw, and what the verifier teaches of it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from cd_jax.losses import contrastive
from cd_jax.memory.layout import Layout
from cd_jax.memory.negatives import prior, samplers
from cd_jax.memory.negatives.parts import Parts
from cd_jax.memory.negatives.samplers import Sampler


class Labels(NamedTuple):
    """What is known of updates beside their text; each int32 `[...]`.

    Attributes:
      prompts: the same number for the same prompt, of the example that each explains.
      texts: the same number for the same text; -1 where there is no update.
      tasks: of its example.
      answers: of its example.
    """

    prompts: jax.Array
    texts: jax.Array
    tasks: jax.Array
    answers: jax.Array


class Pool(NamedTuple):
    """Candidates, a pytree of arrays that keep their shapes.

    Attributes:
      vectors: float32 `[pool, embed]`, g(u) of each, of length 1; as old as the memory's keys.
      tokens: int32 `[pool, length]`, of each update, padded with 0.
      labels: of each.
    """

    vectors: jax.Array
    tokens: jax.Array
    labels: Labels


class Draw(NamedTuple):
    """Negatives of a batch of anchors.

    Attributes:
      candidates: int32 `[batch, k]`.
      log_weights: float32 `[batch, k]`.
      mass: of false negatives and of true ones, float32 `[batch]` each; see `negatives.positive_mass`.
    """

    candidates: jax.Array
    log_weights: jax.Array
    mass: tuple[jax.Array, jax.Array]


def draw(
    key: jax.Array,
    pool: Pool,
    counts: prior.Prior,
    contexts: jax.Array,
    anchors: Labels,
    sampler: Sampler,
    k: int,
    temperature: float,
    layout: Layout | None = None,
) -> Draw:
    """Draws k negatives for each anchor.

    Args:
      key: a PRNG key.
      pool: the candidates.
      counts: what the prior has learnt.
      contexts: float32 `[batch, embed]`, f(x).
      anchors: of the positives, `[batch]`.
      sampler: of `negatives.SAMPLERS`.
      k: negatives.
      temperature: of the scores.
      layout: where the pool's rows lie; None: they are whole, and none fills them up.
    """
    over = Parts.of(layout)

    def of_part(keys, pool, counts, contexts, anchors):
        scores, prior_ = _judged(pool, counts, contexts, anchors, temperature)
        # Which tells a sampler of a user's own nothing new.
        drawn = functools.partial(sampler, k=k, over=over) if layout else functools.partial(sampler, k=k)
        candidates, log_weights = jax.vmap(drawn)(keys, scores, prior_)
        mass = jax.vmap(functools.partial(samplers.positive_mass, over=over))(scores, prior_)
        return Draw(candidates, log_weights, mass)

    keys = jax.random.split(key, len(contexts))
    return _of_parts(of_part, layout, 1)(keys, pool, counts, contexts, anchors)


def _of_parts(function, layout: Layout | None, place: int):
    """Of a function, one of whose arguments is the pool: each device gives its own rows; the result is everywhere."""
    if layout is None or layout.shards == 1:
        return function

    def call(*arguments):
        whole, along = PartitionSpec(), PartitionSpec(layout.axes)
        # What is not read here does not become a part of it.
        pool = arguments[place]._replace(tokens=())
        specs = tuple(along if i == place else whole for i in range(len(arguments)))
        return layout.map(function, specs, whole)(*arguments[:place], pool, *arguments[place + 1 :])

    return call


def _judged(pool: Pool, counts: prior.Prior, contexts, anchors: Labels, temperature: float):
    """Scores and priors of all candidates, both `[batch, pool]`; own updates, and free rows, are not in the pool."""
    contexts = jax.lax.stop_gradient(contrastive.normalize(contexts))
    scores = jnp.matmul(contexts, pool.vectors.T, precision="highest") / temperature
    labels = pool.labels
    of_anchor = functools.partial(prior.false_negative, tasks=labels.tasks, answers=labels.answers)
    prior_ = jax.vmap(lambda task, answer: of_anchor(counts, task, answer))(anchors.tasks, anchors.answers)
    # The same words are no negative, whoever said them; nor is another explanation of the same prompt.
    own = (labels.texts[None] == anchors.texts[:, None]) | (labels.prompts[None] == anchors.prompts[:, None])
    free = labels.texts[None] < 0
    return jnp.where(free, -jnp.inf, scores), jnp.where(own, 1.0, prior_)


def learn(
    pool: Pool,
    counts: prior.Prior,
    contexts: jax.Array,
    anchors: Labels,
    retrieved: jax.Array,
    scores: jax.Array,
    temperature: float,
    layout: Layout | None = None,
) -> prior.Prior:
    """Learns what retrieved memories say of the prior: one that led to a right answer may be of the anchor's class.

    Args:
      pool: the candidates.
      counts: what the prior has learnt before.
      contexts: float32 `[batch, embed]`, f(x) of what was asked.
      anchors: of what was asked, `[batch]`; texts of -1, where there is no positive.
      retrieved: int32 `[batch, queries]`, of the pool; -1 for none.
      scores: float32 `[batch]`, what the verifier gave the answer, 0..1.
      temperature: of the scores of candidates.
      layout: as of `draw`.
    """
    over = Parts.of(layout)

    def of_part(pool, counts, contexts, anchors, retrieved):
        """Logits of the retrieved, whether each counts, and their tasks and answers; all `[batch, queries]`."""
        of_pool, prior_ = _judged(pool, counts, contexts, anchors, temperature)
        mask = samplers.eligible(of_pool, prior_)
        total, at = jax.vmap(over.total), jax.vmap(over.at)
        mean = total(jnp.where(mask, prior_, 0.0)) / jnp.maximum(total(mask), 1)
        logit_of = functools.partial(samplers.cdf_logit_of, over=over)
        rank = jax.vmap(jax.vmap(logit_of, (0, None, None)), (0, 0, 0))
        logits = samplers.unmixed(rank(retrieved, of_pool, mask), mean[:, None])
        counts_for = (retrieved >= 0) & (at(mask.astype(jnp.int32), retrieved) > 0)
        return logits, counts_for, over.at(pool.labels.tasks, retrieved), over.at(pool.labels.answers, retrieved)

    logits, counts_for, tasks, answers = _of_parts(of_part, layout, 0)(pool, counts, contexts, anchors, retrieved)
    relations = prior.relation(anchors.tasks[:, None], anchors.answers[:, None], tasks, answers)
    # Its own updates, where they may be retrieved, are right without saying anything of others.
    of_anchor = jnp.where(counts_for, anchors.tasks[:, None], len(counts.answers))
    every = jnp.broadcast_to(scores[:, None], retrieved.shape)
    return prior.learn(counts, of_anchor.ravel(), relations.ravel(), every.ravel(), logits.ravel())
