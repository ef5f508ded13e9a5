"""Distances between the spectra of sounds, for training a vocoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WINDOWS = (2048, 1024, 512, 256, 128)

# Magnitudes this far below a full-scale constant count as silence: 1e-5 is 100 dB.
_SILENCE = 1e-5


def multi_resolution_distance(estimate: Tensor, reference: Tensor, windows: Sequence[int] = WINDOWS) -> Tensor:
    """Multi-resolution STFT distance (Yamamoto, Song and Kim 2020), the mean over several windows.

    For each window: the spectral convergence ||S - S_ref|| / ||S_ref||, each example by itself, plus the mean absolute
    difference of the natural logs, S the magnitude under a Hann window with a quarter of it as the step. Short windows
    see when things happen, and so say something about phases; the phase itself plays no part.

    Args:
        estimate: (B, N) sound.
        reference: (B, N) sound.
        windows: Windows in samples; those that the sound is too short for are left out.

    Returns:
        A scalar; 0 for equal sounds.

    Example:
        >>> sound = torch.sin(torch.arange(4000) * 0.3)[None]
        >>> multi_resolution_distance(0.5 * sound, sound, windows=[512]).item() > 0.5
        True
    """
    distances = []
    for size in windows:
        if size // 2 >= reference.shape[1]:
            continue
        window = torch.hann_window(size, device=reference.device)
        made, true = (
            torch.stft(sound.float(), size, size // 4, window=window, return_complex=True).abs()
            for sound in (estimate, reference)
        )
        floor = _SILENCE * size
        convergence = (made - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1).clamp(min=floor)
        logs = (made.clamp(min=floor).log() - true.clamp(min=floor).log()).abs()
        distances.append(convergence.mean() + logs.mean())
    return torch.stack(distances).mean()
