"""How calm a video is, how constant what moves in it, which pitch sounds, and how quiet the quiet is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CALM = 0.8
"""Share of the pixels, the calmest ones, whose flicker counts."""
PITCH_SECONDS = 0.15
"""Span after an event in which its pitch is looked for."""
PITCH_STEP = 0.01
"""Seconds between the spans of `strongest_partials`."""


def flicker(frames: Tensor) -> float:
    """Mean temporal standard deviation of the calmest 80 % of pixels of uint8 (T, 3, H, W), in 8-bit steps.

    Example:
        >>> frames = torch.zeros(2, 3, 10, 10, dtype=torch.uint8)
        >>> frames[1, :, 0] = 200  # a tenth of the pixels jumps
        >>> flicker(frames)
        0.0
    """
    spread = frames.float().std(dim=0, unbiased=False).mean(dim=0).flatten().sort().values
    return float(spread[: max(1, int(CALM * len(spread)))].mean())


def moving_object(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Colour (T, 3) in 8-bit steps, NaN where there is none, and area (T,) of what differs from the median over time.

    Example:
        >>> frames = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
        >>> frames[0, 0, 0, 0] = frames[1, 0, 1, 1] = frames[2, 0, 2, 2] = 200
        >>> colour, area = moving_object(frames)
        >>> colour[:, 0].tolist(), area.tolist()
        ([200.0, 200.0, 200.0], [0.0625, 0.0625, 0.0625])
    """
    pictures = frames.float()
    mask = (pictures - pictures.median(dim=0).values).abs().amax(dim=1) > 32
    count = mask.sum(dim=(1, 2))
    colour = (pictures * mask[:, None]).sum(dim=(2, 3)) / count[:, None]
    return colour, count / mask[0].numel()


def colour_drift(frames: Tensor) -> float:
    """Standard deviation over time of the moving object's colour, in 8-bit steps; NaN where 2 frames do not show it."""
    colour = moving_object(frames)[0]
    shown = colour[colour.isfinite().all(dim=1)]
    return float(shown.std(dim=0, unbiased=False).mean()) if len(shown) > 1 else float("nan")


def area_drift(frames: Tensor) -> float:
    """Standard deviation over time of the moving object's area over its mean; NaN where nothing moves."""
    area = moving_object(frames)[1]
    shown = area[area > 0]
    return float(shown.std(unbiased=False) / shown.mean()) if len(shown) > 1 else float("nan")


def strongest_partials(sound: Tensor, sample_rate: int) -> Tensor:
    """The strongest partial in the 150 ms after each 10 ms of a sound (N,), in Hz (S,).

    Example:
        >>> wave = torch.sin(2 * torch.pi * 440.0 * torch.arange(16000) / 16000)
        >>> bool((strongest_partials(wave, 16000)[:80] - 440).abs().max() < 1)
        True
    """
    length, step = round(PITCH_SECONDS * sample_rate), round(PITCH_STEP * sample_rate)
    size = 2 * 2 ** int(np.ceil(np.log2(length)))
    padded = torch.nn.functional.pad(sound.float(), (0, length))
    found = []
    for windows in padded.unfold(0, length, step).split(256):
        spectrum = torch.fft.rfft(windows * torch.hann_window(length), n=size).abs().clamp(min=1e-12).log()
        best = spectrum[:, 1:-1].argmax(dim=1) + 1
        left, middle, right = (spectrum.gather(1, (best + k)[:, None])[:, 0] for k in (-1, 0, 1))
        bend = (left - 2 * middle + right).clamp(max=-1e-9)
        found.append((best + (0.5 * (left - right) / bend).clamp(-0.5, 0.5)) * sample_rate / size)
    return torch.cat(found)


def pitches_within(partials: Tensor, events: list[tuple[float, float]], semitones: float = 1.0) -> float:
    """Share of events (seconds, Hz) after which the strongest partial lies within so many semitones; NaN without any.

    Example:
        >>> pitches_within(torch.tensor([440.0, 440.0]), [(0.0, 450.0), (0.01, 880.0)])
        0.5
    """
    hits = []
    for time, pitch in events:
        index = round(time / PITCH_STEP)
        if 0 <= index < len(partials):
            hits.append(abs(12 * np.log2(float(partials[index]) / pitch)) <= semitones)
    return float(np.mean(hits)) if hits else float("nan")


def quiet_level(sound: Tensor, sample_rate: int) -> float:
    """Level of the quiet of a sound (N,): the 20th percentile of the level over 40 ms, in dB full scale, -80 at least.

    Example:
        >>> quiet_level(torch.cat([torch.ones(8000), 0.01 * torch.ones(8000)]), 16000)
        -40.0
    """
    size = max(1, round(0.04 * sample_rate))
    power = sound.double()[: len(sound) // size * size].reshape(-1, size).square().mean(dim=1)
    if not len(power):
        power = sound.double().square().mean()[None]
    return round(float(10 * torch.log10(power.clamp(min=1e-8)).quantile(0.2)), 6)
