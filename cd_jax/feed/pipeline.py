"""The input pipeline: from what is drawn to the model features, all in tf.data."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cd_jax.feed.converter import PassagesFeatureConverter
from cd_jax.feed.lessons import TokenisedLessons
from cd_jax.feed.tokens import TokenisedExamples
from cd_jax.solver.solver import Batch
from cd_jax.step.tables import Split


@dataclasses.dataclass(frozen=True)
class Draw:
    """What an epoch, or an evaluation, shows the solver, in order.

    Attributes:
      examples: int32 `[rows]`, indices of examples.
      lessons: int32 `[rows]`, indices of lessons; -1 for none.
    """

    examples: np.ndarray
    lessons: np.ndarray


class Share(NamedTuple):
    """What this process loads of every batch.

    Attributes:
      batch_size: of all processes together.
      rows: int64 `[rows]`, those of a batch that lie on this process's devices.
    """

    batch_size: int
    rows: np.ndarray


class Feed:
    """The pipeline of one task.

    It is traced once and reads what is drawn from variables: where the source has a hundred examples, an epoch is a few
    steps, and tracing anew for each would take longer than they do.

    Attributes:
      asked: the examples.
      lessons: what is learnt of them; None where nothing is.
      split: what a step looks up of them where there is a memory.
      lengths: of the task features, tokens.
      question: tokens of the longest question, with the end of sequence.
      truncated: shares of what loses a part, for `results.json`.
    """

    def __init__(
        self,
        asked: TokenisedExamples,
        lessons: TokenisedLessons | None,
        split: Split | None,
        converter: PassagesFeatureConverter,
        lengths: dict[str, int],
        share: Share,
        question: int = 0,
        truncated: dict[str, float] | None = None,
    ):
        """Builds the pipeline.

        Args:
          asked: the examples.
          lessons: see `Feed`.
          split: see `Feed`.
          converter: makes the model features.
          lengths: task feature lengths of the converter; and `positive`, of the update of a lesson, which is a feature
            where that is not 0.
          share: of the batches, this process's.
          question: see `Feed`.
          truncated: see `Feed`.
        """
        self.question, self.truncated = question, truncated or {}
        self.asked, self.lessons, self.split = asked, lessons, split
        self.lengths, self._share = lengths, share
        self._drawn = [tf.Variable(np.zeros(0, np.int32), shape=[None], trainable=False) for _ in range(2)]

        def drawn(row):
            row %= tf.size(self._drawn[0], tf.int64)  # Prefetching runs past the end of the draw.
            return dict(zip(("example", "lesson"), (tf.gather(drawn, row) for drawn in self._drawn), strict=True))

        def task_features(row):
            # What memory holds is looked up where the keys are, within the step.
            prompt = {"inputs": asked.inputs[row["example"]], "memory": tf.zeros([0, 0], tf.int32)}
            if lessons is None:
                return prompt | {"targets": asked.targets[row["example"]], "update": tf.zeros([0], tf.int32)}
            return prompt | lessons.features(row["lesson"])

        def with_positive(row):
            if not positive or lessons is None:
                return row
            return row | {"positive": _padded(lessons.update_tokens[row["lesson"]], positive)}

        positive = lengths.get("positive", 0)
        parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
        rows = tf.data.Dataset.counter(dtype=tf.int64).map(drawn, **parallel)
        of_task = {name: length for name, length in lengths.items() if name != "positive"}
        features = tf.data.Dataset.zip(rows, converter(rows.map(task_features, **parallel), of_task))
        batches = features.map(lambda row, features: with_positive(row) | features).batch(len(share.rows))
        self._features = batches.prefetch(tf.data.AUTOTUNE)

    def batches(self, draw: Draw, skip: int = 0) -> Iterator[Batch]:
        """The model features of a draw, this process's rows of each batch. One draw at a time.

        Args:
          draw: rows, a multiple of the batch size.
          skip: batches left out at the start.

        Yields:
          The features of `PassagesFeatureConverter`; `example` and `lesson`, int32 `[batch]`, of the draw; and where it
          has a length, `positive`, int32 `[batch, length]`, the update that the lesson is of.
        """
        batches = np.arange(len(draw.examples)).reshape(-1, self._share.batch_size)[skip:]
        mine = batches[:, self._share.rows].reshape(-1)
        for variable, rows in zip(self._drawn, (draw.examples, draw.lessons), strict=True):
            variable.assign(rows[mine])
        return itertools.islice(self._features.as_numpy_iterator(), len(batches))


def _padded(tokens: tf.Tensor, length: int) -> tf.Tensor:
    padded = tf.pad(tokens, [[0, length - tf.shape(tokens)[0]]])
    padded.set_shape([length])
    return padded
