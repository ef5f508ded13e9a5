"""Measures of what is seen and heard: calm, constancy, pitch, quiet, clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cmmd_lightning.metrics.functional.media_quality import (
    area_drift,
    colour_drift,
    flicker,
    pitches_within,
    quiet_level,
    strongest_partials,
)
from cmmd_lightning.metrics.measure import Measure


class Flicker(Measure):
    """Flicker of the calmest 80 % of pixels over the true clip's (1: as calm as the true clip); the median over clips.

    Flicker below half of an 8-bit step, on either side, counts as half a step.

    Example:
        >>> metric = Flicker()
        >>> metric.update([6.0], [3.0])
        >>> float(metric.compute()["flicker_ratio"])
        2.0
    """

    names = ("flicker_ratio",)
    unit = "ratio to the true clip"
    higher_is_better = False
    statistic = "median"
    bounds = (0.0, math.inf)
    reference = estimate = "flicker"
    least = 0.5

    def features(self, media: Any) -> Mapping[str, Any]:
        """Of videos of two frames or more."""
        return {self.estimate: self.of(media.frames)} if media.frames is not None and len(media.frames) > 1 else {}

    def of(self, frames: Any) -> float:
        """The number of one video, whose ratio counts."""
        return flicker(frames)

    def score(self, estimate: float, reference: float) -> Sequence[float]:
        """The ratio of one clip."""
        return [max(estimate, self.least) / max(reference, self.least)]


class ColourConstancy(Flicker):
    """Drift of the moving object's colour over a clip, over the true clip's; the median over clips."""

    names = ("colour_drift_ratio",)
    reference = estimate = "colour_drift"
    least = 1.0

    def of(self, frames: Any) -> float:
        """The drift in 8-bit steps."""
        return colour_drift(frames)

    def score(self, estimate: float, reference: float) -> Sequence[float]:
        """The ratio of one clip; NaN where nothing moves."""
        known = not (math.isnan(estimate) or math.isnan(reference))
        return super().score(estimate, reference) if known else [math.nan]


class AreaConstancy(ColourConstancy):
    """Relative drift of the moving object's area over a clip, over the true clip's; the median over clips."""

    names = ("area_drift_ratio",)
    reference = estimate = "area_drift"
    least = 0.01

    def of(self, frames: Any) -> float:
        """The drift over the mean area."""
        return area_drift(frames)


class PitchAgreement(Measure):
    """Share of a clip's events after which the strongest partial of the sound lies within a semitone of the pitch.

    Pitches are the sidecar's ``pitch_hz``; the span is the 150 ms after the event. The mean over clips that have some.

    Example:
        >>> import torch
        >>> metric = PitchAgreement()
        >>> metric.update([torch.tensor([440.0, 440.0])], [[(0.0, 450.0), (0.01, 880.0)]])
        >>> float(metric.compute()["pitch_within_semitone"])
        0.5
    """

    names = ("pitch_within_semitone",)
    bounds = (0.0, 1.0)
    reference, estimate = "pitches", "partials"

    def features(self, media: Any) -> Mapping[str, Any]:
        """Pitches of the sidecar's events, partials of the sound."""
        found: dict[str, Any] = {}
        pitched = [
            (float(event["time"]), float(event["pitch_hz"]))
            for event in media.events
            if event.get("pitch_hz") and event.get("audible", True)
        ]
        if pitched:
            found[self.reference] = pitched
        if media.sound is not None:
            found[self.estimate] = strongest_partials(media.sound, media.sample_rate)
        return found

    def score(self, estimate: Any, reference: Any) -> Sequence[float]:
        """The share in one clip."""
        return [pitches_within(estimate, reference)]


class QuietLevel(Measure):
    """Level of the quiet between events, in dB over the true clip's; over clips, the median size.

    Example:
        >>> metric = QuietLevel()
        >>> metric.update([-40.0, -58.0], [-60.0, -60.0])
        >>> float(metric.compute()["quiet_level"])
        11.0
    """

    names = ("quiet_level",)
    unit = "dB"
    higher_is_better = False
    size_counts = True
    reference = estimate = "quiet"

    def features(self, media: Any) -> Mapping[str, Any]:
        """Of sounds."""
        return {} if media.sound is None else {self.estimate: quiet_level(media.sound, media.sample_rate)}

    def score(self, estimate: float, reference: float) -> Sequence[float]:
        """The difference in one clip, positive where the quiet is too loud."""
        return [estimate - reference]


class Clipping(Measure):
    """Share of a sound's samples at full scale or beyond; the mean over clips.

    Example:
        >>> metric = Clipping()
        >>> metric.update([0.25, 0.0], [0.0, 0.0])
        >>> float(metric.compute()["clipped_samples"])
        0.125
    """

    names = ("clipped_samples",)
    paired = False
    higher_is_better = False
    bounds = (0.0, 1.0)
    reference = estimate = "clipped"

    def features(self, media: Any) -> Mapping[str, Any]:
        """Of sounds."""
        return {} if media.sound is None else {self.estimate: float((media.sound.abs() >= 0.999).double().mean())}

    def score(self, estimate: float, reference: float) -> Sequence[float]:
        """The share in one clip, whatever the true one's."""
        return [estimate]
