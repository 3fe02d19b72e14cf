"""The prior that a candidate is a false negative, learnt online from what the verifier says.

A memory is a false negative of an anchor where it belongs to the anchor's class: where it, too, would have led to the
anchor's right answer. Two things are counted.

- How common the anchor's class is: a Dirichlet-multinomial over tasks, and over the answers of each task. Its
  predictive probability of the anchor's task and answer is the prior before anything is known of a candidate: a `yes`
  has many false negatives, a rare place has few (arXiv 2204.06520 takes an item's popularity, likewise).
- What the labels of a candidate are worth: of retrieved memories that have the anchor's task or not, and its answer or
  not (the `RELATIONS`), how many led to a right answer. This is a Dirichlet-multinomial with two outcomes for each task
  of an anchor and each relation. Its mean before any evidence is that of all tasks together, so that a new task starts
  from what the others have shown; and theirs, before any evidence, is the frequency of the class.

Retrieved memories are no random sample: they are at the top of the scores, where right ones are common. Under the model
of the posterior (`negatives.log_posterior`) a memory at F of the scores' distribution is right with odds
`p / (1 - p) * F / (1 - F)`. A right answer therefore counts `1 - F` and a wrong one `F`: their expectations are in the
ratio of p to 1 - p wherever the memories were taken from, and no weight exceeds 1. Where the model does not hold, p is
such that the posterior is right at the ranks that were retrieved, and it is there that hard negatives come from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

RELATIONS = ("neither", "same answer", "same task", "same task and answer")

# A prior of 0 or 1 would never be revised by any score; 1 also means that a candidate is not in the pool.
_SURE = 1e-6


class Prior(NamedTuple):
    """Counts; a pytree.

    Attributes:
      answers: float32 `[tasks, answers]`, how often the memory holds each answer of each task.
      right: float32 `[tasks, relations]`, weight of retrieved memories that led to a right answer, by
        the anchor's task.
      wrong: float32 `[tasks, relations]`, weight of those that did not.
    """

    answers: jax.Array
    right: jax.Array
    wrong: jax.Array


def empty(num_tasks: int, num_answers: int) -> Prior:
    """Nothing counted yet."""
    evidence = jnp.zeros((num_tasks, len(RELATIONS)), jnp.float32)
    return Prior(jnp.zeros((num_tasks, num_answers), jnp.float32), evidence, evidence)


def count(prior: Prior, tasks: jax.Array, answers: jax.Array, weights: jax.Array) -> Prior:
    """Counts memories that were added; with negative weights, those evicted.

    Args:
      prior: before.
      tasks: int32 `[memories]`.
      answers: int32 `[memories]`.
      weights: float32 `[memories]`; 1 each, 0 for padding.
    """
    return prior._replace(answers=prior.answers.at[tasks, answers].add(weights))


def relation(anchor_task: jax.Array, anchor_answer: jax.Array, tasks: jax.Array, answers: jax.Array) -> jax.Array:
    """Which of `RELATIONS` each memory has to the anchor: int32 of the arrays' common shape."""
    return 2 * (anchor_task == tasks).astype(jnp.int32) + (anchor_answer == answers)


def learn(
    prior: Prior, anchor_tasks: jax.Array, relations: jax.Array, scores: jax.Array, cdf_logits: jax.Array
) -> Prior:
    """Learns from retrieved memories, one for each anchor.

    Args:
      prior: before.
      anchor_tasks: int32 `[anchors]`; beyond the last task nothing is learnt, so that a batch can be filled up.
      relations: int32 `[anchors]`, of `relation`, between each anchor and the memory retrieved for it.
      scores: float32 `[anchors]`, what the verifier gave the answer: 1 right, 0 wrong, and all between.
      cdf_logits: float32 `[anchors]`, of the retrieved memory among the anchor's scores, as the posterior takes it
        (`negatives.unmixed` of `negatives.cdf_logit_of`).
    """
    cdf = jax.nn.sigmoid(cdf_logits)
    return prior._replace(
        right=prior.right.at[anchor_tasks, relations].add(scores * (1.0 - cdf), mode="drop"),
        wrong=prior.wrong.at[anchor_tasks, relations].add((1.0 - scores) * cdf, mode="drop"),
    )


def class_frequency(prior: Prior, task: jax.Array, answer: jax.Array, concentration: float = 1.0) -> jax.Array:
    """The probability that the next memory has this task and answer.

    Args:
      prior: the counts.
      task: int32 scalar.
      answer: int32 scalar.
      concentration: of both symmetric Dirichlet distributions, in memories, over all their categories together.
    """
    num_tasks, num_answers = prior.answers.shape
    of_task = prior.answers.sum(-1)
    task_share = (of_task[task] + concentration / num_tasks) / (of_task.sum() + concentration)
    answer_share = (prior.answers[task, answer] + concentration / num_answers) / (of_task[task] + concentration)
    return task_share * answer_share


def false_negative(
    prior: Prior,
    anchor_task: jax.Array,
    anchor_answer: jax.Array,
    tasks: jax.Array,
    answers: jax.Array,
    concentration: float = 1.0,
) -> jax.Array:
    """The prior probability that each memory is a false negative of one anchor; `jax.vmap` it over a batch.

    Args:
      prior: the counts.
      anchor_task: int32 scalar.
      anchor_answer: int32 scalar.
      tasks: int32 `[pool]`.
      answers: int32 `[pool]`.
      concentration: what each distribution's mean before evidence counts against evidence, in observations.

    Returns:
      float32 `[pool]`, inside (0, 1).
    """
    before = class_frequency(prior, anchor_task, anchor_answer, concentration)
    everywhere = _shrunk(prior.right.sum(0), prior.wrong.sum(0), before, concentration)
    here = _shrunk(prior.right[anchor_task], prior.wrong[anchor_task], everywhere, concentration)
    return jnp.clip(here[relation(anchor_task, anchor_answer, tasks, answers)], _SURE, 1.0 - _SURE)


def _shrunk(right: jax.Array, wrong: jax.Array, mean: jax.Array, concentration: float) -> jax.Array:
    return (right + concentration * mean) / (right + wrong + concentration)
