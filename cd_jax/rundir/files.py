"""Files that others may have cut, damaged or made: read with one error that names them, written whole or not at all.

Of several processes the first one writes; the others' writes do nothing, see `hosts`.
"""

import contextlib
import fcntl
import fnmatch
import glob
import itertools
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import hosts

Json = dict[str, Any]
Path = str | os.PathLike[str]

# What we write under is `.NAME.<32 hexadecimal digits>.tmp`: nobody else has such names.
_TEMPORARY = f".{{}}.{'[0-9a-f]' * 32}.tmp"
# The modules of the errors that libraries raise where a bucket fails.
_OF_BUCKETS = ("tensorflow.python.framework.errors_impl", "google.api_core", "google.auth", "google.cloud")
_FULL = "free some space or name another folder, then try again"


def located(path: Path) -> epath.Path:
    """The path, absolute; a remote one keeps its `gs://`, of which pathlib makes `gs:/`."""
    return epath.Path(path if is_remote(path) else pathlib.Path(path).absolute())


def address(path: Path) -> str:
    """The path as text that names the same from every working folder."""
    return str(epath.Path(path)) if is_remote(path) else os.path.abspath(path)


def check_bucket(path: Path) -> None:
    """Raises RequestError where there is no such bucket: TensorFlow looks for a folder to make in it for ever."""
    bucket = epath.Path(*epath.Path(path).parts[:3])
    try:
        there = bucket.exists()
    except Exception as error:
        if not is_of_storage(error):
            raise
        return  # Who may not ask for the bucket may still read and write what is in it.
    if not there:
        raise RequestError(f"{path}: there is no bucket {bucket}; make it, or name another one")


def is_remote(path: Path) -> bool:
    """Whether it is no path of this machine's: there are neither locks nor renames there, and no half-written files."""
    return "://" in os.fspath(path)


# Reading


def parse_json(text: bytes | str) -> Any:
    """A JSON value, strictly.

    Raises:
      ValueError: it is none, in one line: also where it is not UTF-8, is nested too deep, has a number of thousands of
        digits, has NaN and Infinity, which JSON does not know, or one name twice in an object, of which it leaves open
        which counts.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        # Without its own "line 1", which is wrong within a file of lines.
        where = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"not JSON: {error.msg} at {where}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError:
        raise ValueError("not JSON that anyone wrote: nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:50]!r} stands twice in an object")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"not JSON: {name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(f"not JSON of this program: {text[:20]} is too large a number")
    return value


def read_bytes(path: Path, mend: str) -> bytes:
    """A file's content.

    Args:
      path: of the file.
      mend: what to do where it cannot be read; ends the error.

    Raises:
      RequestError: it cannot be read.
    """
    try:
        return epath.Path(path).read_bytes()
    except FileNotFoundError as error:
        raise RequestError(f"{path}: no such file; {mend}") from error
    except Exception as error:
        # A ValueError: the name holds a null.
        if not (is_of_storage(error) or isinstance(error, ValueError)):
            raise
        raise RequestError(f"{path}: cannot be read ({said(error)}); {mend}") from error


def read_text(path: Path, mend: str) -> str:
    """The same, of a text in UTF-8, without its byte order mark; RequestError also where it is no such text."""
    try:
        return read_bytes(path, mend).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not text in UTF-8 (byte {error.start}); {mend}") from error


def read_json(path: Path, mend: str, kind: type = dict, absent: str = "") -> Any:
    """The JSON object in a file.

    Args:
      path: of the file.
      mend: what to do about it where it holds something else.
      kind: `list` for an array instead.
      absent: what to do where it cannot be read; empty for the same.

    Raises:
      RequestError: the file cannot be read, or holds something else; one line that ends in the mend.
    """
    content = read_bytes(path, absent or mend).removeprefix(b"\xef\xbb\xbf")
    try:
        found = parse_json(content)
    except ValueError as error:
        raise RequestError(f"{path}: {error}; {mend}") from error
    if not isinstance(found, kind):
        raise RequestError(f"{path}: not a JSON {'array' if kind is list else 'object'}; {mend}")
    return found


def json_object(line: bytes | str) -> Json:
    """The JSON object in a line. Raises ValueError where it holds something else."""
    found = parse_json(line)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


# Writing


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a reader finds either the old one or the whole new one; makes its folder.

    Raises:
      RunError: it cannot be written, e.g. because the disk is full; what stood there before is kept.
    """
    if not hosts.is_first():
        return
    target = epath.Path(path)
    with writing(target):
        if is_remote(target):
            target.write_bytes(content)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _replace(target, content)


