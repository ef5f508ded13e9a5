"""Events in two streams: detectors, one-to-one matching, and scores.

The paper's "beat tracking accuracy" is the recall here: the share of reference events with an event of the estimate
within the tolerance. Matching is one-to-one (``mir_eval.util.match_events``: a maximum bipartite matching), so that
one estimated event cannot satisfy two reference events, and precision and F1 stand beside the recall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mir_eval
import numpy as np
import torch
from torch import Tensor

from cmmd_lightning.metrics.functional.impacts import detect_impacts, detect_motion_turns
from cmmd_lightning.metrics.functional.onsets import detect_onsets

__all__ = [
    "TOLERANCES",
    "EventScores",
    "as_times",
    "detect_impacts",
    "detect_motion_turns",
    "detect_onsets",
    "event_scores",
    "match_events",
    "tolerance_curve",
]

TOLERANCES = (0.025, 0.05, 0.1, 0.2)

Times = Tensor | np.ndarray | Sequence[float]


class EventScores(NamedTuple):
    """Agreement of two event lists, each value in [0, 1]."""

    precision: float
    recall: float
    f1: float


def as_times(times: Times) -> np.ndarray:
    """Event times as an ascending float64 array (E,) in seconds; ValueError unless they are (E,) and finite.

    Example:
        >>> as_times([0.5, 0.25]).tolist()
        [0.25, 0.5]
    """
    array = times.detach().cpu().numpy() if isinstance(times, Tensor) else np.asarray(times)
    array = array.astype(np.float64)
    if array.ndim != 1:
        raise ValueError(f"event times must have one dimension (events,), got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("event times must be finite, got NaN or infinity")
    return np.sort(array)


def match_events(reference: Times, estimate: Times, tolerance: float = 0.1) -> list[tuple[int, int]]:
    """One-to-one pairs of events no further apart than a tolerance, as many as possible.

    Args:
        reference: Reference times (R,) in seconds.
        estimate: Estimated times (E,) in seconds.
        tolerance: Greatest distance of a pair in seconds, inclusive; ValueError unless it is finite and 0 or more.

    Returns:
        Pairs (index into the sorted reference, index into the sorted estimate), ascending.

    Example:
        >>> match_events([0.0, 1.0], [0.05, 0.06, 1.3])
        [(0, 0)]
    """
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be a finite number of seconds, 0 or more, got {tolerance!r}")
    ref, est = as_times(reference), as_times(estimate)
    if ref.size == 0 or est.size == 0:
        return []
    return sorted((int(i), int(j)) for i, j in mir_eval.util.match_events(ref, est, tolerance))


def event_scores(reference: Times, estimate: Times, tolerance: float = 0.1) -> EventScores:
    """Precision, recall and F1 of estimated event times.

    Both lists empty is full agreement (1, 1, 1): nothing was to be found and nothing was. One empty is none (0, 0, 0).
    Wherever neither is empty this equals ``mir_eval.onset.f_measure``.

    Args:
        reference: Reference times (R,) in seconds.
        estimate: Estimated times (E,) in seconds.
        tolerance: Greatest distance of a matched pair in seconds, inclusive.

    Example:
        >>> event_scores([0.1, 0.5, 0.9], [0.11, 0.7], tolerance=0.1)
        EventScores(precision=0.5, recall=0.3333333333333333, f1=0.4)
    """
    pairs = match_events(reference, estimate, tolerance)
    return scores_from_counts(len(pairs), len(as_times(reference)), len(as_times(estimate)))


def scores_from_counts(matched: int, references: int, estimates: int) -> EventScores:
    """Scores from the numbers of matched pairs, references and estimates (conventions of :func:`event_scores`).

    Example:
        >>> scores_from_counts(0, 0, 0).f1, scores_from_counts(0, 3, 0).f1
        (1.0, 0.0)
    """
    if references == 0 and estimates == 0:
        return EventScores(1.0, 1.0, 1.0)
    if matched == 0:
        return EventScores(0.0, 0.0, 0.0)
    precision, recall = matched / estimates, matched / references
    return EventScores(precision, recall, 2 * precision * recall / (precision + recall))


def tolerance_curve(
    reference: Times, estimate: Times, tolerances: Sequence[float] = TOLERANCES
) -> Mapping[float, EventScores]:
    """Tolerance in seconds to the scores at it, of times (R,) and (E,) in seconds.

    Example:
        >>> curve = tolerance_curve([0.5], [0.57])
        >>> [scores.f1 for scores in curve.values()]
        [0.0, 0.0, 1.0, 1.0]
    """
    return {tolerance: event_scores(reference, estimate, tolerance) for tolerance in tolerances}


def random_events(reference: Times, duration: float, generator: torch.Generator) -> Tensor:
    """As many times (float64, ascending) as the reference has, uniform over a clip of so many seconds: a floor.

    Example:
        >>> random_events([0.1, 0.2], 1.6, torch.Generator().manual_seed(0)).shape
        torch.Size([2])
    """
    count = len(as_times(reference))
    return (torch.rand(count, generator=generator, dtype=torch.float64) * duration).sort().values
