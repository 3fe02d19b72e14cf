"""`requests.jsonl`: what a teacher was asked and what it answered, so that nothing is paid for twice.

A line before a request is sent, and one, which is on disk before anything is made of it, after it was answered. What
was sent and neither answered nor refused counts as spent: a kill, or a connection that broke, may have come after the
server had done its work.
"""

import asyncio
import contextlib
import gc
import os
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import msgspec
from etils import epath

from cd_jax.errors import RequestError
from cd_jax.rundir import files, journal

NAME = "requests.jsonl"


class Choice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One text of an answer, as the server gave it.

    Attributes:
      content: the text.
      finish: why it ended, e.g. `stop` or `length`.
      refusal: what the model said in place of a text.
      tool: the call of a tool that it made instead.
      reasoned: it thought aloud; the thoughts are not kept.
      log_prob: mean over its tokens, in nats; None where the server does not say.
    """

    content: str = ""
    finish: str = ""
    refusal: str = ""
    tool: str = ""
    reasoned: bool = False
    log_prob: float | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came for a request.

    Attributes:
      choices: the texts; fewer than were asked for where the server gives no more.
      error: what the server said in their place.
      usage: tokens of the prompt and of the choices; None where the server does not say.
    """

    choices: tuple[Choice, ...] = ()
    error: str = ""
    usage: tuple[int, int] | None = None


class Tokens(NamedTuple):
    """A number of tokens, or a bound of one.

    Attributes:
      prompt: of what is sent.
      answer: of what comes.
    """

    prompt: int
    answer: int


class _Sent(msgspec.Struct, frozen=True, tag_field="line", tag="sent"):
    request: str
    tokens: tuple[int, int]


class _Refused(msgspec.Struct, frozen=True, tag_field="line", tag="refused"):
    request: str


class _Answered(msgspec.Struct, frozen=True, tag_field="line", tag="answered"):
    request: str
    answer: Answer


_Line = _Sent | _Refused | _Answered
_DECODER = msgspec.json.Decoder(_Line)


class Requests:
    """The file, and what it says.

    Attributes:
      answers: by the hash of their request.
      requests: sent, of all runs; those that the server refused do not count.
    """

    def __init__(self, directory: files.Path | None):
        """Reads what is there.

        Args:
          directory: that the file is, or will be, in; None keeps all in memory.

        Raises:
          RequestError: a line other than a cut last one is malformed.
          RunError: the file cannot be read, or a cut line not be taken off.
        """
        self._path = None if directory is None else epath.Path(directory) / NAME
        self.answers: dict[str, Answer] = {}
        self.requests, self._prompt, self._answer = 0, 0, 0
        # What was set aside for requests of which nothing has come: for each try.
        self._open: dict[str, tuple[tuple[int, int], ...]] = {}
        self._file: _File | None = None
        # Lines that were written, and how many of them are known to be on disk.
        self._written, self._durable = 0, 0
        self._syncing: asyncio.Future | None = None
        if self._path is not None and self._path.exists():
            journal.repair(self._path)
            for line in _read(self._path):
                self._take(line)

    @property
    def tokens(self) -> Tokens:
        """What the requests took, at most."""
        return Tokens(self._prompt, self._answer)

    def send(self, request: str, tokens: Tokens) -> None:
        """Notes that a request is about to be sent. Raises RunError where the line cannot be written."""
        self._add(_Sent(request, tokens))

    def refuse(self, request: str) -> None:
        """Notes that the server did nothing for it. Raises RunError where the line cannot be written."""
        self._add(_Refused(request))

    async def answer(self, request: str, answer: Answer) -> None:
        """Notes what came; on disk when it returns. Raises RunError where it cannot be written."""
        line = _Answered(request, answer)
        self._write(line)
        await self._synced()
        self._take(line)

    def take(self, answers: Mapping[str, Answer]) -> None:
        """Notes answers that came by another way, e.g. a batch. Raises RunError where they cannot be written."""
        for request, answer in answers.items():
            if request not in self.answers:
                self._add(_Answered(request, answer))
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add(self, line: _Line) -> None:
        self._write(line)
        self._take(line)

    def _write(self, line: _Line) -> None:
        if self._path is None:
            return
        if self._file is None:
            self._file = (_Object if files.is_remote(self._path) else _Local)(self._path)
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._written += 1

    async def _synced(self) -> None:
        """Waits until all that was written so far is on disk: answers that come together are synced together."""
        wanted = self._written
        while self._file is not None and self._durable < wanted:
            if self._syncing is None:
                self._syncing = asyncio.ensure_future(self._sync(self._file, self._written))
            await asyncio.shield(self._syncing)

    async def _sync(self, file: "_File", written: int) -> None:
        try:
            await asyncio.to_thread(file.sync)
            self._durable = written
        finally:
            self._syncing = None

    def _take(self, line: _Line) -> None:
        # There are millions of them when a file is opened: little is made here.
        name = line.request
        if type(line) is _Sent:
            tries = self._open.get(name)
            self._open[name] = (line.tokens,) if tries is None else (*tries, line.tokens)
            self.requests += 1
            self._prompt += line.tokens[0]
            self._answer += line.tokens[1]
            return
        tries = self._open.pop(name, ())
        prompt, answer = tries[-1] if tries else (0, 0)
        if len(tries) > 1:
            self._open[name] = tries[:-1]
        if type(line) is _Answered:
            self.answers[name] = line.answer
            # Where nothing was set aside, it came in a batch.
            self.requests += not tries
            used = line.answer.usage or (prompt, answer)
            self._prompt += used[0] - prompt
            self._answer += used[1] - answer
        elif tries:
            self.requests -= 1
            self._prompt -= prompt
            self._answer -= answer


class _Local:
    """The file on a disk. Its methods raise RunError where it cannot be written."""

    def __init__(self, path: epath.Path):
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab")  # noqa: SIM115

    def write(self, line: bytes) -> None:
        """Survives a kill when it returns."""
        with files.writing(self._file.name):
            self._file.write(line)
            self._file.flush()

    def sync(self) -> None:
        """Survives all else, too, when it returns."""
        with files.writing(self._file.name):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        # What could not be written was told when it was.
        with contextlib.suppress(OSError):
            self._file.close()


class _Object:
    """The file in a bucket, where nothing is added to: it is written whole, and a line is there when it was synced."""

    def __init__(self, path: epath.Path):
        self._path, self._synced = path, 0
        with files.writing(path):
            self._content = bytearray(path.read_bytes() if path.exists() else b"")

    def write(self, line: bytes) -> None:
        self._content += line

    def sync(self) -> None:
        content = bytes(self._content)
        files.write_bytes(self._path, content)
        self._synced = len(content)

    def close(self) -> None:
        # Requests of which nothing has come.
        if self._synced < len(self._content):
            self.sync()


_File = _Local | _Object


def parse(line: str | bytes) -> tuple[str, Answer] | None:
    """The request and the answer of a line; None of a line of another kind. Raises ValueError where it is none."""
    found = _DECODER.decode(line)
    return (found.request, found.answer) if isinstance(found, _Answered) else None


def _read(path: epath.Path) -> Iterator[_Line]:
    """The lines. Not by `journal.read`: there are millions, and nobody but this module writes them."""
    with _uncollected(), _reading(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield _DECODER.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                said = " ".join(str(error).split())[:200]
                raise RequestError(f"{path}:{number}: not a request or an answer ({said}); delete the line") from None


@contextlib.contextmanager
def _reading(path: epath.Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({files.said(error)}); check its permissions") from error


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without looking for garbage, which there is none of, and which takes longer than reading."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
