"""Scene ``bounce``: shapes fall on a floor, and every impact sounds.

A shape flies from impact to impact on parabolas of one gravity, with flight times drawn at random, so its position at
any instant and the instants of its impacts are exact. Pitch follows from size, level from the speed of the impact, and
the timbre belongs to the shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cmmd_lightning.procedural import raster, sound
from cmmd_lightning.procedural.scene import (
    MIN_GAP,
    FloatArray,
    Scene,
    SceneClip,
    SceneEvent,
    SceneSettings,
    decouple,
    sorted_events,
)

TWO_SHAPES = 0.3
"""Probability of a second shape."""
FLIGHT_ALONE = (0.35, 0.9)
FLIGHT_OF_TWO = (0.65, 1.35)
"""Shortest and longest flight of a shape, seconds; with a second shape in the clip each one is slower."""
HEAD, TAIL = 0.05, 0.1
"""Seconds at a clip's start and end that are kept free of impacts."""
SIZES = (0.085, 0.16)
"""Smallest and largest radius as a share of the frame's smaller side."""
LARGEST_OF_TWO = 0.125
"""Largest radius where two share the frame."""
SQUASH = (-0.03, 0.0, 0.04, 0.09)
"""Seconds around an impact at which the squash sets in, is full, begins to go, has gone."""
GLOW = 0.09
"""Time constant in seconds of the glow that an impact leaves on the floor."""


