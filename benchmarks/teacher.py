"""`cd_jax distill` with a teacher behind HTTP: kills, a rate limit, and the opening of a large journal.

    python benchmarks/teacher.py kills --kills=200      # kills it at random moments until so many met it asking
    python benchmarks/teacher.py rate [--headers]       # share of a server's limit that is used
    python benchmarks/teacher.py journal --lines=1000000

The server is that of the tests. JSON lines; the last one has the counts.
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import teacher_server

from cd_jax.rundir import requests as journal
from cd_jax.tasks import Catalogue

SOURCE = "babi_low_data"
LIGHT = """
import json, pathlib, sys
from cd_jax.learning import extending
from cd_jax.types import Example
from cd_jax.update.policies.explanations import Explanations
from cd_jax.update.teachers.openai import OpenAITeacher
folder, url, examples = sys.argv[1:]
examples = [Example(**example) for example in json.loads(pathlib.Path(examples).read_text())]
extending.extend(pathlib.Path(folder) / "updates.jsonl", Explanations(lambda: OpenAITeacher("m", url)), examples, {})
"""


def start(folder, server, source=SOURCE, **bindings):
    bound = {
        "SOURCE": f"'{source}'", "distill.teacher": "@OpenAITeacher", "OpenAITeacher.model": "'m'",
        "OpenAITeacher.base_url": f"'{server.url}'",
    } | bindings  # fmt: skip
    given = [f"--gin.{name}={value}" for name, value in bound.items()]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "OPENAI_API_KEY": "any", "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-m", "cd_jax", "distill", f"--model_dir={folder}", *given], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def start_light(folder, server):
    """The part of it that asks, without TensorFlow and JAX, whose start takes longer than asking."""
    examples = [dataclasses.asdict(one) for one in Catalogue().examples(SOURCE, "train")]
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(examples))
    environment = os.environ | {"OPENAI_API_KEY": "any", "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-c", LIGHT, str(folder), server.url, str(path)], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    _, error = process.communicate()
    assert process.returncode == 0, error


def lines_of(folder):
    path = folder / journal.NAME
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def asked_again(folder):
    """Requests that were sent after their answer stood in the journal."""
    answered, again = set(), 0
    for line in lines_of(folder):
        again += line["line"] == "sent" and line["request"] in answered
        if line["line"] == "answered":
            answered.add(line["request"])
    return again


def kills(args, parent):
    rng, found = random.Random(args.seed), []
    begin = start_light if args.light else start
    with teacher_server.serve(latency=0.02, faults=teacher_server.FAULTS, share=0.1, silence=0.5) as server:
        finish(begin(parent / "whole", server))
        expected = hashlib.sha256((parent / "whole" / "updates.jsonl").read_bytes()).hexdigest()
        distinct = len(server.paid)
        while sum(line["met"] for line in found) < args.kills:
            folder = parent / f"run{len(found)}"
            server.seen.clear(), server.paid.clear(), server.delivered.clear()
            met, in_flight = 0, 0
            for _ in range(args.each):
                # Some of them in the first requests, some in the last ones, some while the rest of the program works.
                target = sum(server.seen.values()) + rng.randrange(1, max(2, distinct // args.each))
                process = begin(folder, server)
                while process.poll() is None and sum(server.seen.values()) < target:
                    time.sleep(0.002)
                time.sleep(rng.uniform(0, 0.05))
                process.send_signal(signal.SIGKILL)
                process.communicate()
                met += process.returncode == -signal.SIGKILL
                lines = lines_of(folder)
                states = collections.Counter(line["line"] for line in lines)
                in_flight += states["sent"] - states["answered"] - states["refused"]
            finish(begin(folder, server))
            same = hashlib.sha256((folder / "updates.jsonl").read_bytes()).hexdigest() == expected
            twice = sum(server.delivered.values()) - len(server.delivered)
            found.append({"met": met, "same": same, "in_flight_in_all": in_flight, "delivered_twice": twice,
                          "asked_again_after_its_answer": asked_again(folder)})  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
    totals = {name: sum(line[name] for line in found) for name in found[0]}
    print(json.dumps({"sequences": len(found)} | totals))


def rate(args, parent):
    settings = {"limit": args.limit, "window": args.window, "headers": args.headers, "latency": 0.05, "variety": 10**9}
    with teacher_server.serve(**settings) as server:
        finish(start(parent / "rate", server, "babi_qa1", NUM_UPDATES=3))
        used = server._windows
    whole = sorted(used)[1:-1]
    shares = [used[number] / args.limit for number in whole]
    print(json.dumps({"limit": args.limit, "window_s": args.window, "headers": args.headers, "windows": len(whole),
                      "used": round(statistics.mean(shares), 4), "least": min(shares),
                      "refused": server.limited, "sent": sum(server.seen.values())}))  # fmt: skip


def opening(args, parent):
    path = parent / journal.NAME
    text = "because Mary went to the kitchen, and nobody took the milk away from there after that."
    with path.open("w") as file:
        for i in range(args.lines // 2):
            name = hashlib.sha256(str(i).encode()).hexdigest()[:32]
            file.write(json.dumps({"line": "sent", "request": name, "tokens": [300, 200]}) + "\n")
            answer = {"choices": [{"content": text, "finish": "stop"}], "usage": [120, 20]}
            file.write(json.dumps({"line": "answered", "request": name, "answer": answer}) + "\n")
    seconds = []
    for _ in range(args.repeats):
        began = time.perf_counter()
        found = journal.Requests(parent)
        seconds.append(time.perf_counter() - began)
        assert len(found.answers) == args.lines // 2
        del found
    print(json.dumps({"lines": args.lines, "bytes": path.stat().st_size, "open_s": round(statistics.median(seconds), 3),
                      "worst_s": round(max(seconds), 3)}))  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "rate", "journal"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--each", type=int, default=10, help="kills of one directory")
    parser.add_argument("--light", action="store_true", help="the part that asks, by itself")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--window", type=float, default=5.0)
    parser.add_argument("--headers", action="store_true")
    parser.add_argument("--lines", type=int, default=10**6)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="teacher-") as parent:
        {"kills": kills, "rate": rate, "journal": opening}[args.what](args, pathlib.Path(parent))


if __name__ == "__main__":
    main()
