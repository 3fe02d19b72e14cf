"""A teacher behind any endpoint that speaks OpenAI's chat completions."""

import hashlib
import os
import pathlib
import re
import string
import sys
import urllib.parse
from typing import Any

import gin
import tenacity

from cd_jax.config.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from cd_jax.errors import RequestError, RunError
from cd_jax.rundir import files, interrupt
from cd_jax.types import Example
from cd_jax.update.teachers import replies
from cd_jax.update.teachers.redaction import Redaction
from cd_jax.update.teachers.replies import Reply
from cd_jax.update.teachers.teacher import Explanation

DEFAULT_BASE_URL = "https://api.openai.com/v1"
PROMPT_FILE = pathlib.Path(__file__).parent / "prompts" / "why.txt"
PROMPT_FIELDS = ("context", "question", "answer", "attempt")

# Apart from one another by more than any run's seeds are, so that no two seeds share their samples; no example has so
# many, so that what is asked again has a seed of its own.
_SEED_STRIDE, _SAMPLES = 1_000_003, 1009
_LONGEST_DETAIL = 200
# A server that asks for a longer break is not waited for.
_LONGEST_WAIT = 120.0  # seconds
# What a server may refuse, and what is sent in its place; None: nothing.
_REPLACED = {"seed": None, "max_tokens": "max_completion_tokens", "max_completion_tokens": None, "temperature": None}

_CHECK_KEY = "set OPENAI_API_KEY to a key that this endpoint takes"
_MENDS = {
    401: _CHECK_KEY,
    403: _CHECK_KEY,
    404: "check the model and the base URL (most end in /v1)",
    429: "wait, check the quota, or raise OpenAITeacher.max_retries",
}


class _NotSpoken(Exception):
    """The body of a response is no chat completion: a web page, or cut."""


