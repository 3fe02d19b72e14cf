"""The paper's constraints on updates, as far as their texts show them: length and compression (arXiv 2212.11353).

What takes the solver to be seen, information gain and sensitivity to positions, is `learning.gain`'s.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

# Tokens of an update, at most.
LONGEST = 200

Numbers = dict[str, float]


def tokens(texts: Sequence[str], vocabulary: seqio.Vocabulary) -> np.ndarray:
    """Tokens of each text, without an end of sequence, int `[texts]`."""
    return vocabulary.encode_tf(tf.constant(list(texts), tf.string)).row_lengths().numpy()


def length(updates: Sequence[str], vocabulary: seqio.Vocabulary) -> Numbers:
    """How long updates are.

    Args:
      updates: at least one.
      vocabulary: of the tokens.

    Returns:
      `{"mean", "max", "over_200"}`: tokens, and the share of updates that have more of them than the paper allows.
    """
    found = tokens(updates, vocabulary)
    return {"mean": float(found.mean()), "max": int(found.max()), "over_200": float((found > LONGEST).mean())}


def compression(updates: Sequence[str], contexts: Sequence[str], vocabulary: seqio.Vocabulary) -> Numbers:
    """How much shorter updates are than what they explain.

    Args:
      updates: at least one.
      contexts: what each explains.
      vocabulary: of the tokens.

    Returns:
      `tokens`, those of the updates over those of the contexts; `zlib`, the same of the bytes to which each of both
      sets is compressed as a whole, so that what every update says counts once.
    """
    said, given = (tokens(texts, vocabulary).sum() for texts in (updates, contexts))
    return {"tokens": float(said / given), "zlib": compressed(updates) / compressed(contexts)}


def compressed(texts: Sequence[str]) -> int:
    """Bytes to which zlib compresses the texts, one a line, in their order."""
    return len(zlib.compress("\n".join(texts).encode(errors="replace"), 9))


def redundancy(updates: Sequence[str]) -> float:
    """Bytes of the updates, compressed as a whole, over their bytes: the lower, the more they repeat one another."""
    return compressed(updates) / max(len("\n".join(updates).encode(errors="replace")), 1)
