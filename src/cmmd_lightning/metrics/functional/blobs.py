"""Moving things in a picture: foreground, blobs, and their tracks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage, optimize
from torch import Tensor

from cmmd_lightning.metrics.functional.motion import frames_to_unit


@dataclass(frozen=True)
class Blob:
    """A region that differs from the background; lengths in shares of the frame's height, ``top`` downwards."""

    x: float
    top: float
    area: float
    colour: np.ndarray


@dataclass
class Track:
    """One thing followed through the frames."""

    frames: list[int] = field(default_factory=list)
    blobs: list[Blob] = field(default_factory=list)

    @property
    def heights(self) -> np.ndarray:
        """Upper edges (F,), share of the frame's height, downwards."""
        return np.array([blob.top for blob in self.blobs])


def background(frames: Tensor, *, contrast: float = 0.1) -> Tensor:
    """What a still camera sees where nothing moves: (3, H, W) float32 in [0, 1] of frames (T, 3, H, W).

    Pixels that change less than ``contrast`` keep their median over time. Others take, of the values they have over
    time, those nearest to what the still surroundings suggest (a normalised Gaussian blur of the still pixels): so a
    thing that covers a place most of the time does not become background there.

    Example:
        >>> frames = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
        >>> frames[1:, :, 4:8, 4:8] = 255
        >>> float(background(frames).max())
        0.0
    """
    pixels = frames_to_unit(frames)
    ranked = torch.from_numpy(np.sort(pixels.permute(1, 2, 3, 0).numpy(), axis=-1))
    last = len(pixels) - 1
    median = ranked[..., last // 2]
    spread = ranked[..., round(0.95 * last)] - ranked[..., round(0.05 * last)]
    still = (spread.amax(dim=0) < 2 * max(contrast, float(spread.median()))).to(torch.float32)
    sigma = frames.shape[2] / 10
    size = (0, sigma, sigma)
    weight = ndimage.gaussian_filter(still.numpy()[None], size) + 1e-6
    guess = torch.from_numpy((ndimage.gaussian_filter((median * still).numpy(), size) + 1e-6 * median.numpy()) / weight)
    distance = (pixels - guess).abs().sum(dim=1)
    near = distance <= distance.amin(dim=0) + contrast
    likely = (pixels * near[:, None]).sum(dim=0) / near.sum(dim=0)
    return torch.where(still.bool(), median, likely)


def foreground(frames: Tensor, *, contrast: float = 0.1) -> Tensor:
    """Largest difference over the colours of every pixel from the :func:`background`, (T, H, W) float32 in [0, 1].

    Example:
        >>> frames = torch.zeros(5, 3, 4, 4, dtype=torch.uint8)
        >>> frames[2, :, 1, 1] = 255
        >>> int(foreground(frames).sum())
        1
    """
    return (frames_to_unit(frames) - background(frames, contrast=contrast)).abs().amax(dim=1)


def find_blobs(frames: Tensor, *, contrast: float = 0.1, min_area: float = 0.002) -> list[list[Blob]]:
    """Connected regions that differ from the background, frame by frame, the largest first.

    The difference is smoothed over 3 x 3 pixels and cut at ``contrast``, or at 6 times its median where the picture
    is noisier; ``min_area`` is a share of the frame.

    Example:
        >>> frames = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
        >>> frames[2, :, 4:8, 4:8] = 255
        >>> [len(found) for found in find_blobs(frames)]
        [0, 0, 1, 0, 0]
    """
    pixels = frames_to_unit(frames)
    difference = foreground(frames, contrast=contrast)[:, None]
    difference = torch.nn.functional.avg_pool2d(difference, 3, 1, 1, count_include_pad=False)[:, 0]
    cut = max(contrast, 6 * float(difference.median()))
    height, width = difference.shape[1:]
    least = max(4.0, min_area * height * width)
    return [_blobs_of(difference[t].numpy(), pixels[t].numpy(), cut, least) for t in range(len(pixels))]


def _blobs_of(difference: np.ndarray, pixels: np.ndarray, cut: float, least: float) -> list[Blob]:
    height, width = difference.shape
    labels, count = ndimage.label(difference > cut, structure=np.ones((3, 3)))
    found = []
    for label in range(1, count + 1):
        rows, columns = np.nonzero(labels == label)
        if rows.size < least:
            continue
        inside = difference[rows, columns]
        strong = inside >= np.median(inside)
        colour = pixels[:, rows[strong], columns[strong]].mean(axis=1)
        top = _top_edge(np.where(labels == label, difference, 0).max(axis=1), 0.5 * float(np.median(inside)))
        x = np.average(columns + 0.5, weights=inside)
        found.append(Blob(float(x) / height, top / height, rows.size / (height * width), colour))
    return sorted(found, key=lambda blob: -blob.area)


def _top_edge(profile: np.ndarray, level: float) -> float:
    """Row, finer than a pixel, at which a profile over the rows first rises above a level."""
    row = int(np.argmax(profile > level))
    before = float(profile[row - 1]) if row else 0.0
    return row + 0.5 - (float(profile[row]) - level) / (float(profile[row]) - before)


def follow(blobs: list[list[Blob]], *, max_cost: float = 0.5, max_gap: int = 2) -> list[Track]:
    """Tracks of blobs through the frames by the Hungarian method, in order of their first frame.

    The cost favours colour and horizontal position over the vertical one, in which a thing that bounces may cross half
    of the frame at once. Continuations dearer than ``max_cost`` start a new track, one unseen for ``max_gap`` frames
    ends.

    Example:
        >>> at = lambda x: Blob(x, 0.5, 0.01, np.zeros(3))
        >>> [track.frames for track in follow([[at(0.2)], [at(0.8), at(0.2)], [at(0.8)]])]
        [[0, 1], [1, 2]]
    """
    tracks: list[Track] = []
    for frame, found in enumerate(blobs):
        live = [track for track in tracks if frame - track.frames[-1] <= max_gap + 1]
        cost = np.array([[_cost(track, blob, frame) for blob in found] for track in live]).reshape(
            len(live), len(found)
        )
        taken = set()
        for row, column in zip(*optimize.linear_sum_assignment(np.minimum(cost, 2 * max_cost)), strict=True):
            if cost[row, column] <= max_cost:
                live[row].frames.append(frame)
                live[row].blobs.append(found[column])
                taken.add(int(column))
        tracks.extend(Track([frame], [blob]) for i, blob in enumerate(found) if i not in taken)
    return tracks


def _cost(track: Track, blob: Blob, frame: int) -> float:
    last = track.blobs[-1]
    sideways = 0.0
    if len(track.blobs) > 1:
        sideways = (last.x - track.blobs[-2].x) / (track.frames[-1] - track.frames[-2])
    gap = frame - track.frames[-1]
    across = abs(blob.x - last.x - sideways * gap)
    size = abs(np.log(blob.area / last.area))
    return (
        2 * across + 0.3 * abs(blob.top - last.top) + 0.5 * float(np.abs(blob.colour - last.colour).mean()) + 0.1 * size
    )
