"""Trains the baseline with `python -m t5x.train` and with `cd_jax train`, and draws both loss curves on one plot.

    python benchmarks/t5x_curves.py --output_dir=runs/t5x_curves

Both begin with the same parameters (ours), read the same batches in the same order (ours) and have the same schedule
of the learning rate; what remains is T5X's network, loss, optimiser and loop against ours. Training amplifies what
rounding differs by: at the default rate the curves part after a hundred steps, at --learning_rate=0.003 they do not.
Needs T5X. Writes `curves.png` and `curves.jsonl`, and prints one JSON line for each: `impl`, seconds of the program,
the losses, and for T5X how far its curve is from ours, and at which step they are first apart by a thousandth.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import types

import numpy as np
import seqio
import tensorflow as tf
from flax import traverse_util

from cd_jax.feed.tokens import tokenised
from cd_jax.nets.config import T5Config
from cd_jax.proposal.iterator import DeterministicIterator
from cd_jax.solver.solver import Solver
from cd_jax.tasks import Catalogue

# Here, not where they are used: they register with gin, which T5X locks before it calls what is below.
from cd_jax.weights import names

HERE = pathlib.Path(__file__).parent
SOURCE, SEED = "babi_short", 0

# Stock `t5x.train` takes its data set and its model from gin: these are the two that the comparison replaces.
GIN = """
from __gin__ import dynamic_registration

import __main__ as train_script
import t5x_curves
from t5x import decoding
from t5x.examples.t5 import network
from cd_jax.interop import t5x as cd_jax_t5x

include 't5x/train.gin'

train_script.train.get_dataset_fn = @t5x_curves.same_batches
MODEL = @t5x_curves.same_start()
t5x_curves.same_start.model = @cd_jax_t5x.PassagesModel()
"""


def same_batches(cfg, shard_id, num_shards, feature_converter_cls, num_epochs=None, **unused):
    """T5X's `get_dataset_fn`: the batches of `cd_jax train`, in its order."""
    vocabulary = seqio.get_mixture_or_task(cfg.mixture_or_task_name).output_features["inputs"].vocabulary
    read = tokenised(Catalogue(), vocabulary, cfg.mixture_or_task_name, cfg.split)
    proposal = DeterministicIterator(len(read.examples), cfg.batch_size, SEED)
    order = np.concatenate([proposal.propose(epoch).reshape(-1) for epoch in range(10)])
    rows = tf.data.Dataset.from_tensor_slices(order)
    features = rows.map(lambda row: {"inputs": read.inputs[row], "targets": read.targets[row]})
    return feature_converter_cls(pack=False)(features, cfg.task_feature_lengths).batch(cfg.batch_size)


def same_start(model):
    """T5X's model, which begins with the parameters of `cd_jax train`."""
    theirs = {field.name: getattr(model.module.config, field.name) for field in dataclasses.fields(model.module.config)}
    ours = {field.name for field in dataclasses.fields(T5Config)}
    config = T5Config(**{name: value for name, value in theirs.items() if name in ours and name != "dtype"})
    start = dict(names.unstack(Solver(config, theirs["vocab_size"], learning_rate=0.0).init(SEED).params))
    params = traverse_util.unflatten_dict(start, sep="/")
    initial = model.get_initial_variables

    def replaced(self, rng, input_shapes, input_types=None):
        return initial(rng, input_shapes, input_types).copy({"params": params})

    # T5X asks the method for its model.
    model.get_initial_variables = types.MethodType(replaced, model)
    return model


def run(arguments: list[str], log: pathlib.Path) -> float:
    """`python -m …`, with what it says in a file: the seconds that it took."""
    environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    started = time.monotonic()
    with open(log, "w") as said:
        done = subprocess.run([sys.executable, "-m", *arguments], env=environment, stdout=said, stderr=said)
    if done.returncode:
        sys.exit(f"python -m {arguments[0]} failed; see {log}")
    return time.monotonic() - started


