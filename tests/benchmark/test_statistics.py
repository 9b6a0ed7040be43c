import numpy as np
import pytest
from scipy import stats

from flexedit.benchmark.statistics import FEWEST, bootstrap_mean
from flexedit.errors import FlexEditError

VALUES = np.random.default_rng(1).gamma(2, 3, 80).tolist()


def test_the_interval_is_where_the_mean_of_other_cases_would_lie():
    mean, low, high = bootstrap_mean(VALUES)
    assert mean == pytest.approx(np.mean(VALUES))
    normal = stats.norm.interval(0.95, mean, stats.sem(VALUES))
    assert (low, high) == pytest.approx(normal, abs=0.1 * (high - low))
    _, inner_low, inner_high = bootstrap_mean(VALUES, confidence=0.5)
    assert low < inner_low < inner_high < high


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    assert bootstrap_mean(VALUES, seed=7) == bootstrap_mean(VALUES, seed=7)
    assert bootstrap_mean(VALUES, seed=7) != bootstrap_mean(VALUES, seed=8)


def test_cases_without_a_value_are_left_out():
    assert bootstrap_mean([None, 1.0, 3.0, float("nan")]) == bootstrap_mean([1.0, 3.0])
    with pytest.raises(FlexEditError, match="no value to average"):
        bootstrap_mean([None, None])


def test_few_cases_have_a_mean_but_no_interval():
    few = [float(value) for value in range(FEWEST)]
    assert bootstrap_mean(few[1:]) == (2.5, None, None)
    mean, low, high = bootstrap_mean(few)
    assert low < mean < high


def test_what_all_cases_share_is_certain():
    assert bootstrap_mean([1.5] * 40) == (1.5, 1.5, 1.5)
