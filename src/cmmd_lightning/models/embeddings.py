"""Diffusion times as features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal_embedding(t: Tensor, channels: int) -> Tensor:
    """Sines and cosines of a time at geometrically spaced rates (Vaswani et al., arXiv 1706.03762, scaled as in DDPM).

    Args:
        t: Times in [0, 1], (B,).
        channels: Features D, even.

    Returns:
        (B, D), float32.
    """
    half = channels // 2
    rates = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10_000.0) / half))
    angles = 1000.0 * t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def clip_positions(length: int, channels: int, like: Tensor) -> Tensor:
    """Where in the clip each of ``length`` equal parts is centred, as sines and cosines of half to 64 turns a clip.

    Args:
        length: T or L; streams of any two rates agree on what is the same time.
        channels: Features C.
        like: Gives device and type.

    Returns:
        (length, C).
    """
    half = (channels + 1) // 2
    turns = torch.logspace(-1, 6, half, base=2.0, device=like.device, dtype=torch.float32)
    places = (torch.arange(length, device=like.device, dtype=torch.float32) + 0.5) / length
    angles = 2 * math.pi * places[:, None] * turns
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :channels].to(like.dtype)


class TimesEmbedding(nn.Module):
    """Both modalities' times as one feature vector, which every block of both streams reads.

    Args:
        channels: Features D of the result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.mlp = nn.Sequential(nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU())

    def forward(self, t_video: Tensor, t_audio: Tensor) -> Tensor:
        """(B,), (B,) -> (B, D)."""
        parts = [sinusoidal_embedding(t, self.channels) for t in (t_video, t_audio)]
        return self.mlp(torch.cat(parts, dim=1).to(next(self.mlp.parameters()).dtype))
