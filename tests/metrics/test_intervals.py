"""Floors and intervals."""

import numpy as np
import pytest

from cmmd_lightning.metrics.functional.intervals import bootstrap_interval, derangements


@pytest.mark.parametrize("count", [2, 3, 5, 8, 9, 64])
def test_derangements_have_no_fixed_point_and_are_distinct(count):
    found = derangements(count, limit=8, seed=1)
    assert len(found) == min(8, count - 1)
    assert len({tuple(p.tolist()) for p in found}) == len(found)
    for p in found:
        assert sorted(p.tolist()) == list(range(count))
        assert not (p == np.arange(count)).any()
    partners = np.stack(found)
    assert all(len(set(partners[:, i])) == len(found) for i in range(count))  # each item meets different partners


def test_derangements_follow_the_seed():
    first, second, other = (derangements(20, seed=seed) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_too_few_items_have_no_derangement():
    assert derangements(0) == derangements(1) == []
    with pytest.raises(ValueError, match="negative"):
        derangements(-1)


def test_interval_is_seeded_and_ordered():
    values = np.random.default_rng(0).random(30)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert low < values.mean() < high
    assert all(np.isnan(end) for values in ([], [0.7]) for end in bootstrap_interval(values))  # one clip has none


@pytest.mark.parametrize("count", [3, 5, 10, 19])
def test_interval_of_few_clips_covers_as_often_as_it_says(count):
    rng = np.random.default_rng(4)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_interval(rng.normal(0.5, 0.2, count), resamples=200, seed=trial)
        hits += low <= 0.5 <= high
    assert 0.91 <= hits / 300 <= 0.99


def test_interval_of_a_median_holds_it_and_stays_within_the_bounds():
    low, high = bootstrap_interval([0.0, 0.1, 5.0], statistic=lambda x: float(np.median(x)), bounds=(0.0, np.inf))
    assert low == 0.0
    assert high > 0.1


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(0.5, 0.2, 40), resamples=400, seed=trial)
        hits += low <= 0.5 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_interval_is_close_to_the_normal_one():
    values = np.random.default_rng(2).normal(0.5, 0.2, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_malformed_values_raise():
    with pytest.raises(ValueError, match="one dimension"):
        bootstrap_interval(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([0.1, 0.2], level=1.5)
