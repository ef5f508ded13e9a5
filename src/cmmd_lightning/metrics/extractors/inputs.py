"""What extractors take: checked frames, and checked sound at the rate they want."""

from __future__ import annotations

import torch
from torch import Tensor


def check_frames(frames: Tensor, fps: float, *, least: int = 1) -> None:
    """Raise ValueError unless frames are uint8 (B, 3, T, H, W), T at ``least`` so many, at a positive rate."""
    if frames.ndim != 5 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or not frames.numel():
        raise ValueError(f"expected uint8 frames (B, 3, T, H, W), got {frames.dtype} {tuple(frames.shape)}")
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    if frames.shape[2] < least:
        raise ValueError(f"expected at least {least} frames, got {frames.shape[2]}")


def sound_at(sound: Tensor, sample_rate: int, wanted: int) -> Tensor:
    """Sound (B, N) at another rate, float32 (windowed sinc, torchaudio's default); ValueError if it is malformed.

    Example:
        >>> sound_at(torch.zeros(1, 480), 48000, 16000).shape
        torch.Size([1, 160])
    """
    if sound.ndim != 2 or not sound.is_floating_point() or not sound.numel():
        raise ValueError(f"expected float sound (B, N), got {sound.dtype} {tuple(sound.shape)}")
    if sample_rate <= 0:
        raise ValueError(f"sample_rate must be positive, got {sample_rate}")
    from torchaudio.functional import resample

    return resample(sound.float(), sample_rate, wanted)