def train_ours(folder: pathlib.Path, steps: int, rate: float) -> tuple[list[float], float]:
    """The loss of every step of `cd_jax train`, and its seconds."""
    distilled, model_dir = folder / "distilled", folder / "cd_jax"
    run(["cd_jax", "distill", f"--gin.SOURCE='{SOURCE}'", f"--model_dir={distilled}"], folder / "distill.log")
    bindings = {
        "AGENT": "baseline",
        "SOURCE": SOURCE,
        "SEED": SEED,
        "TRAIN_STEPS": steps,
        "EVAL_PERIOD": steps,
        "LEARNING_RATE": rate,
        "train.log_period": 1,
        "train.distilled": str(distilled),
    }
    flags = [f"--gin.{name}={value!r}" for name, value in bindings.items()]
    seconds = run(["cd_jax", "train", f"--model_dir={model_dir}", *flags], folder / "cd_jax.log")
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line], seconds


def train_theirs(folder: pathlib.Path, steps: int, rate: float) -> tuple[list[float], float]:
    """The loss of every step of `python -m t5x.train`, and its seconds."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    (folder / "t5x.gin").write_text(GIN)
    bindings = {
        "MIXTURE_OR_TASK_NAME": SOURCE,
        "MODEL_DIR": str(folder / "t5x"),
        "VOCABULARY_FILE": str(folder / "distilled" / "vocabulary.model"),
        "TRAIN_STEPS": steps,
        "EVAL_PERIOD": steps,
        "LEARNING_RATE": rate,
        "train.stats_period": 1,
        "train.train_eval_dataset_cfg": None,
        "train.infer_eval_dataset_cfg": None,
    }
    flags = [f"--gin.{name}={value!r}" for name, value in bindings.items()]
    files = [f"--gin_search_paths={HERE.parent / 'gin'}", f"--gin_file={folder / 't5x.gin'}"]
    seconds = run(["t5x.train", *files, *flags], folder / "t5x.log")
    events = event_accumulator.EventAccumulator(str(folder / "t5x" / "train"), {"tensors": 0})
    events.Reload()
    return [float(tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors("loss")], seconds


def draw(curves: dict[str, list[float]], path: pathlib.Path) -> None:
    """Both curves, and below them how far they are from each other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6), height_ratios=(3, 1))
    steps = np.arange(1, len(curves["cd_jax"]) + 1)
    for (impl, losses), style in zip(curves.items(), ("-", "--"), strict=True):
        above.plot(steps, losses, style, label=impl)
    above.set(yscale="log", ylabel="loss (nats per unit of weight)", title=f"{SOURCE}, baseline")
    above.legend()
    below.plot(steps, np.subtract(curves["t5x"], curves["cd_jax"]), color="gray")
    below.set(xlabel="step", ylabel="t5x - cd_jax")
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning_rate", type=float, default=0.03, help="the peak; both decay to 0.003")
    given = parser.parse_args()
    given.output_dir.mkdir(parents=True)
    folder = given.output_dir.resolve()
    ours, our_seconds = train_ours(folder, given.steps, given.learning_rate)
    theirs, their_seconds = train_theirs(folder, given.steps, given.learning_rate)
    apart = np.abs(np.subtract(theirs, ours)) / ours
    summary = {
        "first": lambda x: x[0],
        "middle": lambda x: x[len(x) // 2],
        "last_10": lambda x: float(np.mean(x[-10:])),
    }
    lines = [
        {"what": "train", "impl": impl, "steps": len(losses), "wall_s": round(seconds, 1)}
        | {name: round(of(losses), 5) for name, of in summary.items()}
        for impl, losses, seconds in (("cd_jax", ours, our_seconds), ("t5x", theirs, their_seconds))
    ]
    parted = np.flatnonzero(apart > 1e-3)
    lines[1] |= {
        "largest_relative_difference": float(apart.max()),
        "parted_at": int(parted[0]) + 1 if len(parted) else None,
    }
    for line in lines:
        print(json.dumps(line), flush=True)
    draw({"cd_jax": ours, "t5x": theirs}, folder / "curves.png")
    steps = ({"step": i + 1, "cd_jax": a, "t5x": b} for i, (a, b) in enumerate(zip(ours, theirs, strict=True)))
    (folder / "curves.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))


if __name__ == "__main__":
    main()
