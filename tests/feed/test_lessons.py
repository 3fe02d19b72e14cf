"""Lessons as tokens: against a plain loop that encodes one segment after the other."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from cd_jax.feed import lessons
from cd_jax.tasks import vocabulary as vocabularies
from cd_jax.types import Attempt, Example, Lesson, Segment, Update

EXAMPLE = Example("e", "t", "Mary went home.", "Where is Mary?", "home")
WORDS = st.text("abc .:", max_size=12)
SEGMENTS = st.builds(Segment, WORDS, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
LESSONS = st.builds(
    Lesson, st.lists(SEGMENTS, min_size=1, max_size=3).map(tuple), WORDS, st.lists(WORDS, max_size=2).map(tuple)
)


def update(text, sample=0):
    return Update("e", "t", text, "oracle", "p", sample, 0)


@hypothesis.given(st.lists(st.lists(LESSONS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_tokens_are_those_of_a_plain_loop(taught):
    vocabulary = vocabularies.load()
    found = lessons.tokenise(taught, vocabulary)
    every = [lesson for of_example in taught for lesson in of_example]
    assert [[every[i] for i in own] for own in found.choices] == taught
    assert found.owners().tolist() == [i for i, own in enumerate(taught) for _ in own]
    for row, lesson in enumerate(every):
        *body, end = lesson.target
        tokens = [(token, segment.weight) for segment in body for token in vocabulary.encode(segment.text)]
        assert found.bodies[row].numpy().tolist() == [token for token, _ in tokens]
        assert found.body_weights[row].numpy().tolist() == [weight for _, weight in tokens]
        assert found.ends[row].numpy().tolist() == [*vocabulary.encode(end.text), vocabulary.eos_id]
        assert found.end_weights[row] == end.weight
        assert found.update_tokens[row].numpy().tolist() == vocabulary.encode(lesson.update)
    assert found.updates == [lesson.update for lesson in every]
    for texts, of_example in zip(found.against, taught, strict=True):
        assert list(texts) == list(dict.fromkeys(text for lesson in of_example for text in lesson.against))
    assert found.end_weights.dtype == np.float32


def test_the_forms():
    told = [update("because u."), update("since v.", 1)]
    wrong = Attempt(EXAMPLE, "so what answer: hall", "hall", False, 0.0, [])
    right = Attempt(EXAMPLE, "so it is answer: home", "home", True, 1.0, [])
    end = Segment("answer: home", 2.0)
    assert lessons.explained(EXAMPLE, told, [right, wrong], 2.0) == [
        Lesson((Segment(one.update), end), one.update, ("so what",)) for one in told
    ]
    assert lessons.answer_alone(EXAMPLE, told, [], 2.0) == [Lesson((end,), one.update) for one in told]
    assert lessons.answer_alone(EXAMPLE, [], [], 2.0) == [Lesson((end,))]
    # Where no update was worth keeping.
    assert lessons.explained(EXAMPLE, [], [], 2.0) == [Lesson((end,))]
