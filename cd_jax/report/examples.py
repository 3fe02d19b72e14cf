"""Which decoded examples the page shows, and what every arm made of them."""

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any

from cd_jax.rundir.results import figure

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run left in its folder.

    Attributes:
      arm: the arm that it trained.
      seed: its seed.
      metrics: the lines of its metrics.jsonl, in the order of the file.
      inference: its decoded examples, by task and example_id, in the order of the file.
      entries: the lines of its memory/entries.jsonl; none where it has no memory.
    """

    arm: str
    seed: int
    metrics: list[Json]
    inference: dict[str, dict[str, Json]]
    entries: list[Json]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Examples of one task.

    Attributes:
      runs: one of each arm that decoded the task.
      count: the number of examples that all of these have in common.
      chosen: ids of examples, each with how many come out like it.
    """

    runs: list[Run]
    count: int
    chosen: list[tuple[str, int]]


def select(task: str, runs: Iterable[Run], most: int) -> Selection:
    """Chooses at most so many examples of a task; a smaller choice is the beginning of a larger one."""
    shown = _shown_runs(task, runs)
    decoded = [run.inference[task] for run in shown]
    common = [example_id for example_id in decoded[0] if all(example_id in other for other in decoded)] if shown else []
    outcomes = {key: tuple(bool(other[key].get("correct")) for other in decoded) for key in common}
    return Selection(shown, len(common), choose(common, outcomes, most))


def _shown_runs(task: str, runs: Iterable[Run]) -> list[Run]:
    """One run of each arm that decoded the task, all with the same seed where there is such a seed."""
    decoded = [run for run in runs if run.inference.get(task)]
    common = collections.Counter(run.seed for run in decoded)
    by_arm: dict[str, list[Run]] = {}
    for run in decoded:
        by_arm.setdefault(run.arm, []).append(run)
    return [min(group, key=lambda run: (-common[run.seed], run.seed)) for group in by_arm.values()]


def choose(keys: Iterable[str], outcomes: dict[str, tuple[bool, ...]], most: int) -> list[tuple[str, int]]:
    """Examples of different outcomes, and how many examples come out like each.

    By rule, so that nobody picks what looks good: the outcomes (which arms were right) take turns, the commonest
    first, each giving its examples in the order of the file.

    Args:
      keys: the examples, in the order of the file.
      outcomes: of each example.
      most: how many to choose at most.
    """
    groups: dict[tuple[bool, ...], list[str]] = {}
    for key in keys:
        groups.setdefault(outcomes[key], []).append(key)
    ranked = sorted(groups.values(), key=lambda group: (-len(group), outcomes[group[0]]))
    turns = range(max(map(len, ranked), default=0))
    chosen = [(group[turn], len(group)) for turn in turns for group in ranked if turn < len(group)]
    return chosen[:most]


def of_task(task: str, runs: Iterable[Run], most: int) -> Json:
    """A few examples of a target task, each with what every arm made of it, for the template."""
    selection = select(task, runs, most)
    return {
        "task": task,
        "count": selection.count,
        "seeds": sorted({run.seed for run in selection.runs}),
        "examples": [_example(key, alike, task, selection.runs) for key, alike in selection.chosen],
    }


def _example(key: str, alike: int, task: str, shown: list[Run]) -> Json:
    records = [run.inference[task][key] for run in shown]
    return {
        "example_id": key,
        "alike": alike,
        "prompt": plain(records[0].get("prompt")),
        "answer": plain(records[0].get("answer")),
        "attempts": [_attempt(run, record) for run, record in zip(shown, records, strict=True)],
    }


def _attempt(run: Run, record: Json) -> Json:
    return {
        "arm": run.arm,
        "correct": record.get("correct"),
        "score": number(record.get("score"), ".2f"),
        "generation": plain(record.get("generation")),
        "prediction": plain(record.get("prediction")),
        "retrieved": len(retrieved(record)),
    }


def retrieved(record: Json) -> list[Json]:
    """What stood in the input from memory, in the order of the passages."""
    told = record.get("retrieved")
    return [found for found in told if isinstance(found, dict)] if isinstance(told, list) else []


def plain(value: Any) -> str:
    """A value of a record as text; empty where there is none."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(entry)}" for key, entry in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    return "" if value is None else str(value)


def number(value: Any, spec: str) -> str:
    """A figure of a record as text; empty where it is none."""
    found = figure(value)
    return "" if found is None else format(found, spec)
