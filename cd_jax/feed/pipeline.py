"""The input pipeline: from what is drawn to the model features, all in tf.data."""

import dataclasses
import itertools
from collections.abc import Iterator

import jax
import numpy as np
import tensorflow as tf

from cd_jax.feed.converter import PassagesFeatureConverter
from cd_jax.feed.tokens import TokenisedExamples, TokenisedUpdates
from cd_jax.solver.solver import Batch
from cd_jax.step.reader import Split


@dataclasses.dataclass(frozen=True)
class Draw:
    """What an epoch, or an evaluation, shows the solver, in order.

    Attributes:
      examples: int32 `[rows]`, indices of examples.
      updates: int32 `[rows]`, indices of updates; -1 for none.
    """

    examples: np.ndarray
    updates: np.ndarray


class Feed:
    """The pipeline of one task.

    It is traced once and reads what is drawn from variables: where the source has a hundred examples, an epoch is a few
    steps, and tracing anew for each would take longer than they do.

    Attributes:
      asked: the examples.
      updates: what explains them.
      split: what a step looks up of them where there is a memory.
      lengths: of the task features, tokens.
      question: tokens of the longest question, with the end of sequence.
      truncated: shares of what loses a part, for `results.json`.
    """

    def __init__(
        self,
        asked: TokenisedExamples,
        updates: TokenisedUpdates,
        split: Split | None,
        converter: PassagesFeatureConverter,
        lengths: dict[str, int],
        batch_size: int,
        question: int = 0,
        truncated: dict[str, float] | None = None,
    ):
        """Builds the pipeline.

        Args:
          asked: the examples.
          updates: of them; `no_updates` where there is nothing to learn from.
          split: see `Feed`.
          converter: makes the model features.
          lengths: task feature lengths of the converter.
          batch_size: of all hosts together.
          question: see `Feed`.
          truncated: see `Feed`.
        """
        self.question, self.truncated = question, truncated or {}
        self.asked, self.updates, self.split = asked, updates, split
        self.lengths, self._batch_size = lengths, batch_size
        self._drawn = [tf.Variable(np.zeros(0, np.int32), shape=[None], trainable=False) for _ in range(2)]

        def drawn(row):
            row %= tf.size(self._drawn[0], tf.int64)  # Prefetching runs past the end of the draw.
            return dict(zip(("example", "update"), (tf.gather(drawn, row) for drawn in self._drawn), strict=True))

        def task_features(row):
            example, update = row["example"], row["update"]
            return {
                "inputs": asked.inputs[example],
                "targets": asked.targets[example],
                "update": tf.cond(update < 0, lambda: tf.zeros([0], tf.int32), lambda: updates.tokens[update]),
                # What memory holds is looked up where the keys are, within the step.
                "memory": tf.zeros([0, 0], tf.int32),
            }

        parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
        rows = tf.data.Dataset.counter(dtype=tf.int64).map(drawn, **parallel)
        features = tf.data.Dataset.zip(rows, converter(rows.map(task_features, **parallel), lengths))
        batches = features.map(lambda row, features: row | features).batch(batch_size // jax.process_count())
        self._features = batches.prefetch(tf.data.AUTOTUNE)

    def batches(self, draw: Draw, skip: int = 0) -> Iterator[Batch]:
        """The model features of a draw, this host's rows of each batch. One draw at a time.

        Args:
          draw: rows, a multiple of the batch size.
          skip: batches left out at the start.

        Yields:
          The features of `PassagesFeatureConverter`; and `example` and `update`, int32 `[batch]`, of the draw.
        """
        mine = host_rows(len(draw.examples), self._batch_size, skip)
        for variable, rows in zip(self._drawn, (draw.examples, draw.updates), strict=True):
            variable.assign(rows[mine])
        count = len(draw.examples) // self._batch_size - skip
        return itertools.islice(self._features.as_numpy_iterator(), count)


def host_rows(rows: int, batch_size: int, skip: int) -> np.ndarray:
    """Which of the rows this host loads: its share of every batch but the first `skip`."""
    batches = np.arange(rows).reshape(-1, batch_size)[skip:]
    return np.split(batches, jax.process_count(), axis=1)[jax.process_index()].reshape(-1)
