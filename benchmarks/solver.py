"""Times the solver beside T5X's and Hugging Face's in one run; prints JSON lines.

  python benchmarks/solver.py [--impl cd_jax t5x hf] [--what train_step greedy …] [--dropout 0.1] [--repeat 10]
  python benchmarks/solver.py --scaling     # step time against batch, length, passages and vocabulary, doubled
  python benchmarks/solver.py --profile     # where the time of our training step goes

`cpu_s` counts the seconds of all cores, whatever else the machine does; `wall_s` is what a user waits. Medians after
warm-up. The implementations take turns, so that none has the quiet machine for itself.
"""

import argparse
import collections
import dataclasses
import glob
import gzip
import json
import os
import statistics
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


def take_turns(calls: dict[str, Callable], repeat: int) -> dict[str, list[tuple[float, float]]]:
    """Times every call `repeat` times, after warm-up, one after the other and around again."""
    for call in calls.values():
        for _ in range(_WARM_UP):
            jax.block_until_ready(call())
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            times[name].append(timed(call))
    return times


def compare(shape: Shape, impls: list[str], what: list[str], repeat: int) -> None:
    """A line for each thing that is timed and each implementation, then the ratios."""
    peers = {impl: PEERS[impl](shape) for impl in impls}
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name in what:
        if name == "compile":
            continue
        times = take_turns({impl: getattr(peer, name) for impl, peer in peers.items()}, repeat)
        for impl, pairs in times.items():
            cpu, wall = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
            found.setdefault(name, {})[impl] = cpu, wall
            emit(what=name, impl=impl, cpu_s=round(cpu, 4), wall_s=round(wall, 4), n=repeat, dropout=shape.dropout)
    if "compile" in what:
        for impl, peer in peers.items():
            if hasattr(peer, "compile"):
                cpu, wall = zip(*(timed(lambda peer=peer: peer.compile()) for _ in range(3)), strict=True)
                found.setdefault("compile", {})[impl] = statistics.median(cpu), statistics.median(wall)
                emit(what="compile", impl=impl, cpu_s=round(statistics.median(cpu), 2),
                     wall_s=round(statistics.median(wall), 2), n=3, dropout=shape.dropout)  # fmt: skip
    for name, by_impl in found.items():
        for impl, (cpu, wall) in by_impl.items():
            if impl != "cd_jax" and "cd_jax" in by_impl:
                ours = by_impl["cd_jax"]
                emit(what=f"{name}_ratio", impl=impl, cpu=round(cpu / ours[0], 2), wall=round(wall / ours[1], 2))


def scaling(repeat: int) -> None:
    """Our step against the size of one thing at a time, doubled three times."""
    base = dataclasses.replace(Shape(), batch=4, encoder_length=64, decoder_length=32)
    starts = {"batch": 4, "encoder_length": 64, "decoder_length": 32, "passages": 1, "vocab": 2048}
    for axis, start in starts.items():
        before = None
        for factor in (1, 2, 4, 8):
            peer = CdJax(dataclasses.replace(base, **{axis: start * factor}))
            cpu, wall = (statistics.median(x) for x in zip(*take_turns({"": peer.train_step}, repeat)[""], strict=True))
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
    else:
        compare(shape, arguments.impl, arguments.what, arguments.repeat)


if __name__ == "__main__":
    main()
