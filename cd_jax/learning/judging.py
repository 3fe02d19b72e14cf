"""A verifier without labels: how probable it is that an answer is right, as the solver itself has it.

Four probabilities, each calibrated on the validation split by Platt's scaling:

- `p_true`: the solver is asked whether the answer is true, and `yes` is held against `no` (P(True), arXiv 2207.05221).
- `p_answer`: of the answer's tokens, exp(mean log p), after what was said before it.
- `p_generation`: the same of all that was said, and the answer.
- `score_head`: a logistic regression on the mean of the encoder's states of prompt and answer, and on all of these,
  learnt from sampled attempts at the training examples.
"""

import dataclasses
from collections.abc import Sequence

import msgspec
import numpy as np
import scipy.special
from sklearn import linear_model, metrics, preprocessing

from cd_jax.feed import formats
from cd_jax.learning.likelihood import Given, Likelihood
from cd_jax.rundir.measures import Bin, Head, Judged, Scale, Verifier
from cd_jax.types import Attempt

P_TRUE, P_ANSWER, P_GENERATION, SCORE_HEAD = "p_true", "p_answer", "p_generation", "score_head"
_BINS = 10
# The inverse weight of the head's squares: features are as many as a small solver's attempts are wrong.
_PENALTY = 0.1
# So far from 1 a probability is held, whose logit is taken.
_LEAST = 1e-6


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What the solver thinks of attempts.

    Attributes:
      p_true: logits, float `[attempts]`.
      p_answer: logits, float `[attempts]`.
      p_generation: logits, float `[attempts]`.
      states: the encoder's, of prompt and answer, `[attempts, embed]`.
    """

    p_true: np.ndarray
    p_answer: np.ndarray
    p_generation: np.ndarray
    states: np.ndarray

    def features(self) -> np.ndarray:
        """Of the score head: `[attempts, embed + 3]`."""
        return np.column_stack([self.states, self.p_true, self.p_answer, self.p_generation])

    def logits(self, head: Head | None) -> dict[str, np.ndarray]:
        """By name; without a head, there is none of it."""
        found = {P_TRUE: self.p_true, P_ANSWER: self.p_answer, P_GENERATION: self.p_generation}
        if head:
            scaled = (self.features() - np.array(head.mean)) / np.array(head.scale)
            found[SCORE_HEAD] = scaled @ np.array(head.weights) + head.bias
        return found


def evidence(likelihood: Likelihood, attempts: Sequence[Attempt]) -> Evidence:
    """What the solver thinks of attempts, of which labels are not looked at.

    Args:
      likelihood: of the solver.
      attempts: at least one. What memory gave is read again, of the first attempt at an example for all of them, and
        what was said before an answer stands before it.
    """
    # Told of the first attempt at an example alone.
    read = {one.example.example_id: one.retrieved for one in attempts if one.retrieved}
    passages = [tuple(found["update"] for found in read.get(one.example.example_id, ())) for one in attempts]
    answered = [f"{one.example.prompt} {formats.answer(one.prediction)}" for one in attempts]
    asked = [
        Given(f"{text}. is it true?", word, read=seen)
        for word in ("yes", "no")
        for text, seen in zip(answered, passages, strict=True)
    ]
    yes, no = np.split(likelihood.log_probs(asked)[0].astype(float), 2)
    given = [
        Given(one.example.prompt, one.prediction, formats.parse_update(one.generation), seen, whole)
        for whole in (False, True)
        for one, seen in zip(attempts, passages, strict=True)
    ]
    log_p = np.minimum(-likelihood.losses(given).astype(float), -_LEAST)
    of_answer, of_all = np.split(log_p - np.log(-np.expm1(log_p)), 2)
    return Evidence(yes - no, of_answer, of_all, likelihood.states(answered).astype(float))


def learn(
    likelihood: Likelihood, attempts: Sequence[Attempt], validation: Sequence[Attempt], parameters: str | None
) -> Verifier:
    """Learns the head from attempts, and all scales from those at validation examples.

    Args:
      likelihood: of the solver.
      attempts: verified ones, at training examples.
      validation: verified ones, at validation examples, found as answers will be.
      parameters: digest of the solver's.
    """
    head = _fit_head(evidence(likelihood, attempts).features(), _right(attempts))
    found, right = evidence(likelihood, validation), _right(validation)
    scales = {name: _fit_scale(logits, right) for name, logits in found.logits(head).items()}
    learnt = Verifier(parameters, scales, P_GENERATION, head)
    brier = {name: judged(one, right).brier for name, one in probabilities(learnt, found).items()}
    return msgspec.structs.replace(learnt, best=min(brier, key=lambda name: brier[name]))


def probabilities(verifier: Verifier, found: Evidence) -> dict[str, np.ndarray]:
    """That answers are right, float `[attempts]`, by name."""
    logits = found.logits(verifier.head)
    scales = verifier.scales
    return {name: scipy.special.expit(scales[name].slope * logits[name] + scales[name].bias) for name in scales}


def _right(attempts: Sequence[Attempt]) -> np.ndarray:
    return np.array([attempt.correct for attempt in attempts])


def _fit_head(features: np.ndarray, right: np.ndarray) -> Head | None:
    if len(np.unique(right)) < 2:
        return None
    scaler = preprocessing.StandardScaler().fit(features)
    fitted = linear_model.LogisticRegression(C=_PENALTY, max_iter=1000).fit(scaler.transform(features), right)
    mean, scale, weights = (array.tolist() for array in (scaler.mean_, scaler.scale_, fitted.coef_[0]))
    return Head(mean, scale, weights, float(fitted.intercept_[0]))


def _fit_scale(logits: np.ndarray, right: np.ndarray) -> Scale:
    """Platt's scaling, with his targets, which stay off 0 and 1: so it is there, too, where all answers are right."""
    positive, negative = int(right.sum()), int((~right).sum())
    targets = np.where(right, (positive + 1) / (positive + 2), 1 / (negative + 2))
    # Each answer stands twice: as right, and as wrong, with the weights of its target.
    twice = np.tile(logits, 2)[:, None]
    labels = np.repeat([True, False], len(logits))
    weights = np.concatenate([targets, 1 - targets])
    scaler = preprocessing.StandardScaler().fit(twice)
    fitted = linear_model.LogisticRegression(C=np.inf, max_iter=1000)
    fitted.fit(scaler.transform(twice), labels, sample_weight=weights)
    slope = float(fitted.coef_[0, 0] / scaler.scale_[0])
    if slope <= 0:
        # No less is right the more probable it is: the logit says nothing, and all that is known is how many are.
        return Scale(0.0, float(np.log(targets.sum() / (1 - targets).sum())))
    return Scale(slope, float(fitted.intercept_[0]) - slope * float(scaler.mean_[0]))


def judged(probability: np.ndarray, right: np.ndarray) -> Judged:
    """How well probabilities `[answers]` tell which answers are right, bool `[answers]`."""
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    held = counts > 0
    confidence, accuracy = (
        np.bincount(bins, values, _BINS)[held] / counts[held] for values in (probability, right.astype(float))
    )
    ece = float(np.abs(confidence - accuracy) @ counts[held] / len(right))
    rows = zip(confidence.tolist(), accuracy.tolist(), counts[held].tolist(), strict=True)
    return Judged(
        auc=float(metrics.roc_auc_score(right, probability)) if len(np.unique(right)) > 1 else None,
        brier=float(metrics.brier_score_loss(right, probability, labels=[False, True])),
        ece=ece,
        n=len(right),
        bins=[Bin(min(c, 1.0), min(a, 1.0), n) for c, a, n in rows],
    )


def calibration(likelihood: Likelihood, verifier: Verifier, attempts: Sequence[Attempt]) -> dict[str, Judged]:
    """How well each probability tells which attempts, verified ones, are right."""
    found = probabilities(verifier, evidence(likelihood, attempts))
    return {name: judged(one, _right(attempts)) for name, one in found.items()}
