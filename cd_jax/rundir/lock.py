"""One writer at a time: a lock on a folder that ends with the process that holds it, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from etils import epath

from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import files, hosts

NAME, TURN = ".lock", ".turn"
# Of this process: a verb that runs another one on the same folder holds its lock already.
_held: dict[epath.Path, int | None] = {}


@contextlib.contextmanager
def exclusive(directory: str | os.PathLike[str], verb: str) -> Iterator[None]:
    """Holds the folder's lock; makes the folder where it is missing, and clears what dead writers left in it.

    Readers (`eval`, `infer`, `report`, `export`) take none. A remote folder has none: its objects are written whole.

    Args:
      directory: what is written to.
      verb: who writes; the error of a second one names it.

    Raises:
      RequestError: another process holds it.
      RunError: the folder cannot be written to.
    """
    folder = files.located(directory)
    if folder in _held or files.is_remote(folder):
        yield
        return
    existed = folder.is_dir()
    # Process 0 holds it for all.
    descriptor = hosts.first("lock", lambda: _acquire(folder, verb))
    _held[folder] = descriptor
    try:
        files.clean_up(folder)
        yield
    finally:
        del _held[folder]
        if descriptor is not None:
            _release(folder, descriptor, existed)


def _release(folder: epath.Path, descriptor: int, existed: bool) -> None:
    with contextlib.suppress(OSError):
        (folder / NAME).unlink()
        if not existed:
            # Refused before anything was written: nothing is left. Not epath's, which removes what is in it, too.
            os.rmdir(folder)
    os.close(descriptor)


def check_empty(folder: epath.Path | os.PathLike[str], flag: str) -> None:
    """Raises RequestError where there is more in a folder than its lock; `flag` names another folder."""
    there = epath.Path(folder)
    if there.is_dir() and any(path.name != NAME for path in there.iterdir()):
        raise RequestError(f"{folder}: is not empty; choose another {flag}")


@contextlib.contextmanager
def in_turn(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Waits until nobody else is in such a block of a local folder: for files that several commands add to.

    Raises:
      RunError: the folder cannot be written to.
    """
    folder = files.located(directory)
    if files.is_remote(folder):
        yield
        return
    descriptor = _acquire(folder, "", TURN, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / TURN).unlink()
        os.close(descriptor)


def _acquire(folder: epath.Path, verb: str, name: str = NAME, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int:
    path = folder / name
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:
            continue  # Whoever held it has just removed the folder that it had made.
        except OSError as error:
            raise RunError(f"{folder}: cannot be written ({error.strerror}); choose another --model_dir") from error
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            holder = os.read(descriptor, 100).decode("utf-8", "replace").strip() or "another command"
            os.close(descriptor)
            raise RequestError(
                f"{folder}: {holder} writes there now; wait until it has ended, or choose another --model_dir"
            ) from None
        except OSError:
            pass  # A file system without locks: as before there were any.
        if _is_current(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"cd_jax {verb} (process {os.getpid()})".encode())
            return descriptor
        os.close(descriptor)


def _is_current(path: epath.Path, descriptor: int) -> bool:
    """Whether the file that was locked is still the one that others will find."""
    try:
        there, held = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
