"""Lag: the delay at which two streams agree best, and how well they agree there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cmmd_lightning.metrics.functional.events import Times, as_times


class Lag(NamedTuple):
    """Seconds by which the second stream is late (negative: early), and the strength of the agreement, at most 1."""

    seconds: float
    strength: float


def envelope_lag(first: Tensor, second: Tensor, rate: float, *, max_lag: float = 0.5) -> Lag:
    """Delay at which two envelopes correlate best.

    Pearson's correlation over the overlap at every whole step of delay; the best one is refined by a parabola.

    Args:
        first: Envelope (F,), such as motion.
        second: Envelope (F,) at the same times, such as loudness; ValueError unless both are finite and of one length.
        rate: Values per second.
        max_lag: Greatest delay looked at either way, in seconds; at least 3 values must overlap.

    Returns:
        ``Lag(seconds, strength)``; ``(nan, 0)`` where an envelope is constant.

    Example:
        >>> x = torch.zeros(100)
        >>> x[30] = x[62] = 1.0
        >>> lag = envelope_lag(x, x.roll(5), rate=50.0)
        >>> round(lag.seconds, 3), lag.strength
        (0.1, 1.0)
    """
    a, b = (np.asarray(values.detach().cpu(), dtype=np.float64) for values in (first, second))
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"envelopes must have one dimension and one length, got {a.shape} and {b.shape}")
    if not rate > 0:
        raise ValueError(f"rate must be positive, got {rate}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("envelopes must be finite, got NaN or infinity")
    _check_max_lag(max_lag)
    reach = min(int(max_lag * rate + 1e-9), len(a) - 3)
    if reach < 0:
        return Lag(float("nan"), 0.0)
    steps = np.arange(-reach, reach + 1)
    curve = np.array([_correlation(a, b, int(step)) for step in steps])
    best = int(np.argmax(np.round(curve, 12) - 1e-9 * np.abs(steps)))  # of equals, the least delay
    if not curve[best] > 0:
        return Lag(float("nan"), 0.0)
    shift = refine_peak(curve, best)
    return Lag(float((steps[best] + shift) / rate), float(round(min(curve[best], 1.0), 12)))


def event_lag(
    reference: Times, estimate: Times, *, max_lag: float = 0.5, width: float = 0.03, resolution: float = 0.005
) -> Lag:
    """Delay at which two lists of events agree best.

    The agreement at a delay d is the sum over all pairs of ``exp(-(e - r - d)^2 / (2 width^2))``, divided by the
    larger number of events: 1 where each event meets its partner. The best delay on a grid is refined by a parabola.
    Periodic events agree again at every period: keep ``max_lag`` below half of it.

    Args:
        reference: Reference times (R,) in seconds.
        estimate: Estimated times (E,) in seconds.
        max_lag: Greatest delay looked at either way, in seconds; ValueError unless it is finite and 0 or more.
        width: Standard deviation of the agreement of one pair, in seconds.
        resolution: Step of the grid in seconds.

    Returns:
        ``Lag(seconds, strength)``; ``(nan, 0)`` where a list is empty or nothing comes near.

    Example:
        >>> lag = event_lag([0.2, 0.7, 1.1], [0.28, 0.78, 1.18])
        >>> round(lag.seconds, 3), round(lag.strength, 3)
        (0.08, 1.0)
    """
    _check_max_lag(max_lag)
    ref, est = as_times(reference), as_times(estimate)
    if not ref.size or not est.size:
        return Lag(float("nan"), 0.0)
    differences = (est[:, None] - ref[None, :]).ravel()

    def agreement(delays: np.ndarray) -> np.ndarray:
        near = np.exp(-((differences[None] - delays[:, None]) ** 2) / (2 * width**2))
        return near.sum(axis=1) / max(ref.size, est.size)

    count = round(max_lag / resolution)
    grid = np.arange(-count, count + 1) * resolution
    curve = agreement(grid)
    best = int(np.argmax(np.round(curve, 12) - 1e-9 * np.abs(grid)))
    if curve[best] < 1e-3:
        return Lag(float("nan"), 0.0)
    seconds = grid[best] + refine_peak(curve, best) * resolution
    return Lag(float(seconds), float(min(agreement(np.array([seconds]))[0], 1.0)))


def sound_lag(first: Tensor, second: Tensor, sample_rate: int) -> float:
    """Seconds by which the second of two recordings (N,), (M,) of one sound is late; 0 where one is silent.

    Example:
        >>> noise = torch.randn(4000, generator=torch.Generator().manual_seed(0))
        >>> sound_lag(noise, noise[160:], 16000)
        -0.01
    """
    size = 2 ** int(np.ceil(np.log2(len(first) + len(second))))
    a, b = (torch.fft.rfft(sound.double(), n=size) for sound in (first, second))
    curve = torch.fft.irfft(b * a.conj(), n=size)
    best = int(curve.argmax())
    if not float(curve[best]) > 0:
        return 0.0
    return (best if best < len(second) else best - size) / sample_rate


def loudness_envelope(sound: Tensor, sample_rate: int, times: Tensor, *, width: float = 0.04) -> Tensor:
    """Level of a sound (N,) around given times (F,) in seconds, for comparison with motion.

    Root mean square (F,) float64 over ``width`` seconds, in dB above -60 dB full scale, 0 at least.

    Example:
        >>> sound = torch.cat([torch.zeros(8000), torch.ones(8000)])
        >>> loudness_envelope(sound, 16000, torch.tensor([0.25, 0.75])).tolist()
        [0.0, 60.0]
    """
    energy = torch.cat([torch.zeros(1, dtype=torch.float64), sound.detach().cpu().double().square().cumsum(0)])
    low = ((times.double() - width / 2) * sample_rate).round().long().clamp(0, len(energy) - 1)
    high = ((times.double() + width / 2) * sample_rate).round().long().clamp(0, len(energy) - 1)
    power = (energy[high] - energy[low]) / (high - low).clamp(min=1)
    return (10 * torch.log10(power.clamp(min=1e-6)) + 60).clamp(min=0)


def _check_max_lag(max_lag: float) -> None:
    if not (np.isfinite(max_lag) and max_lag >= 0):
        raise ValueError(f"max_lag must be a finite number of seconds, 0 or more, got {max_lag!r}")


def _correlation(a: np.ndarray, b: np.ndarray, step: int) -> float:
    """Pearson's correlation of a[i] with b[i + step]."""
    x, y = (a[: len(a) - step], b[step:]) if step >= 0 else (a[-step:], b[: len(b) + step])
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / norm) if norm > 1e-12 else 0.0


def refine_peak(curve: np.ndarray, best: int) -> float:
    """Offset in [-0.5, 0.5] steps of the vertex of the parabola through the best value and its neighbours."""
    if not 0 < best < len(curve) - 1:
        return 0.0
    left, middle, right = curve[best - 1 : best + 2]
    bend = left - 2 * middle + right
    shift = 0.0 if bend >= -1e-12 else float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))
    return shift if abs(shift) > 1e-9 else 0.0
