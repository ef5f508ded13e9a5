"""A clip in memory, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from cmmd_lightning.evaluation.measures import SAMPLE_RATE, Media, View

__all__ = ["SAMPLE_RATE", "Media", "Observation", "RoundTrip"]


@dataclass(frozen=True)
class RoundTrip:
    """What the best possible generator of a model would give: true media through its codec and vocoder."""

    sample_rate: int  # Hz at which ``sound`` takes and gives sound
    fps: float
    size: tuple[int, int]  # (height, width)
    sound: Callable[[Tensor], Tensor]  # (N,) to (N,): Mel and vocoder
    frames: Callable[[Tensor], Tensor]  # uint8 (T, 3, H, W) to as many: encoder and decoder
    fit: Literal["crop", "letterbox"] = "crop"


@dataclass(frozen=True)
class Observation:
    """What is kept of one clip."""

    stem: str
    duration: float  # seconds covered by what is compared
    source: str  # of the reference events: ``sidecar``, or the name of the detector
    made: View  # what was generated, beside what it is compared with
    best: View | None = None  # the true clip after the round trip
    true: View | None = None  # the true clip as it is
    generated: Path | None = None
    reference: Path | None = None
    clock: str = "start"  # by what the two files were laid over each other: their ``picture``, ``sound`` or ``start``
    features: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)  # see `Extractors.rows`
