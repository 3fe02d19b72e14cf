"""`exhausted.jsonl`: of which examples a teacher has no more to say, so that it is not asked, and paid, again."""

import json
import os
import pathlib
from typing import NamedTuple

from cd_jax.rundir import files

NAME = "exhausted.jsonl"


class Exhausted(NamedTuple):
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


def append(directory: pathlib.Path, exhausted: Exhausted) -> None:
    """Adds a line, after a line that a kill has cut."""
    with open(directory / NAME, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
        file.write((json.dumps(exhausted._asdict()) + "\n").encode("ascii"))


def read(directory: pathlib.Path) -> dict[tuple[str, str, str], int]:
    """How many updates were asked for at most, by example, teacher and hash; lines that a kill has cut are passed over:
    the worst that comes of it is a question more."""
    found: dict[tuple[str, str, str], int] = {}
    path = directory / NAME
    if not path.is_file():
        return found
    for line in files.read_bytes(path, "delete it").split(b"\n"):
        try:
            one = Exhausted(**files.json_object(line))
            key = (str(one.example_id), str(one.teacher), str(one.request_hash))
            found[key] = max(found.get(key, 0), int(one.asked))
        except (ValueError, TypeError):
            continue
    return found
