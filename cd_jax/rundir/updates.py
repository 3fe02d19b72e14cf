"""`updates.jsonl`: one update a line, appended as the teacher speaks, so that a broken run can be taken up again."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import msgspec
from etils import epath

from cd_jax.rundir import files, journal
from cd_jax.types import Update

NAME = "updates.jsonl"
# Beside it: those that were filtered out.
REJECTED = "rejected.jsonl"
# The field of such a line that says why.
REASON = "rejected"
# Every line has them; other fields are written where they say something.
_ALWAYS = ("example_id", "task", "update", "teacher", "prompt", "sample", "seed", "score")

# What makes a file that a kill has cut fit to be added to.
repair = journal.repair


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """An `Update` as its line has it. Somebody else's file may lack what has a default here, and have more."""

    example_id: str
    task: str = ""
    update: str
    teacher: str = ""
    prompt: str = ""
    sample: journal.Count | msgspec.UnsetType = msgspec.UNSET
    seed: int = 0
    score: journal.Share | None = None
    reason: str = ""
    round: journal.Count = 0
    prompt_hash: str = ""
    log_prob: float | None = None


def append(path: files.Path, updates: Iterable[Update]) -> None:
    """Adds updates at the end of the file; see `journal.append`. Raises RunError where it cannot be written."""
    journal.append(path, map(record, updates))


def record(update: Update) -> dict[str, Any]:
    """The line of an update."""
    values = {field.name: (getattr(update, field.name), field.default) for field in dataclasses.fields(update)}
    return {name: value for name, (value, default) in values.items() if name in _ALWAYS or value != default}


def read(path: files.Path) -> list[Update]:
    """Reads all updates in the order of the file; a cut last line is left out, which is told.

    Where the lines of an example do not say which sample they are, they are counted.

    Raises:
      RequestError: the file is missing or unreadable, a line other than a cut last one is malformed, or two are the
        same sample of an example.
    """
    absent = "make updates with `cd_jax distill`"
    return journal.read(path, _Line, _Samples().update, "an update", "mend or delete the line", absent, cut=True)


def read_with_lines(path: files.Path) -> list[tuple[Update, dict[str, Any]]]:
    """`read`, each with its line, which may hold fields of its writer's; nothing where there is no file."""
    samples = _Samples()

    def made(line: dict[str, Any]) -> tuple[Update, dict[str, Any]]:
        update = samples.update(msgspec.convert(line, _Line))
        return update, line | {"sample": update.sample}

    if not epath.Path(path).exists():
        return []
    return journal.read(path, dict, made, "an update", "mend or delete the line", cut=True)


def read_grouped(path: files.Path) -> dict[str, list[Update]]:
    """`read`, by `example_id`; examples and their updates in the order of the file."""
    groups: dict[str, list[Update]] = {}
    for update in read(path):
        groups.setdefault(update.example_id, []).append(update)
    return groups


class _Samples:
    """Makes updates of lines, no two of them of the same sample of an example."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int]] = set()

    def update(self, line: _Line) -> Update:
        if not line.update.strip():
            raise ValueError("field `update` is empty")
        sample = self._first_free(line.example_id) if line.sample is msgspec.UNSET else line.sample
        if (line.example_id, sample) in self._seen:
            raise ValueError(f"sample {sample} of {line.example_id} stands in a line before")
        self._seen.add((line.example_id, sample))
        return Update(**(msgspec.structs.asdict(line) | {"sample": sample}))

    def _first_free(self, example_id: str) -> int:
        return next(sample for sample in itertools.count() if (example_id, sample) not in self._seen)