@gin.configurable
class OpenAITeacher:
    """Samples explanations from a language model with a "why" prompt (arXiv 2212.11353, section 2)."""

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        prompt_file: str | os.PathLike[str] | None = None,
        temperature: NonNegativeFloat | None = 0.7,
        max_tokens: PositiveInt | None = 200,
        max_retries: NonNegativeInt = 5,
        timeout: PositiveFloat = 60.0,
        max_extra_asks: NonNegativeInt = 3,
        send_seed: bool = True,
    ):
        """Makes the client; nothing is sent yet. The key comes from OPENAI_API_KEY and from nowhere else.

        Args:
          model: the model's name at the endpoint; OPENAI_MODEL where it is None.
          base_url: of the endpoint; OPENAI_BASE_URL, or else OpenAI's own, where it is None. It is written into
            `config.gin`: credentials belong into OPENAI_BASE_URL, which is written nowhere.
          prompt_file: a `string.Template` with the fields `PROMPT_FIELDS`; the packaged one where it is None.
          temperature: of sampling; None leaves it to the server.
          max_tokens: longest explanation, in the endpoint's tokens; None leaves it to the server.
          max_retries: of one request, where the endpoint fails, is busy or answers with something else; waits are
            longer each time.
          timeout: of one request, in seconds.
          max_extra_asks: how often to ask again after an empty or a repeated answer, before the teacher is taken to
            have no more to say of the example.
          send_seed: whether requests carry a seed. What a server says that it does not take is left out in any case.

        Raises:
          RequestError: the key, the model, the base URL or the prompt file is missing or wrong.
        """
        self.name = model or os.environ.get("OPENAI_MODEL", "")
        if not self.name:
            raise RequestError("the OpenAI teacher has no model: bind OpenAITeacher.model or set OPENAI_MODEL")
        url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
        self._shown_url = _shown_url(url)
        if base_url and _has_credentials(base_url):
            raise RequestError(
                "OpenAITeacher.base_url holds credentials, and bindings are written to disk: "
                "set OPENAI_BASE_URL instead, and the key as OPENAI_API_KEY"
            )
        key = _read_key()
        self._redaction = Redaction(key, url)
        self._template = _read_template(pathlib.Path(prompt_file or PROMPT_FILE))
        sent = {"temperature": temperature, "max_tokens": max_tokens}
        self._sampling: dict[str, Any] = {name: value for name, value in sent.items() if value is not None}
        self._send_seed = send_seed
        self._max_extra_asks, self._max_retries = max_extra_asks, max_retries
        self._client = _make_client(key, url, timeout)
        # Why there was no explanation, how often, and what was said of it last.
        self.counts: dict[str, int] = {}
        self.said: dict[str, str] = {}

    def explain(self, example: Example, attempt: str | None, num_updates: int, seed: int) -> list[Explanation]:
        """See `Teacher.explain`.

        Raises:
          RunError: the endpoint cannot be reached, or refuses.
        """
        found: list[Explanation] = []
        for sample in range(num_updates):
            given = self.sample(example, attempt, sample, seed, [explanation.text for explanation in found])
            if given is None:
                break
            found.append(given[0])
        return found

    def sample(
        self, example: Example, attempt: str | None, sample: int, seed: int, known: list[str]
    ) -> tuple[Explanation, str] | None:
        """See `SamplingTeacher.sample`. One request for each explanation, as many endpoints ignore `n`.

        Raises:
          RunError: the endpoint cannot be reached, or refuses.
        """
        prompt = self._prompt(example, attempt)
        for ask in range(1 + self._max_extra_asks):
            interrupt.check()
            reply = self._ask(prompt, seed + (sample + ask * _SAMPLES) * _SEED_STRIDE)
            text = self._redaction.of_answer(reply.text)
            kind = "repeated" if text and text in known else reply.kind
            if kind:
                self.counts[kind] = self.counts.get(kind, 0) + 1
                self.said[kind] = self._redaction.of_message(reply.said)[:_LONGEST_DETAIL]
            if text and text not in known:
                return Explanation(text, prompt), reply.kind
        return None

    def request_hash(self, example: Example, attempt: str | None) -> str:
        """See `SamplingTeacher.request_hash`."""
        return hashlib.sha256(f"{self.name}\n{self._prompt(example, attempt)}".encode()).hexdigest()[:16]

    def _prompt(self, example: Example, attempt: str | None) -> str:
        return self._template.substitute(
            context=example.context,
            question=example.question,
            answer=example.answer,
            attempt=" ".join((attempt or "").split()) or "nothing",
        )

    def _ask(self, prompt: str, seed: int) -> Reply:
        """The answer to one request, tried again where trying again may help.

        Raises:
          RunError: it does not.
        """
        try:
            return self._retrying()(self._request, prompt, seed)
        except Exception as error:
            if isinstance(error, interrupt.Interrupted):
                raise
            failure = self._failure(error)
        # Raised out here so that no chain leads to the client's error: what the server said may hold the key.
        raise failure

    def _retrying(self) -> tenacity.Retrying:
        def wait(state: tenacity.RetryCallState) -> float:
            assert state.outcome
            asked = _retry_after(state.outcome.exception())
            return min(8.0, 0.5 * 2 ** (state.attempt_number - 1)) if asked is None else asked

        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(1 + self._max_retries),
            wait=wait,
            retry=tenacity.retry_if_exception(_may_pass),
            before_sleep=lambda _: interrupt.check(),
            reraise=True,
        )

    def _request(self, prompt: str, seed: int) -> Reply:
        import openai

        while True:
            sent = self._sampling | ({"seed": seed % 2**31} if self._send_seed else {})
            try:
                # Raw: the client would make something of whatever comes, also of a web page.
                response = self._client.chat.completions.with_raw_response.create(
                    model=self.name, messages=[{"role": "user", "content": prompt}], **sent
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not self._adapted(str(error), sent):
                    raise
            else:
                return replies.read(_parsed(response.text))

    def _adapted(self, message: str, sent: dict[str, Any]) -> bool:
        """Whether the server names a setting that it does not take, which is left out from now on."""
        named = [name for name in _REPLACED if name in sent and re.search(rf"\b{name}\b", message)]
        # A message that names what to use in its place names both.
        for name in named[:1]:
            value, other = self._sampling.pop(name, None), _REPLACED[name]
            self._send_seed = self._send_seed and name != "seed"
            if other:
                self._sampling[other] = value
            instead = f"{other} is sent instead" if other else "it is left out"
            print(f"[distill] {self.name} does not take {name}: {instead}", file=sys.stderr, flush=True)
        return bool(named)

    def _failure(self, error: Exception) -> RunError:
        """What is wrong and how to mend it, in one line, without the key."""
        import openai

        status = getattr(error, "status_code", None)
        detail = self._redaction.of_message(str(error))[:_LONGEST_DETAIL]
        if _is_out_of_quota(error):
            what, mend = f"HTTP {status}, the quota is exhausted: {detail}", "pay, or choose another model"
        elif (wait := _retry_after(error)) is not None and wait > _LONGEST_WAIT:
            what, mend = f"HTTP {status}, it asks to wait {wait:.0f} seconds: {detail}", "run again then, which resumes"
        elif status is not None:
            what = f"HTTP {status}" if status in (401, 403) else f"HTTP {status}, {detail}"
            mend = "try again later" if status >= 500 else "check the model and OpenAITeacher's bindings"
            mend = _MENDS.get(status, mend)
        elif isinstance(error, openai.APITimeoutError):
            what, mend = "no answer in time", "try again later or raise OpenAITeacher.timeout"
        elif isinstance(error, openai.APIConnectionError):
            what, mend = "cannot connect", "check that it runs, and OpenAITeacher.base_url or OPENAI_BASE_URL"
        elif isinstance(error, _NotSpoken):
            what, mend = "it does not speak chat completions", "check the base URL (most end in /v1)"
        else:
            what, mend = f"{type(error).__name__}, {detail}", "check OPENAI_BASE_URL and the proxy in the environment"
        return RunError(f"teacher {self.name} at {self._redaction.of_message(self._shown_url)}: {what}; {mend}")


def _make_client(key: str, url: str, timeout: float) -> Any:
    # Imported here: it takes about a second, and most runs use no endpoint.
    try:
        import openai

        return openai.OpenAI(api_key=key, base_url=url, max_retries=0, timeout=timeout)
    except ImportError as error:
        # httpx needs a package of its own for SOCKS proxies, such as ALL_PROXY can name.
        raise RequestError(
            f"the OpenAI teacher lacks a package ({error}); pip install openai 'httpx[socks]', or unset ALL_PROXY"
        ) from error


def _parsed(body: str) -> Any:
    try:
        return (
            replies.read_stream(body) if body.lstrip().startswith(("data:", "event:", ":")) else files.json_object(body)
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _NotSpoken(str(error)) from error


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may be answered later."""
    import openai

    if _is_out_of_quota(error) or (_retry_after(error) or 0.0) > _LONGEST_WAIT:
        return False
    status = getattr(error, "status_code", None)
    if status is not None:
        return status in (408, 409, 429) or status >= 500
    return isinstance(error, openai.APIConnectionError | _NotSpoken)


def _is_out_of_quota(error: BaseException) -> bool:
    return getattr(error, "code", None) == "insufficient_quota"


def _retry_after(error: BaseException | None) -> float | None:
    """Seconds that the server asks us to wait; None where it does not say."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(float(headers[name]) * unit, 0.0)
        except (KeyError, ValueError):
            continue
    return None


def _read_key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        raise RequestError(
            "the OpenAI teacher has no key: set OPENAI_API_KEY (to any word where the server wants none)"
        )
    # The HTTP client would quote such a key in its error.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise RequestError("OPENAI_API_KEY holds spaces or characters that no key has: set it again")
    return key


def _has_credentials(url: str) -> bool:
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


def _read_template(path: pathlib.Path) -> string.Template:
    template = string.Template(files.read_text(path, "mend OpenAITeacher.prompt_file"))
    if not template.is_valid():
        raise RequestError(f"{path}: the prompt has a `$` that starts no field; write `$$` for a dollar sign")
    for field in template.get_identifiers():
        if field not in PROMPT_FIELDS:
            known = ", ".join(f"${name}" for name in PROMPT_FIELDS)
            raise RequestError(f"{path}: the prompt names an unknown field ${field}; the fields are {known}")
    return template
