"""Sound at another rate, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import resample

from .sound import Sound, mono

_FILTER_WIDTH = 32  # zero crossings of the resampling filter on either side
_ROLLOFF = 0.945
_LARGEST_KERNEL = 20_000_000


def resampled(sound: Sound, first: int, count: int, sample_rate: int, chunk: int) -> Iterator[Tensor]:
    """``count`` samples from sample ``first`` on of the sound at another rate, in chunks, mixed to mono.

    Windowed-sinc resampling of pieces with margins: a sample does not depend on where the reading began.

    Args:
        sound: The sound at its own rate.
        first: First sample wanted, at ``sample_rate``.
        count: Samples wanted.
        sample_rate: Rate wanted, in Hz.
        chunk: Samples in a chunk.

    Yields:
        float32 (at most ``chunk``,); zeros after the sound's end.
    """
    if sound.rate == sample_rate:
        window = _Window(mono(sound, first), first)
        for start in range(first, first + count, chunk):
            yield torch.from_numpy(window.take(start, min(start + chunk, first + count)))
        return
    ratio = Fraction(sound.rate, sample_rate)
    if ratio.numerator * ratio.denominator > _LARGEST_KERNEL:
        ratio, chunk = ratio.limit_denominator(500), min(chunk, 4096)  # near enough for a short piece
    source, target = ratio.numerator, ratio.denominator
    lead = math.ceil(_FILTER_WIDTH / (min(source, target) * _ROLLOFF)) + 1  # periods that the filter reaches, and one

    def begin(sample: int) -> tuple[int, int]:
        """A whole period of the two rates, before ``sample`` and the filter's reach: (target sample, source sample)."""
        at = (sample // target - lead) * target
        return at, round(at * sound.rate / sample_rate)

    window = _Window(mono(sound, begin(first)[1]), begin(first)[1])
    for start in range(first, first + count, chunk):
        stop = min(start + chunk, first + count)
        at, source_start = begin(start)
        source_stop = source_start + ((stop - at) // target + 1 + lead) * source
        piece = torch.from_numpy(window.take(source_start, source_stop))
        out = resample(piece, source, target, lowpass_filter_width=_FILTER_WIDTH, rolloff=_ROLLOFF)
        yield out[start - at : stop - at].clone()


class _Window:
    """A window that moves forward over a stream of blocks; zeros after their end."""

    def __init__(self, blocks: Iterator[np.ndarray], first: int) -> None:
        self._blocks, self._start = blocks, first
        self._held: list[np.ndarray] = []

    def take(self, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop), as a copy; what lies before ``start`` is forgotten."""
        have = self._start + sum(map(len, self._held))
        while have < stop:
            block = next(self._blocks, None)
            if block is None:
                block = np.zeros(stop - have, np.float32)
            self._held.append(block)
            have += len(block)
        joined = np.concatenate(self._held)[start - self._start :]
        self._held, self._start = [joined], start
        return joined[: stop - start].copy()
