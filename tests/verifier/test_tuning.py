"""Tests of tuning BLEURT on ratings."""

import json

import numpy as np
import pytest
import test_bleurt_weights as tiny

from cd_jax.errors import RequestError, RunError
from cd_jax.verifier.bleurt import Bleurt
from cd_jax.verifier.tuning import Rating, fit_bleurt, read_ratings

RATINGS = [("a cab", "a cab", 1.0), ("a cab", "b, d", -0.5), ("dainty tea", "nice", 0.25), ("", "a", 0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.write(tmp_path_factory.mktemp("bleurt") / "tiny"))


def lines(path, texts):
    path.write_text("".join(f"{text}\n" for text in texts))
    return str(path)


@pytest.fixture
def ratings(tmp_path):
    named = [{"reference": one, "candidate": other, "rating": rating} for one, other, rating in RATINGS]
    return lines(tmp_path / "ratings.jsonl", map(json.dumps, named))


def test_scores_come_near_the_ratings(tmp_path, folder, ratings):
    losses = fit_bleurt(ratings, folder, str(tmp_path / "tuned"), steps=150, batch_size=5, learning_rate=1e-2)
    assert len(losses) == 150
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:3])
    references, candidates, wanted = zip(*RATINGS, strict=True)
    before, after = (Bleurt(path).raw_scores(references, candidates) for path in (folder, str(tmp_path / "tuned")))
    assert np.abs(np.subtract(after, wanted)).mean() < 0.5 * np.abs(np.subtract(before, wanted)).mean()


def test_a_rate_of_0_changes_nothing_but_the_format(tmp_path, folder, ratings):
    fit_bleurt(ratings, folder, str(tmp_path / "tuned"), steps=2, batch_size=2, learning_rate=0.0)
    references, candidates, _ = zip(*RATINGS, strict=True)
    before, after = (Bleurt(path).raw_scores(references, candidates) for path in (folder, str(tmp_path / "tuned")))
    assert after == before


def test_the_originals_ratings_are_read(tmp_path):
    path = lines(tmp_path / "r.jsonl", ['{"candidate": "b", "reference": "a", "score": 1, "other": 3}', ""])
    assert read_ratings(path) == [Rating("a", "b", 1.0)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"reference": "a", "candidate": "b"}', "lacks 'rating'"),
        ('{"reference": "a", "rating": 1}', "candidate"),
        ('{"reference": "a", "candidate": "b", "rating": "1"}', "rating"),
        ('{"reference": "a", "candidate": "b", "rating": true}', "rating"),
        ('{"reference": "a", "candidate": "b", "rating": NaN}', "NaN"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_malformed_ratings_are_named(tmp_path, line, said):
    path = lines(tmp_path / "r.jsonl", ['{"reference": "a", "candidate": "b", "rating": 1}', line])
    with pytest.raises(RequestError) as error:
        read_ratings(path)
    assert str(error.value).startswith(f"{path}:2: not a rating (") and said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_what_cannot_be_done_is_said_before_it_is_begun(tmp_path, folder, ratings):
    with pytest.raises(RequestError, match=r"holds no rating; give lines such as"):
        fit_bleurt(lines(tmp_path / "empty.jsonl", []), folder, str(tmp_path / "tuned"))
    with pytest.raises(RequestError, match=r"none.jsonl: no such file; name a file of ratings"):
        fit_bleurt(str(tmp_path / "none.jsonl"), folder, str(tmp_path / "tuned"))
    with pytest.raises(RequestError, match=r"is there already; name a new folder"):
        fit_bleurt(ratings, folder, folder)
    assert not (tmp_path / "tuned").exists()


def test_a_loss_that_is_no_number_ends_it(tmp_path, folder):
    huge = lines(tmp_path / "r.jsonl", ['{"reference": "a", "candidate": "b", "rating": 1e30}'])
    with pytest.raises(RunError, match=r"the loss of step 1 is inf; give a lower learning_rate"):
        fit_bleurt(huge, folder, str(tmp_path / "tuned"), steps=3, batch_size=1)
    assert not (tmp_path / "tuned").exists()
