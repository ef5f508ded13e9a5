"""Media to cache: decoding in parallel processes, encoding in batches across files."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from cmmd_lightning.codecs import FrameCodec, LogMel
from cmmd_lightning.data.assemble import Assembler, Job, Written
from cmmd_lightning.data.cache import Cache
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.decode import DecodedSources, Failed, Piece
from cmmd_lightning.data.sources import Source

logger = logging.getLogger(__name__)

# Pixels encoded at once where no batch size is given: 64 frames of 128 x 128.
_BATCH_PIXELS = 64 * 128 * 128


@dataclass(frozen=True)
class Failure:
    """A source that could not be prepared.

    Args:
        path: Its media file.
        reason: Why, in one line that names the file.
    """

    path: str
    reason: str


@dataclass
class PrepareReport:
    """What ``prepare`` did.

    Args:
        prepared: Keys of the sources whose entries were written, sorted.
        reused: Keys of those whose entries were there already, sorted.
        failed: Sources that cannot be used, sorted by path.
        media_seconds: Seconds of media written.
        work_seconds: Seconds it took.
    """

    prepared: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    media_seconds: float = 0.0
    work_seconds: float = 0.0

    def summary(self) -> str:
        """One line of counts."""
        return (
            f"prepared {len(self.prepared)} sources ({self.media_seconds / 3600:.2f} h of media), "
            f"reused {len(self.reused)}, failed {len(self.failed)}, in {self.work_seconds:.0f} s"
        )


def prepare(
    sources: Sequence[Source],
    clip: ClipSpec,
    codec: FrameCodec,
    mel: LogMel,
    cache_dir: str,
    *,
    num_workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    device: str = "cpu",
    batch_size: int | None = None,
    progress: bool = True,
) -> PrepareReport:
    """Writes the cache entries of sources, those that are not there yet.

    A source that cannot be used (unreadable, truncated, without picture or sound, shorter than a clip) is logged in
    one line and reported; the others go on. Entries are written whole or not at all, so a run may be stopped at any
    point, and the next one does what is left. Equal inputs give equal bytes, whatever was there before, in whatever
    order files come.

    Args:
        sources: The sources, with unique keys.
        clip: Rates and sizes, and the length that a source must at least have.
        codec: The frame codec. It is moved to ``device`` and back.
        mel: The log-Mel, on the CPU.
        cache_dir: The cache's folder.
        num_workers: Decoding processes; 0 decodes in this one; None is one per available core.
        shard: (i, n): of n shares of the sources, take the i-th, from 1 to n.
        device: Where to encode.
        batch_size: Frames encoded at once; None chooses by frame size. Every batch has exactly this many (the last is
            filled up with zeros), so that the company a frame is encoded in does not change its latents.
        progress: Whether to show a progress bar.

    Returns:
        What was done.

    Raises:
        ValueError: If keys are not unique, the shard is not within (1, n), or the frame size does not suit the codec.
    """
    began = time.monotonic()
    cache = Cache(cache_dir, clip, codec, mel)
    codec.latent_shape(clip.height, clip.width)
    cache.remove_leftovers()
    report = PrepareReport()
    with _bar(progress) as bar:
        names = _entry_names(_shard(sources, shard), cache, report, bar)
    todo = {name: same for name, same in names.items() if not _reuse(same, cache, name, report)}
    if todo:
        pieces = _decoded(list(todo.values()), clip, mel, num_workers)
        jobs = [Job(name, same[0].path, same[0].start) for name, same in todo.items()]
        size = batch_size or max(1, min(64, _BATCH_PIXELS // (clip.height * clip.width)))
        home = codec.shift.device
        try:
            assembler = Assembler(cache, codec.to(device), jobs, batch_size=size, device=device)
            _assemble(pieces, assembler, list(todo.values()), report, progress)
        finally:
            codec.to(home)
    report.prepared.sort()
    report.reused.sort()
    report.failed.sort(key=lambda failure: failure.path)
    report.work_seconds = time.monotonic() - began
    logger.info("%s: %s", cache_dir, report.summary())
    return report


def _shard(sources: Sequence[Source], shard: tuple[int, int]) -> list[Source]:
    index, count = shard
    if not 1 <= index <= count:
        raise ValueError(f"prepare: expected a shard (i, n) with 1 <= i <= n, got {shard}")
    ordered = sorted(sources, key=lambda source: source.key)
    for first, second in pairwise(ordered):
        if first.key == second.key:
            raise ValueError(f"prepare: expected unique source keys, got {first.key!r} twice")
    return ordered[index - 1 :: count]


def _entry_names(sources: list[Source], cache: Cache, report: PrepareReport, bar: Progress) -> dict[str, list[Source]]:
    """Sources by the name of their entry: those of equal content and span share one."""
    task = bar.add_task("reading", total=len(sources), detail="content hashes")
    names: dict[str, list[Source]] = {}

    def name_of(source: Source) -> str | OSError:
        try:
            return cache.key(source)
        except OSError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        for source, name in zip(sources, pool.map(name_of, sources), strict=True):
            bar.advance(task)
            if isinstance(name, OSError):
                _fail(report, source, f"{source.path}: expected a readable file, got {name.strerror or name}")
            else:
                names.setdefault(name, []).append(source)
    return names


def _reuse(same: list[Source], cache: Cache, name: str, report: PrepareReport) -> bool:
    """Whether there is an entry that is long enough; where it is too short, the source fails when it is probed."""
    info = cache.info(name)
    if info is None or info.num_frames < cache.clip.num_frames:
        return False
    report.reused += [source.key for source in same]
    return True


def _fail(report: PrepareReport, source: Source, reason: str) -> None:
    logger.warning("%s", reason)
    report.failed.append(Failure(source.path, reason))


def _decoded(todo: list[list[Source]], clip: ClipSpec, mel: LogMel, num_workers: int | None) -> Iterator[Piece]:
    """Starts the decoding processes and gives what they decode.

    They are forked where that is the system's default: they touch neither the GPU nor more than one thread, and start
    at once. They are started here, before there is a progress bar with a thread of its own.
    """
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    dataset = DecodedSources([(number, same[0]) for number, same in enumerate(todo)], clip, mel)
    return iter(DataLoader(dataset, batch_size=None, num_workers=min(num_workers, len(todo)), collate_fn=_as_it_is))


def _assemble(
    pieces: Iterator[Piece], assembler: Assembler, todo: list[list[Source]], report: PrepareReport, progress: bool
) -> None:
    with _bar(progress) as bar, torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False):
        task = bar.add_task("preparing", total=len(todo), detail="")
        for piece in pieces:
            for outcome in assembler.take(piece):
                _record(outcome, todo, report)
            hours = f"{report.media_seconds / 3600:.2f} h of media, {len(report.failed)} failed"
            bar.update(task, completed=assembler.progress, detail=hours)
        for outcome in assembler.flush():
            _record(outcome, todo, report)
        bar.update(task, completed=assembler.progress)


def _record(outcome: Written | Failed, todo: list[list[Source]], report: PrepareReport) -> None:
    same = todo[outcome.job]
    if isinstance(outcome, Written):
        report.prepared += [source.key for source in same]
        report.media_seconds += outcome.seconds
        return
    for source in same:
        _fail(report, source, outcome.reason.replace(same[0].path, source.path))


def _bar(progress: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} files"),
        TextColumn("{task.fields[detail]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, disable=not progress)


def _as_it_is(piece: Any) -> Any:
    return piece
