"""BLEURT's official folder with random weights, the official graph that reads it, and texts to score."""

import pathlib
import random
import re
import shutil

import bundles
import numpy as np

from cd_jax.verifier import batches
from cd_jax.weights.tensor_bundle import TensorBundle
from originals import BLEURT_DIR

LONGEST = 512


def random_variables(entries, seed: int = 0) -> dict[str, np.ndarray]:
    """Large enough that scores differ: what the network makes of a text depends on every part of it."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, entry in entries.items():
        if name == "global_step":
            found[name] = np.int64(7)
            continue
        drawn = rng.normal(size=entry.shape).astype(np.float32)
        if name.endswith("gamma"):
            found[name] = 1 + 0.3 * drawn
        elif name.endswith("kernel"):
            found[name] = drawn * np.float32(1.2 / entry.shape[0] ** 0.5)
        else:
            found[name] = 0.3 * drawn
    return found


def write(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """The official folder with random weights under its own variables' names."""
    folder.mkdir(parents=True)
    for name in ("saved_model.pb", "bert_config.json", "bleurt_config.json", "vocab.txt"):
        shutil.copyfile(BLEURT_DIR / name, folder / name)
    entries = TensorBundle(BLEURT_DIR / "variables" / "variables").entries
    bundles.save(folder / "variables" / "variables", random_variables(entries, seed))
    return folder


def official_scores(folder: pathlib.Path, tokens, batch_size: int = 16) -> np.ndarray:
    """Those of the official graph, which wants every pair padded to 512 tokens.

    Args:
      folder: of `write`.
      tokens: of `cd_jax.verifier.batches.pair`.
      batch_size: the official default.
    """
    import tensorflow as tf

    graph = tf.saved_model.load(str(folder)).signatures["serving_default"]
    ids, mask, segments = padded(tokens)
    found = []
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)
        given = {"input_ids": ids[part], "input_mask": mask[part], "segment_ids": segments[part]}
        found.append(graph(**{name: tf.constant(value) for name, value in given.items()})["predictions"].numpy())
    return np.concatenate(found)


def padded(tokens) -> np.ndarray:
    """Ids, mask and segments, int64 `[3, pairs, 512]`."""
    found = np.zeros((3, len(tokens), LONGEST), np.int64)
    for row, one in enumerate(tokens):
        found[0, row, : len(one.ids)] = one.ids
        found[1, row, : len(one.ids)] = 1
        found[2, row, one.first : len(one.ids)] = 1
    return found


WORDS = re.split(
    " ",
    "the a doctor apple keeps away day pianist legendary Bud Powell was historical player new yorker kitchen garden "
    "Mary went to Daniel's football, because it was there; therefore answer: yes no unbelievably antidisestablishment "
    "7 3.14 -5% naïve café ÜBER straße ΣΊΣΥΦΟΣ İstanbul 東京 日本語 한국어 العربية हिन्दी "
    "\U0001f469\u200d\U0001f467 🇫🇷 e\u0301 \u200b \x00 \ufffd \u2028 \ud800 \U000e0001 [SEP] [CLS] [MASK] ## ##ing "
    "don't “quoted” — … http://x.y/z?q=1 \t \n",
)


def pairs(number: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Pairs of texts: empty, alike, of any language, of control characters, longer than a network reads."""
    draw = random.Random(seed)

    def text() -> str:
        words = draw.choice((0, 1, 2, 5, 5, 9, 9, 15, 15, 30, 60, 300, 700)) if draw.random() < 0.9 else 400
        return " ".join(draw.choice(WORDS) for _ in range(words))

    references = ["", "", "a", "x" * 5000, "一" * 2000, *(text() for _ in range(number - 5))]
    candidates = ["", "b", "", "y " * 5000, "", *(text() for _ in range(number - 5))]
    alike = range(5, number, 7)
    for i in alike:
        candidates[i] = references[i].replace("the", "a", 1)
    return references, candidates


def tokens(bleurt, references, candidates):
    """Of pairs, as the verifier reads them."""
    described = bleurt._checkpoint
    given = zip(references, candidates, strict=True)
    return [batches.pair(described.tokenizer, *pair, described.max_length) for pair in given]
