"""What stands in a memory beside its keys: the updates, where they come from, and whose they are."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from cd_jax.errors import RequestError
from cd_jax.rundir import files


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
    sample: int = 0
    score: float | None = None
    also: tuple[str, ...] = ()
    other_owners: tuple[str, ...] = ()
    round: int = 0

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


def write_lines(directory: pathlib.Path, lines: Iterable[Line]) -> None:
    """Writes `entries.jsonl`."""
    # ASCII escapes: neither a lone surrogate nor one of Unicode's line ends may break the file.
    texts = (json.dumps(vars(line.entry) | {"used": line.used, "added": line.added}) + "\n" for line in lines)
    files.write_bytes(directory / "entries.jsonl", "".join(texts).encode("ascii"))


def read_lines(directory: pathlib.Path) -> list[Line]:
    """Reads `entries.jsonl`.

    Raises:
      RequestError: there is none, or a line of it is malformed.
    """
    path = directory / "entries.jsonl"
    if not path.is_file():
        raise RequestError(f"{path}: no such memory; `cd_jax train` writes it")
    number = itertools.count()
    mend = "restore the file, or train into another --model_dir"
    lines = files.read_json_lines(path, lambda fields: _parse(fields, next(number)), "an entry of a memory", mend)
    contents = [line.entry.content for line in lines]
    if len(set(contents)) < len(contents):
        raise RequestError(f"{path}: holds an entry twice; {mend}")
    return lines


# Of JSON, by field; all others are texts.
_KINDS: dict[str, tuple[type, ...]] = {
    "sample": (int,),
    "round": (int,),
    "score": (float, int, type(None)),
    "also": (tuple,),
    "other_owners": (tuple,),
    "used": (int,),
    "added": (int,),
}
_MOST = {"sample": 2**31 - 1, "round": 2**31 - 1, "used": 2**31 - 1, "added": 2**31 - 1, "score": 1}


def _parse(fields: files.Json, number: int) -> Line:
    fields = {name: _as_field(name, value) for name, value in fields.items()}
    # Lines of older files count nothing.
    used, added = fields.pop("used", 0), fields.pop("added", number)
    return Line(Entry(**fields), used, added)


def _as_field(name: str, value):
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        value = tuple(value)
    # Not isinstance: JSON's true is no number.
    if type(value) not in _KINDS.get(name, (str,)):
        raise TypeError(f"{name!r} is {json.dumps(value)[:40]}")
    if name in _MOST and value is not None and not 0 <= value <= _MOST[name]:
        raise ValueError(f"{name!r} is {value}, which is not in 0..{_MOST[name]}")
    return value
