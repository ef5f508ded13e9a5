"""A jointed figure and its dance moves: where every joint is at any phase of the beat.

The phase counts beats. Every motion is built from two functions that turn at whole numbers and run smoothly between:
`swing`, which reaches one extreme on even beats and the other on odd ones, and `bob`, which drops to a sharp low on
every beat. So the pose is mirrored in time about each beat, and about no instant in between.

Coordinates are in units of the figure's height: x to the right, y upwards from the floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Points = dict[str, FloatArray]
"""Joint name to its position, (T, 2)."""

THIGH, SHIN, TORSO, HEAD, ARM, FOREARM = 0.22, 0.22, 0.3, 0.105, 0.17, 0.17
SHOULDERS, HIPS = 0.1, 0.065
"""Half the distance between the shoulders and between the hips."""
BONES = {
    "left_thigh": ("left_hip", "left_knee"),
    "right_thigh": ("right_hip", "right_knee"),
    "left_shin": ("left_knee", "left_foot"),
    "right_shin": ("right_knee", "right_foot"),
    "torso": ("hips", "neck"),
    "left_arm": ("left_shoulder", "left_elbow"),
    "right_arm": ("right_shoulder", "right_elbow"),
    "left_forearm": ("left_elbow", "left_hand"),
    "right_forearm": ("right_elbow", "right_hand"),
    "head": ("head", "head"),
}
"""Limbs in the order in which they are painted, each between two joints."""


def swing(phase: FloatArray) -> FloatArray:
    """1 on even beats, -1 on odd ones; between a cosine and a triangle, so that the turn is seen."""
    sharp = 0.97
    return np.arcsin(sharp * np.cos(np.pi * phase)) / np.arcsin(sharp)


def bob(phase: FloatArray) -> FloatArray:
    """0 on every beat, with a kink, and 1 half-way between."""
    return np.abs(np.sin(np.pi * phase))


@dataclass(frozen=True)
class Style:
    """How a figure dances.

    Args:
        arms: A key of `ARM_MOVES`.
        legs: A key of `LEG_MOVES`.
        energy: Size of the moves, about 0.7 to 1.2.
        sway: How far the hips go to the sides, in figure heights.
        lean: How far the torso leans, radians.
        depth: How deep it bobs, in figure heights.
    """

    arms: str
    legs: str
    energy: float
    sway: float
    lean: float
    depth: float


def _pump(w: FloatArray, energy: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    return 1.35 + 0.95 * energy * w, 1.35 - 0.95 * energy * w, 0.7 + 0.0 * w


def _wave(w: FloatArray, energy: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    return 2.5 + 0.5 * energy * w, 2.5 - 0.5 * energy * w, 0.2 + 0.0 * w


def _open(w: FloatArray, energy: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    return 1.5 + 1.0 * energy * w, 1.5 + 1.0 * energy * w, 0.15 + 0.0 * w


def _swing_low(w: FloatArray, energy: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    return 0.35 + 0.85 * energy * w, 0.35 - 0.85 * energy * w, 0.3 + 0.0 * w


def _flap(w: FloatArray, energy: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    return 1.1 + 0.5 * energy * w, 1.1 + 0.5 * energy * w, 1.2 + 0.8 * energy * w


ARM_MOVES: dict[str, Callable[[FloatArray, float], tuple[FloatArray, FloatArray, FloatArray]]] = {
    "pump": _pump,
    "wave": _wave,
    "open": _open,
    "swing": _swing_low,
    "flap": _flap,
}
"""Swing and energy to the angles of the left and the right arm, from hanging (0) outwards to straight up (pi), and the
bend of the elbows."""


def _stay(w: FloatArray, energy: float) -> tuple[FloatArray, FloatArray]:
    return 0.12 + 0.0 * w, 0.0 * w


def _step(w: FloatArray, energy: float) -> tuple[FloatArray, FloatArray]:
    return 0.12 + 0.0 * w, 0.12 * energy * np.maximum(w, 0) ** 2


def _kick(w: FloatArray, energy: float) -> tuple[FloatArray, FloatArray]:
    out = np.maximum(w, 0) ** 2
    return 0.11 + 0.18 * energy * out, 0.14 * energy * out


def _straddle(w: FloatArray, energy: float) -> tuple[FloatArray, FloatArray]:
    return 0.14 + 0.07 * energy * w, 0.0 * w


LEG_MOVES: dict[str, Callable[[FloatArray, float], tuple[FloatArray, FloatArray]]] = {
    "stay": _stay,
    "step": _step,
    "kick": _kick,
    "straddle": _straddle,
}
"""Swing and energy to how far out the left foot stands and how high it is lifted; the right foot takes the opposite
swing (save in `straddle`)."""


def random_style(rng: np.random.Generator) -> Style:
    """Draw a style."""
    return Style(
        arms=str(rng.choice(list(ARM_MOVES))),
        legs=str(rng.choice(list(LEG_MOVES))),
        energy=float(rng.uniform(0.75, 1.1)),
        sway=float(rng.uniform(0.02, 0.08)),
        lean=float(rng.uniform(-0.12, 0.2)),
        depth=float(rng.uniform(0.05, 0.09)),
    )


def _at(x: FloatArray, y: FloatArray) -> FloatArray:
    return np.stack(np.broadcast_arrays(x, y), axis=-1)


def _toward(angle: FloatArray, side: float) -> FloatArray:
    """(T, 2) unit vector of a limb: 0 hangs down, pi / 2 points outwards to ``side``, pi points up."""
    return _at(side * np.sin(angle), -np.cos(angle))


def _knee(hip: FloatArray, foot: FloatArray, side: float) -> FloatArray:
    """(T, 2) the joint between two bones, bent outwards to ``side``."""
    gap = foot - hip
    distance = np.maximum(np.linalg.norm(gap, axis=-1, keepdims=True), 1e-6)
    along = (distance**2 + THIGH**2 - SHIN**2) / (2 * distance)
    across = np.sqrt(np.maximum(THIGH**2 - along**2, 0))
    direction = gap / distance
    normal = np.stack([-direction[..., 1], direction[..., 0]], axis=-1)
    return hip + along * direction + side * across * normal


def pose(style: Style, phase: FloatArray) -> Points:
    """Where every joint is.

    Args:
        style: How it dances.
        phase: (T,) beats since some even beat.

    Returns:
        Joint name to (T, 2) position.
    """
    w = swing(phase)
    points: Points = {"hips": _at(style.sway * w, THIGH + SHIN - 0.03 - style.depth * style.energy * (1 - bob(phase)))}
    spine = _toward(np.pi - style.lean * w, 1.0)
    points["neck"] = points["hips"] + TORSO * spine
    points["head"] = points["neck"] + (HEAD + 0.045) * _toward(np.pi - 1.6 * style.lean * w, 1.0)
    left, right, bend = ARM_MOVES[style.arms](w, style.energy)
    for name, side, angle in (("left", -1.0, left), ("right", 1.0, right)):
        points[f"{name}_shoulder"] = points["neck"] + _at(side * SHOULDERS + 0 * w, -0.03 + 0 * w)
        points[f"{name}_elbow"] = points[f"{name}_shoulder"] + ARM * _toward(angle, side)
        points[f"{name}_hand"] = points[f"{name}_elbow"] + FOREARM * _toward(angle + bend, side)
        out, lift = LEG_MOVES[style.legs](w if side < 0 or style.legs == "straddle" else -w, style.energy)
        points[f"{name}_hip"] = points["hips"] + _at(side * HIPS + 0 * w, 0 * w)
        points[f"{name}_foot"] = _at(side * out, lift + 0.03)
        points[f"{name}_knee"] = _knee(points[f"{name}_hip"], points[f"{name}_foot"], side)
    return points
