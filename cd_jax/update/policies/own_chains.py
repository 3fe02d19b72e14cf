"""The solver as its own teacher: chains of reasoning that led it to the right answer (STaR, arXiv 2203.14465)."""

import collections
from collections.abc import Iterator, Sequence

import gin

from cd_jax.config.ranges import PositiveInt
from cd_jax.feed import formats
from cd_jax.rundir import files
from cd_jax.types import Attempt, Update
from cd_jax.update.policy import Asked

# Who writes; a phrasing stands where other updates name their prompt.
_NAME, _PROMPT = "own_chains", "chain"


@gin.configurable
class OwnChains:
    """What the solver said before right answers becomes updates (STaR, arXiv 2203.14465, without rationalisation).

    Chains of the round's attempts are taken whose answers are right by exact match; those that were sampled more often
    come first. Examples without such a chain get no update in the round. In the first round nothing was attempted yet,
    and the updates of `cd_jax distill` serve. Protocol class T0: the labels are the source's, in training.

    Attributes:
      name: who writes.
      seed: nothing is drawn here; that of the updates' records.
      wanted: chains of an example in a round, at most.
    """

    name, seed = _NAME, 0

    def __init__(self, num_updates: PositiveInt = 3):
        """Writes nothing yet.

        Args:
          num_updates: chains of an example in a round, at most.
        """
        self.wanted = num_updates
        self._examples = self._explained = 0

    def write(self, asked: Sequence[Asked], number: int, directory: files.Path) -> Iterator[list[Update]]:
        """See `UpdatePolicy`; chains that earlier rounds have as updates are left out."""
        self._examples = self._explained = 0
        for one in asked:
            found = self._of_example(one, number)
            self._examples += 1
            self._explained += bool(found)
            yield found

    def _of_example(self, one: Asked, number: int) -> list[Update]:
        before = [update for update in one.known if update.round < number]
        first = 1 + max((update.sample for update in before), default=-1)
        there = {update.sample for update in one.known if update.round == number}
        texts = {update.update for update in before}
        fresh = [chain for chain in _chains(one.attempts) if chain not in texts][: self.wanted]
        score = max((attempt.score for attempt in one.attempts if attempt.correct), default=None)
        name, task = one.example.example_id, one.example.task
        return [
            Update(name, task, chain, self.name, _PROMPT, sample, self.seed, score, "", number)
            for sample, chain in enumerate(fresh, first)
            if sample not in there
        ]

    def odd(self) -> str:
        """Of how many examples a chain led to the right answer."""
        return f"; {self._explained} of {self._examples} examples have a chain that led to the right answer"


def _chains(attempts: Sequence[Attempt]) -> list[str]:
    """What was said before right answers, each once, the commonest first."""
    said = [formats.parse_update(attempt.generation) for attempt in attempts if attempt.correct]
    return [chain for chain, _ in collections.Counter(said).most_common() if chain]
