"""OpenAI's batch files: requests as JSON lines, which hosted services and `vllm run-batch` answer in the same form."""

import json
from collections.abc import Callable, Iterable, Iterator

from etils import epath

from cd_jax.errors import RequestError
from cd_jax.rundir import files, journal
from cd_jax.rundir.requests import Answer
from cd_jax.update.teachers.requests import Request

# Of a file, as hosted services take them.
_MOST_REQUESTS, _MOST_BYTES = 50_000, 200_000_000
_NAME = "batch-{:05d}.jsonl"
_URLS = {True: "/v1/chat/completions", False: "/v1/completions"}


def write(
    directory: files.Path,
    requests: Iterable[Request],
    body: Callable[[Request], files.Json],
    most_requests: int = _MOST_REQUESTS,
    most_bytes: int = _MOST_BYTES,
) -> tuple[int, int]:
    """Writes requests, each once, into as many files as they need.

    Args:
      directory: of the files.
      requests: each goes by the name of its hash.
      body: what is sent for one.
      most_requests: of a file.
      most_bytes: of a file.

    Returns:
      The number of requests and that of files.

    Raises:
      RequestError: there are batch files already.
      RunError: a file cannot be written.
    """
    folder = epath.Path(directory)
    if folder.is_dir() and any(path.name.startswith("batch-") for path in folder.iterdir()):
        raise RequestError(f"{directory}: holds batch files already; import their answers, or name another folder")
    unique = {request.hash: request for request in requests}
    lines = (_line(request, body(request)) for request in unique.values())
    number = -1
    for number, content in enumerate(_files(lines, most_requests, most_bytes)):
        files.write_bytes(folder / _NAME.format(number), content)
    return len(unique), number + 1


def _line(request: Request, body: files.Json) -> bytes:
    line = {"custom_id": request.hash, "method": "POST", "url": _URLS[request.is_chat], "body": body}
    return json.dumps(line).encode("ascii") + b"\n"


def _files(lines: Iterable[bytes], most_requests: int, most_bytes: int) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        if held and (len(held) == most_requests or size + len(line) > most_bytes):
            yield b"".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line)
    if held:
        yield b"".join(held)


def read(path: files.Path, read_body: Callable[[str], Answer]) -> tuple[dict[str, Answer], list[str]]:
    """The answers in a file of a batch's output.

    Args:
      path: of the file; its lines may be in any order.
      read_body: makes an answer of a response's body.

    Returns:
      The answers by the hash of their request, and what was said of requests that failed.

    Raises:
      RequestError: the file cannot be read, or a line is no answer.
    """
    answers: dict[str, Answer] = {}
    failed: list[str] = []

    def take(line: files.Json) -> None:
        if "response" not in line and "url" in line:
            raise ValueError("it is a request, as it was exported: import what the service made of it")
        name, response = line["custom_id"], line.get("response") or {}
        if not isinstance(name, str) or not isinstance(response, dict):
            raise ValueError("custom_id or response is of another kind")
        if response.get("status_code") == 200 and not line.get("error"):
            answers[name] = read_body(json.dumps(response.get("body")))
        else:
            failed.append(" ".join(json.dumps(line.get("error") or response.get("body")).split()))

    journal.read(path, dict, take, "an answer of a batch", "download the output of the batch again")
    return answers, failed