@dataclass(frozen=True, eq=False)
class Bouncer:
    """One shape and its whole performance.

    Args:
        impacts: (K,) impact times in seconds; the first lies before the clip's start and the last after its end.
        places: (K,) where it lands, as a share of the frame's width.
        flights: (K,) flight time before each impact, seconds.
        longest: Longest flight that it can have, seconds.
        radius: As a share of the frame's smaller side.
        outline: A key of `raster.OUTLINES`.
        timbre: One of `sound.TIMBRES`.
        decay: Of its sound, seconds.
    """

    impacts: FloatArray
    places: FloatArray
    flights: FloatArray
    longest: float
    radius: float
    outline: str
    timbre: str
    decay: float

    @property
    def pitch(self) -> float:
        """Hz: the smaller, the higher; 200 Hz for the largest shape, 900 Hz for the smallest."""
        exponent = np.log(900 / 200) / np.log(SIZES[1] / SIZES[0])
        return float(200 * (SIZES[1] / self.radius) ** exponent)

    @property
    def levels(self) -> FloatArray:
        """(K,) level of each impact in dB: 0 at the greatest speed, about -12 at the least."""
        return 28 * np.log10(self.flights / self.longest)

    def inside(self, duration: float) -> NDArray[np.intp]:
        """Indices of the impacts within [0, duration)."""
        return np.flatnonzero((self.impacts >= 0) & (self.impacts < duration))

    def lift(self, times: FloatArray) -> FloatArray:
        """(T,) height of its lowest point above the floor at the given times; 1 is the top of the longest flight."""
        before = np.clip(np.searchsorted(self.impacts, times, side="right") - 1, 0, len(self.impacts) - 2)
        since = times - self.impacts[before]
        return 4 * since * (self.impacts[before + 1] - times) / self.longest**2

    def squash(self, times: FloatArray) -> FloatArray:
        """(T,) 0 in flight to 1 at an impact; harder impacts squash more."""
        after = np.clip(np.searchsorted(self.impacts, times - SQUASH[3], side="right"), 0, len(self.impacts) - 1)
        since = times - self.impacts[after]
        amount = np.interp(since, SQUASH, (0.0, 1.0, 1.0, 0.0))
        return amount * (0.6 + 0.4 * self.flights[after] / self.longest)

    def glow(self, times: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(T,) strength, 0 to 1, and (T,) place of the glow of the last impact."""
        last = np.clip(np.searchsorted(self.impacts, times, side="right") - 1, 0, len(self.impacts) - 1)
        return np.exp(-(times - self.impacts[last]) / GLOW), self.places[last]


def _impact_times(
    rng: np.random.Generator, flight: tuple[float, float], duration: float, others: Sequence[FloatArray]
) -> FloatArray:
    """Impact times from before the clip's start to after its end, away from its edges and the ``others``' impacts."""
    taken = np.concatenate([np.empty(0), *others])
    short = duration < 4 * (HEAD + TAIL)

    def free(time: float) -> bool:
        edge = not short and (0 <= time < HEAD or duration - TAIL < time < duration)
        return not edge and not np.any(np.abs(taken - time) < MIN_GAP)

    times = [-2 * flight[1] - rng.uniform(0, flight[1])]
    while times[-1] < duration or len(times) < 3:
        draws = times[-1] + flight[0] + (flight[1] - flight[0]) * rng.beta(1.2, 2.0, 24)
        times.append(next((float(time) for time in draws if free(time)), float(draws[0])))
    return np.asarray(times)


def _cast(rng: np.random.Generator, settings: SceneSettings, shapes: int) -> list[Bouncer]:
    """Draw the shapes of one clip and their performances."""
    flight = FLIGHT_ALONE if shapes == 1 else FLIGHT_OF_TWO
    cast: list[Bouncer] = []
    for lane in range(shapes):
        impacts = _impact_times(rng, flight, settings.duration, [other.impacts for other in cast])
        radius = float(np.exp(rng.uniform(np.log(SIZES[0]), np.log(SIZES[1] if shapes == 1 else LARGEST_OF_TWO))))
        margin = 1.3 * radius * min(settings.height, settings.width) / settings.width
        left, right = lane / shapes + margin, (lane + 1) / shapes - margin
        steps = np.clip(rng.normal(0, 0.3, len(impacts)), -0.5, 0.5)
        cast.append(
            Bouncer(
                impacts=impacts,
                places=left + (right - left) * _reflected(rng.random() + np.cumsum(steps)),
                flights=np.diff(impacts, prepend=impacts[0] - flight[1]),
                longest=flight[1],
                radius=radius,
                outline=str(rng.choice(list(raster.OUTLINES))),
                timbre=str(rng.choice(sound.TIMBRES)),
                decay=float(np.exp(rng.uniform(np.log(0.08), np.log(0.25)))),
            )
        )
    return cast


def _reflected(walk: FloatArray) -> FloatArray:
    """Fold a walk into [0, 1] as between two mirrors."""
    return 1 - np.abs(walk % 2 - 1)


class Bounce(Scene):
    """Shapes that bounce on a floor and sound on every impact; events are of kind ``impact``."""

    def simulate(
        self, rng: np.random.Generator, settings: SceneSettings, *, video: bool = True, audio: bool = True
    ) -> SceneClip:
        """Simulate one clip."""
        motion, look, unseen, chance, noise = rng.spawn(5)
        shapes = 2 if motion.random() < TWO_SHAPES and settings.max_shapes > 1 else 1
        cast, hidden = _cast(motion, settings, shapes), _cast(unseen, settings, shapes)
        floor = float(look.uniform(0.82, 0.9))
        events, strikes = _events(chance, settings, cast, hidden, floor)
        frames = torch.from_numpy(_draw(look, settings, cast, floor)) if video else None
        signal = torch.from_numpy(_synthesise(noise, settings, strikes)) if audio else None
        meta = {
            "period": None,
            "shapes": [{"outline": shape.outline, "pitch_hz": round(shape.pitch, 2)} for shape in cast],
        }
        return SceneClip(frames, signal, sorted_events(events, settings), meta)


Strike = tuple[float, Bouncer, float]
"""Time in seconds, who struck, level in dB."""


def _events(
    rng: np.random.Generator, settings: SceneSettings, cast: list[Bouncer], hidden: list[Bouncer], floor: float
) -> tuple[list[SceneEvent], list[Strike]]:
    """The clip's events, and the strikes that are heard."""
    duration = settings.duration
    seen = [(shape, int(k)) for shape in cast for k in shape.inside(duration)]
    unseen = [(shape, int(k)) for shape in hidden for k in shape.inside(duration)]
    times, unseen_times = (np.array([shape.impacts[k] for shape, k in pairs]) for pairs in (seen, unseen))
    sounding, heard = decouple(rng, times, unseen_times, settings.correlation, duration)
    events, strikes = [], []
    for (shape, k), audible in zip(seen, sounding, strict=True):
        details = {"x": round(float(shape.places[k]), 4), "y": round(floor, 4), "shape": cast.index(shape)}
        events.append(SceneEvent(float(shape.impacts[k]), True, bool(audible), "impact", _sounds(shape, k) | details))
        if audible:
            strikes.append((float(shape.impacts[k]), shape, float(shape.levels[k])))
    for (shape, k), time in zip(unseen, heard, strict=True):
        if not np.isnan(time):
            nowhere = {"x": None, "y": None, "shape": None}
            events.append(SceneEvent(float(time), False, True, "impact", _sounds(shape, k) | nowhere))
            strikes.append((float(time), shape, float(shape.levels[k])))
    return events, strikes


def _sounds(shape: Bouncer, impact: int) -> dict[str, Any]:
    """What one impact sounds like (or would)."""
    level = round(float(shape.levels[impact]), 2)
    return {"pitch_hz": round(shape.pitch, 2), "level_db": level, "timbre": shape.timbre}


def _synthesise(rng: np.random.Generator, settings: SceneSettings, strikes: list[Strike]) -> NDArray[np.float32]:
    """(N,) the strikes over a quiet room."""
    gain = sound.decibels(rng.uniform(-8.0, -4.0))
    signal = sound.room_noise(rng, settings.num_samples)
    for time, shape, level in sorted(strikes, key=lambda strike: strike[0]):
        voice = sound.struck(shape.timbre, shape.pitch, shape.decay, settings.sample_rate, rng)
        sound.place(signal, time, settings.sample_rate, 2 * shape.decay, voice, gain * sound.decibels(level))
    return np.clip(signal, -1, 1).astype(np.float32)


def _draw(rng: np.random.Generator, settings: SceneSettings, cast: list[Bouncer], floor: float) -> NDArray[np.uint8]:
    """(T, 3, H, W) uint8 frames."""
    scenery = raster.backdrop(rng, settings.height, settings.width, floor)
    hues = scenery.hue + rng.uniform(0.25, 0.75) + np.array([0.0, rng.uniform(0.3, 0.7)])
    saturation = rng.uniform(0.45, 0.95, 2)
    value = rng.uniform(0.88, 1.0, 2) if scenery.dark else rng.uniform(0.35, 0.7, 2)
    colors = [raster.hsv(*color) for color in zip(hues, saturation, value, strict=True)]

    def draw(canvas: raster.Float32Array, times: FloatArray) -> None:
        for shape, color in zip(cast, colors, strict=False):
            _draw_shape(canvas, times, settings, shape, color, floor * settings.height)

    return raster.draw_frames(scenery.image, settings.frame_times, draw)


def _draw_shape(
    canvas: raster.Float32Array,
    times: FloatArray,
    settings: SceneSettings,
    shape: Bouncer,
    color: raster.Float32Array,
    floor: float,
) -> None:
    """Paint one shape with its shadow and the glow of its impacts."""
    outline, radius = raster.OUTLINES[shape.outline], shape.radius * min(settings.height, settings.width)
    squash = shape.squash(times)
    wide, tall = radius * (1 + 0.35 * squash), radius * (1 - 0.42 * squash)
    lift = shape.lift(times)
    span = max(floor - (outline.foot + outline.reach) * radius - 0.03 * settings.height, 0.1 * settings.height)
    x = np.interp(times, shape.impacts, shape.places) * settings.width
    y = floor - lift * span - outline.foot * tall
    ground, thin = np.full(len(times), floor + 0.25 * radius), np.full(len(times), 0.32 * radius)
    shadow = raster.ellipse(radius * (1.15 - 0.35 * lift), thin)
    raster.paint(
        canvas,
        x,
        ground,
        (1.6 * radius, 0.45 * radius),
        shadow,
        raster.hsv(0, 0, 0),
        0.15 + 0.4 * (1 - lift) ** 3,
        softness=0.25 * radius,
    )
    strength, place = shape.glow(times)
    spread = radius * (2.0 - 0.9 * strength)
    light = color + (255 - color) * np.float32(0.55)
    halo = raster.ellipse(spread, 0.3 * spread)
    raster.paint(
        canvas,
        place * settings.width,
        ground,
        (2.7 * radius, 0.8 * radius),
        halo,
        light,
        0.9 * strength,
        softness=0.4 * radius,
    )
    reach = 1.4 * outline.reach * radius
    raster.paint(canvas, x, y, (reach, reach), raster.ellipse(wide, tall, outline.distance), color)
    shine = raster.ellipse(0.22 * wide, 0.22 * tall)
    raster.paint(canvas, x - 0.3 * wide, y - 0.3 * tall * outline.foot, (0.4 * radius, 0.4 * radius), shine, light, 0.8)
