"""Times the training step with and without memory, and the refresh before an epoch; prints JSON lines.

  python benchmarks/memory.py [--what=without,joined,cached …] [--capacity=1000] [--repeat=20] [--embed=64] [--layers=2]

Each line: `what`, `compile_s`, `step_ms` and `step_cpu_ms` (medians; CPU time of all cores, whatever else the machine
does), `refresh_ms` (keys, and what else is encoded before an epoch), `to_without` (CPU time over that of the step of
`cd_finetune` on the same batches, which reads no memory). `--what`:

  without     cd_finetune: the prompt alone
  joined      cd_memory: each retrieved update encoded with the prompt (Fusion-in-Decoder); exact search on the device
  scann       the same, its search on the host, called from within the step
  cached      the retrieved updates' states, encoded once an epoch, beside the prompt's
  embedding   joined, and the contrastive term over embeddings, 4 bayesian negatives
  sequence    joined, and the contrastive term over log p(u | x), 4 bayesian negatives

The examples are those of the demo, `babi_short`, in batches of 64, and the network is the demo's unless flags say
otherwise. Each has a process of its own, one after the other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import optax

from cd_jax.feed import lessons
from cd_jax.feed.tokens import TokenisedExamples, tokenised
from cd_jax.learning.agent import Agent
from cd_jax.learning.student import Settings, Student
from cd_jax.memory.episodic import EpisodicMemory
from cd_jax.memory.index.device import DeviceIndex, ScannIndex
from cd_jax.memory.values import update_value
from cd_jax.nets.config import T5Config
from cd_jax.proposal.iterator import DeterministicIterator
from cd_jax.solver.solver import Solver
from cd_jax.step.terms.contrastive import Contrast
from cd_jax.tasks import Catalogue
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Update
from cd_jax.update.teachers.oracle import OracleTeacher

BATCH, ANSWER_WEIGHT = 64, 2.0
SETTINGS = {
    "without": {"agent": "cd_finetune"},
    "joined": {},
    "scann": {"index": ScannIndex},
    "cached": {"cache_passages": True},
    "embedding": {"contrast": Contrast(weight=0.1, attempts=0)},
    "sequence": {"contrast": Contrast(weight=0.1, score="sequence", attempts=0)},
}


def explained(source: TokenisedExamples) -> dict[str, list[Update]]:
    """One update of each example."""
    teacher, told = OracleTeacher(), {}
    for example in source.examples:
        said = teacher.explain(example, None, 1, 0)[0]
        told[example.example_id] = [Update(example.example_id, example.task, said.text, "oracle", said.prompt, 0, 0)]
    return told


def made(args: argparse.Namespace, updates, examples) -> Student:
    """The student to be timed, its memory filled."""
    settings = SETTINGS[args.one]
    remembers = settings.get("agent", "cd_memory") == "cd_memory"
    terms = [settings.get("contrast", Contrast())] if remembers else []
    agent = Agent(args.one, lessons.explained, update_value if remembers else None, terms=terms)
    config = T5Config(
        emb_dim=args.embed, num_heads=4, head_dim=args.embed // 4, mlp_dim=2 * args.embed,
        num_encoder_layers=args.layers, num_decoder_layers=args.layers, dropout_rate=0.0, scan_layers=False,
    )  # fmt: skip
    vocabulary = vocabularies.load()
    solver = Solver(config, vocabularies.padded_size(vocabulary), learning_rate=optax.constant_schedule(0.01))
    memory = None
    if remembers:
        memory = EpisodicMemory(args.capacity, index=settings.get("index", DeviceIndex), mesh=solver.mesh)
    cached = settings.get("cache_passages", False)
    made = Settings({"inputs": 96, "targets": 32}, ANSWER_WEIGHT, 128, cache_passages=cached)
    timed = Student(agent, vocabulary, solver, memory, made)
    timed.remember(examples, updates, 0)
    return timed


def measure_one(args: argparse.Namespace) -> None:
    """In a process of its own: prints a line."""
    source = tokenised(Catalogue(), vocabularies.load(), "babi_short", "train", 400)
    updates = explained(source)
    timed = made(args, updates, source.examples)
    taught = lessons.of_examples(timed.agent.lesson, source.examples, updates, {}, ANSWER_WEIGHT)
    feed = timed.study(source, BATCH, taught)
    state = timed.solver.init(0)
    refreshes = []
    for _ in range(3):
        start = time.perf_counter()
        timed.prepare(state.params, 0, 0)
        jax.block_until_ready(timed.state())
        refreshes.append(time.perf_counter() - start)
    draw = timed.draw(DeterministicIterator(len(source.examples), BATCH, 0), feed.lessons.choices, 0)
    walls, processors = [], []
    for _, batch in zip(range(args.repeat + 1), feed.batches(draw), strict=False):
        start, start_cpu = time.perf_counter(), time.process_time()
        state, metrics = timed.solver.train_step(state, batch, 0, *timed.reading(feed))
        timed.count_use(metrics.pop("seen", {}))
        jax.block_until_ready(metrics)
        walls.append(time.perf_counter() - start)
        processors.append(time.process_time() - start_cpu)
    line = {"what": args.one, "capacity": args.capacity, "compile_s": round(walls[0], 1)}
    line["step_ms"] = round(1e3 * statistics.median(walls[1:]), 1)
    line["step_cpu_ms"] = round(1e3 * statistics.median(processors[1:]), 1)
    line["refresh_ms"] = round(1e3 * min(refreshes), 1)
    print(json.dumps(line))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default=",".join(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--capacity", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=20, help="steps, at most 30")
    parser.add_argument("--embed", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--one", choices=SETTINGS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure_one(args)
        return
    without = None
    for what in args.what.split(","):
        flags = [f"--{name}={getattr(args, name)}" for name in ("capacity", "repeat", "embed", "layers")]
        done = subprocess.run(
            [sys.executable, __file__, "--one", what, *flags], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{done.stderr}{what}: exit status {done.returncode}")
        line = json.loads(done.stdout.splitlines()[-1])
        without = line["step_cpu_ms"] if what == "without" else without
        line["to_without"] = round(line["step_cpu_ms"] / without, 2) if without else None
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
