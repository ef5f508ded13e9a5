"""Matching and scores of event lists: against mir_eval, an independent matching, closed forms, and properties."""

import itertools

import mir_eval
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from cmmd_lightning.metrics.functional.events import (
    TOLERANCES,
    event_scores,
    match_events,
    random_events,
    scores_from_counts,
    tolerance_curve,
)

times = st.lists(st.floats(0, 3, allow_nan=False, width=32), max_size=12)
# on this grid floating point is exact: ties, duplicates and distances of exactly the tolerance come up all the time
grid_times = st.lists(st.integers(0, 80).map(lambda k: k / 64), max_size=12)
grid_tolerances = st.integers(0, 16).map(lambda k: k / 64)


@settings(max_examples=200, deadline=None)
@given(times, times, st.sampled_from([0.01, 0.025, 0.05, 0.1, 0.2]))
def test_scores_equal_mir_eval(reference, estimate, tolerance):
    scores = event_scores(reference, estimate, tolerance)
    if not reference and not estimate:
        assert scores == (1.0, 1.0, 1.0)  # mir_eval says 0 of nothing; our convention is documented
        return
    f1, precision, recall = mir_eval.onset.f_measure(np.sort(reference), np.sort(estimate), window=tolerance)
    assert (scores.f1, scores.precision, scores.recall) == pytest.approx((f1, precision, recall), abs=1e-9)


@settings(max_examples=300, deadline=None)
@given(grid_times, grid_times, grid_tolerances)
@example([0.5, 0.5, 0.5], [0.5], 0.0)
@example([0.5], [0.25, 0.75], 0.25)
@example([0.0, 0.25, 0.5], [0.25, 0.5, 0.75], 0.25)
@example([], [0.5], 0.1)
@example([0.5], [], 0.1)
def test_matchings_are_one_to_one_and_as_large_as_mir_eval_s_and_scipy_s(reference, estimate, tolerance):
    ref, est = np.sort(reference), np.sort(estimate)
    pairs = match_events(reference, estimate, tolerance)
    for column in zip(*pairs, strict=True):
        assert len(set(column)) == len(pairs)
    assert all(abs(ref[i] - est[j]) <= tolerance for i, j in pairs)
    near = np.abs(ref[:, None] - est[None, :]) <= tolerance
    assert len(pairs) == (maximum_bipartite_matching(csr_array(near), perm_type="column") >= 0).sum()
    if not reference or not estimate:
        assert pairs == []
        return
    assert len(pairs) == len(mir_eval.util.match_events(ref, est, tolerance))
    f1, precision, recall = mir_eval.onset.f_measure(ref, est, window=tolerance)
    assert event_scores(reference, estimate, tolerance) == pytest.approx((precision, recall, f1), abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(grid_times, grid_times, grid_tolerances)
@example([0.25, 0.5], [0.5, 0.75], 0.25)
@example([], [], 0.0)
def test_f1_is_one_where_the_lists_agree_one_to_one_and_nowhere_else(reference, estimate, tolerance):
    # on a line, if any one-to-one assignment within the tolerance exists, the one in order of time is such
    agree = len(reference) == len(estimate) and all(
        abs(r - e) <= tolerance for r, e in zip(sorted(reference), sorted(estimate), strict=True)
    )
    assert (event_scores(reference, estimate, tolerance).f1 == 1.0) == agree


@settings(max_examples=100, deadline=None)
@given(grid_times, grid_times, st.lists(grid_tolerances, min_size=2, max_size=6))
def test_scores_grow_with_the_tolerance_and_swap_with_the_lists(reference, estimate, tolerances):
    found = [event_scores(reference, estimate, tolerance) for tolerance in sorted(tolerances)]
    for narrow, wide in itertools.pairwise(found):
        assert all(a <= b for a, b in zip(narrow, wide, strict=True))
    swapped = [event_scores(estimate, reference, tolerance) for tolerance in sorted(tolerances)]
    assert [(s.recall, s.precision, s.f1) for s in swapped] == [tuple(scores) for scores in found]


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
@given(grid_times, grid_times, grid_tolerances, st.integers(-200, 200))
def test_scores_do_not_change_when_both_lists_shift(reference, estimate, tolerance, shift):
    a, b = (np.array(values, dtype=float) + shift / 64 for values in (reference, estimate))
    assert event_scores(a, b, tolerance) == event_scores(reference, estimate, tolerance)


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
    "function", [match_events, event_scores, lambda ref, est, tolerance: tolerance_curve(ref, est, [0.05, tolerance])]
)
@pytest.mark.parametrize(
    ("reference", "estimate", "tolerance", "message"),
    [
        ([float("nan")], [0.1], 0.1, "event times must be finite, got NaN or infinity"),
        ([[0.1]], [0.1], 0.1, r"one dimension \(events,\), got shape \(1, 1\)"),
        ([0.1], 0.1, 0.1, r"one dimension \(events,\), got shape \(\)"),
        ([0.1], [float("inf")], 0.1, "finite"),
        ([0.1], torch.tensor([float("nan")]), 0.1, "finite"),
        ([], [float("nan")], 0.1, "finite"),
        ([0.1], [0.1], -0.1, "tolerance must be .* 0 or more, got -0.1"),
        ([], [], -0.1, "tolerance"),
        ([0.1], [0.1], float("nan"), "tolerance"),
        ([0.1], [0.1], float("inf"), "tolerance"),
    ],
)
def test_malformed_input_raises(function, reference, estimate, tolerance, message):
    with pytest.raises(ValueError, match=message):
        function(reference, estimate, tolerance)


def test_random_events_are_as_many_within_the_clip_and_follow_the_generator():
    first, second = (random_events([0.1, 0.2, 0.3], 2.0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (3,)
    assert bool(((first >= 0) & (first < 2)).all())
    assert bool((first.diff() >= 0).all())
