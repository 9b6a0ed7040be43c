import numpy as np
import pytest
from scipy import stats

from flexedit.benchmark.statistics import FEWEST, bootstrap_mean, paired_difference
from flexedit.errors import FlexEditError


def test_the_interval_is_that_of_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).gamma(2, 3, 80)
    mean, low, high = bootstrap_mean(values.tolist(), resamples=8000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert mean == pytest.approx(values.mean())
    width = theirs.high - theirs.low
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        _, low, high = bootstrap_mean(rng.normal(5, 2, 60).tolist(), resamples=400)
        hits += low <= 5 <= high
    assert 0.91 <= hits / 400 <= 0.98


def test_less_confidence_gives_a_narrower_interval():
    values = np.random.default_rng(4).normal(size=50).tolist()
    _, low, high = bootstrap_mean(values)
    _, inner_low, inner_high = bootstrap_mean(values, confidence=0.5)
    assert low < inner_low < inner_high < high


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(5).normal(size=30).tolist()
    assert bootstrap_mean(values, seed=7) == bootstrap_mean(values, seed=7)
    assert bootstrap_mean(values, seed=7) != bootstrap_mean(values, seed=8)


def test_cases_without_a_value_are_left_out():
    assert bootstrap_mean([None, 1.0, 3.0, None]) == bootstrap_mean([1.0, 3.0])


def test_few_cases_have_a_mean_but_no_interval():
    assert bootstrap_mean([2.5]) == (2.5, None, None)
    few = [float(value) for value in range(FEWEST)]
    assert bootstrap_mean(few[1:]) == (2.5, None, None)
    mean, low, high = bootstrap_mean(few)
    assert low < mean < high


def test_no_values_at_all_are_an_error():
    with pytest.raises(FlexEditError, match="no value to average"):
        bootstrap_mean([None, None])


def test_a_constant_gain_is_certain_however_much_the_cases_differ():
    a = np.random.default_rng(6).normal(0, 50, 40)
    difference, low, high = paired_difference((a + 1).tolist(), a.tolist())
    assert (difference, low, high) == pytest.approx((1, 1, 1))


def test_a_difference_is_taken_where_both_systems_have_a_value():
    assert paired_difference([5.0, None, 9.0], [1.0, 2.0, None]) == (4.0, None, None)


def test_different_numbers_of_cases_cannot_be_paired():
    with pytest.raises(FlexEditError, match="2 values cannot be paired with 1"):
        paired_difference([1.0, 2.0], [1.0])
