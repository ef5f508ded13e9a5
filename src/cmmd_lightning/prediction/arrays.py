"""Frames and sound as numpy, image and audio libraries give them, brought to the form that the model takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def as_frames(value: Any, height: int, width: int) -> Tensor:
    """Frames of any unambiguous form as float32 (B, 3, T, H, W) in [-1, 1].

    Args:
        value: Tensor or array, uint8 or floating in [-1, 1]: (B, 3, T, H, W), (B, T, H, W, 3), or one clip without B.
        height: H of the model's clip.
        width: W of the model's clip.

    Raises:
        ValueError: If it is of another form, or its values are out of range or not finite.
    """
    frames = torch.as_tensor(value)
    frames = frames[None] if frames.ndim == 4 else frames
    if frames.ndim == 5 and frames.shape[-1] == 3 and frames.shape[1] != 3:
        frames = frames.permute(0, 4, 1, 2, 3)
    if frames.ndim != 5 or frames.shape[1] != 3 or tuple(frames.shape[3:]) != (height, width):
        raise ValueError(
            f"frames: expected (B, 3, T, {height}, {width}) or (B, T, {height}, {width}, 3), got {tuple(frames.shape)}"
        )
    if frames.dtype == torch.uint8:
        return frames.float() / 127.5 - 1.0
    return _checked("frames", frames, 1.01, "uint8 is taken as 0 to 255")


def as_sound(value: Any) -> Tensor:
    """Sound of any unambiguous form as float32 (B, N).

    Args:
        value: Tensor or array, floating in [-1, 1], int16 or int32: (B, N), (B, 1, N) or (N,).

    Raises:
        ValueError: If it is of another form, or its values are out of range or not finite.
    """
    sound = torch.as_tensor(value)
    sound = sound[None] if sound.ndim == 1 else sound
    sound = sound[:, 0] if sound.ndim == 3 and sound.shape[1] == 1 else sound
    if sound.ndim != 2:
        raise ValueError(f"sound: expected mono, (B, N) or (N,), got {tuple(sound.shape)}")
    if sound.dtype in (torch.int16, torch.int32):
        return sound.float() / -float(torch.iinfo(sound.dtype).min)
    return _checked("sound", sound, 4.0, "int16 is scaled")


def _checked(name: str, values: Tensor, limit: float, hint: str) -> Tensor:
    if not values.is_floating_point():
        raise ValueError(f"{name}: expected floating values in [-1, 1] ({hint}), got {values.dtype}")
    values = values.float()
    peak = float(values.abs().amax()) if values.numel() else 0.0
    if not peak <= limit:  # NaN too
        raise ValueError(f"{name}: expected finite values in [-1, 1] ({hint}), got a peak of {peak:g}")
    return values
