"""Motion in a picture: its envelope over time, and where it turns."""

from __future__ import annotations

import torch
from torch import Tensor


def frames_to_unit(frames: Tensor) -> Tensor:
    """Frames (T, 3, H, W), uint8 or float in [-1, 1], as float32 in [0, 1]; ValueError for others."""
    if frames.dim() != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames must have shape (T, 3, H, W), got {tuple(frames.shape)}")
    frames = frames.detach().cpu()
    if frames.dtype == torch.uint8:
        return frames.to(torch.float32) / 255
    frames = frames.to(torch.float32)
    if not bool(torch.isfinite(frames).all()):
        raise ValueError("frames must be finite, got NaN or infinity")
    return ((frames + 1) / 2).clamp(0, 1)


def motion_envelope(frames: Tensor, fps: float) -> tuple[Tensor, Tensor]:
    """Times (T - 1,) float64 midway between frames (T, 3, H, W), and their mean absolute difference in [0, 1].

    Example:
        >>> frames = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
        >>> frames[2] = 255
        >>> [x.tolist() for x in motion_envelope(frames, 4.0)]
        [[0.125, 0.375], [0.0, 1.0]]
    """
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    pixels = frames_to_unit(frames)
    energy = (pixels[1:] - pixels[:-1]).abs().mean(dim=(1, 2, 3), dtype=torch.float64)
    times = (torch.arange(energy.numel(), dtype=torch.float64) + 0.5) / fps
    return times, energy


def detect_motion_turns(frames: Tensor, fps: float, *, separation: float = 0.25, depth: float = 0.3) -> Tensor:
    """Moments at which the motion as a whole turns and retraces its way.

    The "kinematic beats" of the dance literature are local minima of the mean joint speed (Li et al., "AI
    Choreographer", ICCV 2021). Without joints, and at 10 frames per second, the difference of neighbouring frames
    saturates, and dips only if the turn lies between two. So the curve used here is the difference of the frames 0.1 s
    before and after each moment, which is small where motion halts or retraces its way, at steps of half a frame. A
    turn is its least value within half of ``separation`` either way that lies below the peaks on both sides of it by
    ``depth`` times the curve's range; its time is the vertex of the parabola through the three values around it.

    Args:
        frames: (T, 3, H, W), uint8 or float in [-1, 1].
        fps: Frames per second.
        separation: Least distance of two turns in seconds.
        depth: Least prominence as a share of the curve's range.

    Returns:
        Times (E,) float64 in seconds from the first frame, ascending.

    Example:
        >>> x = (16 + 10 * torch.cos(2 * torch.pi * torch.arange(40) / 20)).round().long()  # turns every 10 frames
        >>> frames = torch.zeros(40, 3, 8, 32, dtype=torch.uint8)
        >>> for i in range(40): frames[i, :, :, int(x[i]) :] = 255
        >>> [round(t, 1) for t in detect_motion_turns(frames, 20.0).tolist()]
        [0.5, 1.0, 1.5]
    """
    curve = mirror_distance(frames, fps)
    step = 0.5 / fps
    span = float(curve.max() - curve.min()) if curve.numel() else 0.0
    if span <= 1e-3:
        return torch.zeros(0, dtype=torch.float64)
    reach = max(1, round(separation / 2 / step))
    found = []
    for i in range(1, curve.numel() - 1):
        value = float(curve[i])
        if value >= float(curve[i - 1]) or value > float(curve[max(0, i - reach) : i + reach + 1].min()):
            continue
        if min(_peak_after(curve, i), _peak_after(curve.flip(0), curve.numel() - 1 - i)) - value >= depth * span:
            found.append((i + 1 + _vertex(*curve[i - 1 : i + 2].tolist())) * step)
    return torch.tensor(found, dtype=torch.float64)


def mirror_distance(frames: Tensor, fps: float, *, reach: float = 0.1) -> Tensor:
    """How much frames (T, 3, H, W) up to ``reach`` seconds before a moment differ from those as long after it.

    (2 T - 3,) float64, about 1 in full motion, at ``(i + 1) / (2 fps)`` seconds: alternately between two frames and on
    one. The differences of each distance in time are divided by their 90th percentile. All zero for a still picture.

    Example:
        >>> frames = torch.zeros(5, 3, 4, 16, dtype=torch.uint8)
        >>> for i, x in enumerate([0, 4, 8, 4, 0]): frames[i, :, :, x : x + 4] = 255
        >>> mirror_distance(frames, 10.0).round(decimals=1).tolist()
        [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    """
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    pixels = frames_to_unit(frames)
    count = len(pixels)
    curve = torch.zeros(max(0, 2 * count - 3), dtype=torch.float64)
    widest = max(2, round(2 * reach * fps))
    lags = {lag: _difference(pixels, lag) for lag in range(1, min(widest + 2, count))}
    for i in range(curve.numel()):
        centre = i + 1  # in half frames
        near_end = min(centre, 2 * (count - 1) - centre)
        fits = [lag for lag in lags if lag % 2 == centre % 2 and lag <= near_end]
        chosen = [lag for lag in fits if abs(lag - widest) <= 1] or fits[-1:]
        curve[i] = sum(float(lags[lag][(centre - lag) // 2]) for lag in chosen) / len(chosen)
    return curve


def _difference(pixels: Tensor, lag: int) -> Tensor:
    """Mean absolute difference (T - lag,) of frames ``lag`` apart, over its 90th percentile."""
    difference = (pixels[lag:] - pixels[:-lag]).abs().mean(dim=(1, 2, 3), dtype=torch.float64)
    return difference / max(float(torch.quantile(difference, 0.9)), 1e-4)


def _peak_after(values: Tensor, start: int) -> float:
    """Height of the peak that follows ``start`` before the values fall below ``values[start]`` again."""
    tail = values[start + 1 :]
    below = torch.nonzero(tail < values[start]).flatten()
    stretch = tail[: int(below[0])] if below.numel() else tail
    return float(stretch.max()) if stretch.numel() else float(values[start])


def _vertex(left: float, middle: float, right: float) -> float:
    """Offset in [-0.5, 0.5] of the vertex of the parabola through three neighbours."""
    bend = left - 2 * middle + right
    return 0.0 if bend == 0 else max(-0.5, min(0.5, 0.5 * (left - right) / bend))


def at_rate(frames: Tensor, fps: float, rate: float) -> Tensor:
    """Frames (T, ...), or values of each, at another rate: of each instant the nearest one, of two the earlier."""
    count = max(1, round(len(frames) / fps * rate))
    nearest = (torch.arange(count, dtype=torch.float64) * fps / rate - 0.5 - 1e-6).ceil().long()
    return frames[nearest.clamp(max=len(frames) - 1)]
