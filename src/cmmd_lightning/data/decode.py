"""Decoding of sources for the cache, in worker processes: frames at the clip's rate, and the log-Mel of the sound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from cmmd_lightning.codecs import LogMel
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.sources import Source
from cmmd_lightning.media import MediaError, iter_frames, iter_sound, probe

# Pieces travel to the main process by shared memory: they stay below this many bytes.
_PIECE_BYTES = 8 * 2**20


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
class Failed:
    """A source that cannot be used, and why, in one line. Nothing more follows of it."""

    job: int
    reason: str


Piece = Begin | FramesPiece | MelPiece | Failed


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
                yield Failed(job, " ".join(str(error).split()))
            except Exception as error:
                # Whatever a file brings a decoder to: the other files are not to suffer.
                yield Failed(job, f"{source.path}: {type(error).__name__}: {' '.join(str(error).split())}")


def decode(job: int, source: Source, clip: ClipSpec, mel: LogMel) -> Iterator[Piece]:
    """Pieces of one source, in memory that does not grow with its length.

    Raises:
        MediaError: If the file is damaged, lacks picture or sound, or the source is shorter than a clip.
    """
    num_frames = source_frames(source, clip)
    num_samples = clip.samples_of(num_frames)
    yield Begin(job, num_frames, clip.mel_frames_of(num_samples))
    chunk = max(1, min(64, _PIECE_BYTES // (3 * clip.height * clip.width)))
    frames = iter_frames(
        source.path,
        fps=clip.fps,
        size=(clip.height, clip.width),
        fit=clip.fit,
        start=source.start,
        num_frames=num_frames,
        chunk=chunk,
    )
    for piece in frames:
        yield FramesPiece(job, piece)
    sound = iter_sound(source.path, start=source.start, num_samples=num_samples, sample_rate=clip.sample_rate)
    for mel_piece in iter_mel(sound, mel, num_samples):
        yield MelPiece(job, mel_piece)


def source_frames(source: Source, clip: ClipSpec) -> int:
    """Frames, at the clip's rate, in the stretch of a source that picture and sound both cover.

    Raises:
        MediaError: If the file is unreadable, lacks picture or sound, or holds less than a clip.
    """
    info = probe(source.path)
    if not (info.has_video and info.has_audio):
        got = "picture only" if info.has_video else "sound only"
        raise MediaError(source.path, "picture and sound", got)
    stop = info.duration if source.stop is None else min(source.stop, info.duration)
    seconds = max(stop - source.start, 0.0)
    num_frames = clip.frames_in(seconds)
    if num_frames < clip.num_frames:
        wanted = f"at least {clip.duration:g} s of picture and sound ({clip.num_frames} frames at {clip.fps:g} fps)"
        raise MediaError(source.path, wanted, f"{seconds:.3f} s")
    return num_frames


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
