"""What a filter is, and the cleaning of updates with several."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from cd_jax.types import Example, Update


class Filter(Protocol):
    """Rejects updates (arXiv 2212.11353, section 4: what comes of cleaning them).

    Attributes:
      name: begins the reason on a rejected record.
    """

    name: str

    def reason(self, example: Example, update: Update, kept: Sequence[Update]) -> str:
        """Why an update is rejected.

        Args:
          example: that it explains.
          update: one of its updates.
          kept: those of the example that were kept before it.

        Returns:
          A few words; empty where it is kept.
        """
        ...


class Cleaned(NamedTuple):
    """Updates, parted.

    Attributes:
      kept: in their order.
      rejected: in theirs, with `reason`, `NAME: WORDS` of the first filter that rejects it.
    """

    kept: list[Update]
    rejected: list[Update]


def clean(examples: Mapping[str, Example], updates: Sequence[Update], filters: Sequence[Filter]) -> Cleaned:
    """Parts updates into those that all filters let pass and the others.

    Args:
      examples: by `example_id`.
      updates: of these examples; what one of them says decides nothing about those of another.
      filters: in the order in which they are asked.

    Raises:
      KeyError: an update is of no example.
    """
    kept_of: dict[str, list[Update]] = {}
    found = Cleaned([], [])
    for update in updates:
        kept = kept_of.setdefault(update.example_id, [])
        if reason := _reason(examples[update.example_id], update, kept, filters):
            found.rejected.append(dataclasses.replace(update, reason=reason))
        else:
            kept.append(update)
            found.kept.append(update)
    return found


def _reason(example: Example, update: Update, kept: Sequence[Update], filters: Sequence[Filter]) -> str:
    for one in filters:
        if said := one.reason(example, update, kept):
            return f"{one.name}: {said}"
    return ""
