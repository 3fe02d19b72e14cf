"""What an update policy is: what writes updates in a round."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

from cd_jax.rundir import files
from cd_jax.types import Attempt, Example, Update


@dataclasses.dataclass(frozen=True)
class Asked:
    """An example that lacks updates in a round.

    Attributes:
      example: what is explained.
      attempts: the solver's in this round; none in the first one.
      known: its updates so far, of all rounds, none of which counts again.
    """

    example: Example
    attempts: Sequence[Attempt] = ()
    known: Sequence[Update] = ()


class UpdatePolicy(Protocol):
    """Writes updates (arXiv 2212.11353, section 2): a teacher that is asked, the solver itself, a vote.

    Attributes:
      name: who writes.
      seed: of what is drawn.
      wanted: updates of an example in a round, at most.
    """

    name: str
    seed: int
    wanted: int

    def write(self, asked: Sequence[Asked], number: int, directory: files.Path) -> Iterator[list[Update]]:
        """Writes what is missing of the examples' updates in a round.

        Args:
          asked: the examples.
          number: of the round.
          directory: of the run, for what must be kept beside the updates, e.g. answers that were paid for.

        Yields:
          The new updates of each example, in their order; they are on disk before the next are asked for.
        """
        ...

    def odd(self) -> str:
        """What is to be said at the end, such as requests that brought nothing; empty where there is nothing."""
        ...
