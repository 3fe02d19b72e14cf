"""SIGINT and SIGTERM as a flag that long work looks at, where what it has done can be kept.

An exception raised by a signal handler comes up wherever Python happens to be, also in callbacks that print it and go
on, as those of JAX's garbage collection do: the flag does not get lost, and no save is torn.
"""

import contextlib
import os
import signal
import types
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_asked: signal.Signals | None = None


class Interrupted(KeyboardInterrupt):
    """The user, or the system, asks us to end; raised by `check`.

    Attributes:
      status: of the process: 130 after SIGINT, 143 after SIGTERM, as shells have it.
      kept: what is said of the work done: where it was saved, or that there was nothing to save.
    """

    def __init__(self, asked: signal.Signals, kept: str = ""):
        super().__init__(asked.name)
        self.status, self.kept = 128 + asked, kept


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within the block both signals set the flag; a second one ends the process at once."""
    global _asked
    _asked = None
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


def requested() -> bool:
    """Whether a signal came."""
    return _asked is not None


def check(kept: str = "") -> None:
    """Raises `Interrupted` where a signal came; see `Interrupted.kept`."""
    if _asked is not None:
        raise Interrupted(_asked, kept)
