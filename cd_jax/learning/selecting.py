"""Selection of updates by information gain, which takes the solver: the other ways are in `update.selection`."""

from collections.abc import Callable, Sequence

import gin
import msgspec
import numpy as np
from etils import epath

from cd_jax.config.ranges import PositiveInt
from cd_jax.learning.gain import Pair
from cd_jax.rundir import hosts, journal
from cd_jax.types import Example, Update
from cd_jax.update.selection import BestOfK, Selection

_NAME = "gain-round{}.jsonl"
Gains = Callable[[Sequence[Pair]], np.ndarray]


@gin.configurable
class MostInformative:
    """The updates that help the solver most to know the answer, as its parameters are when a round begins (information
    gain, arXiv 2212.11353). Before a round in which the solver knows nothing yet, that says little."""

    def __init__(self, number: PositiveInt = 1):
        """Chooses nothing yet.

        Args:
          number: that are used of each example, and round in which they were written.
        """
        self.number = number


class _Gain(msgspec.Struct, frozen=True):
    example_id: str
    sample: int
    gain: float


def select(
    selection: Selection | MostInformative | None,
    examples: Sequence[Example],
    updates: Sequence[Update],
    gains: Gains,
    directory: epath.Path,
    number: int,
) -> list[Update]:
    """The updates that are used in a round, of each example and round in which they were written.

    Args:
      selection: chooses; None: all are used.
      examples: of the updates.
      updates: of all rounds so far.
      gains: information gain of pairs, with the parameters of the moment; float `[pairs]`.
      directory: of the run, in which gains are kept: a run that is taken up within a round has other parameters.
      number: of the round.
    """
    if selection is None:
        return list(updates)
    of_id = {example.example_id: example for example in examples}
    if isinstance(selection, MostInformative):
        kept = _gains(of_id, updates, gains, directory / _NAME.format(number))
        known = {(one.example_id, one.sample): one.gain for one in kept}
        selection = BestOfK(selection.number, lambda _, group: [known[u.example_id, u.sample] for u in group])
    groups: dict[tuple[int, str], list[Update]] = {}
    for update in updates:
        groups.setdefault((update.round, update.example_id), []).append(update)
    return [one for (_, name), group in groups.items() for one in selection(of_id[name], group)]


def _gains(of_id: dict[str, Example], updates: Sequence[Update], gains: Gains, path: epath.Path) -> list[_Gain]:
    """Of each update: those that are kept, or those of the moment, which are then kept."""
    if not path.exists():
        found = gains([(of_id[update.example_id], update.update) for update in updates]).tolist()
        lines = [_Gain(update.example_id, update.sample, gain) for update, gain in zip(updates, found, strict=True)]
        hosts.first("gains", lambda: journal.write(path, map(msgspec.structs.asdict, lines)))
    return journal.read(path, _Gain, lambda one: one, "a gain of an update", "delete the file: it is made anew")
