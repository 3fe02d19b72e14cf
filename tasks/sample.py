"""Samples of a task: drawn by a seed, so that whoever asks for the same one gets the same examples."""

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from cd_jax.errors import RequestError
from cd_jax.types import Example


@dataclasses.dataclass(frozen=True)
class Sample:
    """How many examples of each task are taken, and by which draw.

    Attributes:
      per_task: at most so many of each task; None takes all.
      seed: of the draw.
    """

    per_task: int | None = None
    seed: int = 0

    def __post_init__(self):
        """Raises RequestError where nothing would be taken."""
        if self.per_task is not None and self.per_task < 1:
            raise RequestError(f"a sample of {self.per_task} examples a task is none; bind 1 or more, or None for all")

    def of(self, rows: Sequence[Example], split: str) -> list[Example]:
        """The sample of one task's examples, in their order; a smaller one is part of a larger one.

        Stratified by the position of a question in its story, in equal shares: later questions have longer contexts.
        Every example has the same chance. The two statements of a complementary pair stay together, of which there is
        one even where `per_task` is 1.
        """
        if self.per_task is None or self.per_task >= len(rows):
            return list(rows)
        units = _shuffled(rows, random.Random(f"{self.seed}/{rows[0].task}/{split}"))
        chosen = units[0]
        for unit in units[1:]:
            if len(chosen) + len(unit) > self.per_task:
                break
            chosen = chosen + unit
        return [rows[i] for i in sorted(chosen)]

    def record(self) -> dict[str, Any]:
        """For `results.json`; nothing of the seed where all are taken."""
        return {"per_task": self.per_task, "seed": self.seed if self.per_task is not None else 0}


def low_data(rows: Sequence[Example], size: int, seed: int, split: str) -> Sequence[Example]:
    """A few examples of train and validation, of as many stories or pairs as there are; of other splits all.

    Args:
      rows: of one task.
      size: at most so many.
      seed: draws them.
      split: that they are of.
    """
    if split not in ("train", "validation"):
        return rows
    rng = random.Random(f"{seed}/{rows[0].task}/{split}")
    order = rng.sample(range(len(rows)), len(rows))
    taken: dict[str, int] = {}
    # How many of its family come before it: of each family the first, then of each the second.
    rank = {}
    for row in order:
        rank[row] = taken[rows[row].family] = taken.get(rows[row].family, -1) + 1
    return [rows[row] for row in sorted(sorted(order, key=lambda row: rank[row])[:size])]


def text(record: dict[str, Any]) -> str:
    """A `Sample.record` in words, for a table; empty where nothing was recorded."""
    if not record:
        return ""
    return (
        "all" if record.get("per_task") is None else f"{record['per_task']} of each task by seed {record.get('seed')}"
    )


def _shuffled(rows: Sequence[Example], rng: random.Random) -> list[list[int]]:
    """The units of the draw, indices of rows, in an order each beginning of which has equal shares of all strata."""
    strata: dict[int, list[list[int]]] = {}
    for position, unit in _units(rows):
        strata.setdefault(position, []).append(unit)
    ranked = []
    for position in sorted(strata):
        units = strata[position]
        rng.shuffle(units)
        # Where the first of a stratum stands among those of the others is drawn, too: systematic sampling.
        start = rng.random()
        ranked += [((i + start) / len(units), unit) for i, unit in enumerate(units)]
    return [unit for _, unit in sorted(ranked)]


def _units(rows: Sequence[Example]) -> list[tuple[int, list[int]]]:
    """What is drawn in one piece, and the position in its story: a question, or a pair."""
    pairs: dict[str, list[int]] = {}
    told: dict[str, int] = {}
    units = []
    for i, row in enumerate(rows):
        if row.pair_id and row.pair_id in pairs:
            pairs[row.pair_id].append(i)
            continue
        position = told.get(row.story_id, 0) if row.story_id else 0
        told[row.story_id] = position + 1
        units.append((position, [i]))
        if row.pair_id:
            pairs[row.pair_id] = units[-1][1]
    return units
