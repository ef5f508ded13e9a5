"""A stream's sound as one unbroken mono signal on the file's clock, and its resampling piece by piece."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from .container import MediaError, check_exists, sndfile_name
from .stream import Kind
from .timeline import Decoded, MediaFile, Span

JITTER = 0.0015  # seconds between the end of a block and the time of the next that are taken for rounding
_BLOCK = 1 << 16  # samples read from a PCM file at a time
_FILTER_WIDTH = 32  # zero crossings of the resampling filter on either side
_ROLLOFF = 0.945
_LARGEST_KERNEL = 20_000_000
_CUT_SHORT = re.compile(r"^ *(data|SSND) *: (\d+) \(should be (\d+)\)", re.MULTILINE)


class Sound(Protocol):
    """Sound at its own rate: what :func:`resampled` reads."""

    rate: int
    channels: int

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """Unbroken float32 blocks (C, n) from sample ``first`` on, to the end; zeros before the sound begins."""


class PcmFile:
    """A wav, flac or aiff file, read by libsndfile; a context manager, and a :class:`Sound`.

    Args:
        path: The file.

    Raises:
        MediaError: If there is no such file, or it is not a sound file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        check_exists(path)
        try:
            self.file = soundfile.SoundFile(sndfile_name(self.path))
        except soundfile.LibsndfileError as error:
            got = f"{os.path.getsize(path)} bytes that are none ({error.error_string})"
            raise MediaError(path, "a sound file", got) from error
        self.rate: int = self.file.samplerate
        self.channels: int = self.file.channels
        self._span = Span(0.0, self._stated_frames() / self.rate)

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.file.close()

    def span(self, kind: Kind = "audio") -> Span:
        """When the sound plays."""
        return self._span

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """Unbroken float32 blocks (C, n) from sample ``first`` on, zeros before sample 0.

        Raises:
            MediaError: If the file ends before its header says that it does.
        """
        if first < 0:
            yield np.zeros((self.channels, -first), np.float32)
        at = max(first, 0)
        end = round(self._span.end * self.rate)
        while at < end:
            try:
                self.file.seek(at)
                block = self.file.read(min(_BLOCK, end - at), dtype="float32", always_2d=True).T
            except soundfile.LibsndfileError:
                block = np.zeros((self.channels, 0), np.float32)
            if not block.shape[1]:
                got = f"sound up to {at / self.rate:.3f} s (truncated or corrupt)"
                raise MediaError(self.path, f"sound up to {self._span.end:.3f} s as the file states", got)
            at += block.shape[1]
            yield block

    def _stated_frames(self) -> int:
        """Frames that the header states; libsndfile counts only those that are there, and notes the difference."""
        cut = _CUT_SHORT.search(self.file.extra_info)
        if cut is None or int(cut[2]) >= 2**31 - 64:  # a length that a streaming writer left open
            return self.file.frames
        stated, present = (int(size) - (8 if cut[1] == "SSND" else 0) for size in cut.groups()[1:])
        return stated // (present // self.file.frames) if self.file.frames else 0


class StreamSound:
    """The audio stream of a media file as a :class:`Sound`: blocks placed by their times, gaps silent.

    Args:
        media: The opened file.

    Raises:
        MediaError: If it has no audio stream.
    """

    def __init__(self, media: MediaFile) -> None:
        self.media = media
        context = media.stream("audio").codec_context
        self.rate: int = context.sample_rate
        self.channels: int = context.channels

    def blocks(self, first: int) -> Iterator[np.ndarray]:
        """Unbroken float32 blocks (C, n) from sample ``first`` on, to the end that the stream's header states."""
        cursor, stop = first, round(self.media.span("audio").end * self.rate)
        expected: int | None = None
        for item in self.media.decode("audio", max(0.0, first / self.rate)):
            block = self._samples(item)
            at = round(item.time * self.rate)
            if expected is not None and abs(at - expected) <= JITTER * self.rate:
                at = expected
            expected = at + block.shape[1]
            if at > cursor:
                yield np.zeros((self.channels, min(at, stop) - cursor), np.float32)
                cursor = min(at, stop)
            block = block[:, max(0, cursor - at) : max(0, stop - at)]
            if block.shape[1]:
                yield block
                cursor += block.shape[1]
            if cursor >= stop:
                return

    def _samples(self, item: Decoded) -> np.ndarray:
        """float32 (C, n), full scale at 1, of one decoded ``av.AudioFrame``."""
        frame = item.frame
        got, expected = (frame.sample_rate, frame.layout.nb_channels), (self.rate, self.channels)
        if got != expected:
            wanted, came = (f"{rate} Hz and {channels} channels" for rate, channels in (expected, got))
            raise MediaError(self.media.path, f"sound at {wanted} throughout", f"{came} from {item.time:.3f} s on")
        array = frame.to_ndarray()
        if not frame.format.is_planar:
            array = array.reshape(-1, self.channels).T
        if array.dtype.kind == "f":
            return array.astype(np.float32)
        half = 2.0 ** (8 * array.dtype.itemsize - 1)
        return ((array - (half if array.dtype.kind == "u" else 0.0)) / half).astype(np.float32)


def is_pcm(path: str | os.PathLike[str]) -> bool:
    """Whether libsndfile reads the file: it places samples exactly, whatever the container's clock."""
    return Path(path).suffix.lower() in (".wav", ".flac", ".aif", ".aiff")


def mono(sound: Sound, first: int) -> Iterator[np.ndarray]:
    """The blocks of a sound from sample ``first`` on, as the mean of its channels: float32 (n,)."""
    for block in sound.blocks(first):
        yield block[0] if len(block) == 1 else block.mean(axis=0)


def resampled(sound: Sound, first: int, count: int, sample_rate: int, chunk: int) -> Iterator[Tensor]:
    """``count`` samples from sample ``first`` on of the sound at another rate, in chunks, as the mean of its channels.

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
