"""The memory browser: what each query of an example retrieved, and to which retrieval the decoder attended."""

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from cd_jax.report import examples, table
from cd_jax.report.examples import Run
from cd_jax.rundir.results import figure

_EXAMPLES_PER_RUN = 20
_MOST_RETRIEVED = 10
_BRIEF = 90  # characters of a prompt's end, where its question stands
_KEY = "key"

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Passage:
    """One retrieval of an example.

    Attributes:
      query: what found it: `key` or `axis i`.
      text: the update.
      example_id: of the example that the update explains.
      question: that example's prompt; empty where the memory of the run does not say.
      distance: to the query; empty where it was not recorded.
      attention: the decoder's share for the update's own tokens, in percent; None where it was not recorded.
      attended: whether the decoder attended to it most.
    """

    query: str
    text: str
    example_id: str
    question: str
    distance: str
    attention: float | None
    attended: bool


@dataclasses.dataclass(frozen=True)
class Browsed:
    """One example of a browser: a record for people; `brief` is the end of the prompt, `prompt_attention` percent;
    `without_memory` the answer to the prompt alone, None where it was not asked for."""

    example_id: str
    brief: str
    prompt: str
    answer: str
    generation: str
    correct: bool | None
    passages: list[Passage]
    prompt_attention: float | None
    without_memory: str | None


@dataclasses.dataclass(frozen=True)
class Memory:
    """A memory that was retrieved often: its text, where it came from, and the answers that it stood in."""

    text: str
    example_id: str
    answers: int
    accuracy: str


@dataclasses.dataclass(frozen=True)
class Panel:
    """What one run retrieved for one task.

    Attributes:
      anchor: begins the ids of its elements.
      arm: of the run.
      seed: of the run.
      facts: about all its decoded examples, as (term, description).
      queries: one row for each kind of query, over all its decoded examples.
      memories: the most retrieved ones.
      browsed: the examples to pick from.
    """

    anchor: str
    arm: str
    seed: int
    facts: list[tuple[str, str]]
    queries: table.Table
    memories: list[Memory]
    browsed: list[Browsed]


def browsers(tasks: Sequence[str], runs: Sequence[Run]) -> list[tuple[str, list[Panel]]]:
    """The panels of each task for which some run retrieved something, for the template.

    Args:
      tasks: names, in the order of the page.
      runs: of the experiment; of each arm the one is shown that the page's examples are of.
    """
    found = [(task, _panels(number, task, runs)) for number, task in enumerate(tasks)]
    return [(task, panels) for task, panels in found if panels]


def _panels(number: int, task: str, runs: Sequence[Run]) -> list[Panel]:
    selection = examples.select(task, runs, _EXAMPLES_PER_RUN)
    return [
        _panel(f"memory-{number}-{place}", run, task, [key for key, _ in selection.chosen])
        for place, run in enumerate(selection.runs)
        if any(map(examples.retrieved, run.inference[task].values()))
    ]


def _panel(anchor: str, run: Run, task: str, chosen: list[str]) -> Panel:
    records = run.inference[task]
    recalling = [record for record in records.values() if examples.retrieved(record)]
    memories = _by_memory(recalling)
    questions = {str(entry.get("example_id")): examples.plain(entry.get("prompt")) for entry in run.entries}
    return Panel(
        anchor,
        run.arm,
        run.seed,
        _facts(recalling, len(records), len(memories), len(run.entries)),
        _query_table(recalling),
        _most_retrieved(memories),
        [_browsed(key, records[key], questions) for key in chosen],
    )


def _browsed(key: str, record: Json, questions: dict[str, str]) -> Browsed:
    prompt = examples.plain(record.get("prompt"))
    found = examples.retrieved(record)
    attended = _attended(found)
    return Browsed(
        key,
        prompt if len(prompt) <= _BRIEF else "… " + prompt[-_BRIEF:].partition(" ")[2],
        prompt,
        examples.plain(record.get("answer")),
        examples.plain(record.get("generation")),
        record.get("correct"),
        [_passage(passage, place == attended, questions) for place, passage in enumerate(found)],
        _share(record.get("prompt_attention")),
        record.get("without_memory") if isinstance(record.get("without_memory"), str) else None,
    )


def _passage(found: Json, attended: bool, questions: dict[str, str]) -> Passage:
    example_id = examples.plain(found.get("example_id"))
    return Passage(
        _query(found),
        examples.plain(found.get("update")),
        example_id,
        questions.get(example_id, ""),
        examples.number(found.get("distance"), ".3f"),
        _share(found.get("attention")),
        attended,
    )


