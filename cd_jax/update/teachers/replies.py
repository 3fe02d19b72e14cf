"""What servers that speak chat completions answer, in all its forms: the explanation in it, or why there is none."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from cd_jax.rundir import files
from cd_jax.rundir.requests import Answer, Choice

# Models that think aloud do so between such marks, of which templates may have given the first already.
_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(r".*</(?:think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE)
_THOUGHT_START = re.compile(r"<(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
# OpenAI's harmony format, where a server leaves it in the text.
_CHANNEL = re.compile(r".*<\|channel\|>final(?:\s*<\|[^|]*\|>[^<]*)?<\|message\|>", re.DOTALL)
_MARK = re.compile(r"<\|[^|>]*\|>")
_ANSWER = re.compile(r"\W*\banswer\s*:.*", re.IGNORECASE | re.DOTALL)
_SURROGATES = re.compile("[\ud800-\udfff]")


class Reply(NamedTuple):
    """One answer of a server.

    Attributes:
      text: the explanation, in one line; empty where there is none.
      kind: why there is none (`empty`, `refusal`, `content filter`, `tool call`, `reasoning alone`,
        `cut while thinking`, `answer alone`, `fewer choices`, `error`), or what is odd about the one that there is
        (`length`: cut at the most tokens); else empty.
      said: what the server or the model said where there is no explanation, e.g. the error.
    """

    text: str
    kind: str = ""
    said: str = ""


def receive(response: Any, clean: Callable[[str], str] = str) -> Answer:
    """An answer in the form in which it is kept.

    Args:
      response: a completion, of a chat or a text, as a dictionary.
      clean: takes out of a text what must not be kept.
    """
    if not isinstance(response, dict):
        return Answer(error="not an object")
    error, choices = response.get("error"), response.get("choices")
    usage = _usage(response.get("usage"))
    if error and not choices:
        said = _text(error.get("message") if isinstance(error, dict) else error) or str(error)
        return Answer(error=clean(_unbroken(said)), usage=usage)
    found = [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
    # In their order: servers give them as they end.
    found.sort(key=lambda one: index if isinstance(index := one.get("index"), int) else 0)
    return Answer(tuple(_choice(one, clean) for one in found), usage=usage)


def _choice(choice: dict[str, Any], clean: Callable[[str], str]) -> Choice:
    message = choice.get("message") or choice.get("delta") or {}
    if not isinstance(message, dict):
        return Choice()
    content = _text(message.get("content")) or _text(choice.get("text"))
    tool = next((message[name] for name in ("tool_calls", "function_call") if message.get(name)), None)
    return Choice(
        content=clean(_unbroken(content)),
        finish=_unbroken(_text(choice.get("finish_reason"))),
        refusal=clean(_unbroken(_text(message.get("refusal")))),
        tool="" if tool is None else clean(_unbroken(_text(tool) or "a call")),
        reasoned=bool(message.get("reasoning_content") or message.get("reasoning")),
        log_prob=_log_prob(choice.get("logprobs")),
    )


def _usage(usage: Any) -> tuple[int, int] | None:
    """Tokens of the prompt and of what was made, thoughts among them."""
    told = usage if isinstance(usage, dict) else {}
    prompt, answer = (told.get(name) for name in ("prompt_tokens", "completion_tokens"))
    if isinstance(prompt, int) and isinstance(answer, int) and 0 <= min(prompt, answer) <= max(prompt, answer) < 2**53:
        return int(prompt), int(answer)
    return None


def _log_prob(told: Any) -> float | None:
    """The mean over a choice's tokens, which chats list as `content` and texts as `token_logprobs`."""
    if not isinstance(told, dict):
        return None
    content, plain = told.get("content"), told.get("token_logprobs")
    if isinstance(content, list):
        plain = [one.get("logprob") if isinstance(one, dict) else None for one in content]
    known = [float(one) for one in plain if type(one) in (int, float)] if isinstance(plain, list) else []
    mean = sum(known) / len(known) if known else math.nan
    return mean if math.isfinite(mean) else None


def explanation(answer: Answer, index: int = 0) -> Reply:
    """The explanation in one of an answer's choices, or why there is none."""
    if answer.error:
        return Reply("", "error", answer.error)
    if index >= len(answer.choices):
        return Reply("", "fewer choices" if index else "empty")
    choice = answer.choices[index]
    if choice.content:
        return _explained(choice.content, cut=choice.finish == "length")
    if choice.finish == "content_filter":
        return Reply("", "content filter", choice.refusal)
    if choice.refusal:
        return Reply("", "refusal", choice.refusal)
    if choice.tool:
        return Reply("", "tool call", choice.tool)
    if choice.reasoned:
        return Reply("", "cut while thinking" if choice.finish == "length" else "reasoning alone")
    return Reply("", "empty")


def _text(content: Any) -> str:
    """Content as a text: servers give a text, a list of parts, or nothing."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text(part.get("text")) if isinstance(part, dict) else _text(part) for part in content)
    return ""


def _explained(content: str, cut: bool) -> Reply:
    text = _CHANNEL.sub("", content)
    text = _THOUGHT.sub(" ", text)
    text = _THOUGHT_END.sub(" ", text)
    if _THOUGHT_START.search(text):
        text = _THOUGHT_START.split(text)[0]
        if not _says_something(text):
            return Reply("", "cut while thinking")
    said = _one_line(_MARK.sub(" ", text))
    # Targets are `u answer: y`: an answer within u would be parsed as the answer.
    text = _ANSWER.sub("", said).strip()
    if not _says_something(text):
        return Reply("", "answer alone" if _says_something(said) else "empty", said)
    return Reply(text, "length" if cut else "")


def _says_something(text: str) -> bool:
    """Text without a letter or a digit explains nothing."""
    return any(map(str.isalnum, text))


def _unbroken(text: str) -> str:
    """With lone surrogates, which no file can hold, replaced."""
    return _SURROGATES.sub("\ufffd", text)


def _one_line(text: str) -> str:
    """Without line breaks and control characters."""
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())


def read_stream(body: str) -> dict[str, Any]:
    """A chat completion from the events of a server that streams whatever it is asked.

    Raises:
      ValueError: the body is no such stream.
    """
    events = list(_events(body.splitlines()))
    if not events:
        raise ValueError("no event")
    told = [event["choices"][0] for event in events if isinstance(event.get("choices"), list) and event["choices"]]
    message: dict[str, Any] = {"content": "", "reasoning_content": ""}
    for choice in told:
        delta = choice.get("delta") or choice.get("message") or {}
        for name in message:
            message[name] += _text(delta.get(name))
    finished = next((choice["finish_reason"] for choice in reversed(told) if choice.get("finish_reason")), None)
    if not told:
        return events[-1]
    # A stream that ends without a reason was cut.
    return {"choices": [{"message": message, "finish_reason": finished or "length"}]}


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield files.json_object(data)
