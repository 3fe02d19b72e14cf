"""`updates.jsonl`: one update a line, appended as the teacher speaks, so that a broken run can be taken up again."""

import contextlib
import json
import logging
import mmap
import operator
import os
import pathlib
from collections.abc import Iterable, Iterator

from cd_jax.errors import RequestError, RunError
from cd_jax.types import Update

FIELDS = ("example_id", "task", "update", "teacher", "prompt", "sample", "seed", "score")

_TYPES = ((str,),) * 5 + ((int,),) * 2 + ((float, int, type(None)),)
_TYPE_NAMES = ("text",) * 5 + ("a whole number",) * 2 + ("a number or null",)
_SCHEMA = tuple(zip(FIELDS, _TYPES, _TYPE_NAMES, strict=True))

_values = operator.attrgetter(*FIELDS)
_log = logging.getLogger(__name__)


def append(path: str | os.PathLike[str], updates: Iterable[Update]) -> None:
    """Adds updates at the end of the file, after `repair`; makes the file and its folder where they are missing.

    A crash can leave some of the updates of one call, and a cut line after them, which the next call removes.

    Raises:
      RunError: the file cannot be written.
    """
    path = pathlib.Path(path)
    # ASCII escapes: a lone surrogate in a teacher's answer must not make the file unreadable.
    lines = [json.dumps(dict(zip(FIELDS, _values(update), strict=True))) + "\n" for update in updates]
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        repair(path)
        with open(path, "ab") as file:
            file.write("".join(lines).encode("ascii"))


def read(path: str | os.PathLike[str]) -> list[Update]:
    """Reads all updates in the order of the file; a cut last line is left out, with a warning.

    Raises:
      RequestError: the file is missing or unreadable, or a line other than a cut last one is malformed.
    """
    path = pathlib.Path(path)
    try:
        # Read as bytes: only b"\n" ends a line here, and text that is not UTF-8 is reported with its line.
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RequestError(
            f"{path}: cannot read updates ({error.strerror}); make them with `cd_jax distill`"
        ) from error
    updates = list(_parse_lines(path, lines))
    if tail.strip():
        try:
            updates.append(_parse(tail))
        except ValueError:
            _log.warning("%s:%d: the last line is cut and is left out", path, len(lines) + 1)
    return updates


def read_grouped(path: str | os.PathLike[str]) -> dict[str, list[Update]]:
    """`read`, by `example_id`; examples and their updates in the order of the file."""
    groups: dict[str, list[Update]] = {}
    for update in read(path):
        groups.setdefault(update.example_id, []).append(update)
    return groups


def repair(path: str | os.PathLike[str]) -> int:
    """Makes the file end in a whole line, so that it can be appended to.

    A last line without a newline is dropped, or gets its newline where it is whole. A file that is whole, or missing,
    is left alone.

    Returns:
      The number of bytes dropped.

    Raises:
      RunError: the file cannot be written.
    """
    path = pathlib.Path(path)
    if not path.exists() or not path.stat().st_size:
        return 0
    with _writing(path), open(path, "r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start, size = content.rfind(b"\n") + 1, len(content)
            tail = content[start:]
        if not tail:
            return 0
        if _is_whole(tail):
            file.seek(size)
            file.write(b"\n")
            return 0
        file.truncate(start)
    _log.warning("%s: dropped a cut last line of %d bytes", path, size - start)
    return size - start


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot write updates ({error.strerror}); free space or choose another folder"
        ) from error


def _parse_lines(path: pathlib.Path, lines: list[bytes]) -> Iterator[Update]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _parse(line)
        except ValueError as error:
            raise RequestError(f"{path}:{number}: not an update ({error}); mend or delete the line") from error


def _is_whole(line: bytes) -> bool:
    try:
        _parse(line)
    except ValueError:
        return False
    return True


def _parse(line: bytes) -> Update:
    """Parses one line; raises ValueError (JSON and UTF-8 errors are such) that says what is wrong with it."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        # Not its own message, which speaks of line 1.
        raise ValueError(f"{error.msg} at column {error.colno}") from error
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    for field, types, type_name in _SCHEMA:
        if field not in record:
            raise ValueError(f"field `{field}` is missing")
        # `type(...) in`, not isinstance: to isinstance, true is a whole number.
        if type(record[field]) not in types:
            raise ValueError(f"field `{field}` is not {type_name}")
    if len(record) > len(FIELDS):
        raise ValueError(f"unknown field `{next(iter(record.keys() - set(FIELDS)))}`")
    return Update(**record)