def _query(found: Json) -> str:
    return examples.plain(found.get("query")) or "unnamed"


def _share(value: Any) -> float | None:
    """In percent; None where the value is no share, as in files from before attention was recorded."""
    share = figure(value)
    return None if share is None or not 0 <= share <= 1 else 100 * share


def _attended(found: list[Json]) -> int | None:
    """The place of the passage that the decoder attended to most, the first of equals; None where nothing says so."""
    shares = {place: share for place, passage in enumerate(found) if (share := _share(passage.get("attention")))}
    return max(shares, key=lambda place: shares[place], default=None)


def _facts(recalling: list[Json], decoded: int, distinct: int, held: int) -> list[tuple[str, str]]:
    """What the page says of a run's retrievals before it shows them."""
    total = sum(len(examples.retrieved(record)) for record in recalling)
    facts = [
        ("Answers with retrievals", f"{len(recalling)} of {decoded}, accuracy {_accuracy(recalling)}"),
        ("Memories retrieved", f"{distinct} different in {total} retrievals" + (f", of {held} held" if held else "")),
    ]
    facts += _without_memory(recalling)
    chosen = [(place, record) for record in recalling if (place := _attended(examples.retrieved(record))) is not None]
    if not chosen:
        return [*facts, ("Attended to most", "not recorded")]
    first = sum(place == 0 for place, _ in chosen)
    key = sum(_query(examples.retrieved(record)[place]) == _KEY for place, record in chosen)
    most = f"the first passage in {_percent(first, len(chosen))}, the key's in {_percent(key, len(chosen))}"
    facts.append(("Attended to most", f"{most} of {len(chosen)} answers"))
    prompts = [share for _, record in chosen if (share := _share(record.get("prompt_attention"))) is not None]
    return [*facts, ("Attention to the prompt", f"{statistics.fmean(prompts):.0f} % on average")] if prompts else facts


def _without_memory(recalling: list[Json]) -> list[tuple[str, str]]:
    """How often the answer is another one than to the prompt alone."""
    asked = [record for record in recalling if isinstance(record.get("without_memory"), str)]
    if not asked:
        return []
    other = sum(record["without_memory"] != record.get("prediction") for record in asked)
    return [("Other answers without memory", f"{_percent(other, len(asked))} of {len(asked)}")]


def _query_table(recalling: list[Json]) -> table.Table:
    """One row for each kind of query, in the order of the passages."""
    by_query: dict[str, list[Json]] = {}
    attended: collections.Counter[str] = collections.Counter()
    for record in recalling:
        found = examples.retrieved(record)
        most = _attended(found)
        for place, passage in enumerate(found):
            by_query.setdefault(_query(passage), []).append(passage)
            attended[_query(passage)] += place == most
    total, told = sum(map(len, by_query.values())), attended.total()
    rows = tuple(
        (
            query,
            f"{len(found)} ({_percent(len(found), total)})",
            _mean((passage.get("distance") for passage in found), ".3f"),
            _mean((_share(passage.get("attention")) for passage in found), ".0f", " %"),
            f"{attended[query]} ({_percent(attended[query], told)})" if told else table.ABSENT,
        )
        for query, found in by_query.items()
    )
    return table.Table(
        "retrievals by query", ("query", "retrievals", "mean distance", "mean attention", "attended to most"), rows
    )


def _by_memory(recalling: list[Json]) -> dict[tuple[str, str], list[Json]]:
    """The records in which each memory stood, each once. A memory is an example and its update."""
    memories: dict[tuple[str, str], list[Json]] = {}
    for record in recalling:
        for key in dict.fromkeys(_identity(passage) for passage in examples.retrieved(record)):
            memories.setdefault(key, []).append(record)
    return memories


def _identity(passage: Json) -> tuple[str, str]:
    return examples.plain(passage.get("update")), examples.plain(passage.get("example_id"))


def _most_retrieved(memories: dict[tuple[str, str], list[Json]]) -> list[Memory]:
    ranked = sorted(memories.items(), key=lambda memory: -len(memory[1]))[:_MOST_RETRIEVED]
    return [Memory(text, example_id, len(records), _accuracy(records)) for (text, example_id), records in ranked]


def _accuracy(records: Iterable[Json]) -> str:
    """Of those whose answer is known."""
    judged = (record.get("correct") for record in records)
    return _mean((float(correct) for correct in judged if isinstance(correct, bool)), ".3f")


def _mean(values: Iterable[Any], spec: str, unit: str = "") -> str:
    figures = [found for value in values if (found := figure(value)) is not None]
    return format(statistics.fmean(figures), spec) + unit if figures else table.ABSENT


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"
