"""Media to cache: decoding in parallel processes, encoding in batches across files."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch.utils.data import DataLoader

from cmmd_lightning.codecs import FrameCodec, LogMel
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.inspect.estimate import Estimate, estimate
from cmmd_lightning.data.inspect.report import DEFAULT_EXCLUDE, FindingKind, Inspection
from cmmd_lightning.data.inspect.written import keep_report, summary
from cmmd_lightning.data.preprocess.assemble import Assembler, Job, Written
from cmmd_lightning.data.preprocess.cache import Cache
from cmmd_lightning.data.preprocess.decode import DecodedSources, Failed, Piece
from cmmd_lightning.data.progress import HashingBar, MediaBar
from cmmd_lightning.data.sources.source import Source

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
        decode_seconds: Seconds that the decoding processes worked, all together.
        encode_seconds: Seconds spent in the codec.
        write_seconds: Seconds spent in writing entries.
        estimate: What was expected before it began; None where there was nothing to do.
        inspections: Data report, by source, of all sources.
    """

    prepared: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    media_seconds: float = 0.0
    work_seconds: float = 0.0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    write_seconds: float = 0.0
    estimate: Estimate | None = None
    inspections: list[Inspection] = field(default_factory=list)

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
    exclude: Collection[FindingKind] = DEFAULT_EXCLUDE,
    cache: Cache | None = None,
    inspect: bool = True,
) -> PrepareReport:
    """Writes the cache entries of sources, those that are not there yet, and the data report on all of them.

    A source that cannot be used (unreadable, truncated, without picture or sound, shorter than a clip) is logged in
    one line, reported and remembered; the others go on. Entries are written whole or not at all, so a run may be
    stopped at any point, and the next one does what is left. Equal inputs give equal bytes, whatever was there before,
    in whatever order files come. Disk space and time are estimated, and the space is checked, before anything is done.

    ``doctor.json`` and ``doctor.md`` in the cache's folder say what is wrong with each source, see `inspect_sources`.
    They cover every source that is prepared at the end of this run, by whichever shares of it: the last tells all.

    Args:
        sources: The sources, with unique keys.
        clip: Rates and sizes, and the length that a source must at least have.
        codec: The frame codec. It is moved to ``device`` and back.
        mel: The log-Mel, on the CPU.
        cache_dir: The cache's folder.
        num_workers: Decoding processes; 0 decodes in this one; None is one per available core.
        shard: (i, n): of n shares of the files, take the i-th, from 1 to n; all segments of a file are in one share.
        device: Where to encode.
        batch_size: Frames encoded at once; None chooses by frame size. Every batch has exactly this many (the last is
            filled up with zeros), so that the company a frame is encoded in does not change its latents.
        progress: Whether to show a progress bar.
        exclude: Kinds of findings that exclude a source, besides those that cannot be used.
        cache: The cache in ``cache_dir``, where there is one already.
        inspect: Whether to write the data report and the index.

    Returns:
        What was done.

    Raises:
        ValueError: If keys are not unique, the shard is not within (1, n), the frame size does not suit the codec, or
            the disk has no room for the cache.
    """
    began = time.monotonic()
    cache = cache or Cache(cache_dir, clip, codec, mel)
    shape = codec.latent_shape(clip.height, clip.width)
    cache.remove_leftovers()
    cache.reload()
    report = PrepareReport()
    share = _shard(sources, shard)
    contents = _contents(share, cache, progress)
    names = _entry_names(share, contents, cache, report)
    todo = {name: same for name, same in names.items() if not _reuse(same, cache, name, report)}
    if todo:
        report.estimate = estimate([same[0] for same in todo.values()], cache, shape)
        report.estimate.check(cache_dir)
        pieces = _decoded(list(todo.values()), clip, mel, num_workers)
        jobs = [Job(name, same[0].path, same[0].start) for name, same in todo.items()]
        size = batch_size or max(1, min(64, _BATCH_PIXELS // (clip.height * clip.width)))
        home = codec.shift.device
        assembler = Assembler(cache, codec.to(device), jobs, batch_size=size, device=device)
        try:
            _assemble(pieces, assembler, list(todo.values()), report, progress)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            wanted = f"room for {len(todo)} entries"
            raise ValueError(f"{cache_dir}: expected {wanted}, got {error.strerror}; what is done is kept") from error
        finally:
            assembler.close()
            codec.to(home)
    report.prepared.sort()
    report.reused.sort()
    report.failed.sort(key=lambda failure: failure.path)
    if inspect:
        known = _known_contents(sources, contents, cache)
        report.inspections = keep_report(sources, cache, exclude=exclude, contents=known)
        logger.info("%s; see %s", summary(report.inspections), cache.cache_dir / "doctor.md")
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
    mine = set(sorted({source.path for source in ordered})[index - 1 :: count])
    return [source for source in ordered if source.path in mine]


def _contents(sources: list[Source], cache: Cache, progress: bool) -> dict[str, str | OSError]:
    """Content hashes of the files of sources, or why they cannot be read, by path."""

    def told(hash_of: Callable[[str], str | None], path: str) -> str | OSError | None:
        try:
            return hash_of(path)
        except OSError as error:
            return error

    known = {path: told(cache.known_content, path) for path in sorted({source.path for source in sources})}
    others = [path for path, content in known.items() if content is None]
    if others:
        with HashingBar(len(others), progress) as bar, ThreadPoolExecutor(4) as pool:
            read = bar.count(pool.map(partial(told, cache.content), others))
            known.update(zip(others, read, strict=True))
    return {path: content for path, content in known.items() if content is not None}


def _known_contents(sources: Sequence[Source], own: dict[str, str | OSError], cache: Cache) -> dict[str, str | None]:
    """Content hashes of all files that can be read, as far as they are known here or on record."""
    known: dict[str, str | None] = {path: content for path, content in own.items() if isinstance(content, str)}
    others = {source.path for source in sources} - set(own)
    if others:
        cache.reload()
    for path in others:
        with suppress(OSError):
            known[path] = cache.known_content(path)
    return known


def _entry_names(
    sources: list[Source], contents: dict[str, str | OSError], cache: Cache, report: PrepareReport
) -> dict[str, list[Source]]:
    """Sources by the name of their entry: those of equal content and span share one."""
    names: dict[str, list[Source]] = {}
    for source in sources:
        content = contents[source.path]
        if isinstance(content, OSError):
            _fail(report, source, f"{source.path}: expected a readable file, got {content.strerror or content}")
        else:
            names.setdefault(cache.key(source, content), []).append(source)
    return names


def _reuse(same: list[Source], cache: Cache, name: str, report: PrepareReport) -> bool:
    """Whether there is an entry that is long enough, or it is on record that there cannot be one."""
    entry = cache.entry(name)
    if entry is not None and entry.num_frames >= cache.clip.num_frames:
        report.reused += [source.key for source in same]
        return True
    failure = cache.failure(name)
    if failure is None:
        return False
    for source in same:
        _fail(report, source, f"{source.path}: {failure.reason}")
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
    expected = report.estimate.media_seconds if report.estimate else 0.0
    with (
        MediaBar(len(todo), expected, progress) as bar,
        torch.inference_mode(),
        torch.backends.cudnn.flags(benchmark=False),
    ):
        for piece in pieces:
            for outcome in assembler.take(piece):
                _record(outcome, todo, report)
            seconds = report.media_seconds + assembler.seconds_in_hand
            bar.show(assembler.settled, seconds, len(report.failed))
        for outcome in assembler.flush():
            _record(outcome, todo, report)
        bar.show(assembler.settled, report.media_seconds, len(report.failed))
    report.decode_seconds, report.encode_seconds = assembler.decode_seconds, assembler.encode_seconds
    report.write_seconds = assembler.write_seconds


def _record(outcome: Written | Failed, todo: list[list[Source]], report: PrepareReport) -> None:
    same = todo[outcome.job]
    if isinstance(outcome, Written):
        report.prepared += [source.key for source in same]
        report.media_seconds += outcome.seconds
        return
    for source in same:
        _fail(report, source, outcome.reason.replace(same[0].path, source.path))


def _as_it_is(piece: Any) -> Any:
    return piece
