"""One clip in, its events out: reading, detecting, and what a sidecar says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cmmd_lightning.evaluation.pairs import Pair
from cmmd_lightning.media import MediaError, iter_frames, iter_sound, probe
from cmmd_lightning.metrics.functional.events import detect_impacts, detect_motion_turns, detect_onsets

Task = Literal["video_to_audio", "audio_to_video", "joint"]
VideoEvents = Literal["impacts", "turns"]

SAMPLE_RATE = 16000
"""Hz at which sound is read for detection."""
MAX_FPS = 30.0
MAX_HEIGHT = 96
"""Pixels; pictures are brought down to this for detection."""


@dataclass(frozen=True)
class RoundTrip:
    """What the best possible generator of a model would give: true media through its codec and vocoder.

    Args:
        sample_rate: Hz at which ``sound`` takes and gives sound.
        fps: Frames per second of ``frames``.
        size: (height, width) of ``frames``.
        sound: float (N,) to float (N,): Mel and vocoder.
        frames: uint8 (T, 3, H, W) to frames of the same shape, uint8 or in [-1, 1]: encoder and decoder.
        fit: How pictures are brought to ``size``.
    """

    sample_rate: int
    fps: float
    size: tuple[int, int]
    sound: Callable[[Tensor], Tensor]
    frames: Callable[[Tensor], Tensor]
    fit: Literal["crop", "letterbox"] = "crop"


@dataclass(frozen=True)
class Observation:
    """Events of one pair, in seconds from the clip's start.

    Args:
        pair: The files.
        duration: Seconds covered by both files.
        reference: Reference events within ``duration``.
        estimate: Events detected in the generated media, within ``duration``.
        ceiling: Events detected in the true media after the round trip; None without one.
        source: Where the reference events come from: ``sidecar``, or the name of the detector.
    """

    pair: Pair
    duration: float
    reference: list[float]
    estimate: list[float]
    ceiling: list[float] | None
    source: str


@dataclass(frozen=True)
class Observer:
    """Reads the files of a pair and detects their events, one clip in memory at a time.

    Args:
        task: What was generated.
        video_events: Detector for pictures: ``impacts`` or ``turns``.
        round_trip: Codec and vocoder for the ceiling, if known.
        max_seconds: Longer files are scored over their first seconds.
    """

    task: Task
    video_events: VideoEvents = "impacts"
    round_trip: RoundTrip | None = None
    max_seconds: float = 60.0

    def __call__(self, pair: Pair) -> Observation:
        """Events of one pair.

        Args:
            pair: The files.

        Returns:
            The observation.

        Raises:
            MediaError: If a file is unreadable or lacks a stream that the task needs.
        """
        if self.task == "joint":
            return self._joint(pair)
        assert pair.reference is not None
        kind: Literal["sound", "picture"] = "sound" if self.task == "video_to_audio" else "picture"
        duration = min(self._length(pair.generated, kind), probe(pair.reference).duration, self.max_seconds)
        known = sidecar_events(pair.reference)
        source = "sidecar" if known is not None else self._name(kind)
        if known is None:
            known = self._detect(pair.reference, kind, duration)
        estimate = self._detect(pair.generated, kind, duration)
        ceiling = self._ceiling(pair.reference, kind, duration)
        return Observation(pair, duration, _within(known, duration), estimate, ceiling, source)

    def _joint(self, pair: Pair) -> Observation:
        """Generated sound against generated picture."""
        duration = min(self._length(pair.generated, "sound"), self._length(pair.generated, "picture"), self.max_seconds)
        seen = self._detect(pair.generated, "picture", duration)
        heard = self._detect(pair.generated, "sound", duration)
        return Observation(pair, duration, seen, heard, None, self._name("picture"))

    def _name(self, kind: str) -> str:
        return "onsets" if kind == "sound" else self.video_events

    def _length(self, path: Path, kind: Literal["sound", "picture"]) -> float:
        info = probe(path)
        length = info.audio_duration if kind == "sound" else info.video_duration
        if length is None:
            noun = "an audio stream" if kind == "sound" else "a video stream"
            raise MediaError(path, noun, "none")
        return length

    def _detect(self, path: Path, kind: Literal["sound", "picture"], duration: float) -> list[float]:
        self._length(path, kind)
        if kind == "sound":
            return _within(detect_onsets(load_sound(path, duration), SAMPLE_RATE).tolist(), duration)
        frames, fps = load_frames(path, duration)
        return _within(self._seen(frames, fps), duration)

    def _seen(self, frames: Tensor, fps: float) -> list[float]:
        detect = detect_impacts if self.video_events == "impacts" else detect_motion_turns
        return detect(frames, fps).tolist()

    def _ceiling(self, path: Path, kind: Literal["sound", "picture"], duration: float) -> list[float] | None:
        trip, info = self.round_trip, probe(path)
        if trip is None or not (info.has_audio if kind == "sound" else info.has_video):
            return None
        if kind == "sound":
            sound = trip.sound(load_sound(path, duration, trip.sample_rate))
            return _within(detect_onsets(sound, trip.sample_rate).tolist(), duration)
        frames, fps = load_frames(path, duration, fps=trip.fps, size=trip.size, fit=trip.fit)
        return _within(self._seen(trip.frames(frames), fps), duration)


def sidecar_events(path: Path) -> list[float] | None:
    """Times of the events in ``STEM.json`` beside a media file that are both visible and audible.

    Args:
        path: The media file.

    Returns:
        Seconds from the clip's start; None where there is no sidecar.

    Raises:
        MediaError: If there is a sidecar that is not one.
    """
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return None
    return [
        float(event["time"]) for event in _events(sidecar) if event.get("visible", True) and event.get("audible", True)
    ]


def sidecar_kinds(path: Path) -> set[str]:
    """Kinds of the events in the sidecar of a media file (none where there is no sidecar)."""
    sidecar = path.with_suffix(".json")
    return {str(event.get("kind")) for event in _events(sidecar)} if sidecar.is_file() else set()


def _events(sidecar: Path) -> list[dict]:
    try:
        events = json.loads(sidecar.read_text())["events"]
        return [{**event, "time": float(event["time"])} for event in events]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise MediaError(sidecar, "a sidecar with a list 'events', each with a 'time'", type(error).__name__) from error


def load_sound(path: Path, seconds: float, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """The first seconds of a file's sound.

    Args:
        path: Media file with sound.
        seconds: How much of it, at most.
        sample_rate: Hz.

    Returns:
        float32 (N,).
    """
    count = round(seconds * sample_rate)
    return torch.cat(list(iter_sound(path, sample_rate=sample_rate, num_samples=count)))


def load_frames(
    path: Path,
    seconds: float,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    fit: Literal["crop", "letterbox"] = "crop",
) -> tuple[Tensor, float]:
    """The first seconds of a file's picture, at a size for detection.

    Args:
        path: Media file with a picture.
        seconds: How much of it, at most.
        fps: Frames per second; the file's own, at most 30, by default.
        size: (height, width); at most 96 pixels high in the file's own shape by default.
        fit: How pictures are brought to ``size``.

    Returns:
        uint8 (T, 3, H, W), and the frames per second.
    """
    info = probe(path)
    fps = fps or min(info.fps or MAX_FPS, MAX_FPS)
    if size is None and info.height and info.width and info.height > MAX_HEIGHT:
        size = (MAX_HEIGHT, max(1, round(MAX_HEIGHT * info.width / info.height)))
    count = max(1, int(seconds * fps + 0.01))
    return torch.cat(list(iter_frames(path, fps=fps, size=size, fit=fit, num_frames=count))), fps


def _within(times: list[float], duration: float) -> list[float]:
    return [float(time) for time in times if 0 <= time < duration]
