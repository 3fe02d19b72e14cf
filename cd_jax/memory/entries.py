"""What stands in a memory beside its keys: the updates, where they come from, and whose they are."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from etils import epath

from cd_jax.rundir import files, journal, results


@dataclasses.dataclass(frozen=True)
class Entry:
    """An update, and the context whose embedding is its key.

    Attributes:
      example_id: the example that the update explains.
      prompt: its context and question.
      update: the text.
      family: of the example, see `Example.family`; empty where it stands alone.
      task: of the example.
      answer: of the example.
      teacher: who said it, see `Update`.
      sample: the index of the update among those of its example.
      score: the verifier's score of the attempt that the teacher saw, 0..1; None where it saw none.
      also: ids of other examples with the same prompt and the same update.
      other_owners: the owners of those, where they are others.
      round: of the self-learning process in which the update was written.
    """

    example_id: str
    prompt: str
    update: str
    family: str = ""
    task: str = ""
    answer: str = ""
    teacher: str = ""
    sample: journal.Count = 0
    score: journal.Share | None = None
    also: tuple[str, ...] = ()
    other_owners: tuple[str, ...] = ()
    round: journal.Count = 0

    @property
    def owner(self) -> str:
        """To whom the entry is not shown in training, beside the `other_owners`."""
        return self.family or self.example_id

    @property
    def content(self) -> tuple[str, str]:
        """What makes two entries the same."""
        return self.prompt, self.update

    def met_again(self, other: "Entry") -> "Entry":
        """This entry, which stands for another of the same content, too."""
        also = _joined(self.also, (other.example_id, *other.also), self.example_id)
        other_owners = _joined(self.other_owners, (other.owner, *other.other_owners), self.owner)
        return dataclasses.replace(self, also=also, other_owners=other_owners)


def _joined(first: tuple[str, ...], more: tuple[str, ...], own: str) -> tuple[str, ...]:
    """All of them once, in their order, but `own`."""
    return tuple(name for name in dict.fromkeys(first + more) if name != own)


class Owners:
    """Numbers owners. Those who have an entry in common form a group, so that none is shown what explains another."""

    def __init__(self):
        self._numbers: dict[str, int] = {}
        # The group of each number: at first its own, also of numbers that are still to be given.
        self._groups = np.arange(64, dtype=np.int32)

    def join(self, owners: Sequence[str]) -> int:
        """Makes one group of the owners' groups; the number of the first."""
        numbers = [self._numbers.setdefault(owner, len(self._numbers)) for owner in owners]
        while len(self._numbers) > len(self._groups):
            size = len(self._groups)
            self._groups = np.concatenate([self._groups, np.arange(size, 2 * size, dtype=np.int32)])
        groups = self._groups[numbers]
        if (groups != groups[0]).any():
            self._groups[np.isin(self._groups, groups)] = groups[0]
        return numbers[0]

    def groups(self, numbers: np.ndarray) -> np.ndarray:
        """The group of each number, int32; -1 for -1."""
        return np.where(numbers >= 0, self._groups[numbers], -1).astype(np.int32)

    def groups_of(self, owners: Iterable[str]) -> np.ndarray:
        """The group of each owner, int32; -1 for those that were never met."""
        return self.groups(np.array([self._numbers.get(owner, -1) for owner in owners], np.int32))


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of `entries.jsonl`.

    Attributes:
      entry: of the row.
      used: how often it was retrieved.
      added: the running number of its addition.
    """

    entry: Entry
    used: int
    added: int


def _with_default(field: dataclasses.Field) -> tuple[Any, ...]:
    there_is_none = field.default is dataclasses.MISSING
    return (field.name, field.type) if there_is_none else (field.name, field.type, field.default)


# A field that is not known is refused: it may be a damaged one, whose value would be lost. Older lines count nothing.
_Record = msgspec.defstruct(
    "_Record",
    [
        *map(_with_default, dataclasses.fields(Entry)),
        ("used", journal.Count, 0),
        ("added", journal.Count | None, None),
    ],
    forbid_unknown_fields=True,
)


def write_lines(directory: files.Path, lines: Iterable[Line]) -> None:
    """Writes `entries.jsonl`."""
    records = (vars(line.entry) | {"used": line.used, "added": line.added} for line in lines)
    journal.write(epath.Path(directory) / results.ENTRIES, records)


def read_lines(directory: files.Path) -> list[Line]:
    """Reads `entries.jsonl`.

    Raises:
      RequestError: there is none, a line of it is malformed, or two are the same entry.
    """
    mend = "restore the file, or train into another --model_dir"
    numbers, contents = itertools.count(), set()

    def line(record: Any) -> Line:
        fields, number = msgspec.structs.asdict(record), next(numbers)
        used, added = fields.pop("used"), fields.pop("added")
        entry = Entry(**fields)
        if entry.content in contents:
            raise ValueError("the same prompt and update stand in a line before")
        contents.add(entry.content)
        return Line(entry, used, number if added is None else added)

    path = epath.Path(directory) / results.ENTRIES
    return journal.read(path, _Record, line, "an entry of a memory", mend, "`cd_jax train` writes it")
