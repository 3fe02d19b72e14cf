"""Pairs of texts that BLEURT scores in a second of the processor, beside TensorFlow and PyTorch; prints JSON lines.

  python benchmarks/bleurt.py                               # the official graph, its shape, the same random weights
  python benchmarks/bleurt.py --layers 12 --hidden 768      # a larger one, which has no official graph here
  python benchmarks/bleurt.py --impl cd_jax torch --pairs 64

The pairs are answers and sentences of 1 to 25 words. `tf` and `torch` score as the official program does: 16 pairs at a
time, each padded to 512 tokens; `torch_short` pads to the longest of the 16, as `dynamic_seq_length` allows there. All
have the same tokens; ours alone has its tokenizing counted. Each implementation has a process of its own; medians after
warm-up. `difference` is the largest of its scores from those of the first.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(pathlib.Path(__file__).parents[1] / "tests" / folder) for folder in ("", "verifier", "weights")]

import checkpoints  # noqa: E402
import numpy as np  # noqa: E402

from cd_jax.verifier.bleurt import Bleurt  # noqa: E402

IMPLEMENTATIONS = {"cd_jax": "jax", "tf": "tensorflow", "torch": "transformers", "torch_short": "transformers"}
BATCH = 16


def texts(number: int) -> tuple[list[str], list[str]]:
    """References and candidates: half of them are answers of one to three words, half sentences."""
    draw = random.Random(0)
    words = [word for word in checkpoints.WORDS if word.isascii() and word.isalpha()]

    def text(longest: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, longest)))

    made = [(text(longest), text(longest)) for longest in (draw.choice((3, 25)) for _ in range(number))]
    return [one for one, _ in made], [other for _, other in made]


def write_folder(folder: pathlib.Path, layers: int, hidden: int) -> None:
    """The official folder with random weights; without its graph where the shape is another."""
    if (layers, hidden) == (2, 128):
        checkpoints.write(folder)
        return
    from test_bleurt_weights import abstract

    from cd_jax.weights import bert, bleurt

    official = checkpoints.write(folder.with_name("official"))
    given = json.loads((official / "bert_config.json").read_text())
    given |= {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": 4 * hidden}
    given |= {"num_attention_heads": hidden // 64}
    (official / "bert_config.json").write_text(json.dumps(given))
    described, rng = bleurt.describe(official), np.random.default_rng(0)
    from flax import traverse_util

    shapes = bert.names.shapes(abstract(described.config))
    drawn = {name: 0.5 / shape[0] ** 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}
    scaled = {name: 1 + value if name.endswith("scale") else value for name, value in drawn.items()}
    bleurt.write(folder, described, traverse_util.unflatten_dict(scaled, sep="/"))


def ours(folder: pathlib.Path, references: list[str], candidates: list[str]) -> Callable[[], np.ndarray]:
    bleurt = Bleurt(str(folder), allow_test_checkpoint=True)
    return lambda: np.array(bleurt.raw_scores(references, candidates))


def tensorflow(folder: pathlib.Path, references: list[str], candidates: list[str]) -> Callable[[], np.ndarray]:
    import tensorflow as tf

    graph = tf.saved_model.load(str(folder)).signatures["serving_default"]
    batches = cut(checkpoints.padded(tokens(folder, references, candidates)))
    names = ("input_ids", "input_mask", "segment_ids")
    return lambda: np.concatenate(
        [graph(**dict(zip(names, map(tf.constant, batch), strict=True)))["predictions"].numpy() for batch in batches]
    )


def pytorch(
    folder: pathlib.Path, references: list[str], candidates: list[str], short: bool = False
) -> Callable[[], np.ndarray]:
    import torch
    import transformers
    from test_bleurt_weights import abstract

    from cd_jax.weights import bert, bleurt

    described = bleurt.describe(folder)
    given = json.loads((folder / "bert_config.json").read_text()) | {"hidden_act": "gelu_new", "num_labels": 1}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**given)).eval()
    with tempfile.TemporaryDirectory() as written:
        bert.write_safetensors(pathlib.Path(written), bleurt.read(described, abstract(described.config)))
        from safetensors.torch import load_file

        model.load_state_dict(load_file(pathlib.Path(written) / "model.safetensors"))
    batches = [batch[..., : batch[1].sum(1).max()] if short else batch for batch in
               cut(checkpoints.padded(tokens(folder, references, candidates)))]  # fmt: skip

    def scores() -> np.ndarray:
        with torch.inference_mode():
            found = [
                model(input_ids=ids, attention_mask=mask, token_type_ids=segments).logits[:, 0].numpy()
                for ids, mask, segments in map(torch.from_numpy, batches)
            ]
        return np.concatenate(found)

    return scores


def tokens(folder: pathlib.Path, references: list[str], candidates: list[str]):
    return checkpoints.tokens(Bleurt(str(folder), allow_test_checkpoint=True), references, candidates)


def cut(arrays: np.ndarray) -> list[np.ndarray]:
    """Batches of `[3, pairs, length]`."""
    return [np.ascontiguousarray(arrays[:, start : start + BATCH]) for start in range(0, arrays.shape[1], BATCH)]


def timed(call: Callable) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(impl: str, folder: pathlib.Path, pairs: int, repeat: int) -> None:
    """Prints the line of one implementation; its scores go into the folder."""
    references, candidates = texts(pairs)
    prepare = {"cd_jax": ours, "tf": tensorflow, "torch": pytorch}.get(impl)
    call = prepare(folder, references, candidates) if prepare else pytorch(folder, references, candidates, short=True)
    np.save(folder.with_name(f"{impl}.npy"), call())
    call()
    cpu, wall = map(statistics.median, zip(*(timed(call) for _ in range(repeat)), strict=True))
    line = {"impl": impl, "pairs": pairs, "cpu_s": round(cpu, 4), "wall_s": round(wall, 4)}
    print(json.dumps(line | {"pairs_per_cpu_s": round(pairs / cpu, 2), "repeat": repeat}), flush=True)


def main() -> None:
    """Measures one implementation after the other, and says how many times faster ours is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impl", nargs="*", choices=IMPLEMENTATIONS, default=list(IMPLEMENTATIONS))
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        measure(args.impl[0], pathlib.Path(args.folder), args.pairs, args.repeat)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "checkpoint"
        write_folder(folder, args.layers, args.hidden)
        lines = {}
        for impl in args.impl:
            if importlib.util.find_spec(IMPLEMENTATIONS[impl]) is None:
                print(json.dumps({"impl": impl, "skipped": f"{IMPLEMENTATIONS[impl]} is not installed"}))
            elif impl == "tf" and not (folder / "saved_model.pb").is_file():
                print(json.dumps({"impl": impl, "skipped": "there is no official graph of this shape here"}))
            else:
                given = ["--impl", impl, "--folder", folder, "--pairs", args.pairs, "--repeat", args.repeat]
                told = subprocess.run([sys.executable, __file__, *map(str, given)], check=True, capture_output=True)
                lines[impl] = json.loads(told.stdout.splitlines()[-1])
                print(json.dumps(lines[impl] | {"layers": args.layers, "hidden": args.hidden}), flush=True)
        report(lines, {impl: np.load(folder.with_name(f"{impl}.npy")) for impl in lines})


def report(lines: dict, scores: dict) -> None:
    """A line for every other implementation."""
    first = next(iter(lines), None)
    for impl in list(lines)[1:]:
        ratio = lines[first]["pairs_per_cpu_s"] / lines[impl]["pairs_per_cpu_s"]
        difference = float(np.abs(scores[first] - scores[impl]).max())
        print(json.dumps({"ratio": f"{first} / {impl}", "pairs_per_cpu_s": round(ratio, 2), "difference": difference}))


if __name__ == "__main__":
    main()
