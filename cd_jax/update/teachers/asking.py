"""Many requests at once: taken from the journal, else sent within the budget and at the server's pace."""

import asyncio
import collections
import itertools
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any

import tenacity

from cd_jax.errors import RunError
from cd_jax.rundir import interrupt
from cd_jax.rundir.requests import Answer, Requests, Tokens
from cd_jax.update.teachers import endpoint as endpoints
from cd_jax.update.teachers.budget import TeacherBudget
from cd_jax.update.teachers.endpoint import Endpoint
from cd_jax.update.teachers.pace import Pace
from cd_jax.update.teachers.requests import Dialogue, Request

# Dialogues that go on at once: so many that a slow answer to the first keeps none of the others from being sent.
_AHEAD = 5000
_LOOK = 0.2  # seconds between two looks at whether the user wants an end
# What is in flight when something fails may have been paid for, and is waited for.
_GRACE = 10.0  # seconds


class Asking:
    """Carries dialogues on with an endpoint's answers."""

    def __init__(
        self, endpoint: Endpoint, requests: Requests, budget: TeacherBudget, max_retries: int, max_concurrency: int
    ):
        """Sends nothing yet.

        Args:
          endpoint: that is asked.
          requests: the journal.
          budget: of the journal's directory.
          max_retries: of one request.
          max_concurrency: requests in flight, at most.
        """
        self._endpoint, self._requests, self._budget = endpoint, requests, budget
        self._max_retries, self._pace = max_retries, Pace(max_concurrency)
        self._flying: dict[str, asyncio.Task[Answer]] = {}
        self._failed = asyncio.Event()
        self._failure: Exception | None = None
        # Of prompts, beyond what their texts let expect.
        self._more_tokens = 0
        self._seconds: list[float] = []

    def results(self, dialogues: Iterable[Dialogue]) -> Iterator[Any]:
        """What each dialogue makes of its answers, in their order.

        Raises:
          RunError: the endpoint cannot be reached or refuses, or the budget is spent; what came until then is kept.
          Interrupted: the user wants an end.
        """
        with asyncio.Runner() as runner:
            runner.run(self._open())
            waiting: collections.deque[asyncio.Task[Any]] = collections.deque()
            coming = iter(dialogues)
            try:
                while True:
                    runner.run(self._start(waiting, itertools.islice(coming, _AHEAD - len(waiting))))
                    if not waiting:
                        return
                    while not runner.run(self._is_done(waiting[0])):
                        interrupt.check(f"{self._pace.answered} answers of this call are kept")
                    yield waiting.popleft().result()
            finally:
                runner.run(self._end(waiting))

    async def _open(self) -> None:
        self._endpoint.open()

    async def _start(self, waiting: collections.deque[asyncio.Task[Any]], dialogues: Iterable[Dialogue]) -> None:
        waiting.extend(asyncio.ensure_future(self._carry(dialogue)) for dialogue in dialogues)

    async def _is_done(self, first: asyncio.Task[Any]) -> bool:
        """Waits a little. Raises what made a request fail, as soon as it is known."""
        if not first.done():
            failed = asyncio.ensure_future(self._failed.wait())
            await asyncio.wait([first, failed], timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
            failed.cancel()
        if first.done() and not first.exception():
            return True
        if self._failure:
            raise self._failure
        return first.done()

    async def _end(self, waiting: Iterable[asyncio.Task[Any]]) -> None:
        """Waits for what is in flight, for a while; nothing else is sent."""
        self._failed.set()
        deadline = time.monotonic() + _GRACE
        while self._pace.in_flight and time.monotonic() < deadline:
            await self._pace.changed(_LOOK)
        left = [*waiting, *self._flying.values()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._endpoint.close()
        self._requests.close()

    async def _carry(self, dialogue: Dialogue) -> Any:
        try:
            wanted = next(dialogue)
            while True:
                wanted = dialogue.send(list(await asyncio.gather(*map(self._answer, wanted))))
        except StopIteration as end:
            return end.value

    async def _answer(self, request: Request) -> Answer:
        """Of the journal, of the same request that is in flight, or of the endpoint."""
        name = request.hash
        if name in self._requests.answers:
            return self._requests.answers[name]
        if name not in self._flying:
            self._flying[name] = asyncio.ensure_future(self._ask(request))
        answer = await asyncio.shield(self._flying[name])
        self._flying.pop(name, None)
        return answer

    async def _ask(self, request: Request) -> Answer:
        try:
            return await self._retrying()(self._try, request)
        except (RunError, asyncio.CancelledError) as error:
            failure: BaseException = error
        except Exception as error:
            failure = self._endpoint.failure(error)
        # Raised out here so that no chain leads to the client's error: what the server said may hold the key.
        if isinstance(failure, Exception) and not self._failure:
            self._failure = failure
            self._failed.set()
        raise failure

    def _retrying(self) -> tenacity.AsyncRetrying:
        # Refusals count only while nobody is answered: under a limit of the server's, many are told to wait.
        tries, answered = 0, self._pace.answered

        def is_over(state: tenacity.RetryCallState) -> bool:
            nonlocal tries, answered
            error = state.outcome.exception() if state.outcome else None
            moves = self._pace.answered > answered and endpoints.retry_after(error) is not None
            tries, answered = 1 if moves else tries + 1, self._pace.answered
            return tries > self._max_retries

        def wait(state: tenacity.RetryCallState) -> float:
            asked = endpoints.retry_after(state.outcome.exception()) if state.outcome else None
            # Where the server says how long, the pace waits, for all.
            return min(8.0, 0.5 * 2 ** (state.attempt_number - 1)) if asked is None else 0.0

        return tenacity.AsyncRetrying(
            stop=is_over, wait=wait, retry=tenacity.retry_if_exception(endpoints.may_pass), reraise=True
        )

    async def _try(self, request: Request) -> Answer:
        bound = self._bound(request)
        async with self._pace.turn(sum(bound), lambda: self._reserve(request, bound)) as began:
            clock = time.monotonic()
            try:
                got = await self._endpoint.ask(request)
            except Exception as error:
                if endpoints.was_refused(error):
                    self._requests.refuse(request.hash)
                if endpoints.is_busy(error):
                    self._pace.refused(began, endpoints.headers_of(error), endpoints.retry_after(error))
                raise
            self._seconds.append(time.monotonic() - clock)
            await self._requests.answer(request.hash, got.answer)
            self._pace.succeeded(got.headers)
            if got.answer.usage:
                # A template that is longer than any we know: the next ones are bounded with it.
                self._more_tokens = max(self._more_tokens, got.answer.usage[0] - request.bound.prompt)
            return got.answer

    def _reserve(self, request: Request, bound: Tokens) -> bool:
        """Sets aside what the request takes at most, and notes that it is sent; False where that must wait.

        Raises:
          RunError: the budget will have no room for it.
        """
        if self._failed.is_set():
            raise asyncio.CancelledError
        if self._passed(bound):
            if self._pace.in_flight:
                return False  # What is in flight may take less than was set aside.
            raise RunError(self._spent(bound))
        self._requests.send(request.hash, bound)
        return True

    def _bound(self, request: Request) -> Tokens:
        bound = request.bound
        return Tokens(bound.prompt + self._more_tokens, bound.answer)

    def _passed(self, bound: Tokens) -> str:
        spent = self._requests.tokens
        total = Tokens(spent.prompt + bound.prompt, spent.answer + bound.answer)
        return self._budget.passed(self._requests.requests + 1, total)

    def _spent(self, bound: Tokens) -> str:
        return (
            f"the budget of {self._passed(bound)} has no room for another request "
            f"({self._budget.told(self._requests.requests, self._requests.tokens)}); "
            "what was answered is kept: raise it and run again"
        )

    def told(self) -> str:
        """What was asked in this call and spent in all; empty where nothing was asked."""
        if not self._seconds:
            return ""
        spent = self._budget.told(self._requests.requests, self._requests.tokens)
        return f"{len(self._seconds)} answers, median {statistics.median(self._seconds):.2f} s; in all {spent}"
