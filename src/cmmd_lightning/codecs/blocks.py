"""The linear part of a frame codec: the first few cosine patterns of a block of pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Luma and two opponent colours, orthogonal: of all directions in colour space luma varies most in pictures.
_COLORS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))

# How much finer a luma pattern must be before a pattern in an opponent colour comes first, in half waves per block.
_CHROMA_RANK = 1.5


def block_basis(channels: int, side: int) -> tuple[Tensor, Tensor]:
    """Cosine patterns (DCT-II, as in JPEG) of a block of pixels, coarse ones first, and luma before colour.

    Args:
        channels: How many patterns, C, at most 3 * side**2.
        side: Side of the block in pixels, d.

    Returns:
        Orthonormal patterns (C, 3, d, d), and gains (C,) that bring the coefficients of usual pictures in [-1, 1] to
        about unit variance.

    Raises:
        ValueError: If there are fewer patterns than ``channels``.

    Example:
        >>> patterns, gains = block_basis(4, 8)
        >>> bool((patterns[0] == patterns[0, 0, 0, 0]).all())
        True
    """
    if channels > 3 * side**2:
        raise ValueError(
            f"shortcut: expected at most {3 * side**2} latent channels for blocks of {side}, got {channels}"
        )
    waves = [(i, j) for i in range(side) for j in range(side)]
    every = [(_rank(color, math.hypot(i, j)), color, i, j) for color in range(3) for i, j in waves]
    chosen = sorted(every)[:channels]
    places = torch.arange(side, dtype=torch.float64) + 0.5
    cosines = torch.stack([torch.cos(torch.pi * places * wave / side) for wave in range(side)])
    cosines = cosines / cosines.norm(dim=1, keepdim=True)
    colors = torch.tensor(_COLORS, dtype=torch.float64)
    colors = colors / colors.norm(dim=1, keepdim=True)
    patterns = torch.stack([torch.einsum("c,y,x->cyx", colors[c], cosines[i], cosines[j]) for _, c, i, j in chosen])
    gains = torch.tensor([_gain(color, math.hypot(i, j)) for _, color, i, j in chosen]) / side
    return patterns.float(), gains


def _rank(color: int, frequency: float) -> float:
    """Flat luma, flat colours, then by frequency."""
    return frequency + (_CHROMA_RANK if frequency else 0.1) * (color > 0)


def _gain(color: int, frequency: float) -> float:
    """One over the usual standard deviation, which falls with the frequency, for a block of side 1."""
    if frequency:
        return 8.0 * frequency
    return 5.0 if color else 1.0
