"""Log-Mel back to sound: what every vocoder is, and Griffin-Lim, which always works."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cmmd_lightning.codecs.mel import LogMel


class Vocoder(nn.Module, ABC):
    """A log-Mel to sound.

    Args:
        mel: Settings of the Mel that it takes, as `LogMel.settings` has them.
    """

    context = 0
    """Frames on either side that the sound of a frame depends on, where it depends on no others."""

    def __init__(self, mel: Mapping[str, Any]) -> None:
        super().__init__()
        self.n_mels, self.hop_length, self.floor = int(mel["n_mels"]), int(mel["hop_length"]), float(mel["floor"])

    @abstractmethod
    def forward(self, log_mel: Tensor, num_samples: int) -> Tensor:
        """Sound of a log-Mel.

        Args:
            log_mel: (B, M, L), natural log of the magnitude, not normalised.
            num_samples: Length of the sound, N <= L * hop_length.

        Returns:
            (B, N); frame ``l`` is centred on sample ``l * hop_length``.

        Raises:
            ValueError: If the bands are not the Mel's, or the frames do not cover ``num_samples``.
        """

    def check(self, log_mel: Tensor, num_samples: int) -> None:
        """Refuses what `forward` cannot take."""
        if log_mel.ndim != 3 or log_mel.shape[1] != self.n_mels:
            raise ValueError(
                f"vocoder: expected log_mel of shape (batch, {self.n_mels}, frames), got {tuple(log_mel.shape)}"
            )
        needed = math.ceil(num_samples / self.hop_length)
        if needed > log_mel.shape[2]:
            raise ValueError(
                f"vocoder: {num_samples} samples need {needed} frames of {self.hop_length} samples, "
                f"got {log_mel.shape[2]}"
            )


def magnitude(log_mel: Tensor, floor: float) -> Tensor:
    """Mel magnitudes, with the Mel's floor taken off in power, so that what lies on it is silent and not a hiss."""
    return ((2.0 * log_mel.float()).exp() - floor**2).clamp(min=0.0).sqrt()


def extend(frames: Tensor, length: int) -> Tensor:
    """The last frame of (B, M, L) repeated up to ``length``."""
    surplus = length - frames.shape[2]
    return torch.cat([frames, frames[:, :, -1:].expand(-1, -1, surplus)], dim=2)


class GriffinLimVocoder(Vocoder):
    """Phases by the fast Griffin-Lim algorithm (Perraudin, Balazs and Sondergaard 2013), as torchaudio has it.

    Deterministic, and each example by itself: the phases start at zero, which on speech, tones and clicks comes out as
    good as a random start (log-spectral distance equal to 0.1 dB, transients within 3 ms). The linear spectrum is the
    least-squares one of the Mel's, negative values cut: what torchaudio's InverseMelScale computes, with the solution
    operator kept and no demand on the rank of the filter bank.

    Args:
        mel: The Mel to invert.
        n_iter: Iterations; 32 take about 0.1 s for 1.6 s of sound at 16 kHz on one core.
        momentum: Of the fast algorithm, in [0, 1); 0 is the original one.

    Example:
        >>> mel = LogMel(sample_rate=16000, n_fft=1024, hop_length=200, n_mels=80)
        >>> sound = torch.sin(torch.arange(3200) * 0.3)[None]
        >>> GriffinLimVocoder(mel)(mel(sound), num_samples=3200).shape
        torch.Size([1, 3200])
    """

    window: Tensor
    inverse_bank: Tensor

    def __init__(self, mel: LogMel, n_iter: int = 32, momentum: float = 0.99) -> None:
        super().__init__(mel.settings)
        self.n_fft, self.n_iter, self.momentum = mel.n_fft, n_iter, momentum
        inverse = torch.linalg.pinv(mel.bank.detach().cpu().double().T).float()
        self.register_buffer("inverse_bank", inverse, persistent=False)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    @torch.no_grad()
    def forward(self, log_mel: Tensor, num_samples: int) -> Tensor:
        """Sound (B, N) of a log-Mel (B, M, L); see `Vocoder.forward`."""
        import torchaudio

        self.check(log_mel, num_samples)
        # torch.stft wants a frame at the very end too, and more samples than half a window.
        frames = max(log_mel.shape[2], self.n_fft // 2 // self.hop_length + 1)
        with torch.autocast(log_mel.device.type, enabled=False):
            spectrum = (self.inverse_bank @ magnitude(log_mel, self.floor)).clamp(min=0.0)
            sound = torchaudio.functional.griffinlim(
                extend(spectrum, frames + 1),
                self.window,
                n_fft=self.n_fft,
                hop_length=self.hop_length,
                win_length=self.n_fft,
                power=1.0,
                n_iter=self.n_iter,
                momentum=self.momentum,
                length=frames * self.hop_length,
                rand_init=False,
            )
        return sound[:, :num_samples]
