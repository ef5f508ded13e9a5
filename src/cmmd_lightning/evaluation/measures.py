"""What is taken from a picture and from a sound, and how well both agree: shared by evaluate, test and calibrate."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cmmd_lightning.metrics.functional.av_align import LEAST_FLOW, av_align, librosa_onsets, motion_peaks
from cmmd_lightning.metrics.functional.events import (
    TOLERANCES,
    EventScores,
    detect_impacts,
    detect_motion_turns,
    detect_onsets,
    event_scores,
)
from cmmd_lightning.metrics.functional.flow import flow_magnitude
from cmmd_lightning.metrics.functional.lag import Lag, envelope_lag, event_lag, loudness_envelope
from cmmd_lightning.metrics.functional.linear_sync import LinearSync
from cmmd_lightning.metrics.functional.meaning import embedding_agreement, label_agreement
from cmmd_lightning.metrics.functional.motion import motion_envelope

VideoEvents = Literal["impacts", "turns"]

MAX_HEIGHT = 96
"""Pixels; pictures are brought down to this for detection."""
ENVELOPE_RATE = 50.0
"""Values per second of the envelopes of motion and loudness."""
MAX_LAG = 0.5
"""Greatest lag looked for, in seconds, and the one that counts where none is found."""


class Events(NamedTuple):
    """Event times within a span.

    Args:
        times: Ascending seconds from the span's start.
        duration: Length of the span in seconds.
        fps: Frames per second of the picture they were seen in; 0 for others.
    """

    times: list[float]
    duration: float
    fps: float = 0.0


@dataclass(frozen=True)
class View:
    """One clip as the measures compare it.

    Args:
        left: The reference events, and what was taken from the picture.
        right: The estimated events, and what was taken from the sound.
    """

    left: Mapping[str, Any] = field(default_factory=dict)
    right: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Senses:
    """Takes from a picture and from a sound what the measures compare.

    Args:
        video_events: Detector for pictures: ``impacts`` or ``turns``.
        linear: A fitted linear synchrony, if there is one.
        encoders: Modules for pictures ``(frames (1, 3, T, H, W), fps) -> (1, D)`` and sounds ``(sound (1, N),
            sample_rate) -> (1, D)`` whose rows compare (:mod:`cmmd_lightning.metrics.encoders`), if there are any.
    """

    video_events: VideoEvents = "impacts"
    linear: LinearSync | None = None
    encoders: tuple[Callable[..., Tensor], Callable[..., Tensor]] | None = None

    def see(self, frames: Tensor, fps: float) -> dict[str, Any]:
        """What the measures want of a picture.

        Args:
            frames: uint8 (T, 3, H, W).
            fps: Frames per second.

        Returns:
            ``video_events``, ``motion``, and ``flow_peaks[VARIANT]``, ``linear``, ``embedding`` where known.
        """
        duration, small = len(frames) / fps, shrunk(frames)
        times, energy = motion_envelope(small, fps)
        seen: dict[str, Any] = {
            "video_events": Events(self.events_in_picture(small, fps), duration, fps),
            "motion": np.interp(envelope_times(duration), times, energy) if len(times) else np.zeros(0),
        }
        if has_av_align():
            flow = flow_magnitude(frames)
            for variant, least in LEAST_FLOW.items():
                seen[f"flow_peaks[{variant}]"] = Events(motion_peaks(flow, fps, least=least).tolist(), duration, fps)
        if self.linear is not None:
            seen["linear"] = self.linear.see(small, fps)
        if self.encoders is not None:
            with torch.no_grad():
                seen["embedding"] = self.encoders[0](frames.transpose(0, 1)[None], fps)
        return seen

    def hear(self, sound: Tensor, sample_rate: int) -> dict[str, Any]:
        """What the measures want of a sound.

        Args:
            sound: float (N,).
            sample_rate: Hz.

        Returns:
            ``onsets``, ``loudness``, and ``librosa_onsets``, ``linear``, ``embedding`` where known.
        """
        duration = len(sound) / sample_rate
        times = torch.from_numpy(envelope_times(duration))
        heard: dict[str, Any] = {
            "onsets": Events(within(detect_onsets(sound, sample_rate).tolist(), duration), duration),
            "loudness": loudness_envelope(sound, sample_rate, times).numpy(),
        }
        if has_av_align():
            peaks = librosa_onsets(sound, sample_rate)
            heard["librosa_onsets"] = Events(within(peaks.tolist(), duration), duration)
        if self.linear is not None:
            heard["linear"] = self.linear.hear(sound, sample_rate)
        if self.encoders is not None:
            with torch.no_grad():
                heard["embedding"] = self.encoders[1](sound[None], sample_rate)
        return heard

    def events_in_picture(self, frames: Tensor, fps: float) -> list[float]:
        """Motion events, in seconds from the first frame."""
        detect = detect_impacts if self.video_events == "impacts" else detect_motion_turns
        return within(detect(shrunk(frames), fps).tolist(), len(frames) / fps)

    def compare(self, left: View, right: View, tolerances: Sequence[float] = TOLERANCES) -> dict[str, float]:
        """Every measure of the left side of one clip against the right side of another (or the same).

        Args:
            left: Gives the reference events and the picture.
            right: Gives the estimated events and the sound.
            tolerances: Of the event scores, in seconds.

        Returns:
            ``event_f1@100ms`` and so on, ``event_f1@mean``, ``event_lag``, ``av_align[...]``,
            ``motion_loudness_correlation``, ``motion_loudness_lag``, ``linear_sync``, ``linear_sync_lag``,
            ``audio_visual_agreement``: those whose sides are known. Lags are signed, in seconds, NaN where none is
            found; of the others, higher is better.
        """
        a, b = left.left, right.right
        scores: dict[str, float] = {}
        if "events" in a and "events" in b:
            scores |= _event_measures(a["events"], b["events"], tolerances)
        for variant in LEAST_FLOW:
            if f"flow_peaks[{variant}]" in a and "librosa_onsets" in b:
                video, audio = _cut(a[f"flow_peaks[{variant}]"], b["librosa_onsets"])
                fps = a[f"flow_peaks[{variant}]"].fps
                scores[f"av_align[{variant}]"] = av_align(audio, video, fps, variant=variant)
        if "motion" in a and "loudness" in b:
            scores |= _envelopes(a["motion"], b["loudness"])
        if self.linear is not None and "linear" in a and "linear" in b:
            scores["linear_sync"] = self.linear.agreement(a["linear"], b["linear"])
            scores["linear_sync_lag"] = self.linear.lag(a["linear"], b["linear"], max_lag=MAX_LAG).seconds
        if self.encoders is not None and "embedding" in a and "embedding" in b:
            kind = getattr(self.encoders[0], "outputs", "embeddings")
            agreement = label_agreement if kind == "probabilities" else embedding_agreement
            scores["audio_visual_agreement"] = float(agreement(a["embedding"], b["embedding"])[0])
        return scores


def has_av_align() -> bool:
    """Whether AV-Align's own front end (OpenCV's flow, librosa's onsets) is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("cv2", "librosa"))


