"""What is remembered: from an example and its updates to the entries of a memory.

A memory value is a function that gin can bind to `Agent.value`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import gin
import numpy as np

from cd_jax.feed import formats
from cd_jax.memory.entries import Entry
from cd_jax.types import Example, Update


class MemoryValue(Protocol):
    """What is remembered of an example."""

    def __call__(self, example: Example, updates: Sequence[Update]) -> list[Entry]:
        """Makes entries, whose key is the example's context.

        Args:
          example: what they are about.
          updates: that explain it.
        """
        ...


@gin.configurable
def update_value(example: Example, updates: Sequence[Update]) -> list[Entry]:
    """Each update (arXiv 2212.11353, section 3)."""
    return [
        _entry(example, update.update, update.teacher, update.sample, update.score, update.round) for update in updates
    ]


@gin.configurable
def neighbour_value(example: Example, updates: Sequence[Update]) -> list[Entry]:
    """The example itself, prompt and answer (arXiv 2307.00119)."""
    return [_entry(example, f"{example.prompt} {formats.answer(example.answer)}")]


def _entry(
    example: Example, text: str, teacher: str = "", sample: int = 0, score: float | None = None, number: int = 0
) -> Entry:
    return Entry(
        example_id=example.example_id,
        prompt=example.prompt,
        update=text,
        family=example.family,
        task=example.task,
        answer=example.answer,
        teacher=teacher,
        sample=sample,
        score=score,
        round=number,
    )


def choose_entries(
    examples: Sequence[Example],
    updates: Mapping[str, Sequence[Update]],
    capacity: int,
    seed: int,
    value: MemoryValue = update_value,
) -> list[Entry]:
    """Fills a memory: one entry of every example in a random order, then a second one, until it is full.

    Args:
      examples: that have entries.
      updates: by `example_id`.
      capacity: of the memory.
      seed: of the order.
      value: makes the entries of an example.

    Returns:
      Entries of at most `capacity` different contents.
    """
    order = np.random.default_rng(seed).permutation(len(examples))
    of_example = [value(example, updates.get(example.example_id, ())) for example in examples]
    entries: list[Entry] = []
    contents: set[tuple[str, str]] = set()
    for number in range(max(map(len, of_example), default=0)):
        for i in order:
            if len(contents) == capacity:
                return entries
            if number < len(of_example[i]):
                entries.append(of_example[i][number])
                contents.add(entries[-1].content)
    return entries
