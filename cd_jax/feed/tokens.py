"""A split of a task, as tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import seqio
import tensorflow as tf

from cd_jax.errors import RequestError
from cd_jax.feed import formats
from cd_jax.types import Example


@dataclasses.dataclass(frozen=True, eq=False)
class TokenisedExamples:
    """A split of a task: the examples, and the tokens that its SeqIO task has of them where nothing is cut.

    Attributes:
      examples: in the order of the SeqIO datasets.
      inputs: of the prompts, with the end of sequence, ragged int32 `[examples, (length)]`.
      targets: of `answer: y`, with the end of sequence, ragged int32 `[examples, (length)]`.
    """

    examples: list[Example]
    inputs: tf.RaggedTensor
    targets: tf.RaggedTensor

    def ids(self) -> list[str]:
        """Ids of the examples, in their order."""
        return [example.example_id for example in self.examples]

    def families(self) -> list[str]:
        """What each example shares with those whose explanations give its answer away; see `Example.family`."""
        return [example.family for example in self.examples]


class Tasks(Protocol):
    """What gives the examples of a task or mixture by its name; see `Catalogue`."""

    def examples(self, name: str, split: str, per_task: int | None = None, seed: int = 0) -> list[Example]:
        """See `Catalogue.examples`."""


def tokenised(
    catalogue: Tasks,
    vocabulary: seqio.Vocabulary,
    name: str,
    split: str,
    per_task: int | None = None,
    sample_seed: int = 0,
) -> TokenisedExamples:
    """Reads a split.

    Args:
      catalogue: has the task.
      vocabulary: of the tokens.
      name: task or mixture.
      split: of the task.
      per_task: at most so many examples of each task; None takes all.
      sample_seed: draws them, see `tasks.Sample`.

    Raises:
      RequestError: no such task, its files are missing or malformed, or the split is empty.
    """
    examples = catalogue.examples(name, split, per_task, sample_seed)
    if not examples:
        raise RequestError(f"split {split!r} of {name!r} has no examples; choose another task or split")
    inputs = _ended([example.prompt for example in examples], vocabulary)
    targets = _ended([formats.answer(example.answer) for example in examples], vocabulary)
    return TokenisedExamples(examples, inputs, targets)


def _ended(texts: Sequence[str], vocabulary: seqio.Vocabulary) -> tf.RaggedTensor:
    """Tokens with the end of sequence, ragged int32 `[texts, (length)]`."""
    ends = tf.fill([len(texts), 1], vocabulary.eos_id)
    return tf.concat([vocabulary.encode_tf(tf.constant(texts, tf.string)), ends], 1)


def longest(tokens: tf.RaggedTensor) -> int:
    """Length of the longest row, tokens."""
    return int(tokens.row_lengths().numpy().max())
