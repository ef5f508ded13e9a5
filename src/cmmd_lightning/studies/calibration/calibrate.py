"""The measures measured: how well each tells clips in sync from clips with a known fault.

For each measure: the AUROC of telling faulty from true clips (the probability that a true clip scores better than a
faulty one, ties counting half: 0.5 is a coin), how steadily it falls as an offset grows, the smallest offset that it
resolves, and what it makes of changes that leave a clip in sync (there, 0.5 is best).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from cmmd_lightning.evaluation.measures import Senses, VideoEvents, View, has_av_align
from cmmd_lightning.evaluation.provenance import provenance
from cmmd_lightning.media import find_media
from cmmd_lightning.metrics.encoders import build_encoders
from cmmd_lightning.metrics.functional.intervals import shuffled
from cmmd_lightning.metrics.functional.linear_sync import (
    LinearSync,
    Sequences,
    fit_linear_sync,
    pixel_sequence,
    spectrum_sequence,
)
from cmmd_lightning.studies.calibration.analysis import TRUE, Row, analyse
from cmmd_lightning.studies.calibration.faults import RATES, SAMPLE_RATE, Clip, alterations, procedural_clip, real_clip
from cmmd_lightning.version import __version__

log = logging.getLogger(__name__)

PROCEDURAL_OFFSETS = (0.02, 0.04, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3)
REAL_OFFSETS = (0.04, 0.08, 0.1, 0.2, 0.3, 0.4, 0.5)
PROBE = 0.1
"""Seconds: the offset that is looked for at every frame rate."""
FIT_CLIPS = 200
"""Clips of the same kind, but others, that the linear synchrony is fitted on."""


@dataclass(frozen=True)
class ClipSet:
    """Clips in sync of one kind."""

    name: str
    video_events: VideoEvents
    offsets: tuple[float, ...]  # seconds that are tried, both ways
    num_clips: int
    seed: int
    paths: tuple[str, ...] = ()  # of real clips
    linear_sync: str | None = None  # file of the linear synchrony that was fitted for it
    encoders: str | None = None  # see `build_encoders`

    def clip(self, index: int, rates: tuple[float, ...] = ()) -> Clip:
        """One of its clips, at further rates too."""
        margin = max(self.offsets)
        if self.paths:
            return real_clip(Path(self.paths[index]), margin=margin, rates=rates)
        return procedural_clip(self.name, self.seed, index, margin=margin, rates=rates)

    def partner_sound(self, index: int, partner: int) -> Tensor:
        """The span's sound of another clip: the partner, or the next one that can be read."""
        for step in range(self.num_clips):
            other = (partner + step) % self.num_clips
            try:
                if other != index:
                    return self.clip(other).span()
            except (ValueError, OSError):
                continue
        raise ValueError(f"{self.name}: expected two clips at least that can be read, got fewer")

    def key(self) -> str:
        """What its rows depend on, as a short hash."""
        files = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in self.paths]
        fitted = None if self.linear_sync is None else hashlib.sha256(Path(self.linear_sync).read_bytes()).hexdigest()
        facts = [asdict(self) | {"linear_sync": fitted}, files, __version__, has_av_align()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def fit_set(clips: ClipSet, path: Path, *, progress: bool = True) -> Path:
    """Fit a linear synchrony to the clips that can be read and write it, unless the file is there already."""
    if path.exists():
        return path
    rows = _pool(_sequences, [(clips, i) for i in range(clips.num_clips)], f"Fitting on {clips.name}", progress)
    kept = [row for row in rows if not isinstance(row, str)]
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = f"{len(kept)} clips of {clips.name}" + ("" if clips.paths else f" (seed {clips.seed})")
    fit_linear_sync(kept, source=kind).save(path)
    return path


def _sequences(clips: ClipSet, index: int) -> Sequences:
    clip = clips.clip(index)
    return Sequences(pixel_sequence(clip.frames[clip.fps], clip.fps), spectrum_sequence(clip.span(), SAMPLE_RATE))


def calibrate_set(clips: ClipSet, folder: Path, *, progress: bool = True) -> tuple[list[Row], list[str]]:
    """Score every clip of a set under every fault; rows that an earlier call left in the folder are kept.

    One row per clip: ``index``, ``name``, ``period``, and ``scores``: fault to measure to value (a lag is signed,
    null where none was found). And one line for each clip that could not be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f"rows-{clips.name}-{clips.key()}.jsonl"
    done = {row["index"]: row for row in _stored(store)}
    if done:
        log.info("%s: keeping %d clips that are scored already", clips.name, len(done))
    every = range(clips.num_clips)
    partners = [partner for _, partner in shuffled(every, every, limit=1, seed=clips.seed)] or [0] * clips.num_clips
    jobs = [(clips, i, partners[i]) for i in every if i not in done]
    errors = []
    if jobs and has_av_align():  # librosa compiles when imported; workers that did so at once would spoil numba's cache
        importlib.import_module("librosa.onset")  # (numba issue 10128), and crash from then on
    with open(store, "a", encoding="utf-8") as file:
        for row in _pool(_score_clip, jobs, f"Calibrating on {clips.name}", progress):
            if isinstance(row, str):
                errors.append(row)
                continue
            done[row["index"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
    return [done[index] for index in sorted(done)], sorted(errors)


def _stored(path: Path) -> list[Row]:
    """Rows of a file, without a last one that was cut off."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _pool(work: Any, jobs: Sequence[tuple[Any, ...]], title: str, progress: bool) -> Any:
    """Results of the jobs as they come, from a process for each core; the message of those that failed."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    shown: Any = {"total": len(jobs), "console": Console(stderr=True), "disable": not progress, "transient": True}
    with ProcessPoolExecutor(os.cpu_count(), context, _start_worker) as pool:
        futures = [pool.submit(work, *job) for job in jobs]
        try:
            for future in track(as_completed(futures), title, **shown):
                try:
                    yield future.result()
                except (ValueError, OSError) as error:
                    yield " ".join(str(error).split())
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once; the main process says so


@functools.lru_cache(maxsize=4)
def _senses(video_events: VideoEvents, linear_sync: str | None, encoders: str | None) -> Senses:
    return Senses(
        video_events,
        None if linear_sync is None else LinearSync.load(linear_sync),
        None if encoders is None else build_encoders(encoders),
    )


def _score_clip(clips: ClipSet, index: int, partner: int) -> Row:
    """One clip under every fault."""
    clip, other = clips.clip(index, RATES), clips.partner_sound(index, partner)
    senses = _senses(clips.video_events, clips.linear_sync, clips.encoders)
    seen, heard = senses.see(clip.frames[clip.fps], clip.fps), senses.hear(clip.span(), SAMPLE_RATE)
    scores = {TRUE: _compare(senses, seen, heard)}
    probes = {}
    for altered in alterations(clip, other, clips.offsets):
        left = seen if altered.frames is None else senses.see(altered.frames, altered.fps)
        right = heard if altered.sound is None else senses.hear(altered.sound, SAMPLE_RATE)
        scores[altered.name] = _compare(senses, left, right)
        if altered.name in (f"offset {PROBE * 1000:+g} ms", f"offset {-PROBE * 1000:+g} ms"):
            probes[altered.name] = right
        if altered.name.endswith("fps"):
            scores |= {f"{altered.name}, {name}": _compare(senses, left, late) for name, late in probes.items()}
    return {"index": index, "name": clip.name, "period": clip.period, "duration": clip.duration, "scores": scores}


def _compare(senses: Senses, seen: Mapping[str, Any], heard: Mapping[str, Any]) -> dict[str, float | None]:
    view = View({**seen, "events": seen["video_events"]}, {**heard, "events": heard["onsets"]})
    scores = senses.compare(view, view)
    return {
        name: None if np.isnan(value) else value
        for name, value in scores.items()
        if not name.startswith(("event_precision", "event_recall"))
    }


def procedural_set(scene: str, num_clips: int, seed: int) -> ClipSet:
    """A set of rendered clips."""
    detector: VideoEvents = "impacts" if scene == "bounce" else "turns"
    return ClipSet(scene, detector, PROCEDURAL_OFFSETS, num_clips, seed)


def real_set(folder: str, video_events: VideoEvents, *, limit: int | None = None) -> ClipSet:
    """Real clips: the first ``limit`` media files of a folder tree that the user trusts to be in sync; two at least."""
    paths = tuple(str(path) for path in find_media(folder))[:limit]
    if len(paths) < 2:
        raise ValueError(f"{folder}: expected two clips at least, got {len(paths)}")
    return ClipSet(Path(folder).resolve().name, video_events, REAL_OFFSETS, len(paths), 0, paths)


def calibrate_all(
    folder: Path,
    *,
    scenes: Sequence[str] = ("bounce", "dance"),
    real: str | None = None,
    fit: str | None = None,
    num_clips: int = 100,
    video_events: VideoEvents = "turns",
    encoders: str | None = None,
    seed: int = 0,
    command: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Calibrate on procedural and on real clips; what an earlier call left in the folder is kept.

    Args:
        folder: For the rows and the fitted operators.
        scenes: Procedural scenes; the linear synchrony is fitted on `FIT_CLIPS` clips of another seed.
        real: Folder of real clips in sync.
        fit: Folder of other real clips, to fit the linear synchrony on; without one it is left out there.
        num_clips: Clips of each set.
        video_events: Detector for the pictures of real clips.
        encoders: A pair of encoders in a line, to calibrate their agreement too.
        seed: Of the procedural clips and of the swapped partners.
        command: What to name as the command; this process's by default.
        progress: Whether to show progress bars.

    Returns:
        ``provenance``, ``sets`` (name to what `analyse` gave) and ``errors`` (a line for each clip that was not read).
    """
    jobs: list[tuple[ClipSet, ClipSet | None]] = [
        (procedural_set(scene, num_clips, seed), procedural_set(scene, FIT_CLIPS, seed + 1)) for scene in scenes
    ]
    if real is not None:
        others = None if fit is None else real_set(fit, video_events, limit=2 * FIT_CLIPS)
        jobs.append((real_set(real, video_events, limit=num_clips), others))
    sets, errors = {}, []
    for clips, others in jobs:
        if others is not None:
            path = fit_set(others, folder / f"linear_sync-{clips.name}.safetensors", progress=progress)
            clips = replace(clips, linear_sync=str(path))
        clips = replace(clips, encoders=encoders)
        rows, lines = calibrate_set(clips, folder, progress=progress)
        errors += lines
        if len(rows) < 2:
            raise ValueError(f"{clips.name}: expected two clips at least that can be read, got {len(rows)}; {lines[0]}")
        about = {
            "video_events": clips.video_events,
            "linear_sync": clips.linear_sync and LinearSync.load(clips.linear_sync).source,
        }
        sets[clips.name] = about | analyse(rows, clips.offsets)
    return {"provenance": provenance(command, seed), "sets": sets, "errors": errors}
