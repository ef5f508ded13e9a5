"""A clip in memory, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from cmmd_lightning.evaluation.measures import View

SAMPLE_RATE = 16000
"""Hz at which sound is read for detection."""


@dataclass(frozen=True)
class Media:
    """A clip in memory.

    Args:
        frames: uint8 (T, 3, H, W), or None.
        fps: Frames per second.
        sound: float (N,), or None.
        sample_rate: Hz.
    """

    frames: Tensor | None = None
    fps: float = 0.0
    sound: Tensor | None = None
    sample_rate: int = SAMPLE_RATE


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
        generated: The generated file, if any.
        reference: The reference file, if any.
        features: Modality (``video``, ``audio``, ``class``) to rows (R, D) of ``generated``, ``reference``,
            ``round_trip`` and ``noise``.
    """

    stem: str
    duration: float
    source: str
    made: View
    best: View | None = None
    generated: Path | None = None
    reference: Path | None = None
    features: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
