"""Tests of BLEURT: its official graph with random weights and, where they are, its published weights."""

import os
import pathlib
import random

import bundles
import checkpoints
import gin
import jax
import numpy as np
import pytest
import test_bleurt_weights as tiny
from hypothesis import given
from hypothesis import strategies as st

from cd_jax.errors import RequestError
from cd_jax.verifier import batches
from cd_jax.verifier.bleurt import Bleurt
from originals import needs_bleurt

TEXTS = ("", "a cab", "acinic", "b, d, e", "nice cat, dainty tea", "cab " * 30)
PUBLISHED = pathlib.Path(os.environ.get("BLEURT_CHECKPOINTS", ""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("bleurt") / "tiny")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return checkpoints.write(tmp_path_factory.mktemp("bleurt") / "official")


# The official graph


@needs_bleurt
@pytest.mark.parametrize("number", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_scores_are_those_of_the_official_graph(official, number):
    references, candidates = checkpoints.pairs(number)
    bleurt = Bleurt(str(official), allow_test_checkpoint=True)
    scores = np.array(bleurt.raw_scores(references, candidates))
    expected = checkpoints.official_scores(official, checkpoints.tokens(bleurt, references, candidates))
    assert expected.std() > 0.1 and len(set(expected.round(3))) > number / 2  # They do not agree because all are alike.
    assert np.abs(scores - expected).max() <= 1e-5


@needs_bleurt
def test_padding_and_company_change_no_score(official):
    references, candidates = checkpoints.pairs(12)
    bleurt = Bleurt(str(official), allow_test_checkpoint=True)
    together = bleurt.raw_scores(references, candidates)
    alone = [bleurt.raw_scores([one], [other])[0] for one, other in zip(references, candidates, strict=True)]
    assert np.allclose(together, alone, rtol=0, atol=1e-5)


@needs_bleurt
def test_the_test_checkpoint_is_refused_unless_told(official):
    with pytest.raises(RequestError, match=r"is BLEURT's tiny test checkpoint .* Bleurt.allow_test_checkpoint=True\b"):
        Bleurt(str(official))


# Published weights

TEST_SCORES = {
    ("An apple a day keeps the doctor away.", "An apple a day keeps the doctor away."): 0.910811,
    ("An apple a day keeps the doctor away.", "An apple a day keeps doctors away."): 0.771989,
    ("Bud Powell was a legendary pianist.", "Bud Powell was a legendary pianist."): 0.926138,
    ("Bud Powell was a legendary pianist.", "Bud Powell was a historical piano player."): 0.247466,
    ("Bud Powell was a legendary pianist.", "Bud Powell was a new yorker."): -0.935921,
    ("Bud Powell was a legendary pianist.", "Bud a day keeps the doctor away."): -1.053069,
}
D12_SCORES = {
    ("a bird chirps by the window", "a bird chirps by the window"): 0.960441,
    ("this is a random sentence", "this looks like a random sentence"): 0.808005,
}


@pytest.mark.parametrize(("name", "scores"), [("test_checkpoint", TEST_SCORES), ("BLEURT-20-D12", D12_SCORES)])
def test_published_scores(name, scores):
    if not os.environ.get("BLEURT_CHECKPOINTS") or not (PUBLISHED / name).is_dir():
        pytest.skip(f"the weights of {name} are not there: set BLEURT_CHECKPOINTS to the folder that holds {name}/")
    references, candidates = zip(*scores, strict=True)
    found = Bleurt(str(PUBLISHED / name), allow_test_checkpoint=True).raw_scores(references, candidates)
    assert np.abs(np.array(found) - list(scores.values())).max() <= 1e-4


# The verifier


def test_as_a_verifier(folder):
    bleurt = Bleurt(str(folder))
    answers, expected = TEXTS, TEXTS[::-1]
    raw = np.array(bleurt.raw_scores(expected, answers))
    assert raw.min() < 0 or raw.max() > 1
    assert bleurt(answers, expected) == pytest.approx(np.clip(raw, 0, 1).tolist())
    stretched = Bleurt(str(folder), low=-2.0, high=2.0)(answers, expected)
    assert stretched == pytest.approx(np.clip((raw + 2) / 4, 0, 1).tolist())
    assert (bleurt.name, bleurt([], [])) == ("bleurt", [])
    with pytest.raises(ValueError):
        bleurt(["a"], [])


@pytest.mark.parametrize("batch_size", [3, 8])
def test_the_size_of_a_batch_changes_no_score(folder, batch_size):
    draw = random.Random(0)
    references, candidates = ([draw.choice(TEXTS) for _ in range(21)] for _ in range(2))
    expected = Bleurt(str(folder), batch_size=32).raw_scores(references, candidates)
    assert Bleurt(str(folder), batch_size=batch_size).raw_scores(references, candidates) == pytest.approx(
        expected, abs=1e-5
    )


def test_few_programs_are_compiled(folder):
    bleurt = Bleurt(str(folder), batch_size=4)
    draw = random.Random(0)
    texts = ["a" * draw.randint(0, 3) + " b" * draw.randint(0, 30) for _ in range(200)]
    bleurt.raw_scores(texts, texts[::-1])
    assert bleurt._batched._apply._cache_size() <= 2  # 16 and 24 tokens, which is the longest.


def test_work_is_spread_over_the_devices(folder):
    bleurt = Bleurt(str(folder), batch_size=16)
    seen = []
    plain = bleurt._batched._apply
    bleurt._batched._apply = lambda params, *tokens: seen.append((params, tokens)) or plain(params, *tokens)
    bleurt.raw_scores(TEXTS * 5, TEXTS * 5)
    for params, tokens in seen:
        assert all(array.sharding.num_devices == jax.local_device_count() for array in tokens)
        assert all(len(array.addressable_shards[0].data) * jax.local_device_count() == len(array) for array in tokens)
        assert jax.tree.leaves(params)[0].sharding.is_fully_replicated


def test_parameters_are_read_when_they_are_needed(tmp_path):
    folder = tiny.write(tmp_path / "tiny")
    bleurt = Bleurt(str(folder))
    (folder / "variables" / "variables.data-00000-of-00001").unlink()
    with pytest.raises(RequestError, match=r"variables.data-00000-of-00001: cannot be read"):
        bleurt(["a"], ["b"])


def test_what_is_bound_wrongly(tmp_path, folder):
    with pytest.raises(RequestError, match=r"^Bleurt.checkpoint: nothing is given; bind it"):
        Bleurt()
    with pytest.raises(RequestError, match=r"no such folder"):
        Bleurt(str(tmp_path / "none"))
    with pytest.raises(RequestError, match=r"^Bleurt.high=0.0 is not above Bleurt.low=0.5"):
        Bleurt(str(folder), low=0.5, high=0.0)


def test_gin_binds_it(folder):
    try:
        gin.parse_config(f"Bleurt.checkpoint = '{folder}'\nBleurt.high = 2.0")
        assert len(Bleurt()(["a"], ["b"])) == 1
    finally:
        gin.clear_config()


# Tokens


class Letters:
    """A tokenizer."""

    cls, sep, size = 1, 2, 2**21

    def ids(self, text):
        return [ord(letter) for letter in text]


def cut(one: list, other: list, room: int) -> None:
    """The original's `_truncate_seq_pair`."""
    while len(one) + len(other) > room:
        if len(one) > len(other):
            one.pop()
        else:
            other.pop()


@given(st.text(max_size=40), st.text(max_size=40), st.integers(8, 30))
def test_what_is_too_long_is_cut_as_there(one, other, longest):
    first, second = list(map(ord, one)), list(map(ord, other))
    cut(first, second, longest - 3)
    found = batches.pair(Letters(), one, other, longest)
    assert found == batches.Tokens([1, *first, 2, *second, 2], len(first) + 2)


@given(st.integers(1, 600), st.sampled_from((40, 128, 512, 600)))
def test_padded_lengths_are_few(length, longest):
    if length <= longest:
        padded = batches.padded_length(length, longest)
        assert length <= padded <= max(16, length * 1.5, 0) or padded == longest
        assert padded == longest or padded in {base << power for base in (16, 24) for power in range(7)}


def test_rows_that_are_no_input_are_numbers(folder):
    """What attends to nothing would be NaN, and a check for NaN would then fail."""
    network = Bleurt(str(folder))
    batch = batches.padded([batches.Tokens([2, 3, 3], 2)], 8, 16)
    assert np.isfinite(network._batched._apply(network._params, *batch)).all()


def test_a_port_and_the_official_folder_agree(tmp_path, folder):
    ported = tiny.port(tmp_path / "port", "bleurt.")
    bundles.change_json(ported / "config.json", max_position_embeddings=40)
    (ported / "tokenizer_config.json").write_text('{"model_max_length": 24, "do_lower_case": true}')
    expected = Bleurt(str(folder)).raw_scores(TEXTS, TEXTS[::-1])
    assert Bleurt(str(ported)).raw_scores(TEXTS, TEXTS[::-1]) == pytest.approx(expected, abs=1e-6)
