"""AV-Align, by name of variant: intersection over union of sound peaks and motion peaks within one frame.

Source: Yariv et al., "Diverse and Aligned Audio-to-Video Generation via Text-to-Video Model Adaptation" (TempoTokens,
AAAI 2024). Several versions of its code are in circulation, and figures made with one do not compare with
another's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cmmd_lightning.metrics.functional.events import Times, as_times

Variant = Literal["tempotokens-2025", "tempotokens-2024"]
VARIANTS: tuple[Variant, ...] = ("tempotokens-2025", "tempotokens-2024")


def av_align(audio_peaks: Times, video_peaks: Times, fps: float, *, variant: Variant = "tempotokens-2025") -> float:
    """AV-Align of two lists of peaks.

    A sound peak and a motion peak meet where they are less than one frame apart (exclusive). ``tempotokens-2025``: in
    order of the sound peaks, each takes the first motion peak that is free. ``tempotokens-2024``: the older code, in
    which one motion peak can serve any number of sound peaks, so that the value can exceed 1.

    Args:
        audio_peaks: Seconds (A,).
        video_peaks: Seconds (V,).
        fps: Frames per second of the video.
        variant: Which code.

    Returns:
        Matches / (A + V - matches); 0 for two empty lists, which the original leaves undefined.

    Raises:
        ValueError: If times are malformed, ``fps`` is not positive, or the variant is unknown.

    Example:
        >>> av_align([0.10, 0.15], [0.12], fps=10.0)
        0.5
        >>> av_align([0.10, 0.15, 0.9], [0.12], fps=10.0, variant="tempotokens-2024")
        1.0
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
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
    """Local maxima of a motion envelope, as AV-Align counts them.

    The original's envelope is the mean magnitude of Farneback's optical flow, its first value doubled so that value i
    belongs to frame i; any envelope laid out so will do, but is then not the original's and must be named.

    Args:
        envelope: (T,), one value per frame.
        fps: Frames per second.
        least: Peaks below this do not count (0.1 in some copies of the code).

    Returns:
        Times (V,) float64 of the values above both neighbours: ``i / fps``.

    Example:
        >>> motion_peaks(torch.tensor([0.0, 0.0, 1.0, 0.5, 0.7, 0.1]), 10.0).tolist()
        [0.2, 0.4]
    """
    middle = envelope[1:-1]
    peaks = (middle > envelope[:-2]) & (middle > envelope[2:]) & (middle >= least)
    return (torch.nonzero(peaks).flatten() + 1).double() / fps
