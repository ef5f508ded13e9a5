"""Assembling cache entries from decoded pieces: frames are encoded in batches across files, entries written whole."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cmmd_lightning.codecs import FrameCodec
from cmmd_lightning.data.preprocess.cache import Cache, FailureRecord
from cmmd_lightning.data.preprocess.decode import Begin, End, Failed, FramesPiece, MelPiece, Piece
from cmmd_lightning.data.preprocess.entry import EntryWriter
from cmmd_lightning.data.preprocess.facts import Facts


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
    """Takes pieces of any number of sources, intermixed, and writes them to their entries as they are encoded.

    What is held in memory are the frames that wait for a batch. An entry appears in the cache when its last piece is
    written; ``close`` removes those that are not finished.

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
        self.decode_seconds = self.encode_seconds = self.write_seconds = 0.0
        self._entries: dict[int, _Entry] = {}
        self._queue: deque[tuple[_Entry, Tensor]] = deque()  # frames to encode, and their entry
        self._waiting = 0
        self._settled = 0

    @property
    def settled(self) -> int:
        """Jobs done or failed."""
        return self._settled

    @property
    def seconds_in_hand(self) -> float:
        """Seconds of media that were taken of jobs in hand."""
        return sum(entry.frames_taken for entry in self._entries.values()) / self.cache.clip.fps

    def take(self, piece: Piece) -> Iterator[Written | Failed]:
        """Takes a piece and tells what came of it."""
        if isinstance(piece, Failed):
            yield self._fail(piece)
        elif isinstance(piece, Begin):
            key = self.jobs[piece.job].name
            writer = self.cache.writer(key, piece.num_frames, piece.mel_frames, self.latent_shape)
            self._entries[piece.job] = _Entry(piece.job, writer)
        elif piece.job not in self._entries:
            pass  # what still comes of a job that the codec failed at
        elif isinstance(piece, MelPiece):
            began = time.perf_counter()
            self._entries[piece.job].writer.add_mel(piece.mel.t())
            self.write_seconds += time.perf_counter() - began
        elif isinstance(piece, End):
            self.decode_seconds += piece.seconds
            self._entries[piece.job].facts = piece.facts
            yield from self._settle(self._entries[piece.job])
        else:
            self._put(piece)
            while self._waiting >= self.batch_size:
                yield from self._encode()

    def flush(self) -> Iterator[Written | Failed]:
        """Encodes what is left when the last piece was taken."""
        while self._waiting:
            yield from self._encode()

    def close(self) -> None:
        """Removes what was written of entries that are not finished."""
        for entry in self._entries.values():
            entry.writer.abandon()
        self._entries.clear()

    def _put(self, piece: FramesPiece) -> None:
        entry = self._entries[piece.job]
        self._queue.append((entry, piece.frames))
        entry.frames_taken += len(piece.frames)
        self._waiting += len(piece.frames)

    def _encode(self) -> Iterator[Written | Failed]:
        spans = self._next_batch()
        batch = torch.cat([frames for _, frames in spans])
        missing = self.batch_size - len(batch)
        if missing:
            batch = torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])])
        began = time.perf_counter()
        mean, logvar = self.codec.encode(batch.to(self.device).float() / 127.5 - 1.0)
        mean, logvar = mean.half().cpu(), logvar.half().cpu()
        self.encode_seconds += time.perf_counter() - began
        place = 0
        for entry, frames in spans:
            stretch = slice(place, place + len(frames))
            place += len(frames)
            yield from self._add_latents(entry, mean[stretch], logvar[stretch])

    def _next_batch(self) -> list[tuple[_Entry, Tensor]]:
        """Takes up to a batch of frames off the queue."""
        spans, room = [], self.batch_size
        while room and self._queue:
            entry, frames = self._queue.popleft()
            if len(frames) > room:
                self._queue.appendleft((entry, frames[room:]))
                frames = frames[:room]
            room -= len(frames)
            spans.append((entry, frames))
        self._waiting -= self.batch_size - room
        return spans

    def _add_latents(self, entry: _Entry, mean: Tensor, logvar: Tensor) -> Iterator[Written | Failed]:
        if self._entries.get(entry.job) is not entry:
            return  # it failed since
        if not (mean.isfinite().all() and logvar.isfinite().all()):
            path = self.jobs[entry.job].path
            reason = f"{path}: expected finite latents from the codec, got NaN or infinity"
            yield self._fail(Failed(entry.job, "not_encoded", reason))
            return
        began = time.perf_counter()
        entry.writer.add_latents(mean, logvar)
        self.write_seconds += time.perf_counter() - began
        yield from self._settle(entry)

    def _settle(self, entry: _Entry) -> Iterator[Written | Failed]:
        """Finishes an entry if that was the last of it."""
        if entry.facts is None or not entry.writer.complete:
            return
        began = time.perf_counter()
        self.cache.finish(entry.writer, start=self.jobs[entry.job].start, facts=entry.facts)
        self.write_seconds += time.perf_counter() - began
        del self._entries[entry.job]
        self._settled += 1
        yield Written(entry.job, entry.writer.num_frames / self.cache.clip.fps)

    def _fail(self, failed: Failed) -> Failed:
        entry = self._entries.pop(failed.job, None)
        if entry is not None:
            entry.writer.abandon()
        self._queue = deque(span for span in self._queue if span[0] is not entry)
        self._waiting = sum(len(frames) for _, frames in self._queue)
        self._settled += 1
        if failed.lasting:
            job = self.jobs[failed.job]
            self.cache.write_failure(job.name, FailureRecord(failed.kind, failed.reason.removeprefix(f"{job.path}: ")))
        return failed


@dataclass
class _Entry:
    """One entry in the making."""

    job: int
    writer: EntryWriter
    facts: Facts | None = None
    frames_taken: int = 0
