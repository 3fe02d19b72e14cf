"""Samplers of negatives against enumeration of small pools, and their prior and posterior against known truths.

Draws are seeded, so a test passes for good once it does. `CHANCE` is how often a right sampler would fail one.
"""

import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd_jax.memory.negatives import prior as priors
from cd_jax.memory.negatives import samplers

CHANCE = 1e-4
DRAWS = 20_000
# `in_batch` and `debiased` draw as `uniform` does.
DISTINCT = ["uniform", "hard", "mixed", "bayesian"]

# Six candidates, two of them with the same score and two that are not in the pool.
SCORES = np.array([0.3, -1.2, 2.0, np.nan, 0.3, -0.4, 9.0, 1.1], np.float32)
PRIOR = np.array([0.1, 0.0, 0.3, 0.1, 0.6, 0.02, 1.0, 0.2], np.float32)
POOL = [0, 1, 2, 4, 5, 7]


@functools.partial(jax.jit, static_argnames=("name", "k", "draws"))
def many(name, scores, prior, k, seed=0, draws=DRAWS):
    keys = jax.random.split(jax.random.key(seed), draws)
    return jax.vmap(lambda key: samplers.SAMPLERS[name](key, scores, prior, k))(keys)


def mixture(cdf, p):
    """The distribution function of a pool of which p are false negatives, in that of the posterior's densities."""
    return (1 - p) * (2 * cdf - cdf**2) + p * cdf**2


def posterior_by_hand(scores=SCORES, prior=PRIOR, pool=POOL):
    """The formula as it is written, in double precision and O(n^2), with F solved for by bisection."""
    found = np.zeros(len(scores))
    mean = float(np.mean(prior[pool], dtype=float))
    for i in pool:
        of_pool = sum(int(scores[j] < scores[i]) + int(scores[j] <= scores[i]) for j in pool) / (2 * len(pool))
        cdf = scipy.optimize.brentq(lambda f, u=of_pool: mixture(f, mean) - u, 0, 1, xtol=1e-14)
        p = float(prior[i])
        found[i] = (1 - cdf) * (1 - p) / (1 - cdf - p + 2 * cdf * p)
    return found


def proposals(name):
    """What `name` draws in proportion to."""
    in_pool = np.isin(np.arange(len(SCORES)), POOL)
    if name == "bayesian":
        return np.where(in_pool, posterior_by_hand() * np.exp(np.where(in_pool, SCORES, 0).astype(float)), 0)
    return in_pool.astype(float)


def ordered_law(weights, k):
    """The probability of each ordered draw without replacement (Plackett-Luce), by enumeration."""
    law = {}
    for draw in itertools.permutations(np.flatnonzero(weights), k):
        left, probability = weights.sum(), 1.0
        for i in draw:
            probability *= weights[i] / left
            left -= weights[i]
        law[draw] = probability
    return law


def goodness_of_fit(drawn, law):
    """The chance of a worse fit. Cells with fewer than 5 expected are pooled, as the chi-square approximation needs."""
    cells = list(law)
    observed = np.array([drawn.get(cell, 0) for cell in cells], float)
    expected = np.array([law[cell] for cell in cells]) * sum(drawn.values())
    assert observed.sum() == sum(drawn.values()), "drew what cannot be drawn"
    small = expected < 5
    if small.any():
        observed = np.append(observed[~small], observed[small].sum())
        expected = np.append(expected[~small], expected[small].sum())
    return scipy.stats.chisquare(observed, expected).pvalue


def counted(rows):
    cells, counts = np.unique(rows, axis=0, return_counts=True)
    return {tuple(cell.tolist()): int(count) for cell, count in zip(cells, counts, strict=True)}


