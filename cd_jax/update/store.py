"""`updates.jsonl`: one update a line, appended as the teacher speaks, so that a broken run can be taken up again."""

import contextlib
import dataclasses
import json
import mmap
import operator
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import files
from cd_jax.types import Update

FIELDS = ("example_id", "task", "update", "teacher", "prompt", "sample", "seed", "score")
# Written where there is something to say.
_MORE = ("reason", "round")

_TEXT, _NUMBER = ((str,), "text"), ((int,), "a whole number")
# Without a default: a field that every line has. Somebody else's file may lack the others, and have more.
_SCHEMA: dict[str, tuple[tuple[tuple[type, ...], str], Any]] = {
    "example_id": (_TEXT, None),
    "update": (_TEXT, None),
    "task": (_TEXT, ""),
    "teacher": (_TEXT, ""),
    "prompt": (_TEXT, ""),
    "sample": (_NUMBER, 0),
    "seed": (_NUMBER, 0),
    "score": (((float, int, type(None)), "a number or null"), None),
    "reason": (_TEXT, ""),
    "round": (_NUMBER, 0),
}
_REQUIRED = ("example_id", "update")

_values = operator.attrgetter(*FIELDS)


def append(path: str | os.PathLike[str], updates: Iterable[Update]) -> None:
    """Adds updates at the end of the file, after `repair`; makes the file and its folder where they are missing.

    A crash can leave some of the updates of one call, and a cut line after them, which the next call removes.

    Raises:
      RunError: the file cannot be written.
    """
    path = pathlib.Path(path)
    # ASCII escapes: a lone surrogate in a teacher's answer must not make the file unreadable.
    lines = [json.dumps(_record(update)) + "\n" for update in updates]
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        repair(path)
        with open(path, "ab") as file:
            file.write("".join(lines).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())  # It may have been paid for.


def _record(update: Update) -> dict[str, Any]:
    more = {name: value for name in _MORE if (value := getattr(update, name))}
    return dict(zip(FIELDS, _values(update), strict=True)) | more


def read(path: str | os.PathLike[str]) -> list[Update]:
    """Reads all updates in the order of the file; a cut last line is left out, which is told.

    Where no line of an example says which sample it is, they are counted.

    Raises:
      RequestError: the file is missing or unreadable, a line other than a cut last one is malformed, or two are the
        same sample of an example.
    """
    path = pathlib.Path(path)
    # As bytes: only b"\n" ends a line here, and text that is not UTF-8 is reported with its line.
    *lines, tail = files.read_bytes(path, "make updates with `cd_jax distill`").split(b"\n")
    updates = list(_parse_lines(path, lines))
    if tail.strip():
        if _is_whole(tail):
            updates += _parse_lines(path, [*[b""] * len(lines), tail], {(u.example_id, u.sample) for u in updates})
        else:
            print(f"cd_jax: {path}:{len(lines) + 1}: the last line is cut and is left out", file=sys.stderr, flush=True)
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
    print(f"cd_jax: {path}: a cut last line of {size - start} bytes is dropped", file=sys.stderr, flush=True)
    return size - start


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot write updates ({error.strerror}); free space or choose another folder"
        ) from error


def _parse_lines(path: pathlib.Path, lines: list[bytes], seen: set[tuple[str, int]] | None = None) -> Iterator[Update]:
    seen = set() if seen is None else seen
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            update, counted = _parse(line)
            while counted and (update.example_id, update.sample) in seen:
                update = dataclasses.replace(update, sample=update.sample + 1)
            if (update.example_id, update.sample) in seen:
                raise ValueError(f"sample {update.sample} of {update.example_id} stands in a line before")
        except ValueError as error:
            raise RequestError(f"{path}:{number}: not an update ({error}); mend or delete the line") from error
        seen.add((update.example_id, update.sample))
        yield update


def _is_whole(line: bytes) -> bool:
    try:
        _parse(line)
    except ValueError:
        return False
    return True


def _parse(line: bytes) -> tuple[Update, bool]:
    """The update in a line, and whether it does not say which sample it is; ValueError says what is wrong with it."""
    record = files.json_object(line)
    values = {}
    for field, ((types, type_name), default) in _SCHEMA.items():
        if field not in record and field in _REQUIRED:
            raise ValueError(f"field `{field}` is missing")
        values[field] = record.get(field, default)
        # `type(...) in`, not isinstance: to isinstance, true is a whole number.
        if type(values[field]) not in types:
            raise ValueError(f"field `{field}` is not {type_name}")
    if not values["update"].strip():
        raise ValueError("field `update` is empty")
    for field in ("sample", "round"):
        if values[field] < 0:
            raise ValueError(f"field `{field}` is below 0")
    if values["score"] is not None and not 0 <= values["score"] <= 1:
        raise ValueError("field `score` is not in 0..1")
    return Update(**values), "sample" not in record
