"""A request to a language model: all that its answer depends on, and its name in the journal."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Generator, Mapping
from typing import Any

from cd_jax.rundir.requests import Answer, Tokens

# What chat templates put around a message, at most: a system prompt of the model's own is the longest of it.
TEMPLATE_TOKENS = 128


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked.

    Attributes:
      model: its name at the endpoint.
      messages: of the chat, as (role, text); one without a role is the text that the completions endpoint continues.
      sampling: its settings by their names in OpenAI's API, e.g. `temperature`.
      seed: of the draw.
      sample: index, among the updates of its example, of the first that is asked for.
      choices: how many are asked for.
    """

    model: str
    messages: tuple[tuple[str, str], ...]
    sampling: Mapping[str, Any]
    seed: int
    sample: int = 0
    choices: int = 1

    @functools.cached_property
    def hash(self) -> str:
        """32 hexadecimal digits, the same on every machine and in every version of this program."""
        told = [self.model, self.messages, dict(self.sampling), self.seed, self.sample, self.choices]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def is_chat(self) -> bool:
        """Whether it is for the chat endpoint."""
        return bool(self.messages[0][0])

    @property
    def prompt(self) -> str:
        """The text in one piece; a chat of several messages with their roles."""
        if len(self.messages) == 1:
            return self.messages[0][1]
        return "\n".join(f"[{role}]\n{text}" for role, text in self.messages)

    def body(self) -> dict[str, Any]:
        """What is sent to a server that takes all of it."""
        if self.is_chat:
            content: dict[str, Any] = {"messages": [{"role": role, "content": text} for role, text in self.messages]}
        else:
            content = {"prompt": self.messages[0][1]}
        more = {"n": self.choices} if self.choices > 1 else {}
        return {"model": self.model, **content, **self.sampling, **more, "seed": self.seed % 2**31}

    @property
    def bound(self) -> Tokens:
        """Tokens that it takes, at most: a token has at least one byte. Without a bound of the answer, that is 0."""
        sent = sum(len(text.encode("utf-8", "replace")) + TEMPLATE_TOKENS for _, text in self.messages)
        longest = self.sampling.get("max_tokens") or self.sampling.get("max_completion_tokens") or 0
        return Tokens(sent, longest * self.choices)


# Yields the requests whose answers it needs next, and is sent those; returns what it made of all. Who carries it asks a
# server, or looks into a journal.
Dialogue = Generator[list[Request], list[Answer], Any]


def replay(dialogue: Dialogue, answers: Mapping[str, Answer]) -> tuple[Any, list[Request]]:
    """Carries a dialogue on from answers that are there.

    Returns:
      What it made of them and no requests; or None, and those that have no answer.
    """
    try:
        wanted = next(dialogue)
        while not (missing := [request for request in wanted if request.hash not in answers]):
            wanted = dialogue.send([answers[request.hash] for request in wanted])
    except StopIteration as end:
        return end.value, []
    dialogue.close()
    return None, missing
