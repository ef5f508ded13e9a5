"""Synthesised sounds with an attack at an exact instant: struck bars, drums, plucks, a drum kit, bass, and room noise.

A voice is a function from seconds since the attack, (n,), to its signal, (n,), of peak about 1; `place` puts it at any
real time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Voice = Callable[[FloatArray], FloatArray]

TIMBRES = ("bar", "drum", "pluck", "bell")
_ATTACK = 0.0003
_PARTIALS = {
    "bar": ((1.0, 1.0), (2.756, 0.5), (5.404, 0.3), (8.933, 0.15)),
    "pluck": tuple((float(k), 1.0 / k) for k in range(1, 7)),
    "bell": ((0.5, 0.3), (1.0, 1.0), (1.19, 0.5), (2.0, 0.5), (2.74, 0.35), (4.07, 0.2)),
}


def decibels(level: float) -> float:
    """Amplitude factor of a level in dB."""
    return float(10 ** (level / 20))


def place(sound: FloatArray, time: float, sample_rate: int, length: float, voice: Voice, gain: float) -> None:
    """Add a voice to a sound, in place, its attack at exactly ``time``.

    Args:
        sound: (N,) signal.
        time: Seconds from the sound's start; need not fall on a sample.
        sample_rate: Hz.
        length: Seconds after which the voice is cut (it should have died away by then).
        voice: See the module's head.
        gain: Factor.
    """
    first = max(0, int(np.ceil(time * sample_rate - 1e-9)))
    last = min(len(sound), int(np.ceil((time + length) * sample_rate)))
    if last > first:
        since = np.arange(first, last) / sample_rate - time
        sound[first:last] += gain * voice(since)


def _decaying(since: FloatArray, tau: float) -> FloatArray:
    """Sharp attack, exponential decay."""
    return (1 - np.exp(-since / _ATTACK)) * np.exp(-since / tau)


def _click(rng: np.random.Generator, since: FloatArray, tau: float = 0.002) -> FloatArray:
    return rng.standard_normal(len(since)) * np.exp(-since / tau)


def struck(timbre: str, pitch: float, decay: float, sample_rate: int, rng: np.random.Generator) -> Voice:
    """The sound of one impact.

    Args:
        timbre: One of `TIMBRES`.
        pitch: Hz.
        decay: Seconds in which it falls by 30 dB.
        sample_rate: Hz; partials above 0.45 of it are left out.
        rng: Source of the click's noise.

    Returns:
        The voice.
    """
    tau = decay / 3.45
    if timbre == "drum":
        return lambda since: _drum(since, pitch, tau, rng)
    partials = [(ratio, level) for ratio, level in _PARTIALS[timbre] if ratio * pitch < 0.45 * sample_rate]
    total = sum(level for _, level in _PARTIALS[timbre]) * 0.75

    def voice(since: FloatArray) -> FloatArray:
        out = 0.25 * _click(rng, since)
        for ratio, level in partials:
            out += (
                level
                / total
                * np.exp(-since * (max(ratio, 1.0) ** 0.5 / tau))
                * np.sin(2 * np.pi * ratio * pitch * since)
            )
        return out * (1 - np.exp(-since / _ATTACK))

    return voice


def _drum(since: FloatArray, pitch: float, tau: float, rng: np.random.Generator) -> FloatArray:
    """A drum head: a tone that starts sharp and falls to its pitch, and a burst of noise."""
    phase = 2 * np.pi * pitch * (since + 0.015 * (1 - np.exp(-since / 0.015)))
    return _decaying(since, tau) * np.sin(phase + 0.8) + 0.25 * _click(rng, since, 0.006)


def kick(pitch: float, tau: float, rng: np.random.Generator) -> Voice:
    """A bass drum that falls to ``pitch`` Hz and dies with time constant ``tau`` seconds."""

    def voice(since: FloatArray) -> FloatArray:
        phase = 2 * np.pi * (pitch * since + 4 * pitch * 0.02 * (1 - np.exp(-since / 0.02)))
        return _decaying(since, tau) * np.sin(phase + 0.6) + 0.3 * _click(rng, since)

    return voice


def snare(pitch: float, tau: float, rng: np.random.Generator) -> Voice:
    """A snare drum: a short tone at ``pitch`` Hz under noise with time constant ``tau`` seconds."""

    def voice(since: FloatArray) -> FloatArray:
        tone = 0.5 * np.sin(2 * np.pi * pitch * since) * np.exp(-since / 0.04)
        return (1 - np.exp(-since / _ATTACK)) * (tone + 0.35 * rng.standard_normal(len(since)) * np.exp(-since / tau))

    return voice


def hat(tau: float, rng: np.random.Generator) -> Voice:
    """A hi-hat: high noise with time constant ``tau`` seconds."""

    def voice(since: FloatArray) -> FloatArray:
        noise = np.diff(rng.standard_normal(len(since) + 1))
        return 0.4 * _decaying(since, tau) * noise

    return voice


def bass(pitch: float, length: float, brightness: float, sample_rate: int) -> Voice:
    """A bass note at ``pitch`` Hz that is let go after ``length`` seconds; ``brightness`` 0 to 1."""
    harmonics = [k for k in range(1, 9) if k * pitch < 0.45 * sample_rate]

    def voice(since: FloatArray) -> FloatArray:
        out = sum(np.sin(2 * np.pi * k * pitch * since) * (0.25 + 0.6 * brightness) ** (k - 1) / k for k in harmonics)
        release = np.clip((length - since) / (0.25 * length), 0, 1)
        return 0.7 * (1 - np.exp(-since / 0.004)) * np.exp(-since / (1.2 * length)) * release * out

    return voice


def room_noise(rng: np.random.Generator, num_samples: int) -> FloatArray:
    """(N,) quiet noise, between white and red, at an RMS of -58 to -44 dB (full scale is 1)."""
    slope, level = rng.uniform(0.0, 0.9), rng.uniform(-58.0, -44.0)
    length = 1 << max(4, (num_samples - 1).bit_length())
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** -slope
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, length)
    return noise[:num_samples] * (decibels(level) / noise.std())
