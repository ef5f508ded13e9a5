"""Scene ``dance``: a jointed figure moves to a drum and bass loop, and turns on every beat.

Tempo (80 to 135 BPM), phase, moves, loop and looks vary from clip to clip. Each beat has a drum; the bass note on it
and the hi-hats after it go with the drum. With a correlation below 1, a beat's whole bundle (drum, bass, hats) falls
silent with probability 1 - correlation, and as many bundles sound from a second loop that nobody dances to, of its own
tempo and phase; at 0 the music is another dance's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cmmd_lightning.procedural import figure, raster, sound
from cmmd_lightning.procedural.scene import (
    FloatArray,
    Scene,
    SceneClip,
    SceneEvent,
    SceneSettings,
    decouple,
    sorted_events,
)

TEMPO = (80.0, 135.0)
"""Slowest and fastest, beats per minute."""
DRUMS = ("KSKS", "KSKS", "KKKK", "KSKB", "BSBS", "KKSK", "KBKB")
"""One bar of four beats each: kick, snare, or both."""
SCALE = (0, 0, 3, 5, 7, 10, 12, -5)
"""Bass notes in semitones above the root."""


@dataclass(frozen=True)
class Loop:
    """Music of one tempo.

    Args:
        bpm: Beats per minute.
        first: Time in seconds of the beat numbered 0.
        drums: One of `DRUMS`.
        notes: Semitones above ``root``, one for each beat, repeated.
        root: Lowest bass note, Hz.
        hats: Hi-hat strokes between two beats: 0, 1 or 3.
        kick: Pitch of the kick, Hz.
        snare: Pitch of the snare, Hz.
        snap: Time constant of the drums, seconds.
        brightness: Of the bass, 0 to 1.
    """

    bpm: float
    first: float
    drums: str
    notes: tuple[int, ...]
    root: float
    hats: int
    kick: float
    snare: float
    snap: float
    brightness: float

    @property
    def period(self) -> float:
        """Seconds between two beats."""
        return 60.0 / self.bpm

    def beats(self, duration: float) -> FloatArray:
        """Numbers of the beats within [0, duration)."""
        numbers = np.arange(np.floor(-self.first / self.period) - 1, np.ceil((duration - self.first) / self.period) + 2)
        times = self.first + numbers * self.period
        return numbers[(times >= 0) & (times < duration)]

    def time(self, beat: float | FloatArray) -> FloatArray:
        """Seconds at which a beat falls."""
        return np.asarray(self.first + beat * self.period)

    def drum(self, beat: int) -> str:
        """``kick``, ``snare`` or ``both``."""
        return {"K": "kick", "S": "snare", "B": "both"}[self.drums[beat % len(self.drums)]]

    def note(self, beat: int) -> float:
        """Pitch of a beat's bass note, Hz."""
        return float(self.root * 2 ** (self.notes[beat % len(self.notes)] / 12))


def _random_loop(rng: np.random.Generator) -> Loop:
    bpm = float(rng.uniform(*TEMPO))
    return Loop(
        bpm=bpm,
        first=float(rng.uniform(0, 8 * 60 / bpm)),
        drums=str(rng.choice(DRUMS)),
        notes=tuple(int(note) for note in rng.choice(SCALE, 8)),
        root=float(rng.uniform(50, 90)),
        hats=int(rng.choice([0, 1, 1, 3])),
        kick=float(rng.uniform(45, 65)),
        snare=float(rng.uniform(160, 240)),
        snap=float(rng.uniform(0.05, 0.09)),
        brightness=float(rng.random()),
    )


class Dance(Scene):
    """A figure that dances to a loop; events are of kind ``beat``.

    ``meta`` has ``bpm`` and ``period`` (seconds) of the dance, and ``unseen_bpm``, of the music that nobody dances to.
    """

    def simulate(
        self, rng: np.random.Generator, settings: SceneSettings, *, video: bool = True, audio: bool = True
    ) -> SceneClip:
        """Simulate one clip."""
        motion, look, other, chance, noise = rng.spawn(5)
        loop, style, unseen = _random_loop(motion), figure.random_style(motion), _random_loop(other)
        seen_beats, unseen_beats = loop.beats(settings.duration), unseen.beats(settings.duration)
        sounding, heard = decouple(
            chance, loop.time(seen_beats), unseen.time(unseen_beats), settings.correlation, settings.duration
        )
        events, bundles = [], []
        for beat, audible in zip(seen_beats.astype(int).tolist(), sounding.tolist(), strict=True):
            events.append(SceneEvent(float(loop.time(beat)), True, audible, "beat", _sounds(loop, beat)))
            if audible:
                bundles.append((float(loop.time(beat)), loop, beat))
        for beat, time in zip(unseen_beats.astype(int).tolist(), heard.tolist(), strict=True):
            if not np.isnan(time):
                events.append(SceneEvent(time, False, True, "beat", _sounds(unseen, beat)))
                bundles.append((time, unseen, beat))
        frames = torch.from_numpy(_draw(look, settings, loop, style)) if video else None
        signal = torch.from_numpy(_synthesise(noise, settings, bundles)) if audio else None
        tempo = {"period": round(loop.period, 6), "bpm": round(loop.bpm, 4), "unseen_bpm": round(unseen.bpm, 4)}
        return SceneClip(
            frames, signal, sorted_events(events, settings), tempo | {"moves": {"arms": style.arms, "legs": style.legs}}
        )


