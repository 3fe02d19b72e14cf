"""A teacher behind any endpoint that speaks OpenAI's chat completions or completions."""

import collections
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any

import gin

from cd_jax.config.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from cd_jax.errors import RequestError
from cd_jax.rundir.requests import Answer, Requests
from cd_jax.types import Example
from cd_jax.update.teachers import endpoint as endpoints
from cd_jax.update.teachers import replies, templates
from cd_jax.update.teachers.asking import Asking
from cd_jax.update.teachers.budget import TeacherBudget
from cd_jax.update.teachers.endpoint import Endpoint
from cd_jax.update.teachers.requests import Dialogue, Request
from cd_jax.update.teachers.teacher import Explanation

DEFAULT_BASE_URL = "https://api.openai.com/v1"

# Apart from one another by more than any run's seeds are, so that no two seeds share their samples; no example has so
# many, so that what is asked again has a seed of its own.
_SEED_STRIDE, _SAMPLES = 1_000_003, 1009


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TeacherSampling:
    """How explanations are sampled.

    Attributes:
      choices: explanations asked for with one request, which pays for the prompt once; what a server that ignores it
        leaves out is asked for by itself.
      log_probs: whether to ask for the tokens' log-probabilities, of which the mean is kept.
      stop: texts at which an explanation ends.
      send_seed: whether requests carry a seed.
      max_extra_asks: how often to ask again after an empty or a repeated answer, before the teacher is taken to have no
        more to say of the example.
    """

    choices: PositiveInt = 1
    log_probs: bool = False
    stop: Sequence[str] = ()
    send_seed: bool = True
    max_extra_asks: NonNegativeInt = 3


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TeacherClient:
    """How requests are sent.

    Attributes:
      chat: whether to the endpoint of chats; else to that of completions.
      timeout: of one request, in seconds.
      max_retries: of one request, where the endpoint fails, is busy or answers with something else; waits are longer
        each time.
      max_concurrency: requests in flight, at most; how many there are follows what the server bears.
    """

    chat: bool = True
    timeout: PositiveFloat = 60.0
    max_retries: NonNegativeInt = 5
    max_concurrency: PositiveInt = 64


