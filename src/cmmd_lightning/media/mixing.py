"""Sound of several channels as one: by their places as ITU-R BS.775 has it, as loud as before, and never cancelled."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_GAINS = {"FC": 1.0, "LFE": 0.0, "LFE2": 0.0, "FL": 0.5**0.5, "FR": 0.5**0.5, "FLC": 0.5**0.5, "FRC": 0.5**0.5}
_SURROUND = 0.5  # gain of channels behind, beside and above
_UNNAMED = {  # places by custom where a file does not tell them
    2: "FL FR",
    6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR",
    8: "FL FR FC LFE BL BR SL SR",
}
_SILENT = 0.01  # power against the loudest channel's (-20 dB) below which one does not count
_CANCELLED = 0.5  # power of the mix against that of unrelated channels, below which they work against each other
_MANY = 0.1  # share of the sound's energy that may be lost to that
_SEGMENT = 0.1  # seconds


@dataclass(frozen=True)
class Downmix:
    """How channels become one.

    Attributes:
        weights: Factor of each channel.
        note: What was done beside mixing by the layout, in one line; None for nothing.
        cancelled: Whether the channels cancel out, so that one stands for all.
    """

    weights: tuple[float, ...]
    note: str | None = None
    cancelled: bool = False

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """float32 (n,) of float32 (C, n)."""
        return block[0] if len(block) == 1 else np.asarray(self.weights, np.float32) @ block


def measured(blocks: Iterable[np.ndarray], names: Sequence[str], rate: int, seconds: float) -> Downmix:
    """The downmix of a sound by its layout and by what its channels hold.

    The low-frequency channel is left out. The factors of the channels that are not silent add up to 1; where those
    differ, the mix is brought to the level that it would have if they agreed; where they cancel out, because of
    opposite phases or of delays, the loudest one stands for all.

    Args:
        blocks: float (C, n).
        names: FFmpeg's names of the channels' places; ``NONE`` for unknown ones.
        rate: In Hz.
        seconds: How much of the sound to look at.
    """
    if len(names) == 1:
        return Downmix((1.0,))
    if "NONE" in names:
        names = _UNNAMED.get(len(names), " ".join(str(i + 1) for i in range(len(names)))).split()
    known = any(name in _GAINS for name in names)
    gains = np.array([_GAINS.get(name, _SURROUND if known else 1.0) for name in names])
    segments = _covariances(blocks, len(names), round(rate * _SEGMENT), round(rate * seconds))
    powers = np.einsum("scc->sc", segments)  # segment, channel
    power = powers.sum(0)
    active = power > _SILENT * power[gains > 0].max(initial=0.0)
    if not (active & (gains > 0)).any():  # nothing but low frequencies, or nothing at all
        gains = np.ones(len(names))
    active &= gains > 0
    weights = gains / gains[active].sum() if active.any() else gains / gains.sum()
    mixed = np.einsum("c,scd,d->s", weights, segments, weights)
    agreeing = (np.sqrt(powers) @ weights) ** 2
    lost = mixed < _CANCELLED * powers @ weights**2
    if agreeing[lost].sum() > _MANY * agreeing.sum():
        loudest = int(np.argmax(np.where(active, power, -1.0)))
        note = f"the channels cancel out (opposite phases or delays): {names[loudest]} taken alone"
        return Downmix(tuple(float(i == loudest) for i in range(len(names))), note, cancelled=True)
    gain = float(np.sqrt(agreeing.sum() / mixed.sum())) if mixed.sum() > 0 else 1.0
    silent = list(itertools.compress(names, ~active & (gains > 0))) if power.any() else []
    notes = [f"silent channels: {' '.join(silent)}"] if silent else []
    if gain > 1.06:
        notes.append(f"{20 * np.log10(gain):.1f} dB added to keep the loudness of channels that differ")
    return Downmix(tuple(float(weight) for weight in weights * gain), "; ".join(notes) or None)


def _covariances(blocks: Iterable[np.ndarray], channels: int, segment: int, samples: int) -> np.ndarray:
    """(S, C, C) summed products of the channels, their means taken off, in segments of at least so many samples."""
    found, length = [np.zeros((channels, channels))], 0
    for block in blocks:
        for start in range(0, block.shape[1], segment):
            part = block[:, start : start + segment].astype(np.float64)
            part -= part.mean(axis=1, keepdims=True)
            if length >= segment:
                found.append(np.zeros((channels, channels)))
                length = 0
            found[-1] += part @ part.T
            length += part.shape[1]
        samples -= block.shape[1]
        if samples <= 0:
            break
    return np.stack(found)
