#!/usr/bin/env bash
# JAX 0.10.2: jax.distributed.initialize() puts a handler of its own in the place of Python's for SIGTERM, without a word. A function that
# was given to signal.signal(SIGTERM, …) before is not called any more, though signal.getsignal() still names it; the process
# lives on, and only multihost_utils.reached_preemption_sync_point() tells of the signal, in whatever process and at whatever
# step it is asked next. A handler that is set afterwards is called, and then the sync point never tells. Who saves in a handler of SIGTERM thus
# saves nothing once the run has several hosts, and who sets it late ends one host while the others go on.
# With jax_enable_preemption_service=False the first handler is called, as before.
#
# Seen, one process, SIGTERM sent to itself:
#   set before: called False, getsignal is ours True, sync point True
#   set after: called True, getsignal is ours True, sync point False
#   set before, no preemption service: called True, getsignal is ours True, sync point False
#
# Exit status 0 while this is so, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2
cat >"$folder/asked.py" <<'PYTHON'
import os
import signal
import socket
import sys
import time

import jax
from jax.experimental import multihost_utils

case = sys.argv[1]
called = []


def handler(number, frame):
    called.append(number)


if case.endswith("no preemption service"):
    jax.config.update("jax_enable_preemption_service", False)
with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
if case.startswith("set before"):
    signal.signal(signal.SIGTERM, handler)
jax.distributed.initialize(address, 1, 0)
if case == "set after":
    signal.signal(signal.SIGTERM, handler)
os.kill(os.getpid(), signal.SIGTERM)
told = False
for step in range(60):
    if jax.config.jax_enable_preemption_service:
        told = told or multihost_utils.reached_preemption_sync_point(step)
    time.sleep(0.1)
ours = signal.getsignal(signal.SIGTERM) is handler
print(f"{case}: called {bool(called)}, getsignal is ours {ours}, sync point {told}")
PYTHON
seen=""
for case in "set before" "set after" "set before, no preemption service"; do
  seen+=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/asked.py" "$case" 2>/dev/null)$'\n'
done
printf '%s' "$seen"
diff <(printf '%s' "$seen") - <<'SEEN'
set before: called False, getsignal is ours True, sync point True
set after: called True, getsignal is ours True, sync point False
set before, no preemption service: called True, getsignal is ours True, sync point False
SEEN