class TestLaw:
    @pytest.mark.parametrize("k", [1, 2, 3])
    @pytest.mark.parametrize("name", ["uniform", "bayesian"])
    def test_ordered_draws_are_plackett_luce(self, name, k):
        indices, _ = many(name, SCORES, PRIOR, k)
        assert goodness_of_fit(counted(np.asarray(indices)), ordered_law(proposals(name), k)) > CHANCE

    @pytest.mark.parametrize(("name", "k"), [("uniform", 4), ("mixed", 2), ("bayesian", 2), ("bayesian", 5)])
    def test_subsets_are_those_of_the_ordered_law(self, name, k):
        indices, _ = many(name, SCORES, PRIOR, k, seed=1)
        law = {}
        for draw, probability in ordered_law(proposals(name), k).items():
            law[tuple(sorted(map(int, draw)))] = law.get(tuple(sorted(map(int, draw))), 0.0) + probability
        assert sum(law.values()) == pytest.approx(1.0)
        assert goodness_of_fit(counted(np.sort(np.asarray(indices), -1)), law) > CHANCE

    def test_the_test_tells_laws_apart(self):
        """The same counts are refused as a draw with another hardness."""
        indices, _ = many("bayesian", SCORES, PRIOR, 2)
        other = np.where(proposals("uniform") > 0, proposals("bayesian") ** 1.1, 0)
        assert goodness_of_fit(counted(np.asarray(indices)), ordered_law(other, 2)) < CHANCE

    def test_hard_takes_the_top(self):
        indices, log_weights = samplers.hard(jax.random.key(0), SCORES, PRIOR, 4)
        assert indices.tolist() == [2, 7, 0, 4]
        assert log_weights.tolist() == [0.0] * 4

    def test_mixed_has_the_hardest_first(self):
        indices, _ = many("mixed", SCORES, PRIOR, 4, draws=50)
        assert (np.diff(SCORES[np.asarray(indices)], axis=-1) <= 0).all()

    @pytest.mark.parametrize("name", ["in_batch", "debiased"])
    def test_these_draw_as_uniform_does(self, name):
        jax.tree.map(np.testing.assert_array_equal, many(name, SCORES, PRIOR, 3), many("uniform", SCORES, PRIOR, 3))

    def test_another_key_another_draw(self):
        one, same, other = (many("bayesian", SCORES, PRIOR, 3, seed=s, draws=20)[0] for s in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert (np.asarray(one) != np.asarray(other)).any()


class TestOutsideThePool:
    @pytest.mark.parametrize("name", DISTINCT)
    @pytest.mark.parametrize("k", [5, 8])
    def test_is_never_drawn(self, name, k):
        """Neither padding nor what the prior excludes; free places repeat an index and weigh nothing."""
        indices, log_weights = map(np.asarray, many(name, SCORES, PRIOR, k, draws=500))
        assert np.isin(indices, POOL).all()
        taken = log_weights > -np.inf
        assert (taken.sum(-1) == min(k, len(POOL))).all()
        for row, real in zip(indices, taken, strict=True):
            assert len(set(row[real])) == real.sum()
        assert not np.isnan(log_weights).any() and (log_weights < np.inf).all()

    @pytest.mark.parametrize("name", DISTINCT)
    def test_the_whole_pool_needs_no_weights(self, name):
        """Everything is drawn for certain: the weights are what the candidates are summed with."""
        indices, log_weights = map(np.asarray, many(name, SCORES, PRIOR, 6, draws=5))
        wanted = posterior_by_hand() if name == "bayesian" else np.ones(len(SCORES))
        np.testing.assert_allclose(np.exp(log_weights), wanted[indices], rtol=1e-5)

    @pytest.mark.parametrize("name", DISTINCT)
    def test_an_empty_pool_weighs_nothing(self, name):
        _, log_weights = many(name, np.full(4, -np.inf, np.float32), PRIOR[:4], 2, draws=3)
        assert (np.asarray(log_weights) == -np.inf).all()

    @pytest.mark.parametrize("k", [0, 9])
    def test_more_than_the_pool_holds_is_refused(self, k):
        with pytest.raises(ValueError, match=f"cannot draw {k} negatives of a pool of 8"):
            samplers.bayesian(jax.random.key(0), SCORES, PRIOR, k)

    def test_within_batch_leaves_the_others_positives(self):
        scores = np.arange(12, dtype=np.float32).reshape(2, 6)
        left = np.asarray(samplers.within_batch(scores, jnp.array([4, 1])))
        assert np.flatnonzero(left[0] > -np.inf).tolist() == [1]
        assert np.flatnonzero(left[1] > -np.inf).tolist() == [4]
        assert left[0, 1] == scores[0, 1] and left[1, 4] == scores[1, 4]


def partition(indices, log_weights, scores=SCORES):
    return np.exp(np.asarray(log_weights, float) + scores[np.asarray(indices)].astype(float)).sum(-1)


class TestPartitionSum:
    """The weighted sum over a draw against the sum over the pool that it stands for."""

    @pytest.mark.parametrize(
        ("name", "k"),
        [("uniform", 2), ("mixed", 3), ("bayesian", 1), ("bayesian", 2), ("bayesian", 3), ("bayesian", 5)],
    )
    def test_is_unbiased(self, name, k):
        wanted = np.exp(SCORES[POOL].astype(float))
        if name == "bayesian":
            wanted = wanted * posterior_by_hand()[POOL]
        found = partition(*many(name, SCORES, PRIOR, k, seed=2))
        # Within what its own spread allows: 4.06 standard errors are 5e-5 on each side, `CHANCE` in all.
        width = scipy.stats.norm.isf(CHANCE / 2) * found.std() / np.sqrt(DRAWS)
        assert abs(found.mean() - wanted.sum()) < width + 1e-5 * wanted.sum()

    def test_and_with_scores_other_than_those_of_the_draw(self):
        """Keys may be old: the sum of the new terms has no bias either."""
        new = np.where(np.isin(np.arange(8), POOL), SCORES[::-1] / 3 + 1, 0.0)
        new = np.nan_to_num(new).astype(np.float32)
        found = partition(*many("bayesian", SCORES, PRIOR, 2, seed=3), new)
        wanted = (np.exp(new.astype(float)) * posterior_by_hand())[POOL].sum()
        width = scipy.stats.norm.isf(CHANCE / 2) * found.std() / np.sqrt(DRAWS)
        assert abs(found.mean() - wanted) < width

    def test_weights_of_a_draw_with_replacement_are_biased(self):
        """Why the threshold is needed: 1 / (k p_i) misses by far more than chance; its exact bias is enumerated."""
        weights = proposals("bayesian") / proposals("bayesian").sum()
        terms = np.where(weights > 0, posterior_by_hand() * np.exp(np.nan_to_num(SCORES).astype(float) / 2), 0)
        expected = sum(
            probability * sum(terms[i] / (3 * weights[i]) for i in draw)
            for draw, probability in ordered_law(weights, 3).items()
        )
        indices, _ = many("bayesian", SCORES, PRIOR, 3, seed=4)
        simple = (terms / np.where(weights > 0, 3 * weights, 1))[np.asarray(indices)].sum(-1)
        error = simple.std() / np.sqrt(DRAWS)
        assert abs(simple.mean() - expected) < scipy.stats.norm.isf(CHANCE / 2) * error
        assert abs(expected - terms.sum()) > 10 * error

    def test_info_nce_itself_is_too_small_and_less_so_with_more(self):
        """The logarithm of an unbiased estimate is too small (Jensen): a bias that goes down with k."""
        true = np.log1p(np.exp(SCORES[POOL].astype(float)).sum())
        biases, errors = [], []
        for k in (1, 2, 4, 6):
            found = np.log1p(partition(*many("uniform", SCORES, PRIOR, k, seed=5)))
            biases.append(found.mean() - true)
            errors.append(found.std() / np.sqrt(DRAWS))
        assert biases[0] < -10 * errors[0]
        assert (np.diff(biases) > 0).all()
        assert abs(biases[-1]) < 1e-5

    def test_a_draw_in_proportion_to_the_terms_varies_least(self):
        """With hardness 1 a wide pool needs few: far less variance than that of as many uniform negatives."""
        scores = np.random.default_rng(0).normal(0, 3, 400).astype(np.float32)
        prior = np.full(400, 0.01, np.float32)
        spread = {}
        for name in ("uniform", "bayesian"):
            found = partition(*many(name, scores, prior, 8, draws=2000), scores)
            spread[name] = found.std() / found.mean()
        assert spread["bayesian"] < spread["uniform"] / 3


class TestCdf:
    def expected(self, scores, mask):
        kept = scores[mask].astype(float)
        return np.array([((kept < s).mean() + (kept <= s).mean()) / 2 for s in scores.astype(float)])

    @hypothesis.settings(max_examples=60)
    @hypothesis.given(
        st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=6, max_size=6).filter(
            lambda rows: any(kept for _, kept in rows)
        ),
        st.sampled_from([0.25, 1e-30, 1e30]),
    )
    def test_equals_counting_with_ties_and_masks(self, rows, scale):
        scores = np.array([score * scale for score, _ in rows], np.float32)
        mask = np.array([kept for _, kept in rows])
        found = jax.jit(samplers.cdf_logit)(scores, mask)
        np.testing.assert_allclose(jax.nn.sigmoid(found)[mask], self.expected(scores, mask)[mask], rtol=1e-5)
        np.testing.assert_array_equal(np.asarray(found)[~mask], 0.0)
        for candidate in range(6):
            alone = samplers.cdf_logit_of(candidate, scores, mask)
            assert float(alone) == pytest.approx(float(found[candidate]), abs=1e-6)

    def test_zeros_of_both_signs_are_equal(self):
        scores = jnp.array([0.0, -0.0, 1.0, -1.0])
        found = samplers.cdf_logit(scores, jnp.ones(4, bool))
        assert found[0] == found[1] == 0.0

    def test_equal_scores_say_nothing(self):
        posterior = np.exp(samplers.log_posterior(samplers.cdf_logit(jnp.ones(8), jnp.ones(8, bool)), PRIOR))
        np.testing.assert_allclose(posterior, 1 - PRIOR, atol=1e-6)

    def test_is_exact_at_the_top_of_a_large_pool(self):
        """1 - F is 1 / (2 n), which float32 cannot hold beside 1."""
        count = 2**22
        top = samplers.cdf_logit(jnp.arange(count, dtype=jnp.float32), jnp.ones(count, bool))[-1]
        assert float(top) == pytest.approx(np.log(2 * count - 1), rel=1e-6)


