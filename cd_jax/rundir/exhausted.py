"""`exhausted.jsonl`: of which examples a teacher has no more to say, so that it is not asked, and paid, again."""

import msgspec
from etils import epath

from cd_jax.rundir import files, journal

NAME = "exhausted.jsonl"


class Exhausted(msgspec.Struct, frozen=True):
    """A line of the file.

    Attributes:
      example_id: of the example.
      teacher: who was asked.
      request_hash: of what it was told, see `SamplingTeacher.request_hash`; empty where the teacher does not say.
      asked: updates that were wanted.
    """

    example_id: str
    teacher: str
    request_hash: str
    asked: int


def append(directory: files.Path, exhausted: Exhausted) -> None:
    """Adds a line; see `journal.append`."""
    journal.append(epath.Path(directory) / NAME, [msgspec.structs.asdict(exhausted)])


def read(directory: files.Path) -> dict[tuple[str, str, str], int]:
    """How many updates were asked for at most, by example, teacher and hash; damaged lines are passed over: the worst
    that comes of it is a question more."""
    found: dict[tuple[str, str, str], int] = {}
    path = epath.Path(directory) / NAME
    for one in journal.read_tolerantly(path, Exhausted).records if path.is_file() else ():
        key = (one.example_id, one.teacher, one.request_hash)
        found[key] = max(found.get(key, 0), one.asked)
    return found
