"""A stream's sound as one unbroken mono signal on the file's clock."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Protocol, Self

import av
import av.error
import numpy as np
import soundfile

from .container import READABLE, MediaError, check_exists, reported, sndfile_name, url
from .mixing import Downmix, measured
from .stream import Kind
from .timeline import Decoded, MediaFile, Span

logger = logging.getLogger(__name__)

JITTER = 0.0015  # seconds between the end of a block and the time of the next that are taken for rounding
_MAGIC = {b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b"fLaC", b".snd", b"caff"}
_LOOK = 600.0  # seconds of sound from which a downmix is found
_BLOCK = 1 << 16  # samples read from a PCM file at a time
_CUT_SHORT = re.compile(r"^ *(data|SSND) *: (\d+) \(should be (\d+)\)", re.MULTILINE)


class Sound(Protocol):
    """Sound at its own rate: what :func:`mono` reads."""

    path: str
    rate: int
    channels: int
    names: list[str]

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
        names = (_content(path) or ("", []))[1] if self.channels > 1 else []
        self.names = names if len(names) == self.channels else ["NONE"] * self.channels
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
        self.media, self.path = media, media.path
        context = media.stream("audio").codec_context
        self.rate: int = context.sample_rate
        self.channels: int = context.channels
        self.names = [channel.name for channel in context.layout.channels]

    def __enter__(self) -> Self:
        """The sound itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.media.__exit__()

    def span(self, kind: Kind = "audio") -> Span:
        """When the sound plays."""
        return self.media.span(kind)

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
            while cursor < min(at, stop):  # in pieces: a damaged file may state any time
                gap = np.zeros((self.channels, min(at, stop, cursor + _BLOCK) - cursor), np.float32)
                yield gap
                cursor += gap.shape[1]
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


def open_sound(path: str | os.PathLike[str]) -> PcmFile | StreamSound:
    """The sound of a file, by its content: plain samples through libsndfile, all else through FFmpeg."""
    return PcmFile(path) if is_pcm(path) else StreamSound(MediaFile(path))


def is_pcm(path: str | os.PathLike[str]) -> bool:
    """Whether libsndfile reads the file as FFmpeg does: it places samples exactly, whatever the container's clock.

    Other codecs in RIFF, DTS under the mark of PCM among them, are FFmpeg's.
    """
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        if file.read(4) not in _MAGIC:
            return False
    content = _content(path)
    try:
        if content is None or content[0].startswith(("pcm_", "adpcm_", "flac")):
            soundfile.SoundFile(sndfile_name(path)).close()
            return True
    except soundfile.LibsndfileError:
        pass
    return False


def _content(path: str | os.PathLike[str]) -> tuple[str, list[str]] | None:
    """FFmpeg's names of the codec and of the channels' places; None where it does not open the file."""
    with suppress(av.error.FFmpegError, OSError), av.open(url(path), metadata_errors="replace") as media:
        for context in (stream.codec_context for stream in media.streams.audio if stream.codec_context):
            return context.name, [channel.name for channel in context.layout.channels]
    return None


def downmix(path: str | os.PathLike[str]) -> Downmix:
    """How the channels of a file's sound are made one; found once, from its first ten minutes."""
    state = os.stat(path)
    return _downmix(os.path.abspath(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _downmix(path: str, size: int, changed: int) -> Downmix:
    with reported(path, READABLE), open_sound(path) as sound:
        mix = measured(_readable(sound.blocks(0)), sound.names, sound.rate, _LOOK)
    if mix.cancelled:
        logger.warning("%s: %s", path, mix.note)
    return mix


def _readable(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The blocks up to where the file breaks off."""
    with suppress(MediaError):
        yield from blocks


def mono(sound: Sound, first: int) -> Iterator[np.ndarray]:
    """The blocks of a sound from sample ``first`` on, its channels mixed to one: float32 (n,)."""
    mix = downmix(sound.path) if sound.channels > 1 else Downmix((1.0,))
    return map(mix, sound.blocks(first))
