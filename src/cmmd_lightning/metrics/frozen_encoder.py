"""A frozen encoder with a name and a hash, the one that is a TorchScript file, and the media that encoders take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmmd_lightning.metrics.functional.meaning import RowKind
from cmmd_lightning.metrics.weights import weights_hash


class FrozenEncoder(nn.Module):
    """A frozen module with a name and the hash of its weights."""

    outputs: RowKind = "embeddings"

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module: Any = module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self.name = name
        self.weights_hash = weights_hash(self)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((value.device for value in self.module.state_dict().values()), torch.device("cpu"))

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in evaluation mode, also inside of a model that trains."""
        return super().train(False)


class ScriptedEncoder(FrozenEncoder):
    """An encoder of frames or of sound from a TorchScript file, for ImageBind-class pairs that share one space.

    The file holds everything, the resizing and resampling too. Saved by ``torch.jit.script(module).save(path)``, its
    ``forward`` takes ``(frames: Tensor, fps: float)``, uint8 (B, 3, T, H, W), or ``(sound: Tensor, sample_rate: int)``,
    float32 (B, N) in [-1, 1], of any T, H, W and N, and gives (B, D) floats, the same D and space for both. TorchScript
    files are programs: run those you trust.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"no TorchScript file {path}")
        super().__init__(torch.jit.load(str(path), map_location="cpu"), Path(path).name)

    @torch.no_grad()
    def forward(self, media: Tensor, rate: float) -> Tensor:
        """Embeddings (B, D) float32 of frames (B, 3, T, H, W) and their fps, or of sound (B, N) and its Hz."""
        if media.dim() == 2:
            check_sound(media, int(rate))
            return self.module(media.to(self.device, torch.float32), int(rate)).float()
        check_frames(media)
        return self.module(media.to(self.device), float(rate)).float()


def check_frames(frames: Tensor) -> None:
    """Raise ValueError unless frames are uint8 (B, 3, T, H, W) and not empty."""
    if frames.dim() != 5 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or frames.numel() == 0:
        raise ValueError(f"frames must be uint8 (B, 3, T, H, W), got {frames.dtype} {tuple(frames.shape)}")


def check_sound(sound: Tensor, sample_rate: int) -> None:
    """Raise ValueError unless sound is float (B, N), not empty and finite, at a positive rate."""
    if sound.dim() != 2 or sound.numel() == 0 or not sound.is_floating_point() or sample_rate <= 0:
        raise ValueError(
            f"sound must be float (B, N) at some Hz, got {sound.dtype} {tuple(sound.shape)}, {sample_rate}"
        )
    if not bool(torch.isfinite(sound).all()):
        raise ValueError("sound must be finite, got NaN or infinity")


def resampled(sound: Tensor, sample_rate: int, rate: int) -> Tensor:
    """Sound (B, N) at another rate, float32 on the CPU, where the feature extractors work."""
    import torchaudio

    check_sound(sound, sample_rate)
    return torchaudio.functional.resample(sound.detach().to("cpu", torch.float32), sample_rate, rate)


def stretches(sound: Tensor, longest: int) -> tuple[Tensor, ...]:
    """As few equal stretches (B, at most longest) as cover the sound."""
    return sound.tensor_split(math.ceil(sound.shape[1] / longest), dim=1)
