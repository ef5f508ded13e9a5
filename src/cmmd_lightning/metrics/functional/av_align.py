"""AV-Align, by name of variant: intersection over union of sound peaks and motion peaks within one frame.

Source: Yariv et al., "Diverse and Aligned Audio-to-Video Generation via Text-to-Video Model Adaptation" (TempoTokens,
AAAI 2024), ``av_align.py`` of its repository, which has two versions:

====================  ====================================  =====================================
Variant               ``tempotokens-2024``                  ``tempotokens-2025``
====================  ====================================  =====================================
Date                  26 October 2023, with the paper       13 February 2025
Sound peaks           librosa's onsets at 22,050 Hz         the same
Motion peaks          flow above both neighbours            and at least 0.1 pixels per frame
Window                less than one frame, exclusive        the same
A motion peak serves  any number of sound peaks: can be     one sound peak, the first in time:
                      more than 1                           at most 1
====================  ====================================  =====================================

The version of 2023 does not run as committed (its peak finder uses a length that is never set); copies of it repair
that, and some change more: onsets of the energy instead of librosa's, an inclusive window, flow without the doubled
first value, a small number in the denominator. Figures made with one do not compare with another's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cmmd_lightning.metrics.functional.events import Times, as_times
from cmmd_lightning.metrics.functional.flow import flow_magnitude
from cmmd_lightning.metrics.functional.with_librosa import load_librosa

Variant = Literal["tempotokens-2025", "tempotokens-2024"]
LEAST_FLOW: dict[Variant, float] = {"tempotokens-2025": 0.1, "tempotokens-2024": 0.0}
"""Least flow of a motion peak in pixels per frame, of each variant."""
LIBROSA_RATE = 22050


def av_align(audio_peaks: Times, video_peaks: Times, fps: float, *, variant: Variant = "tempotokens-2025") -> float:
    """AV-Align of two lists of peaks, which meet where they are less than one frame apart (exclusive).

    ``tempotokens-2025``: in order of the sound peaks, each takes the first motion peak that is free.
    ``tempotokens-2024``: a motion peak can serve any number of sound peaks, so that the value can exceed 1.

    Args:
        audio_peaks: Seconds (A,).
        video_peaks: Seconds (V,).
        fps: Frames per second of the video.
        variant: Which code; ValueError for another, as for malformed times or ``fps``.

    Returns:
        Matches / (A + V - matches); 0 for two empty lists, which the original leaves undefined.

    Example:
        >>> av_align([0.10, 0.15], [0.12], fps=10.0)
        0.5
        >>> av_align([0.10, 0.15, 0.9], [0.12], fps=10.0, variant="tempotokens-2024")
        1.0
    """
    if variant not in LEAST_FLOW:
        raise ValueError(f"variant must be one of {', '.join(LEAST_FLOW)}, got {variant!r}")
    if not (fps > 0 and np.isfinite(fps)):
        raise ValueError(f"fps must be positive and finite, got {fps}")
    audio, video = as_times(audio_peaks), as_times(video_peaks)
    matches = 0
    free = np.ones(video.size, dtype=bool)
    for peak in audio:
        near = np.nonzero((video - 1 / fps < peak) & (peak < video + 1 / fps) & free)[0]
        if near.size:
            matches += 1
            free[near[0]] = variant == "tempotokens-2024"
    union = audio.size + video.size - matches
    return matches / union if union else 0.0


def motion_peaks(envelope: Tensor, fps: float, *, least: float = 0.0) -> Tensor:
    """Local maxima of a motion envelope, as AV-Align counts them: the original's is `flow_magnitude`.

    Args:
        envelope: (T,), value i of frame i; ValueError unless it is finite.
        fps: Frames per second.
        least: Peaks below this do not count; for the original's envelope, ``LEAST_FLOW[variant]``.

    Returns:
        Times (V,) float64 of the values above both neighbours: ``i / fps``.

    Example:
        >>> motion_peaks(torch.tensor([0.0, 0.0, 1.0, 0.5, 0.7, 0.1]), 10.0).tolist()
        [0.2, 0.4]
    """
    _check_finite(envelope, "envelope")
    if not (fps > 0 and np.isfinite(fps)):
        raise ValueError(f"fps must be positive and finite, got {fps}")
    middle = envelope[1:-1]
    peaks = (middle > envelope[:-2]) & (middle > envelope[2:]) & (middle >= least)
    return (torch.nonzero(peaks).flatten() + 1).double() / fps


def librosa_onsets(sound: Tensor, sample_rate: int) -> Tensor:
    """Onsets as AV-Align finds them: librosa's defaults on the sound at 22,050 Hz, in steps of 512 samples (23 ms).

    The times are some 20 to 50 ms late, which :func:`detect_onsets` is not. Needs librosa.

    Args:
        sound: Mono sound (N,); ValueError unless it is finite.
        sample_rate: Samples per second (Hz).

    Returns:
        Times (A,) float64 in seconds, ascending.

    Example:
        >>> sound = torch.zeros(22050)
        >>> sound[8000] = 1.0
        >>> librosa_onsets(sound, 22050).round(decimals=2).tolist()
        [0.37]
    """
    _check_finite(sound, "sound")
    if not sample_rate > 0:
        raise ValueError(f"sample_rate must be positive, got {sample_rate}")
    librosa = load_librosa("AV-Align's onsets")
    if sound.numel() == 0:
        return torch.zeros(0, dtype=torch.float64)
    samples = librosa.resample(sound.detach().cpu().float().numpy(), orig_sr=sample_rate, target_sr=LIBROSA_RATE)
    strength = librosa.onset.onset_strength(y=samples, sr=LIBROSA_RATE)
    return torch.from_numpy(librosa.onset.onset_detect(onset_envelope=strength, sr=LIBROSA_RATE, units="time")).double()


def av_align_clip(
    frames: Tensor, fps: float, sound: Tensor, sample_rate: int, *, variant: Variant = "tempotokens-2025"
) -> float:
    """AV-Align of one clip, from picture and sound to the value, as the original does it (OpenCV, librosa).

    Args:
        frames: (T, 3, H, W) uint8, RGB; the flow, and so the least flow of a peak, depends on the size.
        fps: Frames per second.
        sound: Mono sound (N,).
        sample_rate: Samples per second (Hz).
        variant: Which code.

    Example:
        >>> frames = torch.zeros(10, 3, 32, 32, dtype=torch.uint8)
        >>> frames[5:, :, 8:24, 8:24] = 255
        >>> sound = torch.zeros(22050)
        >>> sound[11025] = 1.0
        >>> av_align_clip(frames, 10.0, sound, 22050)
        1.0
    """
    av_align([], [], fps, variant=variant)  # refuses bad settings before the work
    video = motion_peaks(flow_magnitude(frames), fps, least=LEAST_FLOW[variant])
    return av_align(librosa_onsets(sound, sample_rate), video, fps, variant=variant)


def _check_finite(values: Tensor, name: str) -> None:
    if values.dim() != 1:
        raise ValueError(f"{name} must have one dimension, got shape {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
