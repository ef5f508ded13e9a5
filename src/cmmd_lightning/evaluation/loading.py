"""Video and sound of a file as the measures take them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cmmd_lightning.evaluation.measures import SAMPLE_RATE
from cmmd_lightning.media import MediaError, iter_frames, iter_sound, probe
from cmmd_lightning.media.timeline import MediaFile

Kind = Literal["sound", "picture"]

MAX_FPS = 30.0
MAX_HEIGHT = 256
"""Pixels; higher videos are brought down to this."""


def length(path: Path, kind: Kind) -> float:
    """Seconds of a file's stream; MediaError if it has no such stream, or one without length."""
    info = probe(path)
    seconds = info.audio_duration if kind == "sound" else info.video_duration
    if seconds is None:
        raise MediaError(path, "an audio stream" if kind == "sound" else "a video stream", "none")
    if seconds <= 0:
        raise MediaError(path, f"{kind} of some length", "0 s")
    return seconds


def picture_start(path: Path) -> float | None:
    """Seconds from a file's zero to its first frame; None where it has no picture."""
    if not probe(path).has_video:
        return None
    with MediaFile(path) as media:
        return media.spans["video"].start


def load_sound(path: Path, seconds: float, sample_rate: int = SAMPLE_RATE, *, start: float = 0.0) -> Tensor:
    """The first so many seconds from ``start`` of a file's sound: float32 (N,)."""
    count = round(seconds * sample_rate)
    return torch.cat(list(iter_sound(path, start=start, sample_rate=sample_rate, num_samples=count)))


def load_frames(
    path: Path,
    seconds: float,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    fit: Literal["crop", "letterbox"] = "crop",
    start: float = 0.0,
) -> tuple[Tensor, float]:
    """The first so many seconds from ``start`` of a file's picture: uint8 (T, 3, H, W), and the frames per second.

    By default these are the file's own, at most 30, and its own shape, at most 256 pixels high.
    """
    info = probe(path)
    fps = fps or min(info.fps or MAX_FPS, MAX_FPS)
    if size is None and info.height and info.width and info.height > MAX_HEIGHT:
        size = (MAX_HEIGHT, max(1, round(MAX_HEIGHT * info.width / info.height)))
    count = max(1, int(seconds * fps + 0.01))
    return torch.cat(list(iter_frames(path, start=start, fps=fps, size=size, fit=fit, num_frames=count))), fps