class TestPosterior:
    def test_equals_the_formula_of_the_paper(self):
        """`unbias` of arXiv 2204.06520 as it is written."""
        cdf, p = np.meshgrid(np.linspace(0.01, 0.99, 9), [0.0, 0.1, 0.5, 0.9])
        expected = (1 - cdf) * (1 - p) / (1 - cdf - p + 2 * cdf * p)
        found = np.exp(samplers.log_posterior(jnp.asarray(np.log(cdf) - np.log1p(-cdf)), jnp.asarray(p)))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert samplers.log_posterior(jnp.float32(3.0), jnp.float32(1.0)) == -jnp.inf

    @pytest.mark.parametrize("p", [0.0, 1e-4, 0.3, 0.5, 0.9])
    def test_unmixed_inverts_the_mixture(self, p):
        cdf = np.linspace(0.001, 0.999, 41)
        of_pool = mixture(cdf, p)
        found = samplers.unmixed(jnp.asarray(np.log(of_pool) - np.log1p(-of_pool), jnp.float32), jnp.float32(p))
        np.testing.assert_allclose(jax.nn.sigmoid(found), cdf, atol=2e-5)

    @pytest.mark.parametrize("p", [0.03, 0.3])
    def test_a_pool_has_as_many_true_negatives_as_its_prior_says(self, p):
        """Whatever the scores are; F of the pool in place of F unmixed would not have them."""
        logits = samplers.cdf_logit(jnp.arange(1000.0), jnp.ones(1000, bool))
        prior = jnp.full(1000, p)
        assert np.exp(samplers.log_posterior(samplers.unmixed(logits, p), prior)).mean() == pytest.approx(
            1 - p, abs=1e-3
        )
        assert np.exp(samplers.log_posterior(logits, prior)).mean() < 1 - p - 0.04

    def simulated(self, p, count=20_000):
        """Of the model: a false negative's F has the density 2 F, a true one's 2 (1 - F)."""
        rng = np.random.default_rng(0)
        false = rng.random(count) < p
        u = rng.random(count)
        return false, np.where(false, np.sqrt(u), 1 - np.sqrt(1 - u))

    def posterior(self, cdf, p):
        """Of a pool whose scores are a monotone function of F, from their ranks."""
        logits = samplers.cdf_logit(jnp.asarray(scipy.stats.norm.ppf(cdf), jnp.float32), jnp.ones(len(cdf), bool))
        return np.exp(np.asarray(samplers.log_posterior(samplers.unmixed(logits, p), jnp.full(len(cdf), p)), float))

    @pytest.mark.parametrize("p", [0.03, 0.3, 0.5])
    def test_is_calibrated_under_its_model(self, p):
        """The curve: in each tenth of belief, as many true negatives as believed."""
        false, cdf = self.simulated(p)
        found = self.posterior(cdf, p)
        bins = np.minimum((found * 10).astype(int), 9)
        gaps = [
            (found[bins == b].sum() - (~false)[bins == b].sum()) / np.sqrt((found * (1 - found))[bins == b].sum())
            for b in range(10)
            if (bins == b).sum() >= 50
        ]
        # Sums of independent draws with about these probabilities (the ranks are of 20,000): normal.
        assert scipy.stats.chi2.sf(np.square(gaps).sum(), len(gaps)) > CHANCE

    @pytest.mark.parametrize("p", [0.03, 0.3])
    def test_scores_better_than_who_does_not_look(self, p):
        """Brier scores: the posterior, the prior alone, and the belief of `uniform` and `hard` that all are true."""
        false, cdf = self.simulated(p)
        beliefs = {"posterior": self.posterior(cdf, p), "prior": 1 - p, "all": 1.0}
        brier = {name: (belief - ~false) ** 2 for name, belief in beliefs.items()}
        # Means of independent differences: 4 standard errors are 3e-5.
        for better, worse in (("posterior", "prior"), ("prior", "all")):
            gain = brier[worse] - brier[better]
            assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))

    def test_draws_fewer_false_negatives_than_as_hard_a_draw(self):
        """A pool with 20 of 400 false, whose scores are 3 standard deviations higher."""
        rng = np.random.default_rng(1)
        false = np.arange(400) < 20
        scores = (rng.normal(size=400) + 3 * false).astype(np.float32)
        prior = np.full(400, 0.05, np.float32)
        share = {n: false[np.asarray(many(n, scores, prior, 8, draws=500)[0])].mean() for n in ("hard", "bayesian")}
        as_hard = jax.vmap(lambda key: samplers.gumbel_top_k(key, jnp.asarray(scores), 8)[0])
        share["tilted"] = false[np.asarray(as_hard(jax.random.split(jax.random.key(0), 500)))].mean()
        # A standard deviation of 4000 draws of one in four is 0.007.
        assert share["bayesian"] + 0.05 < share["tilted"] < share["hard"]


