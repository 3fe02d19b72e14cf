"""Decoding against brute force: what is drawn, how often, and how sequences are scored."""

import functools
import itertools

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cd_jax.errors import RequestError
from cd_jax.nets.config import T5Config
from cd_jax.nets.network import T5
from cd_jax.solver import decoding
from cd_jax.solver.decoding import EOS_ID, Decoding
from cd_jax.solver.partitioning import Partitioner
from cd_jax.solver.solver import Solver

VOCAB = 8
SMALL = T5Config(
    vocab_size=VOCAB, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=24, num_encoder_layers=1, num_decoder_layers=2,
    dropout_rate=0.0,
)  # fmt: skip


@functools.cache
def small() -> tuple[Solver, dict]:
    """A solver of eight words, which says different things, and its parameters."""
    solver = Solver(SMALL, VOCAB, optax.constant_schedule(0.01), partitioner=Partitioner(devices=jax.devices()[:1]))
    params = solver.init(3).params
    return solver, params


def prompts(rows: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2, VOCAB, (rows, 2, 5)).astype(np.int32)


def log_probabilities(passages: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """`[batch, targets]`, by the whole network without a cache."""
    _, params = small()
    logits = jax.jit(T5(SMALL).apply)({"params": params}, passages, np.pad(targets, ((0, 0), (1, 0)))[:, :-1])
    chosen = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], -1)[..., 0]
    return np.where(targets == 0, 0.0, chosen)


# What is drawn


def frequencies(logits: np.ndarray, method: Decoding, draws: int = 4000) -> np.ndarray:
    rows = np.broadcast_to(logits.astype(np.float32), (draws, len(logits)))
    drawn = jax.jit(decoding.choose, static_argnums=1)(rows, method, jax.random.key(0))
    return np.bincount(np.asarray(drawn), minlength=len(logits)) / draws


LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05]))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Decoding(temperature=1.0), [0.4, 0.3, 0.15, 0.1, 0.05]),
        (Decoding(temperature=0.5), np.array([16, 9, 2.25, 1, 0.25]) / 28.5),
        (Decoding(temperature=1.0, top_k=2), [4 / 7, 3 / 7, 0, 0, 0]),
        (Decoding(temperature=1.0, top_p=0.75), [0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0, 0]),
        (Decoding(temperature=1.0, top_p=0.01), [1, 0, 0, 0, 0]),
        (Decoding(temperature=1.0, top_k=3, top_p=0.8), [4 / 7, 3 / 7, 0, 0, 0]),
        (Decoding(), [1, 0, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_they_should_be(method, expected):
    # Of 4,000 draws a share is off by at most 5 standard deviations of a binomial: once in 350,000 runs of a case.
    found, expected = frequencies(LOGITS, method), np.asarray(expected, float)
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / 4000)).all()


def test_a_sampled_sequence_comes_as_often_as_its_probability():
    solver, params = small()
    passage, draws, length = prompts(1), 3000, 2
    method = Decoding(temperature=1.0, num_samples=draws)
    tokens, scores = solver.generate_all(params, passage, length, method, seed=7)
    every = [(a, b) for a in range(VOCAB) for b in (range(VOCAB) if a != EOS_ID else [0])]
    counts = dict.fromkeys(every, 0)
    for row in tokens[0]:
        counts[tuple(int(token) for token in row)] += 1
    # Token 0 may be drawn as any other: its log p counts too.
    targets = np.array(every, np.int32)
    _, p = small()
    logits = jax.jit(T5(SMALL).apply)(
        {"params": p}, np.repeat(passage, len(every), 0), np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    )
    chosen = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], -1)[..., 0]
    probability = np.exp(np.where((targets[:, :1] == EOS_ID) & (np.arange(2) == 1), 0.0, chosen).sum(1))
    assert probability.sum() == pytest.approx(1.0, abs=1e-4)
    expected = probability * draws
    observed = np.array([counts[pair] for pair in every])
    large = expected >= 5
    statistic = ((observed - expected)[large] ** 2 / expected[large]).sum()
    freedom = large.sum()
    # Chi-square: mean `freedom`, variance twice that; five standard deviations.
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)
    by_pair = dict(zip(every, np.log(probability), strict=True))
    np.testing.assert_allclose(scores[0], [by_pair[tuple(map(int, row))] for row in tokens[0]], atol=1e-4)


