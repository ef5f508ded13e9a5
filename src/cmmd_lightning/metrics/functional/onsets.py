"""Onsets in sound: a spectral-flux detector tuned for sharp attacks.

Source: the log-compressed, rectified spectral flux of Boeck, Krebs and Schedl, "Evaluating the online capabilities of
onset detection methods" (ISMIR 2012), with the comparison against a maximum over the recent past of SuperFlux
(Boeck and Widmer, DAFx 2013; here the maximum runs over time, which silences beating partials and low tones).
Pure torch and torchaudio.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F  # noqa: N812
import torchaudio
from torch import Tensor

HOP_SECONDS = 0.0025
WINDOW_SECONDS = 0.02
COMPRESSION = 100.0  # bands 40 dB below the clip's loudest one fade out
PAST_SECONDS = (0.01, 0.04)  # the rise is measured against the loudest of this stretch of the past
SILENCE = 1e-4  # amplitude (full scale 1) below which a clip is silent
LATENCY_SECONDS = -0.0058  # half-rise point, relative to the attack: -7 ms for a click, -5 ms for a decaying 80 Hz tone


def onset_strength(sound: Tensor, sample_rate: int, *, n_bands: int = 40) -> Tensor:
    """Onset strength (L,) in [0, 1] of a sound (N,), frame ``l`` centred at ``l * hop_samples / sample_rate`` seconds.

    Magnitudes of a 20 ms Hann window every 2.5 ms, summed into Mel bands from 40 Hz to 8 kHz, are divided by the clip's
    loudest band value and compressed as ``log(1 + 100 x) / log(101)``; the strength is the rise of each band over its
    maximum 10 to 40 ms before, rectified and averaged with weights that favour bands which are in use.
    """
    sound = checked_sound(sound, sample_rate)
    if sound.numel() == 0 or float(sound.abs().max()) < SILENCE:
        return torch.zeros(1 + sound.numel() // hop_samples(sample_rate))
    bands = _bands(sound, sample_rate, n_bands)
    level = torch.log1p(COMPRESSION * bands / bands.max()) / torch.log1p(torch.tensor(COMPRESSION))
    near, far = (max(1, round(seconds / HOP_SECONDS)) for seconds in PAST_SECONDS)
    past = F.pad(level[None], (far, 0), mode="replicate")[0]
    past = F.max_pool1d(past[None], kernel_size=far - near + 1, stride=1)[0][:, : level.shape[1]]
    rise = (level - past).clamp(min=0)
    weight = level.amax(dim=1, keepdim=True)
    return (rise * weight).sum(dim=0) / weight.sum()


def detect_onsets(
    sound: Tensor, sample_rate: int, *, threshold: float = 0.08, relative: float = 0.2, separation: float = 0.05
) -> Tensor:
    """Times at which something starts to sound.

    A peak of the onset strength is an onset where it is the largest within ``separation`` either way, exceeds
    ``threshold`` above the local median (over 0.4 s), and ``relative`` times the clip's largest peak. Its time is
    where the strength has risen half-way to the peak, less a constant: a click at t is reported within 5 ms of t,
    whatever follows it. In the first and the last 10 ms, which lack a past or room for a window, there is none.

    Args:
        sound: Mono sound (N,), any level; ValueError unless it is finite.
        sample_rate: Samples per second (Hz), 2 kHz at least.
        threshold: Least strength above the local median.
        relative: Least strength as a share of the clip's strongest onset.
        separation: Least distance of two onsets in seconds.

    Returns:
        Times (E,) float64, in seconds from the start of the sound, ascending; empty for silence.

    Example:
        >>> sound = torch.zeros(16000)
        >>> sound[4000] = sound[12000] = 0.5
        >>> [round(t, 2) for t in detect_onsets(sound, 16000).tolist()]
        [0.25, 0.75]
    """
    strength = onset_strength(sound, sample_rate)
    step = hop_samples(sample_rate) / sample_rate
    peaks = _peaks(strength, threshold, relative, separation, step)
    times = [_half_rise(strength, int(peak)) * step - LATENCY_SECONDS for peak in peaks]
    end = sound.numel() / sample_rate
    return torch.tensor([min(max(time, 0.0), end) for time in times], dtype=torch.float64)


def hop_samples(sample_rate: int) -> int:
    """Samples between frames of the onset strength."""
    return max(1, round(HOP_SECONDS * sample_rate))


def checked_sound(sound: Tensor, sample_rate: int) -> Tensor:
    """A sound (N,) as float32 on the CPU; ValueError unless it is finite, at 2 kHz or more."""
    if sound.dim() != 1:
        raise ValueError(f"sound must have one dimension (samples,), got shape {tuple(sound.shape)}")
    if sample_rate < 2000:
        raise ValueError(f"sample_rate must be at least 2000 Hz, got {sample_rate}")
    sound = sound.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(sound).all()):
        raise ValueError("sound must be finite, got NaN or infinity")
    return sound


def _bands(sound: Tensor, sample_rate: int, n_bands: int) -> Tensor:
    """Mel-band magnitudes (bands, frames)."""
    window = round(WINDOW_SECONDS * sample_rate)
    n_fft = 2 ** (2 * window - 1).bit_length()
    padded = F.pad(sound, (n_fft // 2, n_fft // 2))
    spectrum = torch.stft(
        padded,
        n_fft,
        hop_length=hop_samples(sample_rate),
        win_length=window,
        window=torch.hann_window(window),
        center=False,
        return_complex=True,
    ).abs()
    bands = _filters(n_fft // 2 + 1, sample_rate, n_bands).T @ spectrum
    edge = _edge_gain(bands.shape[1], sample_rate)
    return bands * edge


def _edge_gain(frames: int, sample_rate: int) -> Tensor:
    """1 over the share of the window inside the sound: a sound that is already on at 0 does not start there."""
    half = round(WINDOW_SECONDS / 2 / HOP_SECONDS)
    gain = torch.ones(frames)
    inside = 0.5 + torch.arange(half) / (2 * half) + torch.sin(torch.pi * torch.arange(half) / half) / (2 * torch.pi)
    gain[: min(half, frames)] = 1 / inside[:frames]
    return gain


@functools.lru_cache(maxsize=8)
def _filters(n_freqs: int, sample_rate: int, n_bands: int) -> Tensor:
    top = min(8000.0, sample_rate / 2)
    return torchaudio.functional.melscale_fbanks(n_freqs, 40.0, top, n_bands, sample_rate)


def _peaks(strength: Tensor, threshold: float, relative: float, separation: float, step: float) -> Tensor:
    """Frames (P,) of the peaks that stand out."""
    reach = max(1, round(separation / step))
    local = F.max_pool1d(strength[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    wide = round(0.2 / step)
    median = (
        F.pad(strength[None, None], (wide, wide), mode="constant")[0, 0].unfold(0, 2 * wide + 1, 1).median(dim=1).values
    )
    least = torch.clamp(median + threshold, min=relative * float(strength.max()))
    peaks = torch.nonzero((strength == local) & (strength > least)).flatten()
    peaks = peaks[peaks < strength.numel() - round(WINDOW_SECONDS / 2 / step)]
    if peaks.numel() < 2:
        return peaks
    keep = torch.cat([torch.tensor([True]), peaks.diff() > reach])  # of a flat top, the first
    return peaks[keep]


def _half_rise(strength: Tensor, peak: int) -> float:
    """Fractional frame where the strength, going back from the peak, falls below half of it."""
    half = 0.5 * float(strength[peak])
    frame = peak
    while frame > 0 and float(strength[frame - 1]) >= half:
        frame -= 1
    if frame == 0:
        return 0.0
    low, high = float(strength[frame - 1]), float(strength[frame])
    return frame - 1 + (half - low) / (high - low)
