"""An endpoint that speaks OpenAI's (chat) completions: one try of a request, and what its failure means."""

import email.utils
import re
import sys
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import files
from cd_jax.rundir.requests import Answer
from cd_jax.update.teachers import replies
from cd_jax.update.teachers.pace import LONGEST_WAIT, duration
from cd_jax.update.teachers.redaction import Redaction
from cd_jax.update.teachers.requests import Request

LONGEST_DETAIL = 200
# What a server may refuse, and what is sent in its place; None: nothing.
_REPLACED = {
    "seed": None, "max_tokens": "max_completion_tokens", "max_completion_tokens": None, "temperature": None,
    "logprobs": None, "top_logprobs": None, "stop": None, "n": None,
}  # fmt: skip

_CHECK_KEY = "set OPENAI_API_KEY to a key that this endpoint takes"
_MENDS = {
    401: _CHECK_KEY,
    403: _CHECK_KEY,
    404: "check the model and the base URL (most end in /v1)",
    429: "wait, check the quota, or raise TeacherClient.max_retries",
}


class _NotSpoken(ValueError):
    """The body of a response is no completion: a web page, or cut."""


class Got(NamedTuple):
    """What one try brought.

    Attributes:
      answer: to the request.
      headers: of the response.
    """

    answer: Answer
    headers: Mapping[str, str]


class Endpoint:
    """Where a teacher is asked."""

    def __init__(self, name: str, url: str, key: str, timeout: float, send_seed: bool, is_bounded: bool):
        """Sends nothing yet.

        Args:
          name: of the model, for messages.
          url: of the endpoint, ending in `/v1` for most; it may hold credentials.
          key: for it.
          timeout: of one try, in seconds.
          send_seed: whether requests carry a seed.
          is_bounded: the budget counts on `max_tokens`: a server that takes no such setting is refused.

        Raises:
          RequestError: the URL is none, or a package is missing.
        """
        self._name, self._url, self._key, self._timeout = name, url, key, timeout
        self._shown_url = _shown_url(url)
        self.redaction = Redaction(key, url)
        self._is_bounded = is_bounded
        # Settings that are left out, or sent by another name.
        self._not_taken: set[str] = set() if send_seed else {"seed"}
        self._client: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Without secrets: what is sent to other machines asks nobody."""
        return self.__dict__ | {"_key": "", "_url": self._shown_url, "redaction": Redaction("", ""), "_client": None}

    def open(self) -> None:
        """Makes the client, within the event loop that it will serve in. Raises RequestError without a package."""
        try:
            # Imported here: it takes about a second, and most runs use no endpoint.
            import openai

            self._client = openai.AsyncOpenAI(
                api_key=self._key, base_url=self._url, max_retries=0, timeout=self._timeout
            )
        except ImportError as error:
            # The HTTP client needs a package of its own for SOCKS proxies, such as ALL_PROXY can name.
            raise RequestError(
                f"the OpenAI teacher lacks a package ({error}); pip install openai 'httpx[socks]', or unset ALL_PROXY"
            ) from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.close()

    async def ask(self, request: Request) -> Got:
        """One try. What it raises is for `may_pass`, `was_refused` and `failure`."""
        import openai

        create = self._client.chat.completions if request.is_chat else self._client.completions
        while True:
            sent = self.body(request)
            try:
                # Raw: the client would make something of whatever comes, also of a web page.
                response = await create.with_raw_response.create(**sent)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not self._adapted(str(error), sent):
                    raise
            else:
                return Got(read_body(response.text, self.redaction), response.headers)

    def body(self, request: Request) -> dict[str, Any]:
        """What is sent for a request, without what the server does not take."""
        body = request.body()
        for name, other in _REPLACED.items():
            if name in self._not_taken and name in body:
                value = body.pop(name)
                if other:
                    body[other] = value
        return body

    def _adapted(self, message: str, sent: dict[str, Any]) -> bool:
        """Whether the server names a setting that it does not take, which is left out from now on."""
        # A message that names what to use in its place names both.
        name = next((name for name in _REPLACED if name in sent and re.search(rf"\b{name}\b", message)), None)
        if name is None:
            return False
        other = _REPLACED[name]
        if other is None and name.startswith("max_") and self._is_bounded:
            return False  # Its answers would have no bound, and neither would what they cost.
        if name not in self._not_taken:
            instead = f"{other} is sent instead" if other else "it is left out"
            print(f"[distill] {self._name} does not take {name}: {instead}", file=sys.stderr, flush=True)
        self._not_taken.add(name)
        return True

    def failure(self, error: Exception) -> RunError:
        """What is wrong and how to mend it, in one line, without the key."""
        import openai

        status, wait = getattr(error, "status_code", None), retry_after(error)
        detail = self.redaction.of_message(str(error))[:LONGEST_DETAIL]
        if _is_out_of_quota(error):
            what, mend = f"HTTP {status}, the quota is exhausted: {detail}", "pay, or choose another model"
        elif wait is not None and wait > LONGEST_WAIT:
            what, mend = f"HTTP {status}, it asks to wait {wait:.0f} seconds: {detail}", "run again then, which resumes"
        elif status is not None:
            what = f"HTTP {status}" if status in (401, 403) else f"HTTP {status}, {detail}"
            mend = "try again later" if status >= 500 else "check the model and OpenAITeacher's bindings"
            mend = _MENDS.get(status, mend)
        elif isinstance(error, openai.APITimeoutError):
            what, mend = "no answer in time", "try again later or raise TeacherClient.timeout"
        elif isinstance(error, openai.APIConnectionError):
            what, mend = "cannot connect", "check that it runs, and OpenAITeacher.base_url or OPENAI_BASE_URL"
        elif isinstance(error, _NotSpoken):
            what, mend = "it does not speak completions", "check the base URL (most end in /v1)"
        else:
            what, mend = f"{type(error).__name__}, {detail}", "check OPENAI_BASE_URL and the proxy in the environment"
        return RunError(f"teacher {self._name} at {self.redaction.of_message(self._shown_url)}: {what}; {mend}")


def read_body(body: str, redaction: Redaction) -> Answer:
    """The answer in the body of a response, without secrets. Raises an error for `may_pass` where it is none."""
    is_stream = body.lstrip().startswith(("data:", "event:", ":"))
    try:
        found = replies.read_stream(body) if is_stream else files.json_object(body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _NotSpoken(str(error)) from error
    return replies.receive(found, redaction.of_answer)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may be answered later."""
    import openai

    if _is_out_of_quota(error) or (retry_after(error) or 0.0) > LONGEST_WAIT:
        return False
    status = getattr(error, "status_code", None)
    if status is not None:
        return status in (408, 409, 429) or status >= 500
    return isinstance(error, openai.APIConnectionError | _NotSpoken)


