"""Anti-aliased drawing by signed distance: shapes, limbs and backgrounds, vectorised over frames.

Lengths are in pixels, x to the right, y downwards, pixel centres at half-integers; colours are RGB in [0, 255]. T
frames, H height, W width.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.floating[Any]]
Distance = Callable[[Float32Array, Float32Array], Float32Array]
"""(x, y) relative to a shape's centre, broadcastable over (T, rows, columns), to the signed distance in pixels,
negative inside."""

MAX_CANVAS_VALUES = 6_000_000
"""Float values on one canvas; longer clips are drawn in chunks of frames."""

_SIN60 = np.float32(np.sqrt(3) / 2)


def hsv(hue: float, saturation: float, value: float) -> Float32Array:
    """(3,) RGB in [0, 255] of a colour given by hue (any real, period 1), saturation and value in [0, 1]."""
    return np.asarray(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), dtype=np.float32) * np.float32(255)


def _disc(x: Float32Array, y: Float32Array) -> Float32Array:
    return np.sqrt(x * x + y * y) - np.float32(1)


def _square(x: Float32Array, y: Float32Array) -> Float32Array:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.88)


def _triangle(x: Float32Array, y: Float32Array) -> Float32Array:
    return np.maximum(np.abs(x) * _SIN60 - y * np.float32(0.5), y) - np.float32(0.66)


def _hexagon(x: Float32Array, y: Float32Array) -> Float32Array:
    return np.maximum(np.abs(x) * _SIN60 + np.abs(y) * np.float32(0.5), np.abs(y)) - np.float32(0.94)


def _diamond(x: Float32Array, y: Float32Array) -> Float32Array:
    return (np.abs(x) + np.abs(y) - np.float32(1.15)) * np.float32(np.sqrt(0.5))


@dataclass(frozen=True)
class Outline:
    """A shape of unit radius around its centre.

    Args:
        distance: Signed distance in units of the radius.
        foot: From the centre down to the lowest point, in units of the radius.
        reach: From the centre to the farthest point, in units of the radius.
    """

    distance: Distance
    foot: float
    reach: float


OUTLINES = {
    "disc": Outline(_disc, 1.0, 1.0),
    "square": Outline(_square, 0.88, 1.25),
    "triangle": Outline(_triangle, 0.66, 1.33),
    "hexagon": Outline(_hexagon, 0.94, 1.1),
    "diamond": Outline(_diamond, 1.15, 1.15),
}


def ellipse(radius_x: FloatArray, radius_y: FloatArray, outline: Distance = _disc) -> Distance:
    """Distance (approximate, in pixels) to an outline that is stretched to the given radii, each (T,)."""
    rx, ry = (radius.astype(np.float32)[:, None, None] for radius in (radius_x, radius_y))
    smallest = np.minimum(rx, ry)
    return lambda x, y: outline(x / rx, y / ry) * smallest


def capsule(dx: FloatArray, dy: FloatArray, radius: float) -> Distance:
    """Distance to a limb: a line from (-dx, -dy) to (dx, dy), each (T,), with round ends of ``radius`` pixels."""
    ex, ey = (delta.astype(np.float32)[:, None, None] for delta in (dx, dy))
    square = np.maximum(ex * ex + ey * ey, np.float32(1e-6))

    def distance(x: Float32Array, y: Float32Array) -> Float32Array:
        along = np.clip((x * ex + y * ey) / square, -1, 1)
        across_x, across_y = x - along * ex, y - along * ey
        return np.sqrt(across_x * across_x + across_y * across_y) - np.float32(radius)

    return distance


def paint(
    canvas: Float32Array,
    center_x: FloatArray,
    center_y: FloatArray,
    reach: tuple[float, float],
    distance: Distance,
    color: Float32Array,
    opacity: float | FloatArray = 1.0,
    softness: float = 1.0,
) -> None:
    """Paint one shape onto every frame, in place, touching only the pixels around it.

    Args:
        canvas: (T, H, W, 3) float32 in [0, 255].
        center_x: (T,) centre in pixels.
        center_y: (T,) centre in pixels.
        reach: Farthest distance (x, y) from the centre that the shape covers in any frame, pixels.
        distance: Signed distance, see `Distance`.
        color: (3,) RGB in [0, 255].
        opacity: 0 to 1, one number or (T,).
        softness: Width of the edge in pixels; 1 is plain anti-aliasing, more makes shadows and glows.
    """
    height, width = canvas.shape[1:3]
    opacities = np.broadcast_to(np.asarray(opacity, dtype=np.float32), (len(canvas),))
    rows, y = _window(center_y, reach[1] + softness, height)
    columns, x = _window(center_x, reach[0] + softness, width)
    cover = np.clip(np.float32(0.5) - distance(x[:, None, :], y[:, :, None]) * np.float32(1 / softness), 0, 1)
    cover = (cover * opacities[:, None, None])[..., None]
    keep, add = 1 - cover, cover * color
    for frame in np.flatnonzero(opacities > 0.004):
        (top, bottom), (left, right) = rows[frame], columns[frame]
        patch = canvas[frame, top:bottom, left:right]
        patch *= keep[frame]
        patch += add[frame]


def _window(center: FloatArray, reach: float, size: int) -> tuple[NDArray[np.intp], Float32Array]:
    """(T, 2) first and end pixel of windows around the centres, inside [0, size); (T, P) offsets from the centre."""
    extent = min(size, 2 * int(np.ceil(reach)) + 2)
    first = np.clip(np.floor(center - extent / 2 + 0.5).astype(np.intp), 0, size - extent)
    offsets = first[:, None] + np.arange(extent) + 0.5 - center[:, None]
    return np.stack([first, first + extent], axis=1), offsets.astype(np.float32)


@dataclass(frozen=True)
class Backdrop:
    """A static background and where its floor begins.

    Args:
        image: (H, W, 3) float32 in [0, 255].
        dark: Whether bright shapes stand out on it.
        hue: Its hue, 0 to 1.
    """

    image: Float32Array
    dark: bool
    hue: float


def _pattern(rng: np.random.Generator, u: FloatArray, v: FloatArray) -> FloatArray:
    """A smooth texture in [-1, 1] over coordinates u, v in units of the frame."""
    kind = rng.choice(["gradient", "radial", "stripes", "clouds", "checks"])
    angle, scale, phase = rng.uniform(0, 2 * np.pi), rng.uniform(2.0, 4.5), rng.uniform(0, 2 * np.pi)
    waves = rng.normal(0, 1, (6, 2)) * 5.0, rng.uniform(0, 2 * np.pi, 6)
    along = np.cos(angle) * (u - 0.5) + np.sin(angle) * (v - 0.5)
    if kind == "gradient":
        return 1.5 * along
    if kind == "radial":
        return 1 - 3.2 * ((u - 0.5) ** 2 + (v - 0.4) ** 2)
    if kind == "stripes":
        return 0.5 * np.tanh(3 * np.sin(2 * np.pi * scale * along + phase))
    if kind == "checks":
        return 0.5 * np.tanh(4 * np.sin(2 * np.pi * scale * u + phase) * np.sin(2 * np.pi * scale * v + phase))
    return np.sum([np.sin(kx * u + ky * v + shift) for (kx, ky), shift in zip(*waves, strict=True)], axis=0) / 4


def backdrop(rng: np.random.Generator, height: int, width: int, floor: float) -> Backdrop:
    """Draw a textured wall and a floor.

    Args:
        rng: Source of the draws; their number does not depend on the size.
        height: Pixels.
        width: Pixels.
        floor: Height of the floor's edge as a share of the frame from the top.

    Returns:
        The backdrop: the same composition at any size.
    """
    dark, hue = bool(rng.random() < 0.65), rng.random()
    value = rng.uniform(0.16, 0.38) if dark else rng.uniform(0.78, 0.96)
    saturation = rng.uniform(0.15, 0.6) if dark else rng.uniform(0.05, 0.3)
    contrast = rng.uniform(0.08, 0.22)
    floor_value = value * rng.uniform(0.45, 0.7) if dark else value * rng.uniform(0.6, 0.8)
    floor_color = hsv(hue + rng.uniform(-0.12, 0.12), saturation * rng.uniform(0.7, 1.2), floor_value)
    v, u = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    texture = 1 + contrast * np.clip(_pattern(rng, u, v), -1, 1)
    image = hsv(hue, saturation, value) * texture[..., None]
    edge = np.clip(np.arange(height) + 1 - floor * height, 0, 1)[:, None, None]
    shade = (1 + 0.25 * (v - floor) / (1 - floor))[..., None]
    image = image * (1 - edge) + floor_color * shade * edge
    return Backdrop(np.clip(image, 0, 255).astype(np.float32), dark, hue)


def draw_frames(
    image: Float32Array, times: FloatArray, draw: Callable[[Float32Array, FloatArray], None]
) -> NDArray[np.uint8]:
    """Run ``draw(canvas, times)`` over a clip in chunks of frames.

    Args:
        image: (H, W, 3) float32 background in [0, 255].
        times: (T,) instants in seconds.
        draw: Paints the frames at the given times onto a (t, H, W, 3) canvas, in place.

    Returns:
        (T, 3, H, W) uint8 frames.
    """
    height, width = image.shape[:2]
    frames = np.empty((len(times), 3, height, width), dtype=np.uint8)
    step = max(1, MAX_CANVAS_VALUES // image.size)
    for first in range(0, len(times), step):
        part = times[first : first + step]
        canvas = np.repeat(image[None], len(part), axis=0)
        draw(canvas, part)
        frames[first : first + step] = (canvas + np.float32(0.5)).astype(np.uint8).transpose(0, 3, 1, 2)
    return frames
