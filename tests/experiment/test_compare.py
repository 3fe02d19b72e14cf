"""Paired differences, against SciPy's own test."""

import hypothesis
import pytest
from hypothesis import strategies
from scipy import stats

from cd_jax.experiment import compare

FIGURES = strategies.dictionaries(strategies.integers(0, 6), strategies.floats(0, 1), max_size=6)


@hypothesis.given(FIGURES, FIGURES)
def test_the_interval_is_that_of_students_t_for_pairs(one, other):
    found, seeds = compare.paired(one, other), sorted(one.keys() & other.keys())
    assert (found is None) == (len(seeds) < 2)
    if found is None:
        return
    differences = [one[seed] - other[seed] for seed in seeds]
    if stats.tstd(differences) < 1e-9:
        return  # SciPy warns of its own precision.
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)
    assert found.seeds == len(seeds)


def test_by_hand():
    # Differences 1, 2 and 3: mean 2, sd 1; t(2, 97.5 %) = 4.3027, over the square root of 3.
    found = compare.paired({0: 1.0, 1: 3.0, 2: 6.0, 9: 0.0}, {0: 0.0, 1: 1.0, 2: 3.0, 7: 5.0})
    assert (found.seeds, found.mean, found.high) == (3, 2.0, pytest.approx(4.4841, abs=1e-4))
    assert str(found) == "+2.000 [-0.484, +4.484]"


def test_equal_differences_have_no_spread():
    found = compare.paired({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25})
    assert (found.low, found.mean, found.high) == (0.25, 0.25, 0.25)
