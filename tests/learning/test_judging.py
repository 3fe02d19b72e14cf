"""The learnt verifier: what it looks at, beside the solver asked one by one, and its figures, beside scikit-learn's."""

import dataclasses

import jax
import numpy as np
import processes
import pytest
import scipy.special
from sklearn import calibration as of_sklearn
from sklearn import linear_model, metrics

from cd_jax.errors import RequestError
from cd_jax.feed import formats
from cd_jax.learning import judging
from cd_jax.rundir import files, measures
from cd_jax.types import Attempt

RANDOM = np.random.default_rng(0)


def attempts(count=40, samples=1):
    """Made up ones, half of them right; with memory's updates told of the first of an example."""
    examples, updates = processes.source().examples, processes.updates()
    found = []
    for i in range(count):
        example = examples[(i // samples) % len(examples)]
        said = updates[example.example_id][0].update
        prediction = example.answer if i % 2 else "the moon"
        retrieved = [{"update": said}, {"update": f"{said} again"}] if i % samples == 0 else []
        found.append(
            Attempt(
                example, f"{said[i % 7 :]} answer: {prediction}", prediction, bool(i % 2), 1.0, retrieved,
                sample=i % samples,
            )
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda x: 2.0 * x, processes.params())


@pytest.fixture(scope="module")
def saying(params):
    return processes.make("cd_finetune").likelihood(params)


@pytest.fixture(scope="module")
def reading(params):
    return processes.make("cd_memory").likelihood(params)


def score(likelihood, passages, target):
    """`log p` of each token of a target, of one row."""
    encode = likelihood.vocabulary.encode
    rows = [[*encode(text), 1] for text in passages]
    longest = max(map(len, rows))
    tokens = np.array([[row + [0] * (longest - len(row)) for row in rows]], np.int32)
    return likelihood.solver.score(likelihood.params, np.repeat(tokens, 8, 0), np.repeat([target], 8, 0))[0]


def test_evidence_is_what_the_solver_says_of_each(saying):
    made = attempts()
    found = judging.evidence(saying, made)
    encode = saying.vocabulary.encode
    for i in (0, 39):
        one = made[i]
        answered = f"{one.example.prompt} answer: {one.prediction}"
        words = (score(saying, [f"{answered}. is it true?"], [*encode(f"answer: {w}"), 1]).sum() for w in ("yes", "no"))
        assert found.p_true[i] == pytest.approx(next(words) - next(words), abs=1e-4)
        end = [*encode(f"answer: {one.prediction}"), 1]
        said = score(saying, [one.example.prompt], [*encode(formats.parse_update(one.generation)), *end])
        assert scipy.special.expit(found.p_answer[i]) == pytest.approx(np.exp(said[-len(end) :].mean()), rel=1e-3)
        assert scipy.special.expit(found.p_generation[i]) == pytest.approx(np.exp(said.mean()), rel=1e-3)
        tokens = np.array([[*encode(answered), 1]], np.int32)
        np.testing.assert_allclose(found.states[i], saying.solver.embed(saying.params, tokens, 8)[0], atol=1e-5)


@pytest.mark.slow
def test_what_was_retrieved_is_read_for_every_attempt_at_the_example(reading):
    made = attempts(8, samples=2)
    found, encode = judging.evidence(reading, made), reading.vocabulary.encode
    for i in (2, 3):
        one, told = made[i], made[2].retrieved
        end = [*encode(f"answer: {one.prediction}"), 1]
        passages = [f"{place}: {read['update']} {one.example.prompt}" for place, read in enumerate(told, 1)]
        said = score(reading, passages, [*encode(formats.parse_update(one.generation)), *end])
        assert scipy.special.expit(found.p_answer[i]) == pytest.approx(np.exp(said[-len(end) :].mean()), rel=1e-3)


@pytest.mark.slow
def test_labels_are_not_looked_at(saying):
    made = attempts(6)
    turned = [dataclasses.replace(one, correct=not one.correct) for one in made]
    one, other = judging.evidence(saying, made), judging.evidence(saying, turned)
    np.testing.assert_array_equal(one.features(), other.features())


def test_the_head_is_a_logistic_regression(saying):
    """One of scikit-learn's, fitted anew."""
    made = attempts(60)
    learnt = judging.learn(saying, made[:40], made[40:], "digest")
    evidence = judging.evidence(saying, made)
    features, right = evidence.features(), np.array([one.correct for one in made])
    mean, scale = features[:40].mean(0), features[:40].std(0)
    expected = linear_model.LogisticRegression(C=0.1, max_iter=1000).fit((features[:40] - mean) / scale, right[:40])
    logits = evidence.logits(learnt.head)["score_head"]
    np.testing.assert_allclose(logits, expected.decision_function((features - mean) / scale), rtol=1e-3, atol=1e-3)
    held_out = judging.calibration(saying, learnt, made[40:])
    assert held_out[learnt.best].brier == min(one.brier for one in held_out.values())
    found = judging.calibration(saying, learnt, made[:40])
    assert list(found) == ["p_true", "p_answer", "p_generation", "score_head"]
    # Of what it has learnt from.
    assert found["score_head"].auc > 0.9


def test_where_all_attempts_are_right_there_is_no_head(saying):
    right = [one for one in attempts() if one.correct]
    learnt = judging.learn(saying, right, right, None)
    assert learnt.head is None and learnt.best in learnt.scales
    found = judging.calibration(saying, learnt, right)["p_generation"]
    # Not quite sure: Platt's targets, (n + 1) / (n + 2).
    assert found.auc is None and found.bins[0].confidence == pytest.approx(21 / 22, abs=1e-3)


@pytest.mark.parametrize("count", [20, 300])
def test_the_scale_is_platts(count):
    logits = RANDOM.normal(2.0, 3.0, count)
    right = RANDOM.random(count) < scipy.special.expit(0.5 * logits - 1)
    ours = judging._fit_scale(logits, right)
    theirs = of_sklearn._SigmoidCalibration().fit(logits, right.astype(int))
    probability = scipy.special.expit(ours.slope * logits + ours.bias)
    np.testing.assert_allclose(probability, theirs.predict(logits), atol=2e-3)


def test_figures_are_scikit_learns():
    probability = np.concatenate([RANDOM.random(500), [0.0, 1.0]])
    right = RANDOM.random(502) < probability**2
    found = judging.judged(probability, right)
    assert found.auc == pytest.approx(metrics.roc_auc_score(right, probability)) and found.n == 502
    assert found.brier == pytest.approx(metrics.brier_score_loss(right, probability))
    accuracy, confidence = of_sklearn.calibration_curve(right, probability, n_bins=10)
    np.testing.assert_allclose([one.accuracy for one in found.bins], accuracy)
    np.testing.assert_allclose([one.confidence for one in found.bins], confidence)
    counts = np.histogram(probability, 10, (0, 1))[0]
    assert [one.n for one in found.bins] == counts.tolist()
    assert found.ece == pytest.approx(np.abs(accuracy - confidence) @ counts / 502)


def test_probabilities_that_are_right_have_no_error():
    found = judging.judged(np.array([0.0, 1.0, 1.0]), np.array([False, True, True]))
    assert (found.auc, found.brier, found.ece) == (1.0, 0.0, 0.0) and [one.n for one in found.bins] == [1, 2]


# On disk

HEAD = measures.Head([0.0], [1.0], [2.0], 0.5)
VERIFIER = measures.Verifier("d", {"p_true": measures.Scale(1.0, -0.5)}, "p_true", HEAD)
NONE = {"parameters": "d", "scales": {}, "best": "", "head": None}


def test_kept_and_read_again(tmp_path):
    measures.write_verifier(tmp_path, 12, VERIFIER)
    assert measures.read_verifier(tmp_path, 12, "d") == VERIFIER
    assert measures.has_verifier(tmp_path, 12, "d") and not measures.has_verifier(tmp_path, 12, "e")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no verifier was learnt"),
        (NONE | {"parameters": "e"}, "is of other parameters"),
        (NONE | {"scales": {"p_true": {"slope": "steep", "bias": 0}}}, "got `str`"),
        (NONE | {"head": {"mean": [1], "scale": [], "weights": [], "bias": 0}}, "not of one length"),
        ([], "not a JSON object"),
    ],
)
def test_refused_with_the_mend(tmp_path, content, named):
    if content is not None:
        files.write_json(tmp_path / "verifier" / "12.json", content)
    with pytest.raises(RequestError, match=named) as refused:
        measures.read_verifier(tmp_path, 12, "d")
    assert "12.json" in str(refused.value) and "cd_jax eval --gin.CALIBRATION=True" in str(refused.value)
