"""Motion in a picture: its envelope over time, and where it turns."""

from __future__ import annotations

import torch
from torch import Tensor


def frames_to_unit(frames: Tensor) -> Tensor:
    """Frames as float32 in [0, 1], whatever they came as.

    Args:
        frames: (T, 3, H, W), uint8 in [0, 255] or float in [-1, 1].

    Returns:
        (T, 3, H, W) float32 in [0, 1].

    Raises:
        ValueError: If the shape is not (T, 3, H, W) or values are not finite.

    Example:
        >>> frames_to_unit(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).max().item()
        1.0
    """
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
    """How much the picture changes from frame to frame.

    Args:
        frames: (T, 3, H, W), uint8 or float in [-1, 1].
        fps: Frames per second.

    Returns:
        Times (T - 1,) float64, midway between frames, and the mean absolute difference (T - 1,) float64 in [0, 1].

    Raises:
        ValueError: If frames are malformed or ``fps`` is not positive.

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


def detect_motion_turns(frames: Tensor, fps: float, *, separation: float = 0.25, depth: float = 0.15) -> Tensor:
    """Moments at which the motion as a whole halts and turns.

    The "kinematic beats" of the dance literature (Li et al., "AI Choreographer", ICCV 2021: local minima of the mean
    joint speed), with the motion envelope in place of joint speeds: a minimum that is the least within half of
    ``separation`` and lies below the peaks on both sides of it by ``depth`` times the envelope's range; its time is
    the vertex of the parabola through the three values around it.

    Args:
        frames: (T, 3, H, W), uint8 or float in [-1, 1].
        fps: Frames per second.
        separation: Least distance of two turns in seconds.
        depth: Least prominence as a share of the envelope's range.

    Returns:
        Times (E,) float64 in seconds from the first frame, ascending.

    Raises:
        ValueError: If frames are malformed or ``fps`` is not positive.

    Example:
        >>> x = (16 + 10 * torch.cos(2 * torch.pi * torch.arange(40) / 20)).round().long()  # turns every 10 frames
        >>> frames = torch.zeros(40, 3, 8, 32, dtype=torch.uint8)
        >>> for i in range(40): frames[i, :, :, int(x[i]) :] = 255
        >>> [round(t, 1) for t in detect_motion_turns(frames, 20.0).tolist()]
        [0.5, 1.0, 1.5]
    """
    times, energy = motion_envelope(frames, fps)
    if energy.numel() < 3:
        return torch.zeros(0, dtype=torch.float64)
    smooth = torch.nn.functional.pad(energy[None], (1, 1), mode="replicate")[0].unfold(0, 3, 1) @ torch.tensor(
        [0.25, 0.5, 0.25], dtype=torch.float64
    )
    span = float(smooth.max() - smooth.min())
    if span <= 1e-4:
        return torch.zeros(0, dtype=torch.float64)
    reach = max(1, round(separation * fps / 2))
    found = []
    for i in range(1, smooth.numel() - 1):
        around = smooth[max(0, i - reach) : i + reach + 1]
        before, after = _peak_beside(smooth.flip(0), smooth.numel() - 1 - i), _peak_beside(smooth, i)
        first = float(smooth[i]) < float(smooth[i - 1])
        if first and float(smooth[i]) <= float(around.min()) and min(before, after) - float(smooth[i]) >= depth * span:
            found.append(float(times[i]) + _vertex(*smooth[i - 1 : i + 2].tolist()) / fps)
    return torch.tensor(found, dtype=torch.float64)


def _peak_beside(values: Tensor, start: int) -> float:
    """Height of the peak that follows ``start`` before the values fall below ``values[start]`` again."""
    tail = values[start + 1 :]
    below = torch.nonzero(tail < values[start]).flatten()
    stretch = tail[: int(below[0])] if below.numel() else tail
    return float(stretch.max()) if stretch.numel() else float(values[start])


def _vertex(left: float, middle: float, right: float) -> float:
    """Offset in [-0.5, 0.5] of the vertex of the parabola through three neighbours."""
    bend = left - 2 * middle + right
    return 0.0 if bend == 0 else max(-0.5, min(0.5, 0.5 * (left - right) / bend))
