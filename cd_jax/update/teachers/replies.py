"""What servers that speak chat completions answer, in all its forms: the explanation in it, or why there is none."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from cd_jax.rundir import files

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
        `cut while thinking`, `answer alone`, `error`), or what is odd about the one that there is (`length`: cut at the
        most tokens); else empty.
      said: what the server or the model said where there is no explanation, e.g. the error.
    """

    text: str
    kind: str = ""
    said: str = ""


def read(response: Any) -> Reply:
    """The explanation in a response.

    Args:
      response: a chat completion as a dictionary.
    """
    if not isinstance(response, dict):
        return Reply("", "error", "not an object")
    error, choices = response.get("error"), response.get("choices")
    if error and not choices:
        return Reply("", "error", _text(error.get("message") if isinstance(error, dict) else error) or str(error))
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message") or choice.get("delta") or {}
    if not isinstance(message, dict):
        return Reply("", "empty")
    finished = choice.get("finish_reason")
    content = _text(message.get("content")) or _text(choice.get("text"))
    if content:
        return _explained(content, cut=finished == "length")
    if finished == "content_filter":
        return Reply("", "content filter", _text(message.get("refusal")))
    for name, kind in (("refusal", "refusal"), ("tool_calls", "tool call"), ("function_call", "tool call")):
        if message.get(name):
            return Reply("", kind, _text(message[name]))
    if message.get("reasoning_content") or message.get("reasoning"):
        return Reply("", "cut while thinking" if finished == "length" else "reasoning alone")
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


def _one_line(text: str) -> str:
    """Without line breaks and control characters; a lone surrogate, which no file can hold, is replaced."""
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in _SURROGATES.sub("\ufffd", text))
    return " ".join(text.split())


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
