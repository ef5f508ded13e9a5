"""Noise of a clip whose frames are alike, as the frames of a video are."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TimeNoise:
    """Normal noise of unit variance, correlated along time.

    What stands still in a clip is one number; noise that is independent from frame to frame makes a model draw it once
    for every frame, and it flickers. Here a share of the noise is one for all frames of the clip, and the rest follows
    itself from frame to frame: sqrt(shared) s + sqrt(1 - shared) a_t with a_t = persistence a_{t-1} +
    sqrt(1 - persistence^2) e_t (the mixed and the progressive noise of Ge et al., "PYoCo", arXiv 2305.10474). It is
    stationary, so that windows of any clip see noise of one kind.

    Args:
        shared: Share of the variance that all frames have in common, in [0, 1).
        persistence: Correlation of neighbouring frames in the rest, in [0, 1).

    Raises:
        ValueError: If one is out of range.
    """

    shared: float = 0.0
    persistence: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < 1:
                raise ValueError(f"TimeNoise.{name}: expected at least 0 and below 1, got {value!r}")

    @classmethod
    def of(cls, noise: TimeNoise | Mapping[str, Any] | None) -> TimeNoise:
        """Return noise from itself, from its plain-dict form, or independent noise from None."""
        return noise if isinstance(noise, TimeNoise) else cls(**(noise or {}))

    def to_dict(self) -> dict[str, float]:
        """Return the plain-dict form, as stored in checkpoints."""
        return asdict(self)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw noise of one clip.

        Args:
            shape: (C, T, H, W).
            generator: Of the CPU.

        Returns:
            (C, T, H, W).
        """
        noise = torch.randn(shape, generator=generator)
        if self.persistence:
            noise = torch.einsum("ts,cshw->cthw", _following(shape[1], self.persistence), noise)
        if self.shared:
            alike = torch.randn((shape[0], 1, *shape[2:]), generator=generator)
            noise = math.sqrt(self.shared) * alike + math.sqrt(1 - self.shared) * noise
        return noise


@functools.cache
def _following(length: int, persistence: float) -> Tensor:
    """The matrix (T, T) that makes a_t of independent e_t."""
    lag = torch.arange(length)[:, None] - torch.arange(length)
    matrix = torch.where(lag >= 0, persistence ** lag.clamp(min=0).double(), 0.0)
    matrix[:, 1:] *= math.sqrt(1 - persistence**2)
    return matrix.float()
