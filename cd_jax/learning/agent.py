"""An agent: its five policies, composed in one gin file, `gin/agents/NAME.gin`."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import gin

from cd_jax.config.ranges import NonNegativeFloat, PositiveInt
from cd_jax.feed.lessons import LessonForm
from cd_jax.learning.selecting import MostInformative
from cd_jax.memory.values import MemoryValue
from cd_jax.proposal.iterator import DeterministicIterator
from cd_jax.step.terms import Term
from cd_jax.update.filters.filter import Filter
from cd_jax.update.policy import UpdatePolicy
from cd_jax.update.selection import Selection
from cd_jax.verifier import answers


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Rounds:
    """The turns of the self-learning process, and what the solver does before each but the first.

    Attributes:
      number: of them.
      examples: of the source that the solver attempts before a round.
      samples: attempts at each.
      temperature: of the draws.
      lessons: drawn from the updates of `all` rounds so far, or of the `last` that has some of an example.
    """

    number: PositiveInt = 1
    examples: PositiveInt = 256
    samples: PositiveInt = 4
    temperature: NonNegativeFloat = 1.0
    lessons: Literal["all", "last"] = "all"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Agent:
    """The five policies of the self-learning process (arXiv 2212.11353, section 2), and what joins them.

    Attributes:
      name: of its gin file.
      lesson: what is learnt of an example and its updates.
      value: what is remembered of them; None: the agent has no memory.
      update: makes the policy that writes updates; None: the agent has none, and reads none.
      verifier: makes the graded verifier; an answer is correct by exact match.
      terms: of the loss, beside the cross-entropy.
      filters: of the updates that are written in rounds; those before the first are `distill`'s.
      selection: which of an example's updates are learnt and remembered; None: all.
      proposal: makes the order of the examples, see `DeterministicIterator`.
      rounds: of the process.
    """

    name: str
    lesson: LessonForm
    value: MemoryValue | None = None
    update: Callable[[], UpdatePolicy] | None = None
    verifier: Callable[[], answers.Verifier] = answers.ChrF
    terms: Sequence[Term] = ()
    filters: Sequence[Filter] = ()
    selection: Selection | MostInformative | None = None
    proposal: Callable[..., DeterministicIterator] = DeterministicIterator
    rounds: Rounds = Rounds()  # Frozen.
