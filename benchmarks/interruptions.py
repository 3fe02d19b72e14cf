"""Interrupts commands at random moments, runs them again, and compares what comes out with what no interruption gives.

    python benchmarks/interruptions.py --signal=SIGKILL --trials=40

prints a JSON line a trial: the verb, when the signal came, the exit status, seconds until the end, what was left
behind, and whether the second run gave the same. The last line has the counts.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SMALL = {
    "SOURCE": "'babi_qa1_low_data'",
    "BATCH_SIZE": 2,
    "TRAIN_STEPS": 16,
    "EVAL_PERIOD": 4,
    "PATIENCE": 99,
    "INPUT_LENGTH": 32,
    "TARGET_LENGTH": 24,
    "WARMUP_STEPS": 2,
    "train.log_period": 2,
    "train.eval_per_task": 4,
    "T5Config.emb_dim": 32,
    "T5Config.num_encoder_layers": 1,
    "T5Config.num_decoder_layers": 1,
}
EVALUATED = {"TARGETS": "['babi_qa6']", "EVAL_PER_TASK": 40, "SOURCE_PER_TASK": 40}


def bound(bindings):
    return [f"--gin.{name}={value}" for name, value in bindings.items()]


def commands(folder):
    """Of each verb, its arguments, the folder that it writes to, and what must be there before."""
    run, distilled = folder / "run", folder / "distilled"
    trained = ["--gin.AGENT='cd_memory'", f"--gin.train.distilled='{distilled}'", *bound(SMALL)]
    demo = {k: v for k, v in (SMALL | EVALUATED).items() if k != "PATIENCE"} | {"AGENTS": "['baseline', 'cd_memory']"}
    return {
        "distill": (["distill", f"--model_dir={distilled}", f"--gin.SOURCE={SMALL['SOURCE']}"], []),
        "train": (["train", f"--model_dir={run}", *trained], ["distilled"]),
        "eval": (["eval", f"--model_dir={run}", *bound(EVALUATED)], ["distilled", "run"]),
        "infer": (["infer", f"--model_dir={run}", "--gin.TASK='babi_qa1'"], ["distilled", "run"]),
        "export": (["export", f"--model_dir={run}", "--format=hf"], ["distilled", "run"]),
        "import": (["import", str(run), f"--model_dir={folder / 'imported'}"], ["distilled", "run"]),
        "demo": (["demo", f"--model_dir={folder / 'demo'}", *bound(demo)], []),
    }


def start(arguments, environment):
    return subprocess.Popen(
        [sys.executable, "-m", "cd_jax", *arguments], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def outcome(folder):
    """What the files say, apart from clocks: the same for runs that came to the same."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "results.json":
            found[name] = [run["evaluations"] for run in json.loads(path.read_text())["runs"]]
        elif path.suffix in (".jsonl", ".safetensors", ".npy", ".model") and path.name != "metrics.jsonl":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]
        elif path.parent.name == "checkpoints":
            found[name] = "a step"
    return found


def left_behind(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith((".tmp", ".lock")))


def prepared(parent, name, verb, pristine):
    """A folder with what the verb needs."""
    folder = parent / name
    folder.mkdir()
    for part in commands(folder)[verb][1]:
        shutil.copytree(pristine / part, folder / part)
    return folder


def trial(number, verb, seconds, pristine, expected, args, environment):
    """One run that is interrupted, and a second one; whether they come to `expected`."""
    rng = random.Random(f"{args.seed}/{number}")
    folder = prepared(pristine.parent, f"trial{number}", verb, pristine)
    arguments = commands(folder)[verb][0]
    process, moment = start(arguments, environment), rng.uniform(0.05, 1.0) * seconds
    began = time.monotonic()
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(getattr(signal, args.signal))
    sent = time.monotonic()
    _, error = process.communicate(timeout=600)
    ended = time.monotonic()
    again = start(arguments, environment)
    _, second_error = again.communicate(timeout=600)
    same = outcome(folder) == expected
    line = {
        "verb": verb, "signal": args.signal, "at_s": round(sent - began, 2), "status": process.returncode,
        "end_s": round(ended - sent, 2), "said": error.strip().splitlines()[-1:], "again": again.returncode,
        "again_said": second_error.strip().splitlines()[-1:], "left": left_behind(folder), "same": same,
    }  # fmt: skip
    print(json.dumps(line), flush=True)
    if same:
        shutil.rmtree(folder)
    return line


def uninterrupted(verbs, pristine, environment):
    """Seconds, and what comes out, of each verb; and the folders that later verbs need, in `pristine`."""
    seconds, expected = {}, {}
    pristine.mkdir()
    for verb in dict.fromkeys(["distill", "train", *verbs]):
        # The second one finds what the first has compiled, as those that are interrupted do.
        for name in (f"first-{verb}", f"whole-{verb}"):
            folder = prepared(pristine.parent, name, verb, pristine)
            began = time.monotonic()
            process = start(commands(folder)[verb][0], environment)
            _, error = process.communicate()
            assert process.returncode == 0, error
        seconds[verb], expected[verb] = time.monotonic() - began, outcome(folder)
        for part in {"distill": ["distilled"], "train": ["run"]}.get(verb, []):
            shutil.copytree(folder / part, pristine / part)
    return seconds, expected


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signal", default="SIGKILL", choices=("SIGKILL", "SIGINT", "SIGTERM"))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--verbs", nargs="+", default=list(commands(pathlib.Path())))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    parent = pathlib.Path(tempfile.mkdtemp(prefix="interruptions-"))
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    seconds, expected = uninterrupted(args.verbs, parent / "pristine", environment)
    print(json.dumps({"seconds": {verb: round(value, 1) for verb, value in seconds.items()}}), flush=True)
    lines = []
    for number in range(args.trials):
        verb = args.verbs[number % len(args.verbs)]
        lines.append(trial(number, verb, seconds[verb], parent / "pristine", expected[verb], args, environment))
    statuses = collections.Counter(str(line["status"]) for line in lines)
    same, left = sum(line["same"] for line in lines), sum(bool(line["left"]) for line in lines)
    longest = max(line["end_s"] for line in lines)
    counts = {"trials": len(lines), "same": same, "statuses": statuses, "left_behind": left, "longest_end_s": longest}
    print(json.dumps(counts))
    if same == len(lines):
        shutil.rmtree(parent)


if __name__ == "__main__":
    main()
