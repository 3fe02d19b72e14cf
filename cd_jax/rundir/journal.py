"""Files of JSON lines, one object a line: the ways in which all of them are read, added to and written.

Lines are written in ASCII, so that neither a lone surrogate nor one of Unicode's line ends breaks a file. A kill may
cut the last line: whoever adds to the file mends it first, and readers say what they make of it.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from etils import epath

from cd_jax.errors import RequestError
from cd_jax.rundir import files, hosts

Record = TypeVar("Record")
Made = TypeVar("Made")

# Kinds of fields of a record. What is counted also stands in arrays of int32.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

_LONGEST = 200  # characters of what is wrong with a line


# Reading


def read(
    path: files.Path,
    kind: type[Record],
    make: Callable[[Record], Made],
    what: str,
    mend: str,
    absent: str = "",
    cut: bool = False,
) -> list[Made]:
    """What is made of each line; empty lines are passed over.

    Args:
      path: of the file.
      kind: of a line: a record (a dataclass or a msgspec.Struct, whose types are the schema), or `dict`.
      make: called with the records in their order; raises ValueError, TypeError or KeyError for one that cannot be.
      what: a line is, such as `an update`.
      mend: what to do about a line that is not.
      absent: what to do where there is no file; empty for the same.
      cut: a last line that a kill has cut is left out, which is told; otherwise it is malformed as any other.

    Raises:
      RequestError: the file cannot be read, or a line is malformed; names the line, what is wrong, and the mend.
    """
    made = []
    for number, line, ended in _lines(path, absent or mend):
        if cut and not ended and not _is_whole(line):
            print(f"cd_jax: {path}:{number}: the last line is cut and is left out", file=sys.stderr, flush=True)
            continue
        try:
            made.append(make(parse(line, kind)))
        except (ValueError, TypeError, KeyError) as error:
            # In one line, also where Python quotes a name with a separator of lines in it.
            said = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise RequestError(f"{path}:{number}: not {what} ({said[:_LONGEST]}); {mend}") from error
    return made


class Tolerated(NamedTuple):
    """What `read_tolerantly` found.

    Attributes:
      records: of the lines that hold one.
      skipped: how many lines hold none.
    """

    records: list[Any]
    skipped: int


def read_tolerantly(path: files.Path, kind: type = dict) -> Tolerated:
    """The records of a log.

    A killed run cuts its last line, also within a character, and a resumed one may go on in the middle of it, so lines
    that hold no record of this kind are passed over wherever they stand, and counted.

    Raises:
      RequestError: the file cannot be read.
    """
    records: list[Any] = []
    skipped = 0
    for _, line, _ in _lines(path, "check its permissions"):
        try:
            records.append(parse(line, kind))
        except ValueError:
            skipped += 1
    return Tolerated(records, skipped)


def parse(line: bytes | str, kind: type[Record]) -> Record:
    """The record in a line. Raises ValueError, in one line, where it holds something else."""
    # Not msgspec.json, which takes a name that stands twice in an object, lone surrogates and numbers of any length.
    found = files.json_object(line)
    try:
        return msgspec.convert(found, kind)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _lines(path: files.Path, mend: str) -> Iterator[tuple[int, bytes, bool]]:
    """The number and content of each line that is not empty, and whether it has an end."""
    # As bytes: only b"\n" ends a line here, and text that is not UTF-8 is reported with its line.
    lines = files.read_bytes(path, mend).split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, line, number < len(lines)


def _is_whole(line: bytes) -> bool:
    # An object ends with its brace, so that none that is cut is one.
    try:
        files.json_object(line)
    except ValueError:
        return False
    return True


# Writing


def write(path: files.Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes a file whole or not at all; makes its folder. Raises RunError where it cannot be written."""
    files.write_bytes(path, _encoded(records))


def append(path: files.Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Adds lines at the end of the file, after `repair`, and sees them on disk; makes the file and its folder.

    A crash can leave some of the lines of one call, and a cut one after them, which the next call removes.

    Raises:
      RunError: the file cannot be written.
    """
    if not hosts.is_first():
        return
    added = _encoded(records)
    repair(path)
    _add(epath.Path(path), added)


def _encoded(records: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode("ascii")


def repair(path: files.Path) -> int:
    """Makes the file end in a whole line, so that it can be appended to.

    A last line without a newline is dropped, which is told, or gets its newline where it is whole. A file that is
    whole, or missing, is left alone.

    Returns:
      The number of bytes dropped.

    Raises:
      RunError: the file cannot be written.
    """
    there = epath.Path(path)
    if not hosts.is_first():
        return 0
    with files.writing(there):
        if not there.exists() or _ends_in_line(there):
            return 0
        content = there.read_bytes()
    tail = content.rpartition(b"\n")[2]
    if _is_whole(tail):
        _add(there, b"\n")
        return 0
    _shorten(there, content[: -len(tail)])
    print(f"cd_jax: {path}: a cut last line of {len(tail)} bytes is dropped", file=sys.stderr, flush=True)
    return len(tail)


def _add(path: epath.Path, added: bytes) -> None:
    if files.is_remote(path):
        # Objects are not added to.
        files.write_bytes(path, (path.read_bytes() if path.exists() else b"") + added)
        return
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(added)
            file.flush()
            os.fsync(file.fileno())  # It may have been paid for.


def _shorten(path: epath.Path, kept: bytes) -> None:
    if files.is_remote(path):
        files.write_bytes(path, kept)
        return
    with files.writing(path):
        os.truncate(path, len(kept))  # In place: a full disk may be what has cut it.


def _ends_in_line(path: epath.Path) -> bool:
    """Also of an empty file. Reads its end alone: it is looked at before every line that is added."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if not file.tell():  # TensorFlow's `seek` does not say.
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