def _sounds(loop: Loop, beat: int) -> dict[str, Any]:
    """What one beat sounds like (or would)."""
    return {"pitch_hz": round(loop.note(beat), 2), "level_db": 0.0, "drum": loop.drum(beat), "beat": beat}


def _synthesise(
    rng: np.random.Generator, settings: SceneSettings, bundles: list[tuple[float, Loop, int]]
) -> NDArray[np.float32]:
    """(N,) the bundles of drum, bass and hats over a quiet room."""
    gain = sound.decibels(rng.uniform(-9.0, -6.0))
    low, high = sound.decibels(rng.uniform(-14, -7)), sound.decibels(rng.uniform(-34, -24))
    signal = sound.room_noise(rng, settings.num_samples)
    for time, loop, beat in sorted(bundles, key=lambda bundle: bundle[0]):
        drum, length = loop.drum(beat), 0.7 * loop.period
        rate = settings.sample_rate
        if drum in ("kick", "both"):
            sound.place(signal, time, rate, 6 * loop.snap, sound.kick(loop.kick, loop.snap, rng), gain)
        if drum in ("snare", "both"):
            sound.place(signal, time, rate, 6 * loop.snap, sound.snare(loop.snare, loop.snap, rng), gain)
        sound.place(signal, time, rate, length, sound.bass(loop.note(beat), length, loop.brightness, rate), gain * low)
        for stroke in range(loop.hats):
            between = time + loop.period * (stroke + 1) / (loop.hats + 1)
            sound.place(signal, between, rate, 0.08, sound.hat(0.012, rng), gain * high)
    return np.clip(signal, -1, 1).astype(np.float32)


def _colors(rng: np.random.Generator, scenery: raster.Backdrop) -> dict[str, raster.Float32Array]:
    """Colours of the figure's parts, standing out on the scenery."""
    hue = scenery.hue + rng.uniform(0.3, 0.7)
    bright = (0.85, 1.0) if scenery.dark else (0.3, 0.6)
    shirt = raster.hsv(hue, rng.uniform(0.5, 0.95), rng.uniform(*bright))
    trousers = raster.hsv(hue + rng.uniform(0.15, 0.85), rng.uniform(0.3, 0.8), rng.uniform(*bright) * 0.8)
    skin = raster.hsv(
        rng.uniform(0.04, 0.1),
        rng.uniform(0.3, 0.6),
        rng.uniform(0.75, 1.0) if scenery.dark else rng.uniform(0.3, 0.65),
    )
    sleeves = shirt if rng.random() < 0.5 else skin
    return {"torso": shirt, "arm": shirt, "thigh": trousers, "shin": trousers, "forearm": sleeves, "head": skin}


def _draw(rng: np.random.Generator, settings: SceneSettings, loop: Loop, style: figure.Style) -> NDArray[np.uint8]:
    """(T, 3, H, W) uint8 frames."""
    floor = float(rng.uniform(0.82, 0.9))
    scenery = raster.backdrop(rng, settings.height, settings.width, floor)
    colors, build = _colors(rng, scenery), rng.uniform(0.9, 1.2)
    scale = rng.uniform(0.66, 0.78) * min(settings.height, 1.25 * settings.width)
    x, foot = rng.uniform(0.42, 0.58) * settings.width, floor * settings.height + 0.06 * scale
    widths = {"torso": 0.085, "arm": 0.038, "forearm": 0.034, "thigh": 0.05, "shin": 0.042, "head": figure.HEAD}

    def draw(canvas: raster.Float32Array, times: FloatArray) -> None:
        points = figure.pose(style, (times - loop.first) / loop.period)
        joints = {name: np.array([x, foot]) + scale * at * (1, -1) for name, at in points.items()}
        hips = joints["hips"][:, 0]
        shadow = raster.ellipse(np.full(len(times), 0.3 * scale), np.full(len(times), 0.05 * scale))
        ground = np.full(len(times), foot)
        raster.paint(
            canvas, hips, ground, (0.52 * scale, 0.09 * scale), shadow, raster.hsv(0, 0, 0), 0.45, softness=0.07 * scale
        )
        for bone, ends in figure.BONES.items():
            part = bone.split("_")[-1]
            radius = widths[part] * scale * (1.0 if part == "head" else build)
            start, end = (joints[name] for name in ends)
            center, half = (start + end) / 2, (end - start) / 2
            reach = np.abs(half).max(axis=0) + radius
            limb = raster.capsule(half[:, 0], half[:, 1], radius)
            raster.paint(canvas, center[:, 0], center[:, 1], (float(reach[0]), float(reach[1])), limb, colors[part])

    return raster.draw_frames(scenery.image, settings.frame_times, draw)