def shrunk(frames: Tensor) -> Tensor:
    """Frames uint8 (T, 3, H, W), brought down to `MAX_HEIGHT` where they are higher."""
    height, width = frames.shape[-2:]
    if height <= MAX_HEIGHT:
        return frames
    size = (MAX_HEIGHT, max(1, round(MAX_HEIGHT * width / height)))
    parts = [interpolate(part.float(), size, mode="bilinear", antialias=True) for part in frames.split(64)]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


def at_rate(frames: Tensor, fps: float, rate: float) -> Tensor:
    """Frames (T, 3, H, W) at another rate: of each instant the nearest one, of two the earlier."""
    count = max(1, round(len(frames) / fps * rate))
    nearest = (torch.arange(count, dtype=torch.float64) * fps / rate - 0.5 - 1e-6).ceil().long()
    return frames[nearest.clamp(max=len(frames) - 1)]


def is_lag(name: str) -> bool:
    """Whether a measure is a lag: of those, the size counts, and less is better."""
    return name.endswith("_lag")


def size_of_lag(seconds: float) -> float:
    """The size of a lag in seconds; `MAX_LAG` where none was found."""
    return MAX_LAG if math.isnan(seconds) else abs(seconds)


def within(times: Sequence[float], duration: float) -> list[float]:
    """The times that lie in [0, duration)."""
    return [float(time) for time in times if 0 <= time < duration]


def envelope_times(duration: float) -> np.ndarray:
    """Instants (E,) in seconds at which envelopes are compared."""
    return (np.arange(int(duration * ENVELOPE_RATE + 1e-6)) + 0.5) / ENVELOPE_RATE


def milliseconds(tolerance: float) -> str:
    """A tolerance as the names of measures have it.

    Example:
        >>> milliseconds(0.025)
        '25ms'
    """
    return f"{tolerance * 1000:g}ms"


def _cut(first: Events, second: Events) -> tuple[list[float], list[float]]:
    """The events of both within the span that both cover."""
    span = min(first.duration, second.duration)
    return within(first.times, span), within(second.times, span)


def _event_measures(reference: Events, estimate: Events, tolerances: Sequence[float]) -> dict[str, float]:
    ref, est = _cut(reference, estimate)
    curve = {tolerance: event_scores(ref, est, tolerance) for tolerance in tolerances}
    scores = {
        f"event_{name}@{milliseconds(tolerance)}": curve[tolerance][k]
        for k, name in enumerate(EventScores._fields)
        for tolerance in tolerances
    }
    scores["event_f1@mean"] = float(np.mean([curve[tolerance].f1 for tolerance in tolerances]))
    return scores | {"event_lag": event_lag(ref, est, max_lag=MAX_LAG).seconds}


def _envelopes(motion: np.ndarray, loudness: np.ndarray) -> dict[str, float]:
    count = min(len(motion), len(loudness))
    first, second = torch.from_numpy(motion[:count]), torch.from_numpy(loudness[:count])
    lag: Lag = envelope_lag(first, second, ENVELOPE_RATE, max_lag=min(MAX_LAG, count / ENVELOPE_RATE / 2))
    still = count < 3 or min(float(first.std()), float(second.std())) < 1e-9
    correlation = 0.0 if still else float(torch.corrcoef(torch.stack([first, second]))[0, 1])
    return {"motion_loudness_correlation": correlation, "motion_loudness_lag": lag.seconds}
