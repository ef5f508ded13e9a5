"""What is taken from a picture and from a sound, and how well both agree: shared by evaluate, test and calibrate."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cmmd_lightning.metrics.functional.av_align import LEAST_FLOW, librosa_onsets, motion_peaks
from cmmd_lightning.metrics.functional.events import TOLERANCES, detect_impacts, detect_motion_turns, detect_onsets
from cmmd_lightning.metrics.functional.flow import flow_magnitude
from cmmd_lightning.metrics.functional.lag import loudness_envelope
from cmmd_lightning.metrics.functional.linear_sync import LinearSync
from cmmd_lightning.metrics.functional.motion import motion_envelope
from cmmd_lightning.metrics.meaning import PairAgreement
from cmmd_lightning.metrics.measure import Measure
from cmmd_lightning.metrics.media_quality import (
    AreaConstancy,
    Clipping,
    ColourConstancy,
    Flicker,
    PitchAgreement,
    QuietLevel,
)
from cmmd_lightning.metrics.synchrony import (
    ENVELOPE_RATE,
    AVAlign,
    EnvelopeCorrelation,
    EnvelopeLag,
    EventAgreement,
    EventLag,
    Events,
    LinearSynchrony,
    LinearSynchronyLag,
    within,
)

VideoEvents = Literal["impacts", "turns"]

SAMPLE_RATE = 16000
"""Hz at which sound is read for detection."""
MAX_HEIGHT = 96
"""Pixels; pictures are brought down to this for detection."""


@dataclass(frozen=True)
class Media:
    """A clip in memory."""

    frames: Tensor | None = None  # uint8 (T, 3, H, W)
    fps: float = 0.0
    sound: Tensor | None = None  # float (N,)
    sample_rate: int = SAMPLE_RATE  # Hz
    events: tuple[Mapping[str, Any], ...] = ()  # what the sidecar says of the true clip's, if there is one
    name: str = ""  # of its file, without the suffix


@dataclass(frozen=True)
class View:
    """One clip as the measures compare it."""

    left: Mapping[str, Any] = field(default_factory=dict)  # the reference events, and what the picture gave
    right: Mapping[str, Any] = field(default_factory=dict)  # the estimated events, and what the sound gave


@dataclass(frozen=True)
class Senses:
    """Takes from a picture and from a sound what the measures compare."""

    video_events: VideoEvents = "impacts"
    linear: LinearSync | None = None
    encoders: tuple[Callable[..., Tensor], Callable[..., Tensor]] | None = None  # see `metrics.encoders`
    tolerances: Sequence[float] = TOLERANCES  # seconds
    more: Sequence[Measure] = ()  # of one's own
    without: Sequence[str] = ()  # names of measures, or of their classes

    def __post_init__(self) -> None:
        for encoder in self.encoders or ():
            if isinstance(encoder, torch.nn.Module):
                encoder.eval()  # a file of TorchScript is as it was saved

    def see(self, frames: Tensor, fps: float) -> dict[str, Any]:
        """What the measures want of frames uint8 (T, 3, H, W): ``flow_peaks[VARIANT]`` and so on as far as known."""
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
        """What the measures want of a sound (N,): ``librosa_onsets``, ``linear`` and ``embedding`` where known."""
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

    @functools.cached_property
    def measures(self) -> tuple[Measure, ...]:
        """The list of measures: what every number of evaluate, test, calibrate and ablate is made by."""
        found: list[Measure] = [EventAgreement(self.tolerances), EventLag()]
        if has_av_align():
            found += [AVAlign(variant=variant) for variant in LEAST_FLOW]
        found += [EnvelopeCorrelation(), EnvelopeLag()]
        if self.linear is not None:
            found += [LinearSynchrony(self.linear), LinearSynchronyLag(self.linear)]
        if self.encoders is not None:
            found.append(PairAgreement(getattr(self.encoders[0], "outputs", "embeddings")))
        found += [Flicker(), ColourConstancy(), AreaConstancy(), PitchAgreement(), QuietLevel(), Clipping(), *self.more]
        known = dict.fromkeys(name for measure in found for name in (type(measure).__name__, *measure.names))
        if unknown := [name for name in self.without if name not in known]:
            raise ValueError(f"without: expected some of {', '.join(known)}, got {', '.join(unknown)}")
        return tuple(measure for measure in found if not set(self.without) & {type(measure).__name__, *measure.names})

    def of(self, name: str) -> Measure:
        """The measure that gives the number of that name."""
        return next(measure for measure in self.measures if name in measure.names)

    def features(self, media: Media) -> dict[str, Any]:
        """What the measures want of generated, or of true, media."""
        found: dict[str, Any] = {}
        for measure in self.measures:
            found |= measure.features(media)
        return found

    def compare(self, left: View, right: View) -> dict[str, float]:
        """Every measure whose sides are known, of one clip's left side and another's (or its own) right; NaN: none."""
        scores: dict[str, float] = {}
        for measure in self.measures:
            scores |= measure.scores(right.right, left.left)
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


def envelope_times(duration: float) -> np.ndarray:
    """Instants (E,) in seconds at which envelopes are compared."""
    return (np.arange(int(duration * ENVELOPE_RATE + 1e-6)) + 0.5) / ENVELOPE_RATE