def _replace(path: epath.Path, content: bytes) -> None:
    with _temporary(path) as temporary:
        with open(temporary, "r+b") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # Some file systems report a full disk only here.
        os.replace(temporary, path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises RunError, which names the path and the mend, where a disk or a bucket fails in the block."""
    try:
        yield
    except Exception as error:
        if not is_of_storage(error):
            raise
        mend = "see that you may write there, then try again" if is_remote(path) else _FULL
        raise RunError(f"{path}: cannot be written ({said(error)}); {mend}") from error


def is_of_storage(error: BaseException) -> bool:
    """Whether a disk failed, or a bucket: TensorFlow, Google's libraries and TensorStore have errors of their own."""
    if isinstance(error, OSError):
        return True
    return type(error).__module__.startswith(_OF_BUCKETS)


def said(error: Exception) -> str:
    """What the system, or a remote one, said."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8. A lone surrogate, which has none, is written as its escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_text_where_changed(path: Path, text: str) -> None:
    """As `write_text`; a file that says so already is left alone."""
    there = epath.Path(path)
    if not there.is_file() or there.read_bytes() != text.encode("utf-8", "backslashreplace"):
        write_text(there, text)


def write_json(path: Path, content: Any) -> None:
    """As `write_bytes`, of a JSON value."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def _temporary(path: epath.Path) -> Iterator[epath.Path]:
    """An empty file beside `path`, locked while its writer lives, so that `clean_up` knows the dead."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        # Where the file system has no locks, nothing is cleaned up either.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[epath.Path]:
    """A folder that appears at `path` in one piece when the block ends, and not at all where it fails.

    What is there already goes away in the same moment; whoever must not lose it looks before. What an earlier call for
    the same folder left when it was killed goes, too. A remote one is written in its place, file by file.

    Raises:
      RunError: it cannot be written.
    """
    if is_remote(path):
        with writing(path):
            yield epath.Path(path)
        return
    target = epath.Path(pathlib.Path(path).resolve())
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        temporary.mkdir()
    with _locked_folder(temporary):
        for left in pathlib.Path(target.parent).glob(_TEMPORARY.format(glob.escape(target.name))):
            with contextlib.suppress(OSError):
                _remove_if_dead(left)
        try:
            with writing(target):
                yield temporary
                _put_in_place(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked_folder(folder: epath.Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _put_in_place(temporary: epath.Path, path: epath.Path) -> None:
    if not path.exists():
        os.replace(temporary, path)
        return
    old = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    os.replace(path, old)
    os.replace(temporary, path)
    shutil.rmtree(old, ignore_errors=True)


def clean_up(directory: Path) -> None:
    """Removes what writers left anywhere in `directory` when they were killed; what a living one writes stays."""
    if is_remote(directory) or not hosts.is_first():
        return  # Nothing is written under another name there.
    # os.walk passes over folders that another process removes meanwhile, as rglob does not.
    found = [pathlib.Path(folder, name) for folder, *names in os.walk(directory) for name in itertools.chain(*names)]
    for left in fnmatch.filter(map(str, found), f"*/{_TEMPORARY.format('*')}"):
        with contextlib.suppress(OSError):
            _remove_if_dead(pathlib.Path(left))


def _remove_if_dead(left: pathlib.Path) -> None:
    descriptor = os.open(left, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Raises where its writer lives.
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
    finally:
        os.close(descriptor)
