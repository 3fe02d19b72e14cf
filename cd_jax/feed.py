"""The input pipeline: from what is drawn to the model features, all in tf.data."""

import dataclasses
import itertools
from collections.abc import Iterator

import jax
import numpy as np
import tensorflow as tf

from cd_jax.solver.solver import Batch
from cd_jax.tasks.feature_converter import PassagesFeatureConverter
from cd_jax.types import Example


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
        """Of the examples, in order."""
        return [example.example_id for example in self.examples]

    def families(self) -> list[str]:
        """Of the examples, in order."""
        return [example.family for example in self.examples]


@dataclasses.dataclass(frozen=True)
class Draw:
    """What an epoch, or an evaluation, shows the solver, in order.

    Attributes:
      examples: int32 `[rows]`, indices of examples.
      updates: int32 `[rows]`, indices of updates; -1 for none.
      memory: int32 `[rows, passages]`, indices of memory entries.
    """

    examples: np.ndarray
    updates: np.ndarray
    memory: np.ndarray


def longest(tokens: tf.RaggedTensor) -> int:
    """Tokens of the longest row."""
    return int(tokens.row_lengths().numpy().max())


class Feed:
    """The pipeline of one task.

    It is traced once and reads what is drawn from variables: where the source has a hundred examples, an epoch is a few
    steps, and tracing anew for each would take longer than they do.
    """

    def __init__(
        self,
        asked: TokenisedExamples,
        update_tokens: tf.RaggedTensor,
        memory_tokens: tf.RaggedTensor,
        passages: int,
        converter: PassagesFeatureConverter,
        lengths: dict[str, int],
        batch_size: int,
    ):
        """Builds the pipeline.

        Args:
          asked: the examples.
          update_tokens: ragged `[updates, (length)]`.
          memory_tokens: ragged `[entries, (length)]`.
          passages: retrieved updates of an example.
          converter: makes the model features.
          lengths: task feature lengths of the converter.
          batch_size: of all hosts together.
        """
        self.asked, self._batch_size = asked, batch_size
        self._examples = _variable([None])
        self._updates = _variable([None])
        self._memory = _variable([None, passages])

        def gather(row):
            row %= tf.size(self._examples, tf.int64)  # Prefetching runs past the end of the draw.
            example, update = tf.gather(self._examples, row), tf.gather(self._updates, row)
            memory = tf.gather(memory_tokens, tf.gather(self._memory, row)).to_tensor()
            return {
                "inputs": asked.inputs[example],
                "targets": asked.targets[example],
                "update": tf.cond(update < 0, lambda: tf.zeros([0], tf.int32), lambda: update_tokens[update]),
                "memory": tf.ensure_shape(memory, [passages, None]),
            }

        rows = tf.data.Dataset.counter(dtype=tf.int64)
        features = converter(rows.map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True), lengths)
        self._features = features.batch(batch_size // jax.process_count()).prefetch(tf.data.AUTOTUNE)

    def batches(self, draw: Draw, skip: int = 0) -> Iterator[Batch]:
        """The model features of a draw, this host's rows of each batch. One draw at a time.

        Args:
          draw: rows, a multiple of the batch size.
          skip: batches left out at the start.
        """
        mine = host_rows(len(draw.examples), self._batch_size, skip)
        self._examples.assign(draw.examples[mine])
        self._updates.assign(draw.updates[mine])
        self._memory.assign(draw.memory[mine])
        count = len(draw.examples) // self._batch_size - skip
        return itertools.islice(self._features.as_numpy_iterator(), count)


def _variable(shape: list[int | None]) -> tf.Variable:
    start = np.zeros([0 if size is None else size for size in shape], np.int32)
    return tf.Variable(start, shape=shape, trainable=False)


def host_rows(rows: int, batch_size: int, skip: int) -> np.ndarray:
    """Which of the rows this host loads: its share of every batch but the first `skip`."""
    batches = np.arange(rows).reshape(-1, batch_size)[skip:]
    return np.split(batches, jax.process_count(), axis=1)[jax.process_index()].reshape(-1)
