"""The progress line of long work: plain text, a line at a time, so that it reads the same in a log."""

import contextlib
import time
from collections.abc import Iterator

_DUE = 5.0  # seconds


def clock(seconds: float) -> str:
    """`m:ss`, or `h:mm:ss` from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class ProgressLine:
    """Prints `[name] step 400/1600 (25%) loss 0.532 | 812 examples/s | ETA 1:45`."""

    def __init__(self, name: str, total: int, done: int = 0):
        """Starts the clock.

        Args:
          name: of the work, in brackets before each line.
          total: steps.
          done: steps that an earlier process did.
        """
        self._name, self._total = name, total
        self._last_step, self._last_time, self._reported = done, time.monotonic(), False

    def is_due(self) -> bool:
        """Whether the last line is so long ago that a reader would like another one; before the first, at once."""
        return not self._reported or time.monotonic() - self._last_time > _DUE

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A stretch that does not count into the rate."""
        started = time.monotonic()
        yield
        self._last_time += time.monotonic() - started

    def report(self, step: int, examples_per_step: int, text: str, seconds_left: float | None = None) -> float:
        """Prints a line.

        Args:
          step: steps done.
          examples_per_step: for the rate.
          text: what stands between step and rate.
          seconds_left: of a time budget, which may end the work before its steps do.

        Returns:
          Examples a second since the last line.
        """
        now = time.monotonic()
        rate = (step - self._last_step) / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time, self._reported = step, now, True
        eta = (self._total - step) / max(rate, 1e-9)
        eta = min(eta, seconds_left) if seconds_left is not None else eta
        print(
            f"[{self._name}] step {step}/{self._total} ({100 * step // self._total}%) {text} | "
            f"{rate * examples_per_step:.0f} examples/s | ETA {clock(max(eta, 0.0))}",
            flush=True,
        )
        return rate * examples_per_step