def is_busy(error: BaseException) -> bool:
    """Whether the server has too much to do."""
    import openai

    return getattr(error, "status_code", None) in (429, 502, 503, 504, 529) or isinstance(error, openai.APITimeoutError)


def was_refused(error: BaseException) -> bool:
    """Whether the server did nothing for it that it could charge: a refusal, or no connection at all."""
    refused = ("ConnectError", "ConnectTimeout", "ProxyError", "PoolTimeout")
    return getattr(error, "status_code", None) is not None or type(error.__cause__).__name__ in refused


def _is_out_of_quota(error: BaseException) -> bool:
    return getattr(error, "code", None) == "insufficient_quota"


def headers_of(error: BaseException | None) -> Mapping[str, str]:
    """Those of the response that an error is about."""
    return getattr(getattr(error, "response", None), "headers", {})


def retry_after(error: BaseException | None) -> float | None:
    """Seconds that the server asks us to wait; None where it does not say."""
    headers = headers_of(error)
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if (wait := duration(headers.get(name))) is not None:
            return max(wait * unit, 0.0)
    try:
        until = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(until.timestamp() - time.time(), 0.0)


def has_credentials(url: str) -> bool:
    """Whether a URL holds what must not be written down."""
    parts = urllib.parse.urlsplit(url)
    return bool(parts.username or parts.password or parts.query)


def _shown_url(url: str) -> str:
    """The URL without user, password and query, fit for messages."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = None, None, None
    if not parts or parts.scheme not in ("http", "https") or not host:
        raise RequestError(
            "the teacher's base URL is not an http(s) one: mend OpenAITeacher.base_url or OPENAI_BASE_URL"
        )
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"
