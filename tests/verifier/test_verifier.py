"""Tests of the verifier policy."""

import collections

import gin
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from cd_jax.feed.formats import parse_answer
from cd_jax.verifier.answers import ChrF, ExactMatch, TokenF1, normalize_answer, pairwise_accuracy

VERIFIERS = (ExactMatch, TokenF1, ChrF)


@pytest.mark.parametrize(
    ("generation", "answer"),
    [
        ("answer: kitchen", "kitchen"),
        ("because mary went there. Answer:  the kitchen \n", "the kitchen"),
        ("the answer: is not answer: garden answer: kitchen", "kitchen"),
        ("because\nit is so\nANSWER:yes", "yes"),
        ("answer: s,e", "s,e"),
        ("answer:", ""),
        ("no such thing", ""),
        ("", ""),
    ],
)
def test_parse_answer(generation, answer):
    assert parse_answer(generation) == answer


@given(st.text(), st.text().filter(lambda text: "answer" not in text.casefold()))
def test_parse_answer_takes_what_follows_the_last_marker(update, answer):
    assert parse_answer(f"{update} answer: {answer}") == answer.strip()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("s, e", "s,e"),
        ("S ,E.", "s,e"),
        ("The kitchen.", "kitchen"),
        ("the milk, an apple", "milk,apple"),
        ("  went   back ", "went back"),
        ("yes,", "yes"),
        ("It is 3:30.", "it is 3:30"),
        ("1.5, (2)", "1.5,2"),
        ("−1", "-1"),
        ("–1", "-1"),
        ("- 1", "-1"),
        ("$5", "5"),
        ("-$5", "-5"),
        ("5 %", "5%"),
        ("5...", "5"),
        ("...5", "5"),
        ("#5", "5"),
        ("COVID-19", "covid19"),
        ("1. a kitchen", "1 kitchen"),
    ],
)
def test_normalize_equal(one, other):
    assert normalize_answer(one) == normalize_answer(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[("s,e", "e,s"), ("s,e", "se"), ("s,e", "s"), ("a", ""), ("a", "the"), ("?", ""), ("a,b", "b"), (",", "")],
        *[("vitamin a", "vitamin"), ("none", "nothing"), ("no", "none"), ("maybe", "yes"), ("no", "")],
        *[("1.5", "15"), ("1,5", "1.5"), ("1,5", "15"), (".5", "5"), ("-.5", ".5"), ("-5", "5"), ("+5", "5")],
        *[
            ("3:30", "330"),
            ("1/2", "12"),
            ("2-3", "23"),
            ("2-3", "2--3"),
            ("1e-5", "1e5"),
            ("5%", "5"),
            ("1-1", "1--1"),
        ],
        *[("<5", ">5"), ("<5", "5"), ("<5", "<=5"), ("x=-1", "x=1"), ("3,-1", "3,1"), ("10+", "10"), ("v1.5", "v15")],
    ],
)
def test_normalize_different(one, other):
    assert normalize_answer(one) != normalize_answer(other)


@given(st.text())
def test_normalize_is_idempotent_for_words(text):
    once = normalize_answer(text)
    assert once == once.strip()
    assert bool(once) == bool(text.strip())


@given(*[st.from_regex(r"[-+<>]?(0|[1-9]\d{0,2})([.:/-]\d{1,2}){0,2}%?", fullmatch=True)] * 2, st.booleans())
def test_numbers_are_as_different_as_they_were(one, other, listed):
    if listed:
        one, other = f"{one},{other}", f"{other},{one}"
    assert (normalize_answer(one) == normalize_answer(other)) == (one == other)
    assert normalize_answer(f"It is ({one}).").endswith(one)


def test_exact_match():
    assert ExactMatch()(["the Kitchen", "garden", "", ""], ["kitchen", "kitchen", "kitchen", ""]) == [1, 0, 0, 1]


def test_token_f1():
    scores = TokenF1()(["milk, apple", "milk", "", "", "x x"], ["milk,apple", "milk,apple", "milk", "", "x y"])
    assert scores == pytest.approx([1, 2 / 3, 0, 1, 1 / 2])


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=5))
def test_chrf_equals_sacrebleu(pairs):
    predictions, expected = [one for one, _ in pairs], [other for _, other in pairs]
    reference = [sacrebleu.sentence_chrf(one, [other]).score / 100 for one, other in pairs]
    assert ChrF()(predictions, expected) == pytest.approx(reference)


def test_chrf_plus_plus_equals_sacrebleu():
    pair = ("mary went to the kitchen", "mary moved to the kitchen")
    reference = sacrebleu.sentence_chrf(pair[0], [pair[1]], word_order=2).score / 100
    assert ChrF(word_order=2)(pair[:1], pair[1:]) == pytest.approx([reference])


@pytest.mark.parametrize("verifier", VERIFIERS)
@given(one=st.text(max_size=20), other=st.text(max_size=20))
def test_scores_are_between_0_and_1(verifier, one, other):
    (score,) = verifier()([one], [other])
    assert 0 <= score <= 1


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_verifiers_are_alike(verifier):
    assert isinstance(verifier().name, str)
    assert verifier()(["kitchen"], ["kitchen"]) == [1]
    assert verifier()([], []) == []
    with pytest.raises(ValueError):
        verifier()(["kitchen"], [])


def test_gin_binds_verifiers():
    try:
        gin.parse_config("ChrF.word_order = 2")
        assert ChrF()._metric.word_order == 2
    finally:
        gin.clear_config()


def _pairwise_by_hand(correct, pair_ids):
    complete = [pair for pair, count in collections.Counter(pair_ids).items() if count == 2 and pair]
    right = sum(all(c for c, p in zip(correct, pair_ids, strict=True) if p == pair) for pair in complete)
    return right / len(complete) if complete else None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["", *"abcdef"])), max_size=15))
def test_pairwise_accuracy_against_brute_force(rows):
    correct, pair_ids = [c for c, _ in rows], [p for _, p in rows]
    assert pairwise_accuracy(correct, pair_ids) == _pairwise_by_hand(correct, pair_ids)


def test_pairwise_accuracy():
    assert pairwise_accuracy([True, True, True, False, True], list("aabbc")) == 0.5
    assert pairwise_accuracy([True, True], ["", ""]) is None
    assert pairwise_accuracy([], []) is None