@gin.configurable
class OpenAITeacher:
    """Samples explanations from a language model with a "why" prompt (arXiv 2212.11353, section 2).

    Attributes:
      name: of the model.
      budget: what it may cost.
      prompt_hash: of the template, and of the settings that requests have.
    """

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        prompt_file: str | os.PathLike[str] = "why",
        temperature: NonNegativeFloat | None = 0.7,
        max_tokens: PositiveInt | None = 200,
        sampling: Callable[[], TeacherSampling] = TeacherSampling,
        client: Callable[[], TeacherClient] = TeacherClient,
        budget: Callable[[], TeacherBudget] = TeacherBudget,
    ):
        """Sends nothing yet. The key comes from OPENAI_API_KEY and from nowhere else.

        Args:
          model: the model's name at the endpoint; OPENAI_MODEL where it is None.
          base_url: of the endpoint; OPENAI_BASE_URL, or else OpenAI's own, where it is None. It is written into
            `config.gin`: credentials belong into OPENAI_BASE_URL, which is written nowhere.
          prompt_file: a template, see `PromptTemplate`, or the name of one of ours.
          temperature: of sampling; None leaves it to the server.
          max_tokens: longest explanation, in the endpoint's tokens; None leaves it to the server.
          sampling: makes what else is asked for. What a server says that it does not take is left out.
          client: makes the ways of sending.
          budget: makes the bounds of what it may cost.

        Raises:
          RequestError: the key, the model, the base URL, the prompt file or the budget is missing or wrong.
        """
        self.name = model or os.environ.get("OPENAI_MODEL", "")
        if not self.name:
            raise RequestError("the OpenAI teacher has no model: bind OpenAITeacher.model or set OPENAI_MODEL")
        self._how, self._client, self.budget = sampling(), client(), budget()
        if self.budget.is_of_tokens and max_tokens is None:
            raise RequestError("a budget of tokens or money wants OpenAITeacher.max_tokens, which bounds an answer")
        self._template = templates.read(prompt_file)
        told: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        told["stop"] = list(self._how.stop) or None
        # Of a chat, some servers give them beside the likeliest tokens alone.
        if self._how.log_probs:
            told |= {"logprobs": True, "top_logprobs": 1} if self._client.chat else {"logprobs": 1}
        self._sampling = {name: value for name, value in told.items() if value is not None}
        how = [self._template.hash, self._client.chat, self._sampling]
        self.prompt_hash = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:16]
        bounded = self.budget.is_of_tokens
        self._endpoint = _endpoint(self.name, base_url, self._client.timeout, self._how.send_seed, bounded)
        # Why there was no explanation, how often, and what was said of it last.
        self.counts: collections.Counter[str] = collections.Counter()
        self.said: dict[str, str] = {}

    def explain(self, example: Example, attempt: str | None, num_updates: int, seed: int) -> list[Explanation]:
        """See `Teacher.explain`; nothing is written down.

        Raises:
          RunError: the endpoint cannot be reached, or refuses.
        """
        dialogue = self.dialogue(example, attempt, range(num_updates), seed, [])
        [found] = self.asking(Requests(None)).results([dialogue])
        return [explanation for _, explanation in found]

    def asking(self, requests: Requests) -> Asking:
        """What carries dialogues on with the endpoint and this journal."""
        return Asking(self._endpoint, requests, self.budget, self._client.max_retries, self._client.max_concurrency)

    def dialogue(
        self, example: Example, attempt: str | None, samples: Sequence[int], seed: int, known: Sequence[str]
    ) -> Dialogue:
        """See `AskedTeacher.dialogue`."""
        request, groups = self._requests(example, attempt, seed), self._groups(samples)
        answers = yield [request(group[0], len(group)) for group in groups]
        texts, found = list(known), []
        extra = self._how.max_extra_asks
        for group, answer in zip(groups, answers, strict=True):
            for index, sample in enumerate(group):
                asked = functools.partial(request, sample)
                explanation = yield from self._explanation(asked, answer, index, texts, extra)
                if explanation:
                    texts.append(explanation.text)
                    found.append((sample, explanation))
                else:
                    extra = 0  # It has no more to say of the example: what is there is read, and no more is asked.
        return found

    def candidates(self, example: Example, attempt: str | None, samples: Sequence[int], seed: int) -> list[Request]:
        """See `AskedTeacher.candidates`."""
        request, groups = self._requests(example, attempt, seed), self._groups(samples)
        again = [request(sample, 1, ask) for sample in samples for ask in range(1 + self._how.max_extra_asks)]
        return list({one.hash: one for one in (*(request(group[0], len(group)) for group in groups), *again)}.values())

    def prompt(self, example: Example, attempt: str | None) -> str:
        """See `AskedTeacher.prompt`."""
        return self._requests(example, attempt, 0)(0).prompt

    def _groups(self, samples: Sequence[int]) -> list[Sequence[int]]:
        """Those that are asked for with one request."""
        return [samples[first : first + self._how.choices] for first in range(0, len(samples), self._how.choices)]

    def _requests(self, example: Example, attempt: str | None, seed: int) -> Callable[..., Request]:
        """What makes the request for a sample, so many choices, and the number of times that it was asked for."""
        messages = self._template.filled(example, attempt, self._client.chat)

        def request(sample: int, choices: int = 1, ask: int = 0) -> Request:
            drawn = seed + (sample + ask * _SAMPLES) * _SEED_STRIDE
            return Request(self.name, messages, self._sampling, drawn, sample, choices)

        return request

    def _explanation(
        self, asked: Callable[..., Request], answer: Answer, index: int, known: Sequence[str], extra: int
    ) -> Generator[list[Request], list[Answer], Explanation | None]:
        """The one in this choice of an answer; where it is none that is new, it is asked for by itself, so often."""
        # What the server left out was never asked for alone.
        first = 0 if index >= len(answer.choices) and index else 1
        for ask in (*range(first, 1 + extra), None):
            reply = replies.explanation(answer, index)
            kind = "repeated" if reply.text and reply.text in known else reply.kind
            if kind:
                self.counts[kind] += 1
                self.said[kind] = self._endpoint.redaction.of_message(reply.said)[: endpoints.LONGEST_DETAIL]
            if reply.text and kind != "repeated":
                prompt, log_prob = asked().prompt, answer.choices[index].log_prob
                return Explanation(reply.text, prompt, reply.kind, log_prob, self.prompt_hash)
            if ask is not None:
                [answer], index = (yield [asked(ask=ask)]), 0
        return None

    def body(self, request: Request) -> dict[str, Any]:
        """See `AskedTeacher.body`."""
        return self._endpoint.body(request)

    def read_body(self, body: str) -> Answer:
        """The answer in the body of a response that came by another way; see `endpoint.read_body`."""
        return endpoints.read_body(body, self._endpoint.redaction)


def _endpoint(name: str, base_url: str | None, timeout: float, send_seed: bool, is_bounded: bool) -> Endpoint:
    url = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
    endpoint = Endpoint(name, url, _read_key(), timeout, send_seed, is_bounded)
    if base_url and endpoints.has_credentials(base_url):
        raise RequestError(
            "OpenAITeacher.base_url holds credentials, and bindings are written to disk: "
            "set OPENAI_BASE_URL instead, and the key as OPENAI_API_KEY"
        )
    return endpoint


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
