"""Decoding of sources for the cache, in worker processes: frames at the clip's rate, and the log-Mel of the sound."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from cmmd_lightning.codecs import LogMel
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.preprocess.facts import Facts, Measurement
from cmmd_lightning.data.sources.source import Source
from cmmd_lightning.media import MediaError, MediaInfo, iter_frames, iter_sound, probe
from cmmd_lightning.media.timeline import MediaFile

# Pieces travel to the main process by shared memory: they stay below this many bytes.
_PIECE_BYTES = 8 * 2**20
# Where a file has no index: packets looked at, and relative difference of intervals from which a rate is variable.
_PACKETS, _UNEVEN = 1000, 0.1


@dataclass(frozen=True)
class Begin:
    """A source turned out to be readable: what will follow."""

    job: int
    num_frames: int
    mel_frames: int


@dataclass(frozen=True)
class FramesPiece:
    """Frames (n, 3, H, W), uint8, of a source, in order."""

    job: int
    frames: Tensor


@dataclass(frozen=True)
class MelPiece:
    """Mel frames (M, n) of a source, in order."""

    job: int
    mel: Tensor


@dataclass(frozen=True)
class End:
    """All of a source has come: what was measured of it, and the seconds that decoding took."""

    job: int
    facts: Facts
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A source that cannot be used. Nothing more follows of it.

    Args:
        job: Its number.
        kind: Why, in one word, as the data report has it.
        reason: Why, in one line that names the file.
        lasting: Whether it follows from the media alone, so that trying again is of no use.
    """

    job: int
    kind: str
    reason: str
    lasting: bool = True


Piece = Begin | FramesPiece | MelPiece | End | Failed


class DecodedSources(IterableDataset[Piece]):
    """The pieces of sources, source by source; worker i of n reads every n-th source.

    Args:
        jobs: Sources with the numbers that their pieces carry.
        clip: Rates and sizes, and the length that a source must at least have.
        mel: The log-Mel.
    """

    def __init__(self, jobs: Sequence[tuple[int, Source]], clip: ClipSpec, mel: LogMel) -> None:
        self.jobs, self.clip, self.mel = list(jobs), clip, mel

    def __iter__(self) -> Iterator[Piece]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for job, source in self.jobs[first::step]:
            try:
                yield from decode(job, source, self.clip, self.mel)
            except MediaError as error:
                yield Failed(job, "truncated" if "truncated" in error.got else "unreadable", _line(error))
            except Exception as error:
                # Whatever a file brings a decoder to: the other files are not to suffer.
                yield Failed(job, "unreadable", f"{source.path}: {type(error).__name__}: {_line(error)}", lasting=False)


def decode(job: int, source: Source, clip: ClipSpec, mel: LogMel) -> Iterator[Piece]:
    """Pieces of one source, in memory that does not grow with its length.

    Raises:
        MediaError: If the file is damaged.
    """
    began, spent = time.perf_counter(), 0.0
    info = probe(source.path)
    unusable = _unusable(job, source, clip, info)
    if unusable is not None:
        yield unusable
        return
    num_frames = clip.frames_in(_seconds(source, info))
    num_samples = clip.samples_of(num_frames)
    mel_frames = clip.mel_frames_of(num_samples)
    measurement = Measurement(clip, mel, num_frames)
    for piece in itertools.chain(
        [Begin(job, num_frames, mel_frames)],
        _frames(job, source, clip, num_frames, measurement),
        _mel(job, source, clip, mel, num_samples, measurement),
    ):
        spent += time.perf_counter() - began
        yield piece
        began = time.perf_counter()
    facts = measurement.facts((*info.problems, *_uneven_packets(source.path)), info.fps or 0.0)
    yield End(job, facts, spent + time.perf_counter() - began)