class TestTransformations:
    @pytest.mark.parametrize("name", DISTINCT)
    def test_vmap_changes_nothing(self, name):
        sampler = jax.jit(functools.partial(samplers.SAMPLERS[name], k=3))
        scores = jnp.asarray(np.random.default_rng(0).normal(size=(2, 20)), jnp.float32)
        prior = jnp.full((2, 20), 0.1)
        keys = jax.random.split(jax.random.key(0), 2)
        indices, log_weights = jax.jit(jax.vmap(sampler))(keys, scores, prior)
        for row in range(2):
            alone = sampler(keys[row], scores[row], prior[row])
            np.testing.assert_array_equal(indices[row], alone[0])
            np.testing.assert_allclose(log_weights[row], alone[1], rtol=1e-5, atol=1e-6)
        assert indices.dtype == jnp.int32 and log_weights.dtype == jnp.float32

    @pytest.mark.parametrize("name", DISTINCT)
    def test_gradients_are_zero_and_never_nan(self, name):
        def weights(scores, prior):
            log_weights = samplers.SAMPLERS[name](jax.random.key(0), scores, prior, 7)[1]
            return jnp.where(log_weights > -jnp.inf, log_weights, 0.0).sum()

        for gradient in jax.jit(jax.grad(weights, argnums=(0, 1)))(jnp.asarray(SCORES), jnp.asarray(PRIOR)):
            np.testing.assert_array_equal(gradient, np.zeros(8))

    @pytest.mark.parametrize(("name", "axis"), [("uniform", 1), ("hard", 1), ("bayesian", 1), ("bayesian", 0)])
    def test_a_sharded_pool_gives_the_draw_of_one_device(self, name, axis):
        assert jax.device_count() == 8
        rng = np.random.default_rng(0)
        # Whole numbers: with ties.
        scores = rng.integers(0, 9, (8, 96)).astype(np.float32)
        scores[:, -5:] = -np.inf
        prior = rng.uniform(0, 0.5, (8, 96)).astype(np.float32)
        keys = jax.random.split(jax.random.key(1), 8)
        draw = jax.jit(jax.vmap(functools.partial(samplers.SAMPLERS[name], k=6)))
        alone = draw(keys, scores, prior)
        mesh = Mesh(np.array(jax.devices()), ("data",))
        layout = NamedSharding(mesh, PartitionSpec("data") if axis == 0 else PartitionSpec(None, "data"))
        shared = draw(keys, jax.device_put(scores, layout), jax.device_put(prior, layout))
        np.testing.assert_array_equal(shared[0], alone[0])
        np.testing.assert_allclose(shared[1], alone[1], rtol=1e-5, atol=1e-6)

    def test_nothing_is_as_large_as_the_pool_squared(self):
        """And nothing calls the host."""
        count = 4096
        shape = jax.ShapeDtypeStruct((count,), jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        compiled = jax.jit(functools.partial(samplers.bayesian, k=8)).lower(key, shape, shape).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 256 * count
        assert "callback" not in compiled.as_text() and "outfeed" not in compiled.as_text()


class TestMixtures:
    def test_mix_the_leading_ones(self):
        found = samplers.mixtures(jax.random.key(0), 5, 4000, 3000)
        first, second, share, anchor_share = map(np.asarray, found)
        assert first.shape == second.shape == share.shape == anchor_share.shape == (7000,)
        assert (first != second).all() and set(first) == set(second) == set(range(5))
        pairs = counted(np.stack([first, second], -1))
        # A fair draw of the 20 ordered pairs.
        assert scipy.stats.chisquare(list(pairs.values())).pvalue > CHANCE and len(pairs) == 20
        assert scipy.stats.kstest(share[:4000], "uniform").pvalue > CHANCE and (anchor_share[:4000] == 0).all()
        assert scipy.stats.kstest(anchor_share[4000:] * 2, "uniform").pvalue > CHANCE and (share[4000:] == 1).all()

    def test_one_negative_is_mixed_with_itself(self):
        found = samplers.mixtures(jax.random.key(0), 1, 3, 0)
        assert found.first.tolist() == found.second.tolist() == [0, 0, 0]


class TestPrior:
    def labels(self, *values):
        return jnp.array(values, jnp.int32)

    def counted(self):
        """Task 0 has the answers 0, 0, 1; task 1 has 2."""
        prior = priors.empty(2, 3)
        return priors.count(prior, self.labels(0, 0, 0, 1), self.labels(0, 0, 1, 2), jnp.ones(4))

    def test_frequencies_are_those_of_the_dirichlet_multinomial(self):
        prior = self.counted()
        total = sum(priors.class_frequency(prior, t, a, 2.0) for t in range(2) for a in range(3))
        assert float(total) == pytest.approx(1.0)
        # (3 + 2/2) / (4 + 2) of the task, (2 + 2/3) / (3 + 2) of the answer.
        assert float(priors.class_frequency(prior, 0, 0, 2.0)) == pytest.approx(4 / 6 * (2 + 2 / 3) / 5)

    def test_eviction_undoes_counting(self):
        prior = priors.count(self.counted(), self.labels(0, 1), self.labels(1, 2), -jnp.ones(2))
        np.testing.assert_array_equal(prior.answers, [[2, 0, 0], [0, 0, 0]])

    def test_before_evidence_all_have_the_frequency_of_the_class(self):
        found = priors.false_negative(self.counted(), 0, 1, self.labels(0, 0, 1, 1), self.labels(1, 0, 1, 2))
        np.testing.assert_allclose(found, priors.class_frequency(self.counted(), 0, 1), rtol=1e-6)

    def test_relations(self):
        found = priors.relation(1, 2, self.labels(0, 0, 1, 1), self.labels(0, 2, 0, 2))
        assert [priors.RELATIONS[r] for r in found] == list(priors.RELATIONS)

    def test_evidence_moves_its_relation_and_task_most(self):
        at_middle = jnp.zeros(40)
        evidence = jnp.full(40, 3), jnp.ones(40)
        prior = priors.learn(self.counted(), jnp.zeros(40, jnp.int32), *evidence, at_middle)
        before, after = (
            {t: priors.false_negative(x, t, 0, self.labels(t, t), self.labels(0, 1)) for t in (0, 1)}
            for x in (self.counted(), prior)
        )
        assert after[0][0] > after[1][0] > before[1][0]
        np.testing.assert_allclose(after[0][1], before[0][1], rtol=1e-6)

    def test_the_order_of_evidence_does_not_matter(self):
        rng = np.random.default_rng(0)
        tasks, relations = rng.integers(0, 2, 30), rng.integers(0, 4, 30)
        scores, logits = rng.random(30).astype(np.float32), rng.normal(size=30).astype(np.float32)
        order = rng.permutation(30)
        rows = [jnp.asarray(x) for x in (tasks, relations, scores, logits)]
        at_once = priors.learn(self.counted(), *rows)
        one_by_one = self.counted()
        for i in order:
            one_by_one = jax.jit(priors.learn)(one_by_one, *(row[i : i + 1] for row in rows))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), at_once, one_by_one)

    @pytest.mark.parametrize("ranks", ["all", "top"])
    @pytest.mark.parametrize("p", [0.05, 0.4])
    def test_learns_the_truth_from_memories_at_any_rank(self, p, ranks):
        """Retrieved ones are of the top ranks, where right ones abound: the prior of the pool is found all the same."""
        rng = np.random.default_rng(0)
        false = rng.random(60_000) < p
        u = rng.random(60_000)
        cdf = np.where(false, np.sqrt(u), 1 - np.sqrt(1 - u))
        seen = cdf > 0.9 if ranks == "top" else cdf > 0
        rows = seen.sum()
        zeros, logits = np.zeros(rows, np.int32), (np.log(cdf) - np.log1p(-cdf))[seen].astype(np.float32)
        prior = priors.learn(priors.empty(1, 1), zeros, zeros + 3, false[seen].astype(np.float32), logits)
        found = float(priors.false_negative(prior, 0, 0, self.labels(0), self.labels(0))[0])
        # The spread of the ratio of the two weighted counts, by the delta method.
        right, wrong = (false * (1 - cdf))[seen], (~false * cdf)[seen]
        total = (right + wrong).sum()
        error = np.sqrt(np.square(right - found * (right + wrong)).sum()) / total
        assert abs(found - p) < scipy.stats.norm.isf(CHANCE / 2) * error + 2 / total

    def test_is_never_certain(self):
        sure = priors.learn(
            self.counted(), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.zeros(1), jnp.zeros(1)
        )
        sure = sure._replace(right=sure.right + 1e12)
        found = priors.false_negative(sure, 0, 0, self.labels(0, 1), self.labels(0, 0))
        assert (found < 1).all() and (found > 0).all()
        assert samplers.eligible(jnp.zeros(2), found).all()
