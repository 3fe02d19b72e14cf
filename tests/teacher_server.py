"""A language model's endpoint for tests: real HTTP on the loopback interface, answers that depend on the request alone,
and the ways in which servers fail."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import http.server
import json
import math
import threading
import time

from cd_jax.update.teachers.openai import OpenAITeacher, TeacherClient, TeacherSampling

FAULTS = ("busy", "error", "half a body", "silence", "no JSON", "a web page", "reset")


@dataclasses.dataclass
class Settings:
    """How the server behaves.

    Attributes:
      faults: that the first tries of some requests meet.
      share: of requests that meet one.
      latency: seconds of an answer.
      silence: seconds for which it says nothing.
      limit: requests in each window; 0: no limit.
      window: seconds.
      headers: whether it says what is left of its limit.
      ignores_n: it gives one choice, however many are asked for.
      variety: different texts; of an example's samples some are the same.
      busy_wait: the Retry-After of a busy server, in seconds.
      spiteful: a text that it puts into all that it says.
      text: that is all it says, where it is not empty.
      citing: it says lines of the prompt, some of them right.
    """

    faults: tuple[str, ...] = ()
    share: float = 0.5
    latency: float = 0.0
    silence: float = 1.0
    limit: int = 0
    window: float = 1.0
    headers: bool = False
    ignores_n: bool = False
    variety: int = 8
    busy_wait: float = 0.05
    spiteful: str = ""
    text: str = ""
    citing: bool = False


class TeacherServer:
    """The server, and what it has seen.

    Attributes:
      url: base URL.
      settings: may be changed between calls.
      seen: bodies of requests by the number of their tries.
      paid: bodies by the number of answers that were made for them, delivered or not.
      delivered: the same, of those that were written out whole.
      tokens: (of prompts, of answers) that were made.
      refused: requests that came too early, after they were told to wait.
    """

    def __init__(self, **settings):
        self.settings = Settings(**settings)
        self.seen, self.paid, self.delivered = (collections.Counter() for _ in range(3))
        self.tokens = [0, 0]
        self.limited, self.started = 0, []
        self._windows = collections.Counter()
        self._lock = threading.Lock()

    def count(self, body):
        with self._lock:
            self.seen[body] += 1
            self.started.append(time.monotonic())
            return self.seen[body]

    def admitted(self):
        """Whether the limit has room; how much is left, and seconds until there is more."""
        if not self.settings.limit:
            return True, 0, 0.0
        with self._lock:
            number, part = divmod(time.monotonic(), self.settings.window)
            admitted = self._windows[number] < self.settings.limit
            self._windows[number] += admitted
            self.limited += not admitted
            return admitted, self.settings.limit - self._windows[number], self.settings.window - part

    def pay(self, body, response):
        with self._lock:
            self.paid[body] += 1
            self.tokens[0] += response["usage"]["prompt_tokens"]
            self.tokens[1] += response["usage"]["completion_tokens"]

    def deliver(self, body):
        with self._lock:
            self.delivered[body] += 1

    def fault(self, body, tries):
        draw = digest(body + b"fault") % 1000
        faults = self.settings.faults
        return faults[draw % len(faults)] if tries == 1 and faults and draw < 1000 * self.settings.share else None


def teacher(url=None, **settings):
    """One of `m` at this URL; settings of all that it is made of, by their names."""
    made = {}
    for name, kind in (("sampling", TeacherSampling), ("client", TeacherClient)):
        own = {field.name for field in dataclasses.fields(kind)} & settings.keys()
        made[name] = functools.partial(kind, **{one: settings.pop(one) for one in own})
    return OpenAITeacher("m", url, **made, **settings)


def digest(body: bytes) -> int:
    return int.from_bytes(hashlib.sha256(body).digest()[:8])


def answer(body: bytes, settings: Settings) -> dict:
    """What the server makes of a request: the same for the same request, whatever order its settings stand in."""
    asked = json.loads(body)
    canonical = json.dumps(asked, sort_keys=True).encode()
    number = 1 if settings.ignores_n else asked.get("n", 1)
    prompt = asked.get("prompt") or asked["messages"][-1]["content"]
    texts = [
        f"because of {(digest(canonical) + i) % settings.variety} in {digest(prompt.encode()) % 97}{settings.spiteful}"
        for i in range(number)
    ]
    if settings.citing:
        lines = [line for line in prompt.replace(". ", ".\n").splitlines() if line.endswith(".")]
        texts = [" ".join(lines[(digest(canonical) + i) % len(lines) :][:2]) for i in range(number)]
    texts = [settings.text] * number if settings.text else texts
    choices = [_choice(i, text, "messages" in asked, asked.get("logprobs")) for i, text in enumerate(texts)]
    usage = {"prompt_tokens": len(prompt.split()) + 5, "completion_tokens": sum(len(text.split()) for text in texts)}
    return {
        "id": "1",
        "object": "completion",
        "created": 0,
        "model": asked["model"],
        "choices": choices,
        "usage": usage,
    }


def answer_batches(folder, settings):
    """The paths of a hosted service's answers to the batch files in a folder, their lines in another order."""
    files = []
    for path in sorted(folder.glob("batch-*.jsonl")):
        lines = []
        for line in reversed(path.read_text().splitlines()):
            asked = json.loads(line)
            assert (asked["method"], asked["url"]) == ("POST", "/v1/chat/completions")
            response = {
                "status_code": 200,
                "request_id": "r",
                "body": answer(json.dumps(asked["body"]).encode(), settings),
            }
            lines.append({"id": "b", "custom_id": asked["custom_id"], "response": response, "error": None})
        files.append(path.with_name(f"answers-{path.name}"))
        files[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [str(path) for path in files]


def _choice(index, text, is_chat, log_probs):
    choice = {"index": index, "finish_reason": "stop"}
    words = text.split()
    if log_probs:
        listed = [{"token": word, "logprob": -len(word) / 8} for word in words]
        choice["logprobs"] = {"content": listed} if is_chat else {"token_logprobs": [one["logprob"] for one in listed]}
    return choice | ({"message": {"role": "assistant", "content": text}} if is_chat else {"text": text})


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server, settings = self.server.teacher, self.server.teacher.settings
        body = self.rfile.read(int(self.headers["Content-Length"]))
        tries = server.count(body)
        admitted, left, more = server.admitted()
        if not admitted:
            return self._send(
                429, b'{"error": {"message": "slow down"}}', {"retry-after-ms": str(math.ceil(more * 1000))}
            )
        fault = server.fault(body, tries)
        if fault == "busy":
            return self._send(429, b'{"error": {"message": "busy"}}', {"Retry-After": f"{settings.busy_wait:g}"})
        if fault == "error":
            said = json.dumps({"error": {"message": f"broken {settings.spiteful}"}})
            return self._send(500, said.encode(), {"retry-after-ms": "1"})
        if fault == "reset":
            self.close_connection = True
            return None
        response = answer(body, settings)
        server.pay(body, response)
        content = json.dumps(response).encode()
        if fault == "silence":
            time.sleep(settings.silence)
            self.close_connection = True
            return None
        time.sleep(settings.latency)
        if fault == "half a body":
            return self._send(200, content[: len(content) // 2], length=len(content))
        if fault == "no JSON":
            return self._send(200, content[:-9])
        if fault == "a web page":
            return self._send(200, b"<html>welcome</html>")
        told = {"x-ratelimit-remaining-requests": str(left), "x-ratelimit-reset-requests": f"{more:.3f}s"}
        self._send(200, content, told if settings.headers else {})
        server.deliver(body)
        return None

    def _send(self, status, content, headers=None, length=None):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Length", str(length or len(content)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        if length:
            self.close_connection = True

    def log_message(self, *args):
        pass


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        pass  # A client that was killed.


@contextlib.contextmanager
def serve(**settings):
    """Serves within the block."""
    teacher = TeacherServer(**settings)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.teacher = teacher
    teacher.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield teacher
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
