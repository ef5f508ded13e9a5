"""Synchrony as measures: of event times, of envelopes, of peaks, and of a fitted linear operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from cmmd_lightning.metrics.functional.av_align import Variant, av_align
from cmmd_lightning.metrics.functional.events import TOLERANCES, EventScores, Times, as_times, event_scores
from cmmd_lightning.metrics.functional.lag import envelope_lag, event_lag
from cmmd_lightning.metrics.functional.linear_sync import LinearSync
from cmmd_lightning.metrics.measure import Measure

MAX_LAG = 0.5
"""Greatest lag looked for, in seconds."""
ENVELOPE_RATE = 50.0
"""Values per second of the envelopes of motion and loudness."""


class Events(NamedTuple):
    """Ascending event times in seconds from the start of a span of some seconds; fps of their video, 0 for others."""

    times: list[float]
    duration: float
    fps: float = 0.0


def within(times: Sequence[float], duration: float) -> list[float]:
    """The times that lie in [0, duration)."""
    return [float(time) for time in times if 0 <= time < duration]


def cut(first: Times | Events, second: Times | Events) -> tuple[np.ndarray, np.ndarray]:
    """Two lists of times in seconds; of `Events`, those within the span that both cover."""
    if isinstance(first, Events) and isinstance(second, Events):
        span = min(first.duration, second.duration)
        first, second = within(first.times, span), within(second.times, span)
    return as_times(_times(first)), as_times(_times(second))


def _times(events: Any) -> Times:
    return events.times if isinstance(events, Events) else events


class EventAgreement(Measure):
    """Precision, recall and F1 of event times, at several tolerances: the mean over clips.

    The recall is the paper's "beat tracking accuracy". A clip in which both lists are empty counts as full agreement.

    Args:
        tolerances: Seconds.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> metric = EventAgreement(tolerances=(0.05, 0.1))
        >>> metric.update([[0.53, 1.08]], [[0.5, 1.0]])
        >>> {name: round(float(value), 3) for name, value in metric.compute().items() if "f1" in name}
        {'event_f1@50ms': 0.5, 'event_f1@100ms': 1.0, 'event_f1@mean': 0.75}
    """

    bounds = (0.0, 1.0)
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(self, tolerances: Sequence[float] = TOLERANCES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not tolerances or not all(0 <= tolerance < float("inf") for tolerance in tolerances):
            raise ValueError(f"tolerances must be finite seconds, 0 or more, at least one, got {tolerances!r}")
        self.tolerances = tuple(tolerances)
        kinds = EventScores._fields
        self.names = (
            *(f"event_{kind}@{tolerance * 1000:g}ms" for kind in kinds for tolerance in self.tolerances),
            "event_f1@mean",
        )

    def score(self, estimate: Any, reference: Any) -> Sequence[float]:
        """Precision, recall and F1 at each tolerance, and the mean F1."""
        ref, est = cut(reference, estimate)
        curve = [event_scores(ref, est, tolerance) for tolerance in self.tolerances]
        return [*np.array(curve).T.ravel(), float(np.mean([scores.f1 for scores in curve]))]


class EventLag(Measure):
    """Seconds by which the estimated events of each clip are late (negative: early); over clips, the median size.

    A clip in which no lag is found (a list is empty, or nothing comes near) has none, and no part in the median.

    Args:
        max_lag: Greatest lag looked at either way, in seconds. Events of one period agree again a period later: keep it
            below half of the period.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> metric = EventLag()
        >>> metric.update([[0.28, 0.78], [0.32, 0.52]], [[0.2, 0.7], [0.3, 0.5]])
        >>> round(float(metric.compute()["event_lag"]), 3), metric.clip_values().flatten().round(decimals=3).tolist()
        (0.05, [0.08, 0.02])
    """

    names = ("event_lag",)
    unit = "seconds"
    higher_is_better = False
    size_counts = True

    def __init__(self, max_lag: float = MAX_LAG, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not (max_lag > 0 and np.isfinite(max_lag)):
            raise ValueError(f"max_lag must be positive and finite, in seconds, got {max_lag!r}")
        self.max_lag = max_lag

    def score(self, estimate: Any, reference: Any) -> Sequence[float]:
        """The lag of one clip in seconds."""
        ref, est = cut(reference, estimate)
        return [event_lag(ref, est, max_lag=self.max_lag).seconds]


class EnvelopeLag(EventLag):
    """Seconds by which loudness is later than motion in each clip; over clips, the median size.

    A clip in which an envelope is constant has none.

    Args:
        rate: Values per second of the envelopes.
        max_lag: Greatest lag looked at either way, in seconds.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> motion = torch.zeros(100)
        >>> motion[30] = motion[62] = 1.0
        >>> metric = EnvelopeLag()
        >>> metric.update([motion.roll(5)], [motion])
        >>> round(float(metric.compute()["motion_loudness_lag"]), 3)
        0.1
    """

    names = ("motion_loudness_lag",)
    reference, estimate = "motion", "loudness"

    def __init__(self, rate: float = ENVELOPE_RATE, max_lag: float = MAX_LAG, **kwargs: Any) -> None:
        super().__init__(max_lag, **kwargs)
        if not (rate > 0 and np.isfinite(rate)):
            raise ValueError(f"rate must be positive and finite, in values per second, got {rate!r}")
        self.rate = rate

    def score(self, estimate: Any, reference: Any) -> Sequence[float]:
        """The lag of one clip in seconds."""
        first, second = _envelopes(reference, estimate)
        return [envelope_lag(first, second, self.rate, max_lag=min(self.max_lag, len(first) / self.rate / 2)).seconds]


class EnvelopeCorrelation(Measure):
    """Pearson's correlation of loudness with motion, 0 where one is constant; the mean over clips.

    Example:
        >>> metric = EnvelopeCorrelation()
        >>> metric.update([torch.arange(9.0)], [2 * torch.arange(9.0)])
        >>> round(float(metric.compute()["motion_loudness_correlation"]), 3)
        1.0
    """

    names = ("motion_loudness_correlation",)
    unit = "-1 to 1"
    bounds = (-1.0, 1.0)
    reference, estimate = "motion", "loudness"

    def score(self, estimate: Any, reference: Any) -> Sequence[float]:
        """The correlation in one clip."""
        first, second = _envelopes(reference, estimate)
        still = len(first) < 3 or min(float(first.std()), float(second.std())) < 1e-9
        return [0.0 if still else float(torch.corrcoef(torch.stack([first, second]))[0, 1])]


class AVAlign(Measure):
    """AV-Align of peaks of sound and of motion, by name of variant: the mean over clips.

    For published figures to compare, the peaks must be the original's: ``librosa_onsets`` of the sound and
    ``motion_peaks`` of ``flow_magnitude`` with ``LEAST_FLOW`` of the variant. A clip without any peaks counts as 0.

    Args:
        fps: Frames per second of the videos, where the peaks are bare times.
        variant: Which code, see ``functional/av_align.py``.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> metric = AVAlign(fps=10.0)
        >>> metric.update([[0.5, 1.0], [0.3]], [[0.52], [0.3]])
        >>> {name: float(value) for name, value in metric.compute().items()}
        {'av_align[tempotokens-2025]': 0.75}
    """

    estimate = "librosa_onsets"
    plot_lower_bound: float = 0.0

    def __init__(self, fps: float = 25.0, variant: Variant = "tempotokens-2025", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        av_align([], [], fps, variant=variant)  # refuses bad settings here rather than at the first clip
        self.fps, self.variant = fps, variant
        self.names, self.reference = (f"av_align[{variant}]",), f"flow_peaks[{variant}]"
        self.bounds = (0.0, 1.0 if variant == "tempotokens-2025" else np.inf)
        self.unit = "0 to 1" if variant == "tempotokens-2025" else "0 or more"

    def score(self, estimate: Any, reference: Any) -> Sequence[float]:
        """AV-Align of one clip."""
        video, audio = cut(reference, estimate)
        fps = reference.fps if isinstance(reference, Events) else self.fps
        return [av_align(audio, video, fps, variant=self.variant)]


class LinearSynchrony(Measure):
    """Agreement of sound with video by a fitted linear operator (`LinearSync`): the mean over clips."""

    names = ("linear_sync",)
    unit = "-1 to 1"
    bounds = (-1.0, 1.0)
    reference = estimate = "linear"

    def __init__(self, operator: LinearSync, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operator = operator

    def score(self, estimate: Any, reference: Any) -> Sequence[float]:
        """The agreement in one clip."""
        return [self.operator.agreement(reference, estimate)]


class LinearSynchronyLag(EventLag):
    """Seconds by which sound is late by a fitted linear operator (`LinearSync`); over clips, the median size."""

    names = ("linear_sync_lag",)
    reference = estimate = "linear"

    def __init__(self, operator: LinearSync, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operator = operator

    def score(self, estimate: Any, reference: Any) -> Sequence[float]:
        """The lag of one clip in seconds."""
        return [self.operator.lag(reference, estimate, max_lag=self.max_lag).seconds]


def _envelopes(reference: Any, estimate: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Two envelopes float64, as long as the shorter one."""
    count = min(len(reference), len(estimate))
    first, second = (torch.as_tensor(values, dtype=torch.float64) for values in (reference, estimate))
    return first[:count], second[:count]
