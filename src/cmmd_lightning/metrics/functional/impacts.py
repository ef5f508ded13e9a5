"""Visible impacts: where something that falls is thrown back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cmmd_lightning.metrics.functional.blobs import Track, find_blobs, follow
from cmmd_lightning.metrics.functional.motion import detect_motion_turns

__all__ = ["detect_impacts", "detect_motion_turns"]

BEFORE = (0.04, 0.2)  # seconds before a low in which its fall is measured
AFTER = (0.1, 0.25)  # seconds after a low in which its rise is measured


def detect_impacts(
    frames: Tensor, fps: float, *, min_travel: float = 0.06, separation: float = 0.08, contrast: float = 0.1
) -> Tensor:
    """Times at which something falling visibly strikes and reverses.

    What differs from the background is followed from frame to frame by its upper edge, which neither shadows nor lights
    on the floor touch. An impact is a reversal of such an edge from down to up, with at least ``min_travel`` on both
    sides (on one, at the ends of the clip). Its time, finer than a frame, is where the parabola of the fall before
    meets that of the rise after, without the 0.04 s before and 0.1 s after it, in which the thing may be squashed; they
    share one gravity, the median of the second differences. Falls and rises that the clip's ends cut off are continued
    to the height at which the same thing struck otherwise, so the last of them may lie up to one frame after the last
    picture.

    Args:
        frames: (T, 3, H, W), uint8 or float in [-1, 1]; 10 frames per second and 64 x 64 pixels suffice.
        fps: Frames per second.
        min_travel: Least fall or rise as a share of the frame's height.
        separation: Impacts of one region closer than this many seconds are one.
        contrast: Least difference from the background, in [0, 1].

    Returns:
        Times (E,) float64 in seconds from the first frame, ascending.

    Example:
        >>> heights = [4, 8, 16, 28, 44, 34, 20, 10, 4, 2]
        >>> frames = torch.zeros(10, 3, 64, 64, dtype=torch.uint8)
        >>> for i, y in enumerate(heights): frames[i, :, y : y + 10, 20:30] = 255
        >>> [round(t, 1) for t in detect_impacts(frames, 10.0).tolist()]
        [0.4]
    """
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    if len(frames) < 4:
        return torch.zeros(0, dtype=torch.float64)
    tracks = follow(find_blobs(frames, contrast=contrast))
    found = [t for track in tracks for t in _apart(_strikes(track, len(frames), fps, min_travel), separation)]
    return torch.tensor(sorted(found), dtype=torch.float64)


def _strikes(track: Track, num_frames: int, fps: float, min_travel: float) -> list[float]:
    """Impact times of one track, in seconds from the first frame."""
    if len(track.frames) < 4:
        return []
    first = track.frames[0]
    y = np.interp(np.arange(first, track.frames[-1] + 1), track.frames, track.heights)
    arcs = _Arcs(y, fps, min_travel)
    return [time + first / fps for time in arcs.impacts() if 0 <= time + first / fps < num_frames / fps]


class _Arcs:
    """The falls and rises of one thing, of its heights (F,) counted downwards, one per frame."""

    def __init__(self, y: np.ndarray, fps: float, min_travel: float) -> None:
        self.y, self.fps, self.min_travel = y, fps, min_travel
        self.times = np.arange(len(y)) / fps
        self.gravity = self._gravity()
        self.lows = self._lows()

    def impacts(self) -> list[float]:
        """Seconds from the first of the frames."""
        falls, rises = ([self._arc(low, side) for low in self.lows] for side in (-1, 1))
        met = [self._meet(low, fall, rise) for low, fall, rise in zip(self.lows, falls, rises, strict=True)]
        heights = [point[1] for point in met if point is not None]
        floor = float(np.median(heights)) if heights else None
        found = [
            point[0] if point is not None else self._alone(low, fall, rise, floor)
            for low, point, fall, rise in zip(self.lows, met, falls, rises, strict=True)
        ]
        if floor is not None:
            found += self._cut_off(floor)
        return found

    def _gravity(self) -> float:
        """Downward acceleration: the median of the second differences over 0.1 s that are not impacts."""
        lag = max(1, round(0.1 * self.fps))
        bends = self.y[2 * lag :] - 2 * self.y[lag:-lag] + self.y[: -2 * lag] if len(self.y) > 2 * lag else np.zeros(0)
        bends = bends[bends > 0]
        return float(np.median(bends)) * (self.fps / lag) ** 2 if bends.size else 0.0

    def _lows(self) -> list[int]:
        """Frames of the lowest points between a fall and a rise of at least ``min_travel``."""
        y, found = self.y, []
        for k in range(1, len(y) - 1):
            if y[k] >= y[k - 1] and y[k] > y[k + 1]:
                fall, rise = y[k] - _highest(y[k::-1]), y[k] - _highest(y[k:])
                if min(fall, rise) >= self.min_travel:
                    found.append(k)
        return found

    def _arc(self, low: int, side: int) -> tuple[float, float] | None:
        """The fall (-1) or rise (+1) beside a low: its value at the low frame's time and its slope, less gravity."""
        nearest, farthest = BEFORE if side < 0 else AFTER
        limits = [other for other in self.lows if (other - low) * side > 0]
        end = min(limits, key=lambda other: abs(other - low)) if limits else (0 if side < 0 else len(self.y) - 1)
        gap = max(1, round(nearest * self.fps))
        count = max(2, round((farthest - nearest) * self.fps) + 1)
        at = np.arange(low + side * gap, low + side * (gap + count), side)
        at = at[(at - end) * side <= (-1 if limits else 0)]
        if len(at) < 2:
            return None
        since = self.times[at] - self.times[low]
        slope, value = np.polyfit(since, self.y[at] - self.gravity * since**2 / 2, 1)
        return float(value), float(slope)

    def _meet(
        self, low: int, fall: tuple[float, float] | None, rise: tuple[float, float] | None
    ) -> tuple[float, float] | None:
        """Time and height at which the fall and the rise beside a low meet; None where they do not, close to it."""
        if fall is None or rise is None or fall[1] - rise[1] <= 1e-6:
            return None
        since = (rise[0] - fall[0]) / (fall[1] - rise[1])
        if abs(since) * self.fps > max(1.0, 0.1 * self.fps):
            return None
        return self.times[low] + since, fall[0] + fall[1] * since + self.gravity * since**2 / 2

    def _alone(
        self, low: int, fall: tuple[float, float] | None, rise: tuple[float, float] | None, floor: float | None
    ) -> float:
        """Time of an impact that has one usable side: where that side reaches the floor, else the low frame itself."""
        for arc in (fall, rise):
            if arc is not None and floor is not None:
                since = self._reach(arc, floor, 1 if arc is fall else -1)
                if since is not None and abs(since) * self.fps <= max(1.0, 0.1 * self.fps):
                    return float(self.times[low]) + since
        return float(self.times[low])

    def _reach(self, arc: tuple[float, float], floor: float, side: int) -> float | None:
        """Seconds after the low frame at which an arc falls to (side 1), or has risen from (-1), the floor."""
        value, slope = arc[0] - floor, arc[1]
        if self.gravity < 1e-6:
            return -value / slope if slope * side > 0 else None
        root = slope * slope - 2 * self.gravity * value
        return float(-slope + side * np.sqrt(root)) / self.gravity if root >= 0 else None

    def _cut_off(self, floor: float) -> list[float]:
        """Impacts before the first low and after the last, on arcs which the clip's ends cut off."""
        found = []
        for side, end in ((1, len(self.y) - 1), (-1, 0)):
            lows = [abs(low - end) for low in self.lows]
            gap = max(1, round(0.1 * self.fps)) if side < 0 else 1
            if min(lows) < gap + 2:
                continue
            start = end if side > 0 else end + gap  # after an impact just before the clip, the thing is still squashed
            at = start - side * np.arange(max(2, round(0.15 * self.fps) + 1))
            moving = self.y[at[0]] - self.y[at[1]]
            travel = floor - float(
                self.y[min(end, end - side * min(lows)) : max(end, end - side * min(lows)) + 1].min()
            )
            if moving <= 0 or travel < self.min_travel:
                continue
            since = self.times[at] - self.times[end]
            slope, value = np.polyfit(since, self.y[at] - self.gravity * since**2 / 2, 1)
            reach = self._reach((float(value), float(slope)), floor, side)
            if reach is not None:
                found.append(float(self.times[end]) + reach)
        return found


def _apart(times: list[float], separation: float) -> list[float]:
    """Ascending times without those that follow a kept one by less than ``separation``."""
    kept: list[float] = []
    for time in sorted(times):
        if not kept or time - kept[-1] >= separation:
            kept.append(time)
    return kept


def _highest(y: np.ndarray) -> float:
    """Least value (the highest point) before ``y`` exceeds its first value."""
    above = np.nonzero(y > y[0])[0]
    return float(y[: above[0]].min()) if above.size else float(y.min())
