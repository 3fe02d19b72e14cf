"""The memory as a pool of negatives: what is judged, drawn and learnt of it, against loops and enumeration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from memories import normal
from test_negatives import CHANCE, counted, goodness_of_fit, mixture, ordered_law, posterior_by_hand

from cd_jax.memory.negatives import pool, samplers
from cd_jax.memory.negatives import prior as priors
from cd_jax.memory.negatives.pool import Labels, Pool

TEMPERATURE = 0.5
TASKS, ANSWERS = 3, 4

# Nine rows: 2 and 3 say the same, 1 and 4 explain the same example, 5 no example that is asked, 6 and 8 are free.
LABELS = Labels(
    prompts=np.array([0, 1, 2, 3, 1, -1, -1, 4, -1], np.int32),
    texts=np.array([10, 11, 12, 12, 13, 14, -1, 15, -1], np.int32),
    tasks=np.array([0, 1, 2, 0, 1, 2, 0, 1, 0], np.int32),
    answers=np.array([0, 1, 2, 3, 1, 0, 0, 1, 0], np.int32),
)
HELD = np.flatnonzero(LABELS.texts >= 0)
# Asked: one whose update row 0 holds; one with two updates in the pool; one whose words stand in two rows, under
# another example; and one of which the pool holds nothing.
ANCHORS = Labels(
    prompts=np.array([0, 1, 9, 8], np.int32),
    texts=np.array([10, 13, 12, 99], np.int32),
    tasks=np.array([0, 1, 2, 1], np.int32),
    answers=np.array([0, 1, 3, 2], np.int32),
)
# Which rows of the pool are no candidates of an anchor.
OUT = [{0}, {1, 4}, {2, 3}, set()]


def some_pool():
    vectors = normal(9, 5, seed=1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    # A row that was freed may still have the vector of what it held.
    vectors[8] = vectors[0]
    return Pool(jnp.asarray(vectors), jnp.arange(9 * 2).reshape(9, 2), Labels(*map(jnp.asarray, LABELS)))


def some_counts():
    """Of a memory that was added, and of answers that were right and wrong."""
    rng = np.random.default_rng(2)
    counts = priors.count(
        priors.empty(TASKS, ANSWERS), LABELS.tasks[HELD], LABELS.answers[HELD], np.ones(len(HELD), np.float32)
    )
    return counts._replace(
        right=jnp.asarray(rng.uniform(0, 3, counts.right.shape), jnp.float32),
        wrong=jnp.asarray(rng.uniform(0, 3, counts.wrong.shape), jnp.float32),
    )


def anchors_of(rows):
    return Labels(*(jnp.asarray(column[rows]) for column in ANCHORS))


def judged_slowly(of, counts, contexts, anchors=ANCHORS):
    """Scores and priors `[batch, pool]`, one pair after the other."""
    scores, prior = np.full((len(contexts), 9), -np.inf), np.ones((len(contexts), 9))
    for b, context in enumerate(np.asarray(contexts, float)):
        for j in HELD:
            vector = np.asarray(of.vectors[j], float)
            scores[b, j] = context @ vector / np.linalg.norm(context) / TEMPERATURE
            if LABELS.texts[j] != anchors.texts[b] and LABELS.prompts[j] != anchors.prompts[b]:
                labels = (np.array([column[j]]) for column in (LABELS.tasks, LABELS.answers))
                prior[b, j] = priors.false_negative(counts, anchors.tasks[b], anchors.answers[b], *labels)[0]
    return scores, prior


@functools.partial(jax.jit, static_argnames=("sampler", "k"))
def draw(key, of, counts, contexts, anchors, sampler, k):
    return pool.draw(key, of, counts, contexts, anchors, sampler, k, TEMPERATURE)


def what_it_is_given(key, scores, prior, k):
    """In the place of a sampler: shows its arguments."""
    del key, k
    return scores, prior


class TestDraw:
    def test_scores_and_priors_equal_a_slow_loop(self):
        of, counts, contexts = some_pool(), some_counts(), normal(4, 5, seed=3) * 7
        drawn = draw(jax.random.key(0), of, counts, contexts, anchors_of(np.arange(4)), what_it_is_given, 9)
        scores, prior = judged_slowly(of, counts, contexts)
        np.testing.assert_allclose(drawn.candidates, scores, rtol=1e-5, atol=1e-5)
        in_pool = np.array([[j in HELD and j not in out for j in range(9)] for out in OUT])
        np.testing.assert_allclose(np.where(in_pool, drawn.log_weights, 1), prior, rtol=1e-6)
        np.testing.assert_array_equal(samplers.eligible(drawn.candidates, drawn.log_weights), in_pool)
        false, true = drawn.mass
        np.testing.assert_allclose(false, np.where(in_pool, prior, 0).sum(-1), rtol=1e-5)
        np.testing.assert_allclose(true, np.where(in_pool, 1 - prior, 0).sum(-1), rtol=1e-5)

    @pytest.mark.parametrize("name", samplers.SAMPLERS)
    def test_neither_its_own_nor_its_words_nor_what_is_free(self, name):
        """Also where k is the whole pool; places left free weigh nothing."""
        rows = np.tile(np.arange(4), 50)
        contexts = normal(len(rows), 5, seed=4)
        drawn = draw(
            jax.random.key(1), some_pool(), some_counts(), contexts, anchors_of(rows), samplers.SAMPLERS[name], 8
        )
        for row, candidates, log_weights in zip(rows, drawn.candidates, drawn.log_weights, strict=True):
            real = np.asarray(candidates)[np.asarray(log_weights) > -np.inf].tolist()
            assert sorted(real) == sorted(set(HELD.tolist()) - OUT[row])

    @pytest.mark.parametrize("name", ["uniform", "bayesian"])
    @pytest.mark.parametrize("anchor", [1, 3])
    def test_frequencies_are_those_of_the_enumerated_law(self, name, anchor):
        draws, k = 20_000, 2
        of, counts, context = some_pool(), some_counts(), normal(1, 5, seed=5)
        sampler = samplers.SAMPLERS[name]
        same = np.full(draws, anchor)
        drawn = draw(jax.random.key(2), of, counts, np.repeat(context, draws, 0), anchors_of(same), sampler, k)
        scores, prior = (x[0] for x in judged_slowly(of, counts, context, Labels(*(c[[anchor]] for c in ANCHORS))))
        there = [j for j in HELD if j not in OUT[anchor]]
        weights = np.isin(np.arange(9), there).astype(float)
        if name == "bayesian":
            posterior = posterior_by_hand(scores.astype(np.float32), prior.astype(np.float32), there)
            weights = np.where(weights > 0, posterior * np.exp(np.where(weights > 0, scores, 0)), 0)
        assert goodness_of_fit(counted(np.asarray(drawn.candidates)), ordered_law(weights, k)) > CHANCE
        # Rows of a batch are drawn for one by one: a batch that draws alike would not fit, but chance might.
        assert len(np.unique(np.asarray(drawn.candidates[:50]), axis=0)) > 5

    def test_no_gradient(self):
        """Not even of the scores that a sampler is given."""
        of, counts, anchors = some_pool(), some_counts(), anchors_of(np.arange(4))

        def total(contexts):
            drawn = draw(jax.random.key(0), of, counts, contexts, anchors, what_it_is_given, 9)
            return jnp.where(jnp.isfinite(drawn.candidates), drawn.candidates, 0).sum()

        value, gradient = jax.value_and_grad(total)(normal(4, 5))
        assert value != 0
        np.testing.assert_array_equal(gradient, 0)


def cdf_logit_slowly(scores, prior, there, row):
    """As `test_negatives.posterior_by_hand` finds F: of the pool, unmixed by bisection."""
    of_pool = sum(int(scores[j] < scores[row]) + int(scores[j] <= scores[row]) for j in there) / (2 * len(there))
    mean = float(np.mean([prior[j] for j in there]))
    cdf = scipy.optimize.brentq(lambda f: mixture(f, mean) - of_pool, 0, 1, xtol=1e-14)
    return np.log(cdf) - np.log1p(-cdf)


RETRIEVED = np.array([[5, 2, 7], [1, 7, 5], [-1, 0, -1], [3, 8, 6]], np.int32)
CORRECT = np.array([1.0, 0.0, 0.3, 1.0], np.float32)
ASKED = ANCHORS._replace(texts=np.full(4, -1, np.int32))
learn = jax.jit(pool.learn, static_argnames="temperature")


class TestLearn:
    def test_equals_learning_row_by_row(self):
        of, counts, contexts = some_pool(), some_counts(), normal(4, 5, seed=6)
        found = learn(of, counts, contexts, ASKED, RETRIEVED, CORRECT, temperature=TEMPERATURE)
        scores, prior = judged_slowly(of, counts, contexts, ASKED)
        expected, taught = counts, []
        for b, row in enumerate(RETRIEVED):
            there = [j for j in HELD if LABELS.prompts[j] != ASKED.prompts[b]]
            for j in row:
                if j not in there:
                    continue
                taught.append((b, j))
                task, answer = int(ASKED.tasks[b]), int(ASKED.answers[b])
                related = 2 * (task == LABELS.tasks[j]) + (answer == LABELS.answers[j])
                logit = cdf_logit_slowly(scores[b], prior[b], there, j)
                one = (np.array([x]) for x in (task, related, CORRECT[b], np.float32(logit)))
                expected = priors.learn(expected, *one)
        assert taught == [(0, 5), (0, 2), (0, 7), (1, 7), (1, 5), (2, 0), (3, 3)]
        np.testing.assert_array_equal(found.answers, counts.answers)
        for name in ("right", "wrong"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
            assert np.abs(getattr(found, name) - getattr(counts, name)).max() > 0.1

    @pytest.mark.parametrize("retrieved", [-1, 1, 4, 6, 8])
    def test_what_teaches_nothing(self, retrieved):
        """No neighbour; its own updates; and a row that was freed meanwhile."""
        counts = some_counts()
        asked = Labels(*(column[[1, 1]] for column in ASKED))
        rows = np.full((2, 2), retrieved, np.int32)
        correct = np.array([1.0, 0.0], np.float32)
        found = learn(some_pool(), counts, normal(2, 5), asked, rows, correct, temperature=TEMPERATURE)
        jax.tree.map(np.testing.assert_array_equal, found, counts)

    def test_of_an_empty_pool(self):
        """Nothing, and nothing that is no number."""
        of, counts = some_pool(), some_counts()
        nothing = of._replace(labels=of.labels._replace(texts=jnp.full(9, -1)))
        found = learn(nothing, counts, normal(4, 5), ASKED, RETRIEVED, CORRECT, temperature=TEMPERATURE)
        jax.tree.map(np.testing.assert_array_equal, found, counts)
