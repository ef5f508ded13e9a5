"""One clip in, what the measures compare out: reading, round trips, and what a sidecar says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cmmd_lightning.evaluation.loading import Kind, length, load_frames, load_sound, picture_start
from cmmd_lightning.evaluation.measures import Senses, View
from cmmd_lightning.evaluation.observation import SAMPLE_RATE, Media, Observation, RoundTrip
from cmmd_lightning.evaluation.pairs import Pair
from cmmd_lightning.evaluation.quality import Extractors
from cmmd_lightning.evaluation.sidecar import common_times, sidecar
from cmmd_lightning.media import probe
from cmmd_lightning.metrics.functional.lag import sound_lag
from cmmd_lightning.metrics.functional.motion import at_rate
from cmmd_lightning.metrics.synchrony import Events, within

Task = Literal["video_to_audio", "audio_to_video", "joint"]

GENERATED: dict[Task, tuple[Kind, ...]] = {
    "video_to_audio": ("sound",),
    "audio_to_video": ("picture",),
    "joint": ("sound", "picture"),
}
GIVEN = {"video_to_audio": ("frames", "fps"), "audio_to_video": ("sound", "sample_rate")}


@dataclass(frozen=True)
class Observer:
    """Turns clips into what the measures compare, one clip in memory at a time."""

    task: Task
    senses: Senses = field(default_factory=Senses)
    round_trip: RoundTrip | None = None  # for the ceiling
    extractors: Extractors = field(default_factory=Extractors)
    max_seconds: float = 60.0  # longer files are scored over their first seconds

    def __call__(self, pair: Pair) -> Observation:
        """Read and observe one pair of files; MediaError if one lacks a stream that the task needs."""
        zero = picture_start(pair.generated) or 0.0  # at the first frame
        duration = min(self.span(pair.generated) - zero, self.max_seconds)
        if pair.reference is None:
            made = self.read(pair.generated, duration, start=zero)
            return replace(self.observe(pair.stem, made, None), generated=pair.generated)
        begin, clock = self._common(pair.generated, pair.reference, zero, duration)
        covered, known = min(duration, probe(pair.reference).duration - begin), None
        if self.task != "joint":  # the reference is the clip's partner: only what both cover counts
            duration, known = covered, sidecar(pair.reference)
            if known is None:
                self.span(pair.reference)
        made = self.read(pair.generated, duration, start=zero)
        true = self.read(pair.reference, covered, self._of_reference(made), start=begin)
        best = self._round_trip(pair.reference, covered, begin)
        seen = self.observe(pair.stem, made, true, best, known)
        return replace(seen, generated=pair.generated, reference=pair.reference, clock=clock)

    def _common(self, generated: Path, reference: Path, zero: float, duration: float) -> tuple[float, str]:
        """Where the reference's clip begins, and by what that is known: two files have no clock in common."""
        begin = picture_start(reference)
        if begin is not None or self.task != "audio_to_video":
            return begin or 0.0, "picture" if begin is not None and probe(generated).has_video else "start"
        if not (probe(generated).has_audio and probe(reference).has_audio):
            return 0.0, "start"
        given, true = load_sound(generated, duration, start=zero), load_sound(reference, self.max_seconds)
        return max(0.0, -sound_lag(true, given, SAMPLE_RATE)), "sound"

    def span(self, path: Path) -> float:
        """Seconds that a file's streams cover; MediaError if one that the task generates is missing or empty."""
        return min([probe(path).duration, *(length(path, kind) for kind in GENERATED[self.task])])

    def read(
        self, path: Path, duration: float, kinds: Sequence[Kind] = ("sound", "picture"), *, start: float = 0.0
    ) -> Media:
        """Those of the streams that a file has, over ``duration`` seconds."""
        info = probe(path)
        frames, fps = load_frames(path, duration, start=start) if info.has_video and "picture" in kinds else (None, 0.0)
        sound = load_sound(path, duration, start=start) if info.has_audio and "sound" in kinds else None
        return Media(frames, fps, sound, name=path.stem)

    def _of_reference(self, made: Media) -> tuple[Kind, ...]:
        """What is wanted of a reference: not a given stream that the generated file has too, but for the ceiling."""
        has: dict[Kind, bool] = {"sound": made.sound is not None, "picture": made.frames is not None}
        given = () if self.round_trip is not None else tuple(kind for kind in has if has[kind])
        return tuple(kind for kind in has if kind in GENERATED[self.task] or kind not in given)

    def observe(
        self,
        stem: str,
        made: Media,
        true: Media | None,
        best: Media | None = None,
        known: Sequence[Mapping[str, Any]] | None = None,
    ) -> Observation:
        """Observe a clip in memory.

        Args:
            stem: Its name.
            made: What was generated; a given video or sound may be missing where the true clip has it.
            true: The true clip; may be None for ``joint``.
            best: The true clip after the round trip, if there is one.
            known: The true events as a sidecar has them, if known.
        """
        whole, ideal, truth = made, best, true
        if true is not None:
            given = GIVEN.get(self.task, ())
            whole, ideal = _filled(made, true, given), best and _filled(best, true, given)
            truth = _filled(true, whole, given)
        view = self._view(whole)
        if true is not None and true.frames is not None and self.task == "audio_to_video":
            view = self._at_shared_rate(view, made, true.fps)
        of_truth = None if truth is None or not self._complete(truth) else self._view(truth, whole, view)
        reference, source = self._reference(view, of_truth, made, true, known)
        aside = {} if true is None else self._features(true, known or ())
        made_view = self._against(view, reference, aside, self._features(made))
        true_view = best_view = None
        if of_truth is not None and true is not None:
            true_view = self._against(of_truth, reference, aside, self._features(true))
        if ideal is not None and best is not None:
            near = (whole, view) if truth is None or of_truth is None else (truth, of_truth)
            ideal_view = self._view(ideal, *near)
            best_view = true_view if best is true else self._against(ideal_view, reference, aside, self._features(best))
        estimate: Events = made_view.right["events"]
        rows = self.extractors.rows(self.task, made, true, best)
        return Observation(stem, estimate.duration, source, made_view, best_view, true_view, features=rows)

    def _complete(self, media: Media) -> bool:
        """Whether a clip has what the task generates."""
        has = {"sound": media.sound is not None, "picture": media.frames is not None}
        return all(has[kind] for kind in GENERATED[self.task])

    def _features(self, media: Media, known: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """What the measures want of the generated modalities of a clip, or of the true ones."""
        frames = media.frames if "picture" in GENERATED[self.task] else None
        sound = media.sound if "sound" in GENERATED[self.task] else None
        return self.senses.features(replace(media, frames=frames, sound=sound, events=tuple(known)))

    def _view(self, media: Media, like: Media | None = None, known: View | None = None) -> View:
        """A clip as the measures compare it; what it has in common with one whose view is known is taken from there."""
        like, known = like or Media(), known or View()
        seen, heard = known.left, known.right
        if media.fps != like.fps or not _same(media.frames, like.frames):
            seen = {} if media.frames is None else self.senses.see(media.frames, media.fps)
        if media.sample_rate != like.sample_rate or not _same(media.sound, like.sound):
            heard = {} if media.sound is None else self.senses.hear(media.sound, media.sample_rate)
        return View(seen, heard)

    def _at_shared_rate(self, view: View, made: Media, rate: float) -> View:
        """A view with the events that the generated video shows at the true one's rate, where that is the lower."""
        if made.frames is None or made.fps <= rate:
            return view
        frames = at_rate(made.frames, made.fps, rate)
        events = Events(self.senses.events_in_picture(frames, rate), len(frames) / rate, rate)
        return View({**view.left, "video_events": events}, view.right)

    def _reference(
        self,
        view: View,
        of_truth: View | None,
        made: Media,
        true: Media | None,
        known: Sequence[Mapping[str, Any]] | None,
    ) -> tuple[Events | None, str]:
        """The events that the generated ones are to meet, and where they come from; None: each video's own."""
        if self.task == "joint":
            return None, self.senses.video_events
        if known is not None:
            span = view.right["onsets"] if self.task == "video_to_audio" else view.left["video_events"]
            return Events(within(common_times(known), span.duration), span.duration), "sidecar"
        assert of_truth is not None
        if self.task == "video_to_audio":
            return of_truth.right["onsets"], "onsets"
        assert true is not None
        assert true.frames is not None
        events: Events = of_truth.left["video_events"]
        if true.fps > made.fps:  # the same events are seen in the same frames: at the rate that both can show
            frames = at_rate(true.frames, true.fps, made.fps)
            events = Events(self.senses.events_in_picture(frames, made.fps), len(frames) / made.fps, made.fps)
        return events, self.senses.video_events

    def _against(self, view: View, reference: Events | None, true: Mapping[str, Any], made: Mapping[str, Any]) -> View:
        """A view with its reference events and the true clip's features on the left, its own on the right."""
        estimate = view.left["video_events"] if self.task == "audio_to_video" else view.right["onsets"]
        reference = view.left["video_events"] if reference is None else reference
        return View({**view.left, **true, "events": reference}, {**view.right, **made, "events": estimate})

    def _round_trip(self, path: Path, duration: float, start: float) -> Media | None:
        """What the task generates, as the codec and the vocoder would give it at best."""
        trip, info = self.round_trip, probe(path)
        if trip is None:
            return None
        sound = frames = None
        if self.task != "audio_to_video":
            if not info.has_audio:
                return None
            sound = trip.sound(load_sound(path, duration, trip.sample_rate, start=start))
        if self.task != "video_to_audio":
            if not info.has_video:
                return None
            frames = trip.frames(
                load_frames(path, duration, fps=trip.fps, size=trip.size, fit=trip.fit, start=start)[0]
            )
        return Media(frames, trip.fps, sound, trip.sample_rate, name=path.stem)


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def _filled(media: Media, source: Media, given: Sequence[str]) -> Media:
    """A clip with what is given to the generator, of another one where it lacks that."""
    if not given or getattr(media, given[0]) is not None:
        return media
    return replace(media, **{name: getattr(source, name) for name in given})
