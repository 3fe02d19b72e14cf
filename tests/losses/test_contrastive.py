"""The contrastive term against plain loops in double precision."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from cd_jax.losses import contrastive, cross_entropy
from cd_jax.memory.negatives import samplers

SHAPES = st.sampled_from([(1, 1), (3, 4), (2, 17)])


def drawn(shape, seed):
    """Positives, negatives and weights, one of which leaves its negative out."""
    rng = np.random.default_rng(seed)
    positive = rng.normal(0, 5, shape[0]).astype(np.float32)
    scores = rng.normal(0, 5, shape).astype(np.float32)
    log_weights = rng.normal(0, 2, shape).astype(np.float32)
    log_weights[0, -1] = -np.inf
    return positive, scores, log_weights


class TestInfoNCE:
    @hypothesis.settings(max_examples=60)
    @hypothesis.given(SHAPES, st.integers(0, 2**32))
    def test_equals_the_formula(self, shape, seed):
        positive, scores, log_weights = drawn(shape, seed)
        expected = []
        for own, others, weights in zip(*(x.astype(float) for x in (positive, scores, log_weights)), strict=True):
            total = np.exp(own) + sum(np.exp(w) * np.exp(s) for s, w in zip(others, weights, strict=True))
            expected.append(-np.log(np.exp(own) / total))
        np.testing.assert_allclose(contrastive.info_nce(positive, scores, log_weights), expected, rtol=1e-4, atol=1e-5)

    def test_with_all_others_is_the_cross_entropy(self):
        logits = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
        own = logits[:, 3]
        found = contrastive.info_nce(own, np.delete(logits, 3, 1), np.zeros((6, 8), np.float32))
        expected = optax.losses.softmax_cross_entropy_with_integer_labels(logits, np.full(6, 3))
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_gradient_is_the_softmax_and_the_weights_have_none(self):
        positive, scores, log_weights = drawn((3, 4), 1)

        def loss(*arrays):
            return contrastive.info_nce(*arrays).sum()

        of_positive, of_scores, of_weights = jax.grad(loss, argnums=(0, 1, 2))(positive, scores, log_weights)
        logits = np.concatenate([positive[:, None], scores + log_weights], 1)
        share = np.asarray(jax.nn.softmax(logits))
        np.testing.assert_allclose(of_positive, share[:, 0] - 1, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(of_scores, share[:, 1:], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(of_weights, 0 * log_weights.clip(0))

    @pytest.mark.parametrize("left_out", [np.nan, np.inf, -np.inf, 7.0])
    def test_what_is_left_out_is_not_seen(self, left_out):
        """Also where nothing else is there."""
        weights = jnp.array([-jnp.inf])

        def loss(scores):
            return contrastive.info_nce(jnp.float32(2.0), scores, weights)

        value, gradient = jax.value_and_grad(loss)(jnp.array([left_out]))
        assert value == 0.0 and gradient.tolist() == [0.0]

    @pytest.mark.parametrize("shift", [-1e4, 1e4])
    def test_large_scores_do_not_overflow(self, shift):
        positive, scores, log_weights = drawn((2, 5), 2)
        plain = contrastive.info_nce(positive, scores, log_weights)
        # Scores of 1e4 have steps of 1e-3.
        np.testing.assert_allclose(
            contrastive.info_nce(positive + shift, scores + shift, log_weights), plain, atol=5e-3
        )


class TestDebiased:
    def by_hand(self, positive, scores, log_weights, false, true, lowest):
        """N- times the estimator g of DCL with its N = pool and tau+ = false / pool."""
        pool = false + true
        mean = (np.exp(log_weights) * np.exp(scores)).sum(-1) / pool
        g = np.maximum((mean - false / pool * np.exp(positive)) / (true / pool), np.exp(lowest))
        return -np.log(np.exp(positive) / (np.exp(positive) + true * g))

    @pytest.mark.parametrize("false", [0.0, 0.5, 30.0])
    def test_equals_the_paper(self, false):
        positive, scores, log_weights = (x / 4 for x in drawn((5, 6), 3))
        mass = np.full(5, false, np.float32), np.full(5, 40 - false, np.float32)
        found = contrastive.debiased_info_nce(positive, scores, log_weights, mass, -2.0)
        expected = self.by_hand(*(x.astype(float) for x in (positive, scores, log_weights, *mass)), -2.0)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_without_false_negatives_is_info_nce(self):
        arrays = drawn((4, 6), 4)
        mass = jnp.zeros(4), jnp.full(4, 6.0)
        found = contrastive.debiased_info_nce(*arrays, mass, -50.0)
        np.testing.assert_allclose(found, contrastive.info_nce(*arrays), rtol=1e-4, atol=1e-5)

    def test_takes_away_what_false_negatives_add(self):
        """A pool where 3 of 12 score as the positive does: with them known, the loss is that of the nine."""
        scores = np.concatenate([np.full(3, 1.5), np.linspace(-1, 1, 9)]).astype(np.float32)
        prior = np.full(12, 0.25, np.float32)
        indices, log_weights = samplers.debiased(jax.random.key(0), scores, prior, 12)
        mass = samplers.positive_mass(scores, prior)
        assert [float(m) for m in mass] == [3.0, 9.0]
        found = contrastive.debiased_info_nce(jnp.float32(1.5), scores[indices], log_weights, mass, -5.0)
        wanted = contrastive.info_nce(jnp.float32(1.5), scores[3:], jnp.zeros(9))
        assert float(found) == pytest.approx(float(wanted), rel=1e-5)

    def test_gradients_are_finite(self):
        positive, scores, log_weights = drawn((3, 4), 5)

        def loss(positive, scores):
            return contrastive.debiased_info_nce(positive, scores, log_weights, (jnp.ones(3), jnp.ones(3)), -9.0).sum()

        for gradient in jax.grad(loss, argnums=(0, 1))(positive * 20, scores * 20):
            assert np.isfinite(gradient).all()


class TestScores:
    def test_sequence_is_the_mean_log_probability(self):
        rng = np.random.default_rng(0)
        states, kernel = rng.normal(size=(2, 5, 4)).astype(np.float32), rng.normal(size=(4, 7)).astype(np.float32)
        targets = rng.integers(0, 7, (2, 5)).astype(np.int32)
        weights = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.float32)
        found = contrastive.sequence_scores(cross_entropy.token_nats(states, kernel, targets), weights)
        for row, length in enumerate((3, 5)):
            logits = states[row].astype(float) @ kernel
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            expected = log_p[np.arange(length), targets[row, :length]].mean()
            assert float(found[row]) == pytest.approx(expected, rel=1e-5)

    def test_an_update_without_tokens_scores_nothing(self):
        assert contrastive.sequence_scores(jnp.ones((2, 3)), jnp.zeros((2, 3))).tolist() == [0.0, 0.0]

    def test_embedding_is_the_cosine_over_the_temperature(self):
        rng = np.random.default_rng(0)
        anchors, updates = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(3, 5, 8)).astype(np.float32)
        found = contrastive.embedding_scores(anchors, updates, 0.1)
        for row in range(3):
            for k in range(5):
                lengths = np.linalg.norm(anchors[row]) * np.linalg.norm(updates[row, k])
                assert float(found[row, k]) == pytest.approx(anchors[row] @ updates[row, k] / lengths / 0.1, abs=1e-4)

    def test_an_embedding_of_zero_has_a_finite_gradient(self):
        gradient = jax.grad(lambda x: contrastive.embedding_scores(x, jnp.ones((2, 4)), 0.1).sum())(jnp.zeros(4))
        assert np.isfinite(gradient).all()


class TestMixed:
    def test_equals_the_formula_and_is_of_length_one(self):
        rng = np.random.default_rng(0)
        anchors, others = rng.normal(size=(2, 6)).astype(np.float32), rng.normal(size=(2, 4, 6)).astype(np.float32)
        keys = jax.random.split(jax.random.key(0), 2)
        mixtures = jax.vmap(lambda key: samplers.mixtures(key, 3, 4, 2))(keys)
        found = np.asarray(contrastive.mixed_embeddings(anchors, others, mixtures))
        assert found.shape == (2, 6, 6)
        unit = others / np.linalg.norm(others, axis=-1, keepdims=True)
        for row in range(2):
            first, second, share, anchor_share = (np.asarray(x)[row] for x in mixtures)
            for m in range(6):
                if m < 4:
                    expected = share[m] * unit[row, first[m]] + (1 - share[m]) * unit[row, second[m]]
                else:
                    anchor = anchors[row] / np.linalg.norm(anchors[row])
                    expected = anchor_share[m] * anchor + (1 - anchor_share[m]) * unit[row, first[m]]
                np.testing.assert_allclose(found[row, m], expected / np.linalg.norm(expected), atol=1e-5)

    def test_has_no_gradient(self):
        mixtures = samplers.mixtures(jax.random.key(0), 3, 2, 2)

        def total(anchor, others):
            return contrastive.mixed_embeddings(anchor, others, mixtures).sum()

        for gradient in jax.grad(total, argnums=(0, 1))(jnp.ones(4), jnp.eye(4)[:3]):
            np.testing.assert_array_equal(gradient, 0 * gradient)
