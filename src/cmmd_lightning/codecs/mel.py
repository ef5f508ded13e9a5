"""Sound to log-Mel spectrogram."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Magnitudes below this count as this: log(1e-5) = -11.5 is silence. (vocos was trained with 1e-7; the two differ only
# where a whole Mel band is quieter than 1e-5, that is in digital silence.)
MAGNITUDE_FLOOR = 1e-5

# Mel frames transformed at once, so that memory does not grow with the length of a film.
_CHUNK = 8192


class LogMel(nn.Module):
    """Natural log of the magnitude Mel spectrogram, as vocos has it: power 1, HTK scale, bands not normalised.

    Shapes: B sounds of N samples; M = ``n_mels`` bands; L = ceil(N / ``hop_length``) frames. Frame ``l`` is centred on
    sample ``l * hop_length`` under a Hann window of ``n_fft`` samples. The ends are mirrored, as torch.stft does; a
    sound too short for that is followed by silence. ``normalize`` brings values to about zero mean and unit variance
    with the scalar buffers ``mean`` and ``std``, which are measured on the training data.

    Args:
        sample_rate: Samples per second (Hz).
        n_fft: Window in samples.
        hop_length: Step between frames in samples.
        n_mels: Bands, M.
        f_min: Lower edge of the lowest band in Hz.
        f_max: Upper edge of the highest band in Hz; None is half the sample rate.
        floor: Magnitudes below this count as this. A floor above the noise of a recording makes its silence silent: the
            log of noise is as rough at any level, and a model would spend itself on it.

    Raises:
        ValueError: If a band is so narrow that it holds no frequency of the ``n_fft`` transform.

    Example:
        >>> mel = LogMel(sample_rate=16000, n_fft=1024, hop_length=200, n_mels=80)
        >>> mel(torch.zeros(2, 25600)).shape
        torch.Size([2, 80, 128])
    """

    mean: Tensor
    std: Tensor
    bank: Tensor
    window: Tensor

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 1024,
        hop_length: int = 200,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float | None = None,
        floor: float = MAGNITUDE_FLOOR,
    ) -> None:
        super().__init__()
        import torchaudio

        self.sample_rate, self.n_fft, self.hop_length, self.n_mels = sample_rate, n_fft, hop_length, n_mels
        self.floor = floor
        self.f_min, self.f_max = float(f_min), float(sample_rate / 2 if f_max is None else f_max)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
            bank = torchaudio.functional.melscale_fbanks(
                n_fft // 2 + 1, self.f_min, self.f_max, n_mels, sample_rate, norm=None, mel_scale="htk"
            )
        empty = int((bank.amax(dim=0) <= 0).sum())
        if empty:
            raise ValueError(
                f"LogMel: expected bands that each hold a frequency of the transform, got n_mels={n_mels} with "
                f"n_fft={n_fft} at {sample_rate} Hz, which leaves {empty} empty; use a larger n_fft or fewer bands"
            )
        # Not persistent: both follow from the arguments, so a checkpoint need not hold them.
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments, in plain types: what a vocoder must know, and what two Mels must agree in."""
        names = ("sample_rate", "n_fft", "hop_length", "n_mels", "f_min", "f_max", "floor")
        return {name: getattr(self, name) for name in names}

    def num_frames(self, num_samples: int) -> int:
        """Mel frames L of a sound of ``num_samples`` samples."""
        return math.ceil(num_samples / self.hop_length)

    def forward(self, sound: Tensor) -> Tensor:
        """Log-Mel of sound.

        Args:
            sound: (B, N), mono, values in [-1, 1].

        Returns:
            (B, M, L), natural log of the magnitude, never below log(floor); not normalised.

        Raises:
            ValueError: If ``sound`` is not (B, N) with N >= 1.
        """
        if sound.ndim != 2 or sound.shape[1] < 1:
            raise ValueError(f"LogMel: expected sound of shape (batch, samples), got {tuple(sound.shape)}")
        half, hop = self.n_fft // 2, self.hop_length
        frames = self.num_frames(sound.shape[1])
        with torch.autocast(sound.device.type, enabled=False):
            sound = functional.pad(sound.float(), (0, max(0, half + 1 - sound.shape[1])))
            sound = functional.pad(sound[:, None], (half, half), mode="reflect")[:, 0]
            starts = range(0, frames, _CHUNK)
            ends = [min(start + _CHUNK, frames) for start in starts]
            spans = [sound[:, a * hop : (b - 1) * hop + self.n_fft] for a, b in zip(starts, ends, strict=True)]
            return torch.cat([self._log_mel(span) for span in spans], dim=2)

    def _log_mel(self, span: Tensor) -> Tensor:
        """Of whole windows only: no padding at the ends."""
        import torchaudio

        magnitude = torchaudio.functional.spectrogram(
            span,
            pad=0,
            window=self.window,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            win_length=self.n_fft,
            power=1.0,
            normalized=False,
            center=False,
        )
        mel = (magnitude.transpose(1, 2) @ self.bank).transpose(1, 2)
        return mel.clamp(min=self.floor).log()

    def normalize(self, log_mel: Tensor) -> Tensor:
        """Log-Mel of any shape to about zero mean and unit variance."""
        return (log_mel - self.mean) / self.std

    def denormalize(self, log_mel: Tensor) -> Tensor:
        """Normalised log-Mel of any shape back to natural log units."""
        return log_mel * self.std + self.mean
