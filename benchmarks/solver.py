"""Times the solver beside T5X's and Hugging Face's in one run; prints JSON lines.

  python benchmarks/solver.py [--impl cd_jax t5x hf] [--what train_step greedy …] [--dropout 0.1] [--repeat 10]
  python benchmarks/solver.py --scaling     # step time against batch, length, passages and vocabulary, doubled
  python benchmarks/solver.py --profile     # where the time of our training step goes

`cpu_s` counts the seconds of all cores, whatever else the machine does; `wall_s` is what a user waits. Medians after
warm-up. Each implementation has a process of its own, one after the other: threads that wait spin, and one's would be
counted with the next's.
"""

import argparse
import collections
import dataclasses
import glob
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
from solver_peers import PEERS, CdJax, Shape, installed

WHAT = ("train_step", "forward", "greedy", "sample", "compile")
_WARM_UP = 2


def timed(call: Callable) -> tuple[float, float]:
    """CPU and wall seconds of a call that is waited for."""
    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(call())
    return time.process_time() - cpu, time.perf_counter() - wall


def emit(**line) -> None:
    print(json.dumps(line), flush=True)


def median_times(call: Callable, repeat: int) -> tuple[float, float]:
    """Medians of CPU and wall seconds over `repeat` calls, after warm-up."""
    for _ in range(_WARM_UP):
        jax.block_until_ready(call())
    cpu, wall = zip(*(timed(call) for _ in range(repeat)), strict=True)
    return statistics.median(cpu), statistics.median(wall)


def time_one(shape: Shape, impl: str, what: list[str], repeat: int) -> None:
    """A line for each thing that is timed of one implementation."""
    peer = PEERS[impl](shape)
    for name in what:
        if hasattr(peer, name):
            times = 3 if name == "compile" else repeat
            cpu, wall = median_times(getattr(peer, name), times)
            emit(what=name, impl=impl, cpu_s=round(cpu, 4), wall_s=round(wall, 4), n=times, dropout=shape.dropout)


def compare(impls: list[str], flags: list[str]) -> None:
    """Every implementation in a process of its own, one after the other; then the ratios to ours."""
    lines = []
    for impl in impls:
        command = [sys.executable, __file__, "--impl", impl, *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                lines.append(json.loads(line))
        if process.returncode:
            sys.exit(process.returncode)
    ours = {line["what"]: line for line in lines if line["impl"] == "cd_jax"}
    for line in lines:
        if line["impl"] != "cd_jax" and line["what"] in ours:
            mine = ours[line["what"]]
            ratios = {unit: round(line[f"{unit}_s"] / mine[f"{unit}_s"], 2) for unit in ("cpu", "wall")}
            emit(what=f"{line['what']}_ratio", impl=line["impl"], **ratios)


def scaling(repeat: int) -> None:
    """Our step against the size of one thing at a time, doubled three times."""
    base = dataclasses.replace(Shape(), batch=4, encoder_length=64, decoder_length=32)
    starts = {"batch": 4, "encoder_length": 64, "decoder_length": 32, "passages": 1, "vocab": 2048}
    for axis, start in starts.items():
        before = None
        for factor in (1, 2, 4, 8):
            peer = CdJax(dataclasses.replace(base, **{axis: start * factor}))
            cpu, wall = median_times(peer.train_step, repeat)
            growth = round(cpu / before, 2) if before else None
            emit(what="scaling", axis=axis, size=start * factor, cpu_s=round(cpu, 4), wall_s=round(wall, 4),
                 growth=growth)  # fmt: skip
            before = cpu


def profile(shape: Shape) -> None:
    """Milliseconds of a training step by kind of operation, from XLA's own trace."""
    peer = CdJax(shape)
    for _ in range(_WARM_UP):
        jax.block_until_ready(peer.train_step())
    folder, steps = tempfile.mkdtemp(), 3
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 3, 0
    with jax.profiler.trace(folder, profiler_options=options):
        for _ in range(steps):
            jax.block_until_ready(peer.train_step())
    [path] = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    spent: collections.Counter = collections.Counter()
    for event in events:
        # XLA names its operations in lower case, and its own machinery in upper case.
        if event.get("ph") == "X" and event["name"][:1].islower():
            spent[event["name"].rstrip("0123456789").rstrip(".")] += event["dur"] / 1e3 / steps
    for name, milliseconds in spent.most_common(12):
        emit(what="profile", operation=name, ms=round(milliseconds, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", nargs="+", choices=PEERS, default=[name for name in PEERS if installed(name)])
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    shape = Shape(dropout=arguments.dropout)
    if arguments.scaling:
        scaling(arguments.repeat)
    elif arguments.profile:
        profile(shape)
    elif len(arguments.impl) == 1:
        time_one(shape, arguments.impl[0], arguments.what, arguments.repeat)
    else:
        flags = ["--dropout", str(arguments.dropout), "--repeat", str(arguments.repeat), "--what", *arguments.what]
        compare(arguments.impl, flags)


if __name__ == "__main__":
    main()
