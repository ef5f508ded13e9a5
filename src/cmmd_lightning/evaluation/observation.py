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
    """What the best possible generator of a model would give: true media through its codec and vocoder.

    Args:
        sample_rate: Hz at which ``sound`` takes and gives sound.
        fps: Frames per second of ``frames``.
        size: (height, width) of ``frames``.
        sound: float (N,) to float (N,): Mel and vocoder.
        frames: uint8 (T, 3, H, W) to frames of the same shape, uint8: encoder and decoder.
        fit: How pictures are brought to ``size``.
    """

    sample_rate: int
    fps: float
    size: tuple[int, int]
    sound: Callable[[Tensor], Tensor]
    frames: Callable[[Tensor], Tensor]
    fit: Literal["crop", "letterbox"] = "crop"


@dataclass(frozen=True)
class Observation:
    """What is kept of one clip.

    Args:
        stem: Its name.
        duration: Seconds covered by what is compared.
        source: Where the reference events come from: ``sidecar``, or the name of the detector.
        made: What was generated, beside what it is compared with.
        best: The true clip after the round trip; None without one.
        true: The true clip as it is; None where it is not known.
        generated: The generated file, if any.
        reference: The reference file, if any.
        clock: By what the two files were laid over each other: their ``picture``, their ``sound``, or the ``start``.
        features: Modality (``video``, ``audio``, ``class``) to rows (R, D) of ``generated``, ``reference``,
            ``round_trip`` and ``noise``.
    """

    stem: str
    duration: float
    source: str
    made: View
    best: View | None = None
    true: View | None = None
    generated: Path | None = None
    reference: Path | None = None
    clock: str = "start"
    features: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
