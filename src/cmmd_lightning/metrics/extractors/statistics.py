"""Hand-made features that need no weights: for telling one's own versions apart, not for comparing with papers.

**Not FVD and not FAD**, and their names say so. They see how light, colour, sharpness and change are distributed, or
loudness and its change by frequency; not what is shown or heard. With at most 48 values, 100 clips suffice for a
covariance. Logarithms are natural, so that a difference of 1 is a factor of 2.7; other values are in units of about
their spread over clips. A clip's features depend on nothing but the clip. A change of definition changes the version.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmmd_lightning.metrics.extractors.inputs import check_frames, sound_at

LEVEL = 4.0  # 1 / spread over clips of values in [0, 1]


class PixelStatistics(nn.Module):
    """40 statistics of a clip: colour, brightness, layout, edges by direction and scale, change in time by scale.

    Frames are shown at 8 per second (the one on display at that time: slower videos repeat theirs) and brought to
    128 x 128 pixels, whatever their aspect, so that clips of any rate and size compare.

    Example:
        >>> frames = torch.zeros(2, 3, 25, 32, 32, dtype=torch.uint8)
        >>> PixelStatistics()(frames, 25.0).shape
        torch.Size([2, 40])
    """

    name: str = "pixel-statistics-v1"
    num_features: int = 40
    rate: float = 8.0
    side: int = 128

    def forward(self, frames: Tensor, fps: float) -> Tensor:
        """Features (B, 40) of frames uint8 (B, 3, T, H, W)."""
        check_frames(frames, fps)
        return torch.stack([self._of(clip, fps) for clip in frames])

    def _of(self, clip: Tensor, fps: float) -> Tensor:
        last = clip.shape[1] - 1
        count = max(1, math.ceil((last + 1) / fps * self.rate - 1e-6))
        shown = [min(last, int(k / self.rate * fps + 1e-6)) for k in range(count)]
        pictures = clip[:, shown].transpose(0, 1).float() / 255
        pictures = functional.interpolate(pictures, size=(self.side,) * 2, mode="bilinear", antialias=True)
        red, green, blue = pictures.unbind(1)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        colours = torch.stack([luma, red - green, (red + green) / 2 - blue])
        scales = [luma, functional.avg_pool2d(luma, 2), functional.avg_pool2d(luma, 4)]
        spread = colours.std(dim=(1, 2, 3))
        levels = [
            colours.mean(dim=(1, 2, 3)),
            torch.quantile(scales[2].flatten(), torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], device=clip.device)),
            functional.adaptive_avg_pool2d(luma.mean(0)[None], 3).flatten(),
        ]
        sizes = [_log(spread), *(_edges(x) for x in scales), *(_changes(x) for x in scales)]
        return torch.cat([LEVEL * torch.cat(levels), *sizes, self._moving(scales[2])])

    def _moving(self, luma: Tensor) -> Tensor:
        """Share of pixels that change at all, and how uneven the change is over time (2,)."""
        change = luma.diff(dim=0).abs() if len(luma) > 1 else torch.zeros_like(luma)
        over_time = change.mean(dim=(1, 2))
        return torch.stack([LEVEL * (change > 0.05).float().mean(), _log(over_time.std(unbiased=False))])


def _log(x: Tensor) -> Tensor:
    """Logarithm of a size in [0, 1] over one step of 8 bits, which is the floor; 0 for 0."""
    return torch.log1p(255 * x)


def _edges(luma: Tensor) -> Tensor:
    """Mean size of differences to the four directions of neighbours (4,)."""
    here = luma[:, 1:, 1:-1]
    above = (luma[:, :-1, :-2], luma[:, :-1, 1:-1], luma[:, :-1, 2:])
    pairs = [(here, other) for other in above] + [(luma[:, :, 1:], luma[:, :, :-1])]
    return _log(torch.stack([(a - b).abs().mean() for a, b in pairs]))


def _changes(luma: Tensor) -> Tensor:
    """Mean size of change from picture to picture, and of the change of that (2,)."""
    zero = luma.new_zeros(())
    return _log(torch.stack([luma.diff(n=n, dim=0).abs().mean() if len(luma) > n else zero for n in (1, 2)]))


class MelStatistics(nn.Module):
    """46 statistics of a sound: by Mel band the mean, spread and flux of the level, and its change over 20 to 320 ms.

    Sound is resampled to 16 kHz; levels are logarithms of the magnitude in 12 bands from 50 to 7600 Hz over the floor,
    which is 60 dB below full scale; 0 for silence. A floor of 80 dB, as in version 1, lets the faint hiss of a
    vocoder where the true clip is exactly silent outweigh all that is heard.

    Example:
        >>> MelStatistics()(torch.zeros(2, 8000), 16000).shape
        torch.Size([2, 46])
    """

    name: str = "mel-statistics-v2"
    num_features: int = 46
    rate: int = 16000
    fft: int = 512
    hop: int = 160
    bands: int = 12
    lags: tuple[int, ...] = (2, 4, 8, 16, 32)
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.register_buffer(
            "mel", melscale_fbanks(self.fft // 2 + 1, 50.0, 7600.0, self.bands, self.rate), persistent=False
        )

    def forward(self, sound: Tensor, sample_rate: int) -> Tensor:
        """Features (B, 46) of sounds (B, N) in [-1, 1]; zeros are added up to 32 ms."""
        sound = sound_at(sound, sample_rate, self.rate)
        sound = functional.pad(sound, (0, max(0, self.fft - sound.shape[1])))
        return torch.stack([self._of(one) for one in sound])

    def _of(self, sound: Tensor) -> Tensor:
        window = torch.hann_window(self.fft, device=sound.device)
        magnitude = torch.fft.rfft(sound.unfold(0, self.fft, self.hop) * window).abs() / (self.fft / 4)
        level = torch.log1p(1e3 * magnitude @ self.mel)
        halves = level.unflatten(1, (2, self.bands // 2)).mean(dim=2)
        by_lag = [_change_after(halves, lag) for lag in self.lags]
        return torch.cat([level.mean(0), level.std(0, unbiased=False), _change_after(level, 1), *by_lag])


def _change_after(level: Tensor, lag: int) -> Tensor:
    """Mean size of change over ``lag`` steps of (T, F), by F; 0 where the sound is shorter."""
    if len(level) <= lag:
        return level.new_zeros(level.shape[1])
    return (level[lag:] - level[:-lag]).abs().mean(0)
