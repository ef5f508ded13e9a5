"""Assembling cache entries from decoded pieces: frames are encoded in batches across files, entries written whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cmmd_lightning.codecs import FrameCodec
from cmmd_lightning.data.cache import Cache
from cmmd_lightning.data.decode import Begin, Failed, FramesPiece, MelPiece, Piece


@dataclass(frozen=True)
class Job:
    """An entry to make.

    Args:
        name: Its name in the cache.
        path: The media file.
        start: Where its source starts in that file, in seconds.
    """

    name: str
    path: str
    start: float


@dataclass(frozen=True)
class Written:
    """An entry that is in the cache now.

    Args:
        job: Number of its job.
        seconds: Length of its media.
    """

    job: int
    seconds: float


class Assembler:
    """Takes pieces of any number of sources, intermixed, and writes an entry when its last piece is encoded.

    Every batch has exactly ``batch_size`` frames, the last filled up with zeros: a network may round differently for
    batches of different sizes, but not for different company in a batch, so an entry's bytes do not depend on what
    else is being prepared.

    Args:
        cache: Where entries go.
        codec: The frame codec, on ``device``.
        jobs: What is to be made; pieces carry a number of this list.
        batch_size: Frames encoded at once.
        device: Where to encode.
    """

    def __init__(self, cache: Cache, codec: FrameCodec, jobs: list[Job], *, batch_size: int, device: str) -> None:
        self.cache, self.codec, self.jobs = cache, codec, jobs
        self.batch_size, self.device = batch_size, torch.device(device)
        self.latent_shape = codec.latent_shape(cache.clip.height, cache.clip.width)
        self._entries: dict[int, _Entry] = {}
        self._queue: deque[tuple[_Entry, int, Tensor]] = deque()  # frames to encode, and their place in their entry
        self._waiting = 0
        self._settled = 0

    @property
    def progress(self) -> float:
        """Jobs done or failed, and the parts done of those in hand."""
        return self._settled + sum(entry.frames_queued / len(entry.mean) for entry in self._entries.values())

    def take(self, piece: Piece) -> Iterator[Written | Failed]:
        """Takes a piece and tells what came of it."""
        if isinstance(piece, Failed):
            yield self._fail(piece.job, piece.reason)
        elif isinstance(piece, Begin):
            self._entries[piece.job] = _Entry(piece, self.latent_shape, self.cache.clip.n_mels)
        elif isinstance(piece, MelPiece):
            entry = self._entries[piece.job]
            entry.add_mel(piece.mel)
            yield from self._settle(entry)
        else:
            self._put(piece)
            while self._waiting >= self.batch_size:
                yield from self._encode()

    def flush(self) -> Iterator[Written | Failed]:
        """Encodes what is left when the last piece was taken."""
        while self._waiting:
            yield from self._encode()

    def _put(self, piece: FramesPiece) -> None:
        entry = self._entries[piece.job]
        self._queue.append((entry, entry.frames_queued, piece.frames))
        entry.frames_queued += len(piece.frames)
        self._waiting += len(piece.frames)

    def _encode(self) -> Iterator[Written | Failed]:
        spans = self._next_batch()
        batch = torch.cat([frames for _, _, frames in spans])
        missing = self.batch_size - len(batch)
        if missing:
            batch = torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])])
        mean, logvar = self.codec.encode(batch.to(self.device).float() / 127.5 - 1.0)
        mean, logvar = mean.half().cpu(), logvar.half().cpu()
        place = 0
        for entry, first, frames in spans:
            entry.add_latents(first, mean[place : place + len(frames)], logvar[place : place + len(frames)])
            place += len(frames)
            yield from self._settle(entry)

    def _next_batch(self) -> list[tuple[_Entry, int, Tensor]]:
        """Takes up to a batch of frames off the queue."""
        spans, room = [], self.batch_size
        while room and self._queue:
            entry, first, frames = self._queue.popleft()
            if len(frames) > room:
                self._queue.appendleft((entry, first + room, frames[room:]))
                frames = frames[:room]
            room -= len(frames)
            spans.append((entry, first, frames))
        self._waiting -= self.batch_size - room
        return spans

    def _settle(self, entry: _Entry) -> Iterator[Written | Failed]:
        """Writes an entry if that was the last of it."""
        if not entry.complete or self._entries.get(entry.job) is not entry:
            return
        job = self.jobs[entry.job]
        if not (entry.mean.isfinite().all() and entry.logvar.isfinite().all()):
            yield self._fail(entry.job, f"{job.path}: expected finite latents from the codec, got NaN or infinity")
            return
        self.cache.write(job.name, entry.mean, entry.logvar, entry.mel, start=job.start)
        del self._entries[entry.job]
        self._settled += 1
        yield Written(entry.job, len(entry.mean) / self.cache.clip.fps)

    def _fail(self, job: int, reason: str) -> Failed:
        entry = self._entries.pop(job, None)
        self._queue = deque(span for span in self._queue if span[0] is not entry)
        self._waiting = sum(len(frames) for _, _, frames in self._queue)
        self._settled += 1
        return Failed(job, reason)


class _Entry:
    """One entry in the making."""

    def __init__(self, begin: Begin, latent_shape: tuple[int, int, int], n_mels: int) -> None:
        self.job = begin.job
        self.mean = torch.empty(begin.num_frames, *latent_shape, dtype=torch.float16)
        self.logvar = torch.empty_like(self.mean)
        self.mel = torch.empty(n_mels, begin.mel_frames)
        self.frames_queued = self.frames_done = self.mel_done = 0

    def add_mel(self, piece: Tensor) -> None:
        self.mel[:, self.mel_done : self.mel_done + piece.shape[1]] = piece
        self.mel_done += piece.shape[1]

    def add_latents(self, first: int, mean: Tensor, logvar: Tensor) -> None:
        self.mean[first : first + len(mean)] = mean
        self.logvar[first : first + len(mean)] = logvar
        self.frames_done += len(mean)

    @property
    def complete(self) -> bool:
        return self.frames_done == len(self.mean) and self.mel_done == self.mel.shape[1]
