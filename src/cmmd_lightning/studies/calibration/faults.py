"""Clips that are in sync, and what is done to them: faults that a measure should see, changes that it should not."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import Tensor

from cmmd_lightning.evaluation.loading import load_frames, load_sound
from cmmd_lightning.evaluation.observation import SAMPLE_RATE
from cmmd_lightning.evaluation.sidecar import sidecar_period
from cmmd_lightning.media import MediaError, probe, read_frames, read_sound, write_video
from cmmd_lightning.metrics.functional.motion import at_rate
from cmmd_lightning.procedural import SceneSettings, simulate

FPS = 25.0
"""Frames per second of procedural clips, where nothing else is tried."""
RATES = (8.0, 10.0, 12.5, 15.0, 20.0, 30.0)
"""Frames per second that are tried beside it."""
COMMON_INSTANT = 2.0
"""Seconds: a procedural clip shows a frame at this time at all of these rates."""
DRIFTS = (0.02, 0.05)
SHARES = (0.25, 0.5)
SOUND_NOISES = (20.0, 10.0, 0.0)
PICTURE_NOISES = (0.02, 0.05, 0.1)
QUALITIES = (23, 40)
LEAST_SECONDS = 1.0
"""Shortest span that is worth a judgement."""


@dataclass(frozen=True)
class Clip:
    """A clip that is in sync, and the span of it that is looked at."""

    name: str  # for messages and seeds
    frames: dict[float, Tensor]  # rate to uint8 (T, 3, H, W) of the span; the first rate is the clip's own
    sound: Tensor  # (N,) of the whole clip, at `SAMPLE_RATE`
    start: float  # of the span in the sound, in seconds
    duration: float  # of the span
    events: list[float] | None = None  # that sound, in seconds of the whole clip, where they are known
    period: float | None = None  # of the events, in seconds, where they are periodic

    @property
    def fps(self) -> float:
        """Frames per second of the clip itself."""
        return next(iter(self.frames))

    def span(self, sound: Tensor | None = None, late: float = 0.0) -> Tensor:
        """The span's sound, or that of another sound of the whole clip, ``late`` seconds late."""
        first = round((self.start - late) * SAMPLE_RATE)
        whole = self.sound if sound is None else sound
        return whole[first : first + round(self.duration * SAMPLE_RATE)]


@dataclass(frozen=True)
class Altered:
    """What was made of a clip; None is untouched."""

    name: str  # such as ``offset +100 ms``
    frames: Tensor | None = None
    fps: float = 0.0
    sound: Tensor | None = None


def procedural_clip(
    scene: str, seed: int, index: int, *, margin: float, duration: float = 4.0, rates: tuple[float, ...] = RATES
) -> Clip:
    """A procedural clip of ``bounce`` or ``dance``, simulated anew at each further rate.

    ``margin``: seconds of sound before and after the span of ``duration``, at most `COMMON_INSTANT`.
    """
    frames, whole = {}, COMMON_INSTANT + duration + margin
    clip = simulate(scene, seed, index, SceneSettings(duration=whole, fps=FPS))
    for rate in (FPS, *rates):
        made = clip
        if rate != FPS:
            made = simulate(scene, seed, index, SceneSettings(duration=whole, fps=rate), streams="video")
        assert made.frames is not None
        first = round(COMMON_INSTANT * rate)
        frames[rate] = made.frames[first : first + round(duration * rate)]
    assert clip.sound is not None
    events = [event["time"] for event in clip.events if event["audible"]]
    period = clip.meta.get("period")
    return Clip(f"{scene}-{seed}-{index}", frames, clip.sound, COMMON_INSTANT, duration, events, period)


def real_clip(path: Path, *, margin: float, max_duration: float = 4.0, rates: tuple[float, ...] = RATES) -> Clip:
    """A span of a real clip, at its own rate and, by the nearest frames, at further ones.

    ``margin``: seconds of sound before and after the span. MediaError if the file has no picture or no sound, or is too
    short.
    """
    info = probe(path)
    if not (info.has_video and info.has_audio):
        raise MediaError(path, "picture and sound", "no sound" if info.has_video else "no picture")
    whole = min(info.duration, max_duration + 2 * margin + 1 / FPS)
    pictures, fps = load_frames(path, whole)
    sound = load_sound(path, whole)
    first = math.ceil(margin * fps - 1e-6)
    count = int((min(len(sound) / SAMPLE_RATE, len(pictures) / fps) - margin) * fps + 1e-6) - first
    if count < LEAST_SECONDS * fps:
        expected = f"at least {2 * margin + LEAST_SECONDS + 1 / fps:.2f} s of picture and sound"
        raise MediaError(path, expected, f"{info.duration:.2f} s")
    duration = count / fps
    frames = {fps: pictures[first : first + count]}
    for rate in rates:
        frames.setdefault(rate, at_rate(frames[fps], fps, rate))
    period = sidecar_period(path)
    return Clip(path.stem, frames, sound, first / fps, duration, None, period)


