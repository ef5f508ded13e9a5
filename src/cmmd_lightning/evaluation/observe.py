"""One clip in, what the measures compare out: reading, round trips, and what a sidecar says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cmmd_lightning.evaluation.measures import Events, Senses, View, within
from cmmd_lightning.evaluation.observation import SAMPLE_RATE, Media, Observation, RoundTrip
from cmmd_lightning.evaluation.pairs import Pair
from cmmd_lightning.evaluation.quality import Extractors
from cmmd_lightning.media import MediaError, iter_frames, iter_sound, probe

Task = Literal["video_to_audio", "audio_to_video", "joint"]
Kind = Literal["sound", "picture"]

GENERATED: dict[Task, tuple[Kind, ...]] = {
    "video_to_audio": ("sound",),
    "audio_to_video": ("picture",),
    "joint": ("sound", "picture"),
}
MAX_FPS = 30.0
MAX_HEIGHT = 256
"""Pixels; higher pictures are brought down to this."""


@dataclass(frozen=True)
class Observer:
    """Turns clips into what the measures compare, one clip in memory at a time.

    Args:
        task: What was generated.
        senses: What is taken from pictures and sounds.
        round_trip: Codec and vocoder for the ceiling, if known.
        extractors: Of features for the distances between sets of clips.
        max_seconds: Longer files are scored over their first seconds.
    """

    task: Task
    senses: Senses = field(default_factory=Senses)
    round_trip: RoundTrip | None = None
    extractors: Extractors = field(default_factory=Extractors)
    max_seconds: float = 60.0

    def __call__(self, pair: Pair) -> Observation:
        """Read and observe one pair of files.

        Args:
            pair: The files.

        Returns:
            The observation.

        Raises:
            MediaError: If a file is unreadable or lacks a stream that the task needs.
        """
        duration = min(self.span(pair.generated), self.max_seconds)
        if pair.reference is None:
            return replace(self.observe(pair.stem, self.read(pair.generated, duration), None), generated=pair.generated)
        covered, known = min(duration, probe(pair.reference).duration), None
        if self.task != "joint":  # the reference is the clip's partner: only what both cover counts
            duration, known = covered, sidecar_events(pair.reference)
            if known is None:
                self.span(pair.reference)
        made = self.read(pair.generated, duration)
        true = self.read(pair.reference, covered, self._of_reference(made))
        best = self._round_trip(pair.reference, covered)
        seen = self.observe(pair.stem, made, true, best, known)
        return replace(seen, generated=pair.generated, reference=pair.reference)

    def span(self, path: Path) -> float:
        """Seconds that a file's streams cover.

        Raises:
            MediaError: If one that the task generates is missing or has no length, or the file is unreadable.
        """
        return min([probe(path).duration, *(length(path, kind) for kind in GENERATED[self.task])])

    def read(self, path: Path, duration: float, kinds: Sequence[Kind] = ("sound", "picture")) -> Media:
        """Those of the streams that a file has, over the first ``duration`` seconds."""
        info = probe(path)
        frames, fps = load_frames(path, duration) if info.has_video and "picture" in kinds else (None, 0.0)
        return Media(frames, fps, load_sound(path, duration) if info.has_audio and "sound" in kinds else None)

    def _of_reference(self, made: Media) -> tuple[Kind, ...]:
        """What is wanted of a reference: not a given stream that the generated file has too, but for the ceiling."""
        has: dict[Kind, bool] = {"sound": made.sound is not None, "picture": made.frames is not None}
        given = () if self.round_trip is not None else tuple(kind for kind in has if has[kind])
        return tuple(kind for kind in has if kind in GENERATED[self.task] or kind not in given)

    def observe(
        self, stem: str, made: Media, true: Media | None, best: Media | None = None, known: list[float] | None = None
    ) -> Observation:
        """Observe a clip in memory.

        Args:
            stem: Its name.
            made: What was generated; a given picture or sound may be missing where the true clip has it.
            true: The true clip; may be None for ``joint``.
            best: The true clip after the round trip, if there is one.
            known: True event times in seconds, if known.

        Returns:
            The observation.
        """
        whole, ideal = made, best
        if true is not None and self.task == "video_to_audio":
            whole = replace(made, **_picture_of(made if made.frames is not None else true))
            ideal = best and replace(best, **_picture_of(true))
        elif true is not None and self.task == "audio_to_video":
            whole = replace(made, **_sound_of(made if made.sound is not None else true))
            ideal = best and replace(best, **_sound_of(true))
        view = self._view(whole)
        reference, source = self._reference(view, true, known)
        made_view = self._against(view, reference)
        best_view = None if ideal is None else self._against(self._view(ideal, whole, view), reference)
        estimate: Events = made_view.right["events"]
        features = self.extractors.rows(self.task, made, true, best)
        return Observation(stem, estimate.duration, source, made_view, best_view, features=features)

    def _view(self, media: Media, like: Media | None = None, known: View | None = None) -> View:
        """A clip as the measures compare it; what it has in common with one whose view is known is taken from there."""
        like, known = like or Media(), known or View()
        seen, heard = known.left, known.right
        if media.fps != like.fps or not _same(media.frames, like.frames):
            seen = {} if media.frames is None else self.senses.see(media.frames, media.fps)
        if media.sample_rate != like.sample_rate or not _same(media.sound, like.sound):
            heard = {} if media.sound is None else self.senses.hear(media.sound, media.sample_rate)
        return View(seen, heard)

    def _reference(self, view: View, true: Media | None, known: list[float] | None) -> tuple[Events | None, str]:
        """The events that the generated ones are to meet, and where they come from; None: each picture's own."""
        if self.task == "joint":
            return None, self.senses.video_events
        if known is not None:
            span = view.right["onsets"] if self.task == "video_to_audio" else view.left["video_events"]
            return Events(within(known, span.duration), span.duration), "sidecar"
        assert true is not None
        if self.task == "video_to_audio":
            assert true.sound is not None
            return self.senses.hear(true.sound, true.sample_rate)["onsets"], "onsets"
        assert true.frames is not None
        events = self.senses.events_in_picture(true.frames, true.fps)
        return Events(events, len(true.frames) / true.fps, true.fps), self.senses.video_events

    def _against(self, view: View, reference: Events | None) -> View:
        """A view with its reference events on the left and its own on the right."""
        estimate = view.left["video_events"] if self.task == "audio_to_video" else view.right["onsets"]
        reference = view.left["video_events"] if reference is None else reference
        return View({**view.left, "events": reference}, {**view.right, "events": estimate})

    def _round_trip(self, path: Path, duration: float) -> Media | None:
        """What the task generates, as the codec and the vocoder would give it at best."""
        trip, info = self.round_trip, probe(path)
        if trip is None:
            return None
        sound = frames = None
        if self.task != "audio_to_video":
            if not info.has_audio:
                return None
            sound = trip.sound(load_sound(path, duration, trip.sample_rate))
        if self.task != "video_to_audio":
            if not info.has_video:
                return None
            frames = trip.frames(load_frames(path, duration, fps=trip.fps, size=trip.size, fit=trip.fit)[0])
        return Media(frames, trip.fps, sound, trip.sample_rate)


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def _picture_of(media: Media) -> dict[str, Any]:
    return {"frames": media.frames, "fps": media.fps}


def _sound_of(media: Media) -> dict[str, Any]:
    return {"sound": media.sound, "sample_rate": media.sample_rate}


def length(path: Path, kind: Kind) -> float:
    """Seconds of a file's stream.

    Raises:
        MediaError: If the file has no such stream, one without length, or is unreadable.
    """
    info = probe(path)
    seconds = info.audio_duration if kind == "sound" else info.video_duration
    if seconds is None:
        raise MediaError(path, "an audio stream" if kind == "sound" else "a video stream", "none")
    if seconds <= 0:
        raise MediaError(path, f"{kind} of some length", "0 s")
    return seconds


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
    """The first seconds of a file's picture.

    Args:
        path: Media file with a picture.
        seconds: How much of it, at most.
        fps: Frames per second; the file's own, at most 30, by default.
        size: (height, width); the file's own shape, at most 256 pixels high, by default.
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
