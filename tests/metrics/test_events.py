"""Matching and scores of event lists."""

import mir_eval
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmmd_lightning.metrics.functional.events import (
    TOLERANCES,
    event_scores,
    match_events,
    random_events,
    scores_from_counts,
    tolerance_curve,
)

times = st.lists(st.floats(0, 3, allow_nan=False, width=32), max_size=12)


@settings(max_examples=200, deadline=None)
@given(times, times, st.sampled_from([0.01, 0.025, 0.05, 0.1, 0.2]))
def test_scores_equal_mir_eval(reference, estimate, tolerance):
    scores = event_scores(reference, estimate, tolerance)
    if not reference and not estimate:
        assert scores == (1.0, 1.0, 1.0)  # mir_eval says 0 of nothing; our convention is documented
        return
    f1, precision, recall = mir_eval.onset.f_measure(np.sort(reference), np.sort(estimate), window=tolerance)
    assert (scores.f1, scores.precision, scores.recall) == pytest.approx((f1, precision, recall), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(times, times)
def test_scores_are_symmetric_monotonic_and_independent_of_order(reference, estimate):
    forward, backward = event_scores(reference, estimate, 0.1), event_scores(estimate, reference, 0.1)
    assert forward.f1 == pytest.approx(backward.f1)
    assert (forward.precision, forward.recall) == (backward.recall, backward.precision)
    assert event_scores(reference[::-1], estimate[::-1], 0.1) == forward
    curve = [scores.f1 for scores in tolerance_curve(reference, estimate).values()]
    assert curve == sorted(curve)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=10), st.integers(1, 100))
def test_scores_do_not_change_when_both_lists_shift(reference, shift):
    """On a grid of 1/64 s, which floating point holds exactly."""
    a, b = np.array(reference) / 64, np.array(reference[::-1]) / 64 + 1 / 32
    assert event_scores(a, b, 1 / 16) == event_scores(a + shift / 64, b + shift / 64, 1 / 16)


def test_matching_is_one_to_one_and_as_large_as_possible():
    # greedy nearest matching would pair 0.10 with 0.11 and leave 0.20 alone
    assert match_events([0.0, 0.1], [0.11, 0.2], 0.1) == [(1, 0)]
    assert match_events([0.05, 0.1], [0.11, 0.2], 0.1) == [(0, 0), (1, 1)]
    assert event_scores([0.5], [0.45, 0.5, 0.55], 0.1) == pytest.approx((1 / 3, 1.0, 0.5))


def test_tolerance_is_inclusive():
    assert event_scores([0.5], [0.75], 0.25).f1 == 1.0
    assert event_scores([0.5], [0.7500001], 0.25).f1 == 0.0


def test_perfect_and_empty_lists():
    events = [0.1, 0.4, 1.2]
    assert all(scores == (1.0, 1.0, 1.0) for scores in tolerance_curve(events, torch.tensor(events)).values())
    assert event_scores([], []) == (1.0, 1.0, 1.0)
    assert event_scores(events, []) == event_scores([], events) == (0.0, 0.0, 0.0)
    assert scores_from_counts(2, 4, 2) == pytest.approx((1.0, 0.5, 2 / 3))
    assert TOLERANCES == (0.025, 0.05, 0.1, 0.2)


@pytest.mark.parametrize(
    ("reference", "estimate", "tolerance", "message"),
    [
        ([float("nan")], [0.1], 0.1, "finite"),
        ([[0.1]], [0.1], 0.1, "one dimension"),
        ([0.1], [float("inf")], 0.1, "finite"),
        ([0.1], [0.1], -0.1, "tolerance"),
        ([0.1], [0.1], float("nan"), "tolerance"),
    ],
)
def test_malformed_input_raises(reference, estimate, tolerance, message):
    with pytest.raises(ValueError, match=message):
        event_scores(reference, estimate, tolerance)


def test_random_events_are_as_many_within_the_clip_and_follow_the_generator():
    first, second = (random_events([0.1, 0.2, 0.3], 2.0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (3,)
    assert bool(((first >= 0) & (first < 2)).all())
    assert bool((first.diff() >= 0).all())
