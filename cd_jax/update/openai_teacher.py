"""A teacher behind any endpoint that speaks OpenAI's chat completions."""

import json
import logging
import os
import pathlib
import string
import urllib.parse
from typing import Any

import gin

from cd_jax.errors import RequestError, RunError
from cd_jax.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from cd_jax.types import Example
from cd_jax.update.teacher import Explanation

DEFAULT_BASE_URL = "https://api.openai.com/v1"
PROMPT_FILE = pathlib.Path(__file__).parent / "prompts" / "why.txt"
PROMPT_FIELDS = ("context", "question", "answer", "attempt")

# Apart from one another by more than any run's seeds are, so that no two seeds share their samples.
_SEED_STRIDE = 1_000_003
# Shorter ones are the placeholders of servers that want no key; hiding these would garble every message.
_SHORTEST_KEY = 4
_LONGEST_DETAIL = 200

_CHECK_KEY = "set OPENAI_API_KEY to a key that this endpoint takes"
_MENDS = {
    401: _CHECK_KEY,
    403: _CHECK_KEY,
    404: "check the model and the base URL (most end in /v1)",
    429: "wait, check the quota, or raise OpenAITeacher.max_retries",
}

_log = logging.getLogger(__name__)


@gin.configurable
class OpenAITeacher:
    """Samples explanations from a language model with a "why" prompt (arXiv 2212.11353, section 2)."""

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        prompt_file: str | os.PathLike[str] | None = None,
        temperature: NonNegativeFloat = 0.7,
        max_tokens: PositiveInt = 200,
        max_retries: NonNegativeInt = 5,
        timeout: PositiveFloat = 60.0,
        max_extra_asks: NonNegativeInt = 3,
    ):
        """Makes the client; nothing is sent yet. The key comes from OPENAI_API_KEY and from nowhere else.

        Args:
          model: the model's name at the endpoint; OPENAI_MODEL where it is None.
          base_url: of the endpoint; OPENAI_BASE_URL, or else OpenAI's own, where it is None.
          prompt_file: a `string.Template` with the fields `PROMPT_FIELDS`; the packaged one where it is None.
          temperature: of sampling.
          max_tokens: longest explanation, in the endpoint's tokens.
          max_retries: of one request, where the endpoint fails or is busy; the client waits longer each time.
          timeout: of one request, in seconds.
          max_extra_asks: how often, for one example, to ask again after an empty or a repeated answer.

        Raises:
          RequestError: the key, the model, the base URL or the prompt file is missing or wrong.
        """
        self.name = model or os.environ.get("OPENAI_MODEL", "")
        if not self.name:
            raise RequestError("the OpenAI teacher has no model: bind OpenAITeacher.model or set OPENAI_MODEL")
        url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
        self._shown_url = _shown_url(url)
        self._key = _read_key()
        self._template = _read_template(pathlib.Path(prompt_file or PROMPT_FILE))
        self._sampling = {"temperature": temperature, "max_tokens": max_tokens}
        self._max_extra_asks = max_extra_asks
        # Imported here: it takes about a second, and most runs use no endpoint.
        try:
            import openai
        except ImportError as error:
            raise RequestError("the OpenAI teacher needs the `openai` package: pip install openai") from error
        self._client = openai.OpenAI(api_key=self._key, base_url=url, max_retries=max_retries, timeout=timeout)

    def explain(self, example: Example, attempt: str | None, num_updates: int, seed: int) -> list[Explanation]:
        """See `Teacher.explain`. One request for each explanation, as many endpoints ignore `n`.

        Raises:
          RunError: the endpoint cannot be reached, or refuses.
        """
        prompt = self._template.substitute(
            context=example.context,
            question=example.question,
            answer=example.answer,
            attempt=" ".join((attempt or "").split()) or "nothing",
        )
        texts: list[str] = []
        for ask in range(num_updates + self._max_extra_asks):
            if len(texts) >= num_updates:
                break
            text = self._ask(prompt, seed + ask * _SEED_STRIDE)
            # Text without a letter or a digit explains nothing.
            if any(map(str.isalnum, text)) and text not in texts:
                texts.append(text)
        if len(texts) < num_updates:
            missing = num_updates - len(texts)
            _log.warning("%s: %d updates are missing: all else was empty or repeated", example.example_id, missing)
        return [Explanation(text, prompt) for text in texts]

    def _ask(self, prompt: str, seed: int) -> str:
        """The answer to one request, in one line; empty where there is none."""
        import openai

        try:
            response = self._client.chat.completions.create(
                model=self.name, messages=[{"role": "user", "content": prompt}], seed=seed, **self._sampling
            )  # type: ignore[call-overload]  # the sampling settings are the caller's
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            failure = self._failure(error)
        else:
            # What is not JSON, e.g. a web page, comes back as it is.
            if not isinstance(response, str):
                return _content(response)
            failure = self._failure(None)
        # Raised out here so that no chain leads to the client's error: what the server said may hold the key.
        raise failure

    def _failure(self, error: Exception | None) -> RunError:
        """What is wrong and how to mend it, in one line, without the key."""
        import openai

        status = getattr(error, "status_code", None)
        if status is not None:
            what = f"HTTP {status}"
            # Servers echo keys when they refuse them, some with a part blotted out, which cannot be matched.
            if status not in (401, 403):
                what += f", {self._redact(' '.join(str(error).split()))[:_LONGEST_DETAIL]}"
            mend = "try again later" if status >= 500 else "check the model and OpenAITeacher's bindings"
            mend = _MENDS.get(status, mend)
        elif isinstance(error, openai.APITimeoutError):
            what, mend = "no answer in time", "try again later or raise OpenAITeacher.timeout"
        elif isinstance(error, openai.APIConnectionError):
            what, mend = "cannot connect", "check that it runs, and OpenAITeacher.base_url or OPENAI_BASE_URL"
        else:
            what, mend = "it does not speak chat completions", "check the base URL (most end in /v1)"
        return RunError(f"teacher {self.name} at {self._redact(self._shown_url)}: {what}; {mend}")

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "[key]") if len(self._key) >= _SHORTEST_KEY else text


def _content(response: Any) -> str:
    """The text of a chat completion, in one line; empty where the server left out any part of it."""
    try:
        content = response.choices[0].message.content
    except (AttributeError, IndexError, TypeError):
        return ""
    return " ".join(content.split()) if isinstance(content, str) else ""


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
    try:
        template = string.Template(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(
            f"{path}: cannot read the prompt ({error.strerror}); mend OpenAITeacher.prompt_file"
        ) from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: the prompt is not UTF-8 text; save it as such") from error
    if not template.is_valid():
        raise RequestError(f"{path}: the prompt has a `$` that starts no field; write `$$` for a dollar sign")
    for field in template.get_identifiers():
        if field not in PROMPT_FIELDS:
            known = ", ".join(f"${name}" for name in PROMPT_FIELDS)
            raise RequestError(f"{path}: the prompt names an unknown field ${field}; the fields are {known}")
    return template
