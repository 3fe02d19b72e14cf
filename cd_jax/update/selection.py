"""Which of an example's updates are used: all of them, as in the paper, or the best."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import gin

from cd_jax.config.ranges import PositiveInt
from cd_jax.errors import RequestError
from cd_jax.types import Example, Update
from cd_jax.verifier.answers import ChrF, Verifier

# Of an example's updates.
Scores = Callable[[Example, Sequence[Update]], Sequence[float]]


class Selection(Protocol):
    """Chooses among the updates of an example that were kept."""

    def __call__(self, example: Example, updates: Sequence[Update]) -> list[Update]:
        """Those that are used, in the order in which they were given; at least one where there is one."""
        ...


@gin.configurable
def uniform(example: Example, updates: Sequence[Update]) -> list[Update]:
    """All of them: one is drawn uniformly at every epoch (arXiv 2212.11353, section 3)."""
    return list(updates)


@gin.configurable
class BestOfK:
    """The best of them by a score."""

    def __init__(
        self,
        number: PositiveInt = 1,
        by: Literal["log_prob", "reference"] | Scores = "reference",
        verifier: Callable[[], Verifier] = ChrF,
    ):
        """Chooses nothing yet.

        Args:
          number: that are used.
          by: `log_prob`, under the teacher (one that is not known is the worst); `reference`, the verifier's score
            against the reasons that the data gives; or a function that scores an example's updates.
          verifier: makes that of `reference`.

        Raises:
          RequestError: `by` is none of these.
        """
        self._number = number
        named: dict[str, Scores] = {"log_prob": _log_probs, "reference": _Against(verifier())}
        if isinstance(by, str) and by not in named:
            raise RequestError(f"--gin.BestOfK.by={by!r} is none of {', '.join(map(repr, named))}; bind one, or @NAME")
        self._scores = named[by] if isinstance(by, str) else by

    def __call__(self, example: Example, updates: Sequence[Update]) -> list[Update]:
        """See `Selection`; of equal ones the first."""
        scores = self._scores(example, updates)
        best = sorted(range(len(updates)), key=lambda i: -scores[i])[: self._number]
        return [updates[i] for i in sorted(best)]


@gin.configurable
class Diverse:
    """Those that have least in common: the first, then always the one whose nearest chosen one is the farthest away
    (Gonzalez 1985)."""

    def __init__(self, number: PositiveInt = 2):
        """Chooses nothing yet.

        Args:
          number: that are used.
        """
        self._number = number

    def __call__(self, example: Example, updates: Sequence[Update]) -> list[Update]:
        """See `Selection`."""
        words = [frozenset(update.update.lower().split()) for update in updates]
        chosen = [0] if updates else []
        while len(chosen) < min(self._number, len(updates)):
            left = [i for i in range(len(updates)) if i not in chosen]
            chosen.append(max(left, key=lambda i: min(_distance(words[i], words[j]) for j in chosen)))
        return [updates[i] for i in sorted(chosen)]


class _Against:
    """Scores against the best of the reasons that the data gives; the same for all where it gives none."""

    def __init__(self, verifier: Verifier):
        self._verifier = verifier

    def __call__(self, example: Example, updates: Sequence[Update]) -> list[float]:
        references = example.reasons
        return [max(self._verifier([one.update] * len(references), references), default=0.0) for one in updates]


def _log_probs(example: Example, updates: Sequence[Update]) -> list[float]:
    if all(update.log_prob is None for update in updates):
        raise RequestError(
            f"no update of {example.example_id} has a log-probability: distill with "
            "--gin.TeacherSampling.log_probs=True, or bind BestOfK.by='reference'"
        )
    return [float("-inf") if update.log_prob is None else update.log_prob for update in updates]


def _distance(one: frozenset[str], other: frozenset[str]) -> float:
    return 1 - len(one & other) / max(len(one | other), 1)