def alterations(clip: Clip, other: Tensor, offsets: tuple[float, ...]) -> Iterator[Altered]:
    """Everything that is done to a clip, one after the other; ``other`` (N,) is the sound to swap in."""
    rng = np.random.default_rng(list(clip.name.encode()))
    for offset in offsets:
        for late in (offset, -offset):
            yield Altered(f"offset {late * 1000:+g} ms", sound=clip.span(late=late))
    yield Altered("swapped partner", sound=other)
    if clip.events is not None:
        for share in SHARES:
            yield Altered(f"dropped {share:.0%}", sound=clip.span(_dropped(clip, clip.events, share, rng)))
            yield Altered(f"added {share:.0%}", sound=clip.span(_added(clip, clip.events, share, rng)))
    for drift in DRIFTS:
        yield Altered(f"drift {drift:.0%}", sound=_drifting(clip, drift))
    yield from _harmless(clip, rng)


def _harmless(clip: Clip, rng: np.random.Generator) -> Iterator[Altered]:
    """Changes that leave picture and sound in sync."""
    sound, frames = clip.span(), clip.frames[clip.fps]
    for decibels in SOUND_NOISES:
        noise = torch.from_numpy(rng.standard_normal(len(sound))).float() * sound.std() * 10 ** (-decibels / 20)
        yield Altered(f"sound noise {decibels:g} dB", sound=sound + noise)
    yield Altered("sound 20 dB softer", sound=0.1 * sound)
    for level in PICTURE_NOISES:
        grain = torch.from_numpy(rng.normal(0, 255 * level, frames.shape)).float()
        yield Altered(f"picture noise {level:g}", (frames + grain).round().clamp(0, 255).to(torch.uint8), clip.fps)
    half = torch.nn.functional.avg_pool2d(frames.float(), 2).round().to(torch.uint8)
    yield Altered("picture at half size", half, clip.fps)
    for quality in QUALITIES:
        yield _reencoded(frames, clip.fps, sound, quality)
    for rate, pictures in clip.frames.items():
        if rate != clip.fps:
            yield Altered(f"{rate:g} fps", pictures, rate)


def _dropped(clip: Clip, events: list[float], share: float, rng: np.random.Generator) -> Tensor:
    """The whole sound, a share of the span's events silenced (40 dB down) until the next one."""
    inside = [i for i, time in enumerate(events) if 0 <= time - clip.start < clip.duration]
    gain = torch.ones(len(clip.sound))
    for i in rng.permutation(inside)[: max(1, round(share * len(inside)))]:
        end = events[i + 1] if i + 1 < len(events) else len(clip.sound) / SAMPLE_RATE
        gain[_sample(events[i] - 0.003) : _sample(end - 0.003)] = 0.01
    fade = torch.hann_window(65)[1:-1]  # 4 ms
    smooth = torch.nn.functional.conv1d(
        torch.nn.functional.pad(gain[None, None], (31, 31), mode="replicate"), (fade / fade.sum())[None, None]
    )
    return clip.sound * smooth[0, 0]


def _added(clip: Clip, events: list[float], share: float, rng: np.random.Generator) -> Tensor:
    """The whole sound, with copies of the span's events at other times."""
    inside = [time for time in events if 0 <= time - clip.start < clip.duration]
    sound, taken = clip.sound.clone(), list(events)
    for _ in range(max(1, round(share * len(inside))) if inside else 0):
        time = next(
            (
                t
                for t in rng.uniform(clip.start, clip.start + clip.duration, 100)
                if min(abs(t - np.array(taken))) > 0.1
            ),
            None,
        )
        if time is None:
            break
        source = inside[int(rng.integers(len(inside)))]
        piece = clip.sound[_sample(source - 0.003) : _sample(source + 0.25)]
        piece = piece * torch.linspace(1, 0, len(piece))
        first = _sample(time - 0.003)
        sound[first : first + len(piece)] += piece[: len(sound) - first]
        taken.append(float(time))
    return sound


def _drifting(clip: Clip, drift: float) -> Tensor:
    """The span's sound, slower and so ever later."""
    return torchaudio.functional.resample(clip.span(), 100, 100 + round(100 * drift))[: len(clip.span())]


def _reencoded(frames: Tensor, fps: float, sound: Tensor, crf: int) -> Altered:
    """Picture and sound after a lossy file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, frames, fps, sound, SAMPLE_RATE, crf=crf)
        height, width = frames.shape[-2:]
        read = read_frames(path, start=0.0, num_frames=len(frames), fps=fps)[..., :height, :width]
        heard = read_sound(path, start=0.0, num_samples=len(sound), sample_rate=SAMPLE_RATE)
    return Altered(f"H.264 crf {crf} and AAC", read, fps, heard)


def _sample(time: float) -> int:
    return max(0, round(time * SAMPLE_RATE))