def test_samples_depend_on_the_seed_alone_and_differ():
    solver, params = small()
    method = Decoding(temperature=1.0, num_samples=4)
    one, again, other = (solver.generate_all(params, prompts(6), 9, method, seed=s)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and (one[:, 0] != one[:, 1]).any()
    np.testing.assert_array_equal(solver.generate(params, prompts(6), 9, method, seed=1), one[:, 0])


def test_no_temperature_is_greedy_whatever_the_seed():
    solver, params = small()
    greedy = solver.generate(params, prompts(6), 9)
    np.testing.assert_array_equal(solver.generate(params, prompts(6), 9, Decoding(top_k=3), seed=5), greedy)
    tokens, scores = solver.generate_all(params, prompts(6), 9)
    np.testing.assert_allclose(scores[:, 0], _sequence_scores(prompts(6), tokens[:, 0]), atol=1e-4)


def _sequence_scores(passages, tokens) -> np.ndarray:
    """log p of generations up to their end, in which a 0 before the end is a token as others are."""
    before_end = np.cumsum(tokens == EOS_ID, 1) - (tokens == EOS_ID) == 0
    _, params = small()
    logits = jax.jit(T5(SMALL).apply)({"params": params}, passages, np.pad(tokens, ((0, 0), (1, 0)))[:, :-1])
    chosen = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[..., None], -1)[..., 0]
    return np.where(before_end, chosen, 0.0).sum(1)


def test_enough_beams_find_the_most_probable_sequence():
    """All sequences of at most three tokens, by enumeration."""
    solver, params = small()
    passages, length = prompts(3), 3
    method = Decoding(num_beams=VOCAB**2, length_penalty=0.0)
    tokens, scores = solver.generate_all(params, passages, length, method)
    every = [
        (*words, *(0,) * (length - len(words)))
        for size in range(1, length + 1)
        for words in itertools.product(range(VOCAB), repeat=size)
        if EOS_ID not in words[:-1] and (words[-1] == EOS_ID or size == length)
    ]
    targets = np.array(every, np.int32)
    for row in range(3):
        probability = _sequence_scores(np.repeat(passages[row : row + 1], len(every), 0), targets)
        best = probability.argmax()
        np.testing.assert_array_equal(tokens[row, 0], targets[best])
        assert scores[row, 0] == pytest.approx(probability[best], abs=1e-4)


# Scores, lengths, requests


def test_scores_are_log_probabilities_of_the_network():
    solver, params = small()
    passages = prompts(6)
    targets = np.random.default_rng(1).integers(1, VOCAB, (6, 7)).astype(np.int32)
    targets[np.arange(7) >= np.array([7, 1, 3, 5, 2, 6])[:, None]] = 0
    np.testing.assert_allclose(solver.score(params, passages, targets), log_probabilities(passages, targets), atol=1e-5)


@settings(max_examples=200)
@given(st.integers(1, 5000))
def test_buckets_are_few_and_near(length):
    bucket = decoding.bucketed(length)
    assert length <= bucket < max(length + 8, 1.25 * length + 1)
    assert decoding.bucketed(bucket) == bucket


def test_there_are_four_buckets_to_an_octave():
    assert sorted({decoding.bucketed(n) for n in range(65, 129)}) == [80, 96, 112, 128]
    assert len({decoding.bucketed(n) for n in range(1, 1025)}) < 30


def test_lengths_in_one_bucket_compile_once_and_change_nothing():
    solver = Solver(SMALL, VOCAB, optax.constant_schedule(0.01), partitioner=Partitioner(devices=jax.devices()[:1]))
    params = solver.init(3).params
    passages = np.random.default_rng(0).integers(2, VOCAB, (4, 1, 39)).astype(np.int32)
    longest = solver.generate(params, passages, 31)
    for length in (26, 29, 31):
        np.testing.assert_array_equal(solver.generate(params, passages, length), longest[:, :length])
    solver.generate(params, passages[:, :, :33], 30)
    assert solver._generate._cache_size() == 1


@pytest.mark.parametrize(
    "given_",
    [
        {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"num_beams": 0}, {"num_samples": 2},
        {"num_beams": 2, "temperature": 1.0}, {"num_samples": 0},
    ],
)  # fmt: skip
def test_values_that_do_not_go_together_are_refused(given_):
    with pytest.raises(RequestError, match="Decoding"):
        Decoding(**given_)
