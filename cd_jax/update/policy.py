"""What an update policy is: what writes updates in a round."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from cd_jax.types import Attempt, Example, Update


class UpdatePolicy(Protocol):
    """Writes updates (arXiv 2212.11353, section 2): a teacher that is asked, the solver itself, a filter, a vote.

    Attributes:
      name: who writes.
      seed: of what is drawn.
      wanted: updates of an example in a round, at most.
      chunk: examples whose updates are put on disk together; 1 where each is paid for.
    """

    name: str
    seed: int
    wanted: int
    chunk: int

    def key(self, example: Example, attempts: Sequence[Attempt]) -> tuple[str, str, str]:
        """What the updates depend on: the example's id, the name, and a hash of all else where it has one. Who had no
        more to say under a key is not asked again."""
        ...

    def write(
        self, example: Example, attempts: Sequence[Attempt], known: Sequence[Update], number: int
    ) -> Iterator[Update]:
        """Writes what is missing of an example's updates in a round.

        Args:
          example: what is explained.
          attempts: the solver's in this round; none in the first one.
          known: its updates so far, of all rounds, none of which counts again.
          number: of the round.
        """
        ...

    def odd(self) -> str:
        """What is to be said at the end, such as requests that brought nothing; empty where there is nothing."""
        ...
