"""A split of a task, and what explains it, as tokens."""

import dataclasses

import numpy as np
import tensorflow as tf

from cd_jax.types import Example

_NOTHING = tf.ragged.constant([[0]], tf.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenisedExamples:
    """A split of a task: the examples, and what SeqIO makes of them.

    Attributes:
      examples: in the order of the SeqIO datasets.
      inputs: ragged int32 `[examples, (length)]`.
      targets: ragged int32 `[examples, (length)]`.
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


@dataclasses.dataclass(frozen=True, eq=False)
class TokenisedUpdates:
    """What explains the examples of a split.

    Attributes:
      texts: all updates.
      tokens: the same as tokens, ragged int32 `[updates, (length)]`.
      choices: for each example, the indices of its updates.
    """

    texts: list[str]
    tokens: tf.RaggedTensor
    choices: list[np.ndarray]


def no_updates(examples: int) -> TokenisedUpdates:
    """The updates of a split that nothing explains."""
    return TokenisedUpdates([], _NOTHING, [np.zeros(0, np.int64)] * examples)


def longest(tokens: tf.RaggedTensor) -> int:
    """Length of the longest row, tokens."""
    return int(tokens.row_lengths().numpy().max())
