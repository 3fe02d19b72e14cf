"""How many requests may be in flight, and when the next one may be sent."""

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping

# A server that asks for a longer break is not waited for: then it is asked, and says so.
LONGEST_WAIT = 120.0  # seconds

_FIRST = 4.0
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
# What servers say of the requests and tokens that are left, and when there are more: OpenAI's names, and the draft of
# the Internet Engineering Task Force.
_LEFT = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", False),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", True),
    ("ratelimit-remaining", "ratelimit-reset", False),
)


class Pace:
    """As many requests at once as the server bears: one more for every round of answers, half as many when it refuses.

    (Additive increase and multiplicative decrease: Chiu and Jain 1989.) What the server says of its limits goes first:
    nothing is sent before a `Retry-After` is over, nor beyond what it says is left.

    Attributes:
      window: how many may be in flight.
      in_flight: how many are.
      answered: requests so far that were.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic):
        """Nothing is in flight.

        Args:
          most: at once.
          clock: in seconds.
        """
        self._most, self._clock = most, clock
        self.window, self.in_flight, self.answered = min(_FIRST, most), 0, 0
        self._resumes = self._decreased = 0.0
        # Of requests and of tokens: how much is left, and when there is more.
        self._left: dict[bool, tuple[float, float]] = {}
        self._order, self._changed = asyncio.Lock(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self, tokens: int, admit: Callable[[], bool] = lambda: True) -> AsyncIterator[float]:
        """Waits for one's turn, in the order in which it was asked for; the block is the request.

        Args:
          tokens: that the request takes, at most.
          admit: is asked last; where it says no, again after a request has ended. What it raises is raised.

        Yields:
          When it began, for `refused`.
        """
        async with self._order:
            while True:
                pause = self._pause(tokens)
                if pause <= 0 and self.in_flight < int(self.window) and admit():
                    break
                await self.changed(pause if pause > 0 else None)
            self.in_flight += 1
            for of_tokens, (left, until) in self._left.items():
                self._left[of_tokens] = (left - (tokens if of_tokens else 1), until)
        try:
            yield self._clock()
        finally:
            self.in_flight -= 1
            self._changed.set()

    async def changed(self, timeout: float | None = None) -> None:
        """Waits until a request ends, at most so many seconds."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout)

    def succeeded(self, headers: Mapping[str, str]) -> None:
        """A request was answered, with these headers."""
        self.answered += 1
        self.window = min(self.window + 1 / self.window, self._most)
        self._learn(headers)

    def refused(self, began: float, headers: Mapping[str, str], wait: float | None) -> None:
        """The server has too much to do.

        Args:
          began: when the refused request did: those that were in flight together halve the window once.
          headers: of the refusal.
          wait: seconds that it asks for; None where it does not say.
        """
        now = self._clock()
        if began >= self._decreased:
            self.window, self._decreased = max(self.window / 2, 1.0), now
        if wait is not None:
            self._resumes = max(self._resumes, now + wait)
        self._learn(headers)

    def _learn(self, headers: Mapping[str, str]) -> None:
        now = self._clock()
        for left, reset, of_tokens in _LEFT:
            remaining, seconds = _number(headers.get(left)), duration(headers.get(reset))
            if remaining is not None and seconds is not None:
                # Those in flight beside this one may not be counted yet.
                others = 0 if of_tokens else max(self.in_flight - 1, 0)
                self._left[of_tokens] = (remaining - others, now + min(seconds, LONGEST_WAIT))

    def _pause(self, tokens: int) -> float:
        """Seconds until a request of so many tokens may be sent, unless an answer says otherwise before."""
        now = self._clock()
        pause = self._resumes - now
        for of_tokens, (left, until) in list(self._left.items()):
            if until <= now:
                del self._left[of_tokens]
            elif left < (tokens if of_tokens else 1):
                pause = max(pause, until - now)
        return pause


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def duration(text: str | None) -> float | None:
    """Seconds of `1.5`, `6m0s` or `20ms`; None of anything else."""
    if text and _DURATION.fullmatch(text.strip()):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return _number(text)