def _frames(job: int, source: Source, clip: ClipSpec, num_frames: int, measurement: Measurement) -> Iterator[Piece]:
    chunk = max(1, min(64, _PIECE_BYTES // (3 * clip.height * clip.width)))
    size = (clip.height, clip.width)
    for frames in iter_frames(
        source.path, fps=clip.fps, size=size, fit=clip.fit, start=source.start, num_frames=num_frames, chunk=chunk
    ):
        measurement.add_frames(frames)
        yield FramesPiece(job, frames)


def _mel(
    job: int, source: Source, clip: ClipSpec, mel: LogMel, num_samples: int, measurement: Measurement
) -> Iterator[Piece]:
    sound = iter_sound(source.path, start=source.start, num_samples=num_samples, sample_rate=clip.sample_rate)
    for piece in iter_mel(measurement.listen(sound), mel, num_samples):
        measurement.add_mel(piece)
        yield MelPiece(job, piece)


def _seconds(source: Source, info: MediaInfo) -> float:
    """Length of the stretch of a source that picture and sound both cover."""
    stop = info.duration if source.stop is None else min(source.stop, info.duration)
    return max(stop - source.start, 0.0)


def _unusable(job: int, source: Source, clip: ClipSpec, info: MediaInfo) -> Failed | None:
    """Why a source cannot be used, by its headers: it lacks picture or sound, or holds less than a clip."""
    if not (info.has_video and info.has_audio):
        kind, got = ("no_sound", "picture only") if info.has_video else ("no_picture", "sound only")
        return Failed(job, kind, str(MediaError(source.path, "picture and sound", got)))
    seconds = _seconds(source, info)
    if clip.frames_in(seconds) < clip.num_frames:
        wanted = f"at least {clip.duration:g} s of picture and sound ({clip.num_frames} frames at {clip.fps:g} fps)"
        return Failed(job, "short", str(MediaError(source.path, wanted, f"{seconds:.3f} s")))
    return None


def _uneven_packets(path: str) -> list[str]:
    """A line if the first pictures of a Matroska file, which has no index of all of them, come at uneven intervals."""
    with MediaFile(path) as media:
        if "matroska" not in media.formats:
            return []
        packets = itertools.islice(media.packets("video"), _PACKETS)
        # The last of them may have gaps that later packets fill: pictures are stored in decoding order.
        times = sorted(float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None)[:-8]
    intervals = [after - before for before, after in itertools.pairwise(times)]
    if not intervals or max(intervals) - min(intervals) <= _UNEVEN * max(intervals):
        return []
    return [f"variable frame rate: {min(intervals):.3f} to {max(intervals):.3f} s between frames"]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def iter_mel(sound: Iterator[Tensor], mel: LogMel, num_samples: int) -> Iterator[Tensor]:
    """Log-Mel of a sound that comes in pieces: the values that ``mel`` gives for the whole.

    A frame is given out once its whole window has come; the pieces' inner edges leave no trace.

    Args:
        sound: Pieces (n,) of any lengths, ``num_samples`` samples in all.
        mel: The log-Mel.
        num_samples: Length of the whole.

    Yields:
        (M, n) pieces, ceil(num_samples / hop_length) frames in all.

    Raises:
        ValueError: If fewer or more samples come.
    """
    hop, half = mel.hop_length, mel.n_fft // 2
    margin = math.ceil(half / hop) + 1  # frames of context in front of the next one
    buffer, origin, done = torch.zeros(0), 0, 0  # buffer[0] is sample origin * hop; frames before done are out
    came = 0
    for piece in sound:
        came += len(piece)
        buffer = torch.cat([buffer, piece])
        whole = came >= num_samples
        ready = mel.num_frames(num_samples) if whole else max(0, (came - half) // hop)
        if ready > done:
            yield mel(buffer[None])[0, :, done - origin : ready - origin]
            done = ready
            keep = max(done - margin, origin)
            buffer, origin = buffer[(keep - origin) * hop :], keep
    if came != num_samples:
        raise ValueError(f"sound: expected {num_samples} samples, got {came}")
