"""SIGINT and SIGTERM as a flag that long work looks at, where what it has done can be kept.

An exception raised by a signal handler comes up wherever Python happens to be, also in callbacks that print it and go
on, as those of JAX's garbage collection do: the flag does not get lost, and no save is torn.

Of several processes, those that were not signalled must end at the same place: where any was, all agree on one
(JAX's preemption sync point). So all look equally often.
"""

import contextlib
import os
import signal
import types
from collections.abc import Iterator

from cd_jax.errors import Interrupted
from cd_jax.rundir import hosts

__all__ = ["Interrupted", "ask", "check", "listening", "requested", "was_asked"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked: signal.Signals | None = None
_agreed = False


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within the block both signals set the flag; a second one ends the process at once."""
    global _asked, _agreed
    _asked, _agreed = None, False
    before = {number: signal.signal(number, _ask) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ask(number: int, frame: types.FrameType | None) -> None:
    global _asked
    if _asked is not None:
        os._exit(128 + number)
    _asked = signal.Signals(number)
    # Not through print, whose lock the interrupted code may hold.
    os.write(2, f"cd_jax: {_asked.name}: ends at the next safe place; once more ends it at once\n".encode())


def ask(number: int) -> None:
    """Sets the flag, as a signal of this number does, where another process has told us of it."""
    global _asked
    _asked = signal.Signals(number)


def was_asked() -> bool:
    """Whether this very process was."""
    return _asked is not None


def requested() -> bool:
    """Whether a signal came; of several processes, whether they have agreed to end here."""
    global _agreed
    if hosts.is_alone():
        return _asked is not None
    _agreed = _agreed or hosts.reached_sync_point()
    return _agreed


def check(kept: str = "") -> None:
    """Raises `Interrupted` where a signal came, see `requested`; see `Interrupted.kept`."""
    if requested():
        raise Interrupted(_asked or signal.SIGTERM, kept)
