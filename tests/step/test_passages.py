"""Passages made inside the compiled step against the feature converter, and against a plain way to make them."""

import jax
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cd_jax.feed.converter import PassagesFeatureConverter
from cd_jax.step import passages

ORDINALS = ([11], [12, 13], [14])
# Widths of the arrays: shapes that differ would each be compiled.
PROMPT, UPDATE, ORDINAL = 14, 9, 2
join = jax.jit(passages.join, static_argnames=("length", "room"))


class Ordinals:
    """A vocabulary that knows nothing but ordinals."""

    def encode(self, text: str) -> list[int]:
        return ORDINALS[int(text[0]) - 1]


def padded(rows, width: int) -> np.ndarray:
    return np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int32)


def tokens(most: int):
    return st.lists(st.integers(2, 99), max_size=most)


def one_by_one(prompt: list[int], update: list[int], ordinal: list[int], length: int) -> list[int]:
    head = ordinal + update[: length // 2]
    kept = prompt[max(0, len(prompt) - (length - len(head))) :]
    return (head + kept + [0] * length)[:length]


@settings(max_examples=200)
@given(
    st.lists(st.tuples(tokens(PROMPT), st.lists(tokens(UPDATE), min_size=3, max_size=3)), min_size=2, max_size=2),
    st.sampled_from([6, 12, 31]),
)
@example([(list(range(2, 16)), [[5] * 9, [6], []]), ([], [[], [7] * 9, [8] * 8])], 6)
def test_joined_passages_are_the_feature_converters(examples, length):
    updates = np.stack([padded(told, UPDATE) for _, told in examples])
    joined = np.asarray(
        join(padded([prompt for prompt, _ in examples], PROMPT), updates, padded(ORDINALS, ORDINAL), length=length)
    )
    assert joined.dtype == np.int32 and joined.shape == (2, 3, length)
    converter = PassagesFeatureConverter(Ordinals(), num_passages=3)
    for passages_of_one, (prompt, told), memory in zip(joined, examples, updates, strict=True):
        converted = converter._passages({"inputs": np.array(prompt, np.int32), "memory": memory}, length)
        np.testing.assert_array_equal(passages_of_one, converted)
        by_hand = [one_by_one(prompt, update, ordinal, length) for update, ordinal in zip(told, ORDINALS, strict=True)]
        np.testing.assert_array_equal(passages_of_one, by_hand)


def test_without_ordinals_and_updates_the_end_of_the_prompt_is_left():
    prompts = padded([[2, 3, 4, 5, 6, 7], [8, 9]], 7)
    nothing = np.zeros((2, 1, 3), np.int32), np.zeros((1, 1), np.int32)
    np.testing.assert_array_equal(join(prompts, *nothing, length=4)[:, 0], [[4, 5, 6, 7], [8, 9, 0, 0]])


def test_a_head_that_is_too_long_is_cut():
    joined = join(padded([[2, 3]], 2), padded([[4, 5, 6]], 3)[None], padded([[7, 8, 9]], 3), length=4)
    np.testing.assert_array_equal(joined, [[[7, 8, 9, 4]]])


def test_a_question_beside_an_update_is_whole():
    """At a short length it is the update that is cut, then the start of the prompt, and never its end."""
    prompt, update = list(range(20, 34)), list(range(40, 49))
    for length in range(7, 24):
        # A question of 5 tokens beside an ordinal of 2.
        room = max(min(length // 2, length - 2 - 5), 0)
        joined = join(padded([prompt], 14), padded([update], 9)[None], padded([[12, 13]], 2), length=length, room=room)
        row = [token for token in np.asarray(joined)[0, 0].tolist() if token]
        assert row[-5:] == prompt[-5:] and row[:2] == [12, 13]
        read = update[:room]
        assert row[2 : 2 + len(read)] == read
        assert len(row) == min(length, 2 + len(read) + 14)
