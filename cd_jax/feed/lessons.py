"""What is learnt: from an example and its updates to lessons, and from these to tokens.

A lesson form is a function that gin can bind to `Agent.lesson`: an example, its updates, the attempts at it, and the
weight of an answer, to the lessons among which one is drawn at every epoch.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol

import gin
import numpy as np
import seqio
import tensorflow as tf

from cd_jax.config.ranges import PositiveFloat
from cd_jax.feed import formats
from cd_jax.types import Attempt, Example, Lesson, Segment, Update


class LessonForm(Protocol):
    """What is learnt of an example."""

    def __call__(
        self, example: Example, updates: Sequence[Update], attempts: Sequence[Attempt], answer_weight: PositiveFloat
    ) -> list[Lesson]:
        """Makes lessons.

        Args:
          example: what is learnt.
          updates: that explain it; none where the agent has no update policy.
          attempts: the solver's, of the round that begins; none in the first one.
          answer_weight: of the answer's tokens in the loss.

        Returns:
          At least one, in an order that depends on nothing but the arguments.
        """
        ...


@gin.configurable
def answer_alone(
    example: Example, updates: Sequence[Update], attempts: Sequence[Attempt], answer_weight: PositiveFloat
) -> list[Lesson]:
    """The lesson `answer: y`, whether or not there are updates."""
    target = (Segment(formats.answer(example.answer), answer_weight),)
    return [Lesson(target, update.update) for update in updates] or [Lesson(target)]


@gin.configurable
def explained(
    example: Example, updates: Sequence[Update], attempts: Sequence[Attempt], answer_weight: PositiveFloat
) -> list[Lesson]:
    """The lessons `u answer: y`, one for each update u (arXiv 2212.11353, section 3); against it stands what the solver
    said before a wrong answer. An example of which no update was worth keeping is learnt by its answer alone."""
    if not updates:
        return answer_alone(example, updates, attempts, answer_weight)
    end = Segment(formats.answer(example.answer), answer_weight)
    against = tuple(formats.parse_update(attempt.generation) for attempt in attempts if not attempt.correct)
    return [Lesson((Segment(update.update), end), update.update, against) for update in updates]


@dataclasses.dataclass(frozen=True, eq=False)
class TokenisedLessons:
    """The lessons of a split, as tokens.

    Attributes:
      choices: for each example, the indices of its lessons.
      bodies: int32 `[lessons, (length)]`, all segments but the last; they lose their end where they do not fit.
      body_weights: float32 `[lessons, (length)]`.
      ends: int32 `[lessons, (length)]`, the last segment and the end of sequence.
      end_weights: float32 `[lessons]`.
      updates: the update that each is of.
      update_tokens: int32 `[lessons, (length)]`, of these.
      against: for each example, texts that stand against its updates.
    """

    choices: list[np.ndarray]
    bodies: tf.RaggedTensor
    body_weights: tf.RaggedTensor
    ends: tf.RaggedTensor
    end_weights: np.ndarray
    updates: list[str]
    update_tokens: tf.RaggedTensor
    against: list[tuple[str, ...]]

    def owners(self) -> np.ndarray:
        """The example of each lesson, int `[lessons]`."""
        return np.repeat(np.arange(len(self.choices)), [len(own) for own in self.choices])

    def features(self, lesson: tf.Tensor) -> dict[str, tf.Tensor]:
        """Task features of a lesson, for the converter: `targets`, `update`, and their weights."""
        return {
            "targets": self.ends[lesson],
            "target_weight": tf.constant(self.end_weights)[lesson],
            "update": self.bodies[lesson],
            "update_weights": self.body_weights[lesson],
        }


def tokenise(lessons: Sequence[Sequence[Lesson]], vocabulary: seqio.Vocabulary) -> TokenisedLessons:
    """Tokens of the lessons of each example."""
    every = [lesson for of_example in lessons for lesson in of_example]
    first = np.cumsum([0, *map(len, lessons)])
    bodies = [lesson.target[:-1] for lesson in every]
    segments = [segment for body in bodies for segment in body]
    lengths = [len(body) for body in bodies]
    parts = _encoded([segment.text for segment in segments], vocabulary)
    weights = tf.RaggedTensor.from_row_lengths(
        tf.repeat(tf.constant([segment.weight for segment in segments], tf.float32), parts.row_lengths()),
        parts.row_lengths(),
    )
    ends = _encoded([lesson.target[-1].text for lesson in every], vocabulary)
    updates = [lesson.update for lesson in every]
    return TokenisedLessons(
        choices=[np.arange(start, end) for start, end in itertools.pairwise(first)],
        bodies=_joined(parts, lengths),
        body_weights=_joined(weights, lengths),
        ends=tf.concat([ends, tf.fill([len(every), 1], vocabulary.eos_id)], 1),
        end_weights=np.array([lesson.target[-1].weight for lesson in every], np.float32),
        updates=updates,
        update_tokens=_encoded(updates, vocabulary),
        against=[tuple(dict.fromkeys(text for one in of_example for text in one.against)) for of_example in lessons],
    )


def _encoded(texts: Sequence[str], vocabulary: seqio.Vocabulary) -> tf.RaggedTensor:
    """Tokens of each text; the same text is encoded once."""
    numbers: dict[str, int] = {}
    rows = [numbers.setdefault(text, len(numbers)) for text in texts]
    return tf.gather(vocabulary.encode_tf(tf.constant(list(numbers), tf.string)), np.array(rows, np.int64))


def _joined(parts: tf.RaggedTensor, lengths: Sequence[int]) -> tf.RaggedTensor:
    """`[parts, (length)]` to `[rows, (length)]`, so many parts a row."""
    return tf.RaggedTensor.from_row_lengths(parts, tf.constant(lengths, tf.int64)).merge_dims(1, 2)


def of_examples(
    form: LessonForm,
    examples: Sequence[Example],
    updates: Mapping[str, Sequence[Update]],
    attempts: Mapping[str, Sequence[Attempt]],
    answer_weight: float,
) -> list[list[Lesson]]:
    """The lessons of each example; see `LessonForm`.

    Args:
      form: makes them.
      examples: in the order of the result.
      updates: by `example_id`.
      attempts: by `example_id`.
      answer_weight: see `LessonForm`.
    """
    return [
        form(one, updates.get(one.example_id, ()), attempts.get(one.example_id, ()), answer_weight) for one in examples
    ]
