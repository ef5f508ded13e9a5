"""The measures measured: how well each tells clips in sync from clips with a known fault.

For each measure: the AUROC of telling faulty from true clips (the probability that a true clip scores better than a
faulty one, ties counting half: 0.5 is a coin), how steadily it falls as an offset grows, the smallest offset that it
resolves, and what it makes of changes that leave a clip in sync (there, 0.5 is best).
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.stats import mannwhitneyu, rankdata

import cmmd_lightning
from cmmd_lightning.evaluation.faults import SAMPLE_RATE, Clip, alterations, procedural_clip, real_clip
from cmmd_lightning.evaluation.measures import Senses, VideoEvents, View, has_av_align, is_lag, size_of_lag
from cmmd_lightning.evaluation.provenance import provenance
from cmmd_lightning.media import find_media
from cmmd_lightning.metrics.functional.intervals import derangements
from cmmd_lightning.metrics.functional.linear_sync import (
    LinearSync,
    Sequences,
    fit_linear_sync,
    pixel_sequence,
    spectrum_sequence,
)

log = logging.getLogger(__name__)

PROCEDURAL_OFFSETS = (0.02, 0.04, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3)
REAL_OFFSETS = (0.04, 0.08, 0.1, 0.2, 0.3, 0.4, 0.5)
PROBE = 0.1
"""Seconds: the offset that is looked for at every frame rate."""
RESOLVED = 0.9
"""AUROC from which an offset counts as resolved, both ways and at every greater one too."""
FIT_CLIPS = 200
"""Clips of the same kind, but others, that the linear synchrony is fitted on."""
TRUE = "true"

Row = dict[str, Any]


@dataclass(frozen=True)
class ClipSet:
    """Clips in sync of one kind.

    Args:
        name: ``bounce``, ``dance``, or the folder's name.
        video_events: Detector for its pictures.
        offsets: Seconds that are tried, both ways.
        num_clips: How many.
        seed: Of the clips.
        paths: The files, for real clips.
        linear_sync: File of the linear synchrony that was fitted for it.
    """

    name: str
    video_events: VideoEvents
    offsets: tuple[float, ...]
    num_clips: int
    seed: int
    paths: tuple[str, ...] = ()
    linear_sync: str | None = None

    def clip(self, index: int) -> Clip:
        """One of its clips."""
        margin = max(self.offsets)
        if self.paths:
            return real_clip(Path(self.paths[index]), margin=margin)
        return procedural_clip(self.name, self.seed, index, margin=margin)

    def key(self) -> str:
        """What its rows depend on, as a short hash."""
        files = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in self.paths]
        fitted = None if self.linear_sync is None else hashlib.sha256(Path(self.linear_sync).read_bytes()).hexdigest()
        facts = [asdict(self) | {"linear_sync": fitted}, files, cmmd_lightning.__version__, has_av_align()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def fit_set(clips: ClipSet, path: Path, *, progress: bool = True) -> Path:
    """Fit a linear synchrony to clips in sync and write it.

    Args:
        clips: The clips to fit on; those that cannot be read are named and left out.
        path: File to write; kept where it is there already.
        progress: Whether to show a progress bar.

    Returns:
        The file.

    Raises:
        ValueError: If there are too few.
    """
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
    """Score every clip of a set under every fault; rows that an earlier call left are kept.

    Args:
        clips: The set.
        folder: Where rows are kept, one JSON line each, as they come.
        progress: Whether to show a progress bar.

    Returns:
        One row per clip: ``index``, ``name``, ``period``, and ``scores``: fault to measure to value (a lag is signed,
        null where none was found). And one line for each clip that could not be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f"rows-{clips.name}-{clips.key()}.jsonl"
    done = {row["index"]: row for row in _stored(store)}
    if done:
        log.info("%s: keeping %d clips that are scored already", clips.name, len(done))
    partners = _partners(clips)
    jobs = [(clips, i, partners[i]) for i in range(clips.num_clips) if i not in done]
    errors = []
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


def _partners(clips: ClipSet) -> list[int]:
    found = derangements(clips.num_clips, limit=1, seed=clips.seed)
    return found[0].tolist() if found else [0] * clips.num_clips


def _pool(work: Any, jobs: Sequence[tuple[Any, ...]], title: str, progress: bool) -> Any:
    """Results of the jobs as they come, from a process for each core; the message of those that failed."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task = bar.add_task(title, total=len(jobs))
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with ProcessPoolExecutor(os.cpu_count(), context, torch.set_num_threads, (1,)) as pool:
            futures = [pool.submit(work, *job) for job in jobs]
            try:
                for future in as_completed(futures):
                    bar.advance(task)
                    try:
                        yield future.result()
                    except (ValueError, OSError) as error:
                        yield " ".join(str(error).split())
            finally:
                pool.shutdown(cancel_futures=True)


def _score_clip(clips: ClipSet, index: int, partner: int) -> Row:
    """One clip under every fault."""
    clip, other = clips.clip(index), clips.clip(partner)
    senses = Senses(clips.video_events, None if clips.linear_sync is None else LinearSync.load(clips.linear_sync))
    seen, heard = senses.see(clip.frames[clip.fps], clip.fps), senses.hear(clip.span(), SAMPLE_RATE)
    scores = {TRUE: _compare(senses, seen, heard)}
    probes = {}
    for altered in alterations(clip, other.span(), clips.offsets):
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


def auroc(true: np.ndarray, faulty: np.ndarray) -> float:
    """Probability that a true clip scores higher than a faulty one, ties counting half.

    Args:
        true: (N,) scores.
        faulty: (M,) scores.

    Returns:
        In [0, 1].

    Example:
        >>> auroc(np.array([1.0, 2.0]), np.array([0.0, 1.0]))
        0.875
    """
    return float(mannwhitneyu(true, faulty, method="asymptotic").statistic / (len(true) * len(faulty)))


def analyse(clips: ClipSet, rows: Sequence[Row], *, resamples: int = 500) -> dict[str, Any]:
    """What the rows say of each measure.

    Args:
        clips: The set.
        rows: Of :func:`calibrate_set`.
        resamples: Of the bootstrap over clips.

    Returns:
        ``num_clips``, ``periods`` (the range, or null), and ``measures``: for each, ``true`` (its mean on clips in
        sync), ``auroc`` (fault to value), ``ci95`` (the same, as intervals over clips), ``monotonicity``,
        ``resolves`` (seconds, or null).
    """
    names = list(rows[0]["scores"][TRUE])
    periods = [row["period"] for row in rows if row["period"]]
    return {
        "num_clips": len(rows),
        "seconds": round(float(np.mean([row["duration"] for row in rows])), 3),
        "video_events": clips.video_events,
        "periods": [min(periods), max(periods)] if periods else None,
        "measures": {name: _analyse_measure(name, clips, rows, resamples) for name in names},
    }


def _analyse_measure(name: str, clips: ClipSet, rows: Sequence[Row], resamples: int) -> dict[str, Any]:
    faults = [fault for fault in rows[0]["scores"] if fault != TRUE]
    table = {fault: _goodness(name, [row["scores"][fault][name] for row in rows]) for fault in (TRUE, *faults)}
    reference = {fault: f"{fault.split(',')[0]}" if "," in fault else TRUE for fault in faults}
    found = {fault: auroc(table[reference[fault]], table[fault]) for fault in faults}
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(rows), len(rows)) for _ in range(resamples)]
    intervals = {}
    for fault in faults:
        values = [auroc(table[reference[fault]][draw], table[fault][draw]) for draw in draws]
        intervals[fault] = [float(x) for x in np.quantile(values, [0.025, 0.975])]
    return {
        "true": float(np.mean(np.abs(table[TRUE]))) if is_lag(name) else float(np.mean(table[TRUE])),
        "auroc": found,
        "ci95": intervals,
        "monotonicity": _monotonicity(table, clips.offsets, rows),
        "resolves": _resolves(found, clips.offsets),
    }


def _goodness(name: str, values: Sequence[float | None]) -> np.ndarray:
    """Scores of which higher is better: of a lag, the size, negative."""
    filled = [float("nan") if value is None else value for value in values]
    return np.array([-size_of_lag(value) for value in filled]) if is_lag(name) else np.array(filled)


def worse_way(found: Mapping[str, float], offset: float) -> float:
    """The lower AUROC of an offset's two directions."""
    return min(found[f"offset {late * 1000:+g} ms"] for late in (offset, -offset))


def _resolves(found: Mapping[str, float], offsets: Sequence[float]) -> float | None:
    """The smallest offset from which on all are resolved."""
    smallest = None
    for offset in sorted(offsets, reverse=True):
        if worse_way(found, offset) < RESOLVED:
            break
        smallest = offset
    return smallest


def _monotonicity(table: Mapping[str, np.ndarray], offsets: Sequence[float], rows: Sequence[Row]) -> float:
    """Mean over clips and directions of minus Spearman's correlation of score and offset (1: falls all the way).

    Of periodic clips, only offsets below half of the period count: beyond it a clip comes into step again.
    """
    found = []
    for i, row in enumerate(rows):
        reach = [offset for offset in sorted(offsets) if not row["period"] or offset < row["period"] / 2]
        for sign in (1, -1):
            scores = [table[TRUE][i], *(table[f"offset {sign * offset * 1000:+g} ms"][i] for offset in reach)]
            ranks = rankdata(np.round(scores, 9))
            constant = len(set(ranks)) == 1
            found.append(0.0 if constant else -float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]))
    return float(np.mean(found))


def procedural_set(scene: str, num_clips: int, seed: int) -> ClipSet:
    """A set of rendered clips."""
    detector: VideoEvents = "impacts" if scene == "bounce" else "turns"
    return ClipSet(scene, detector, PROCEDURAL_OFFSETS, num_clips, seed)


def real_set(folder: str, video_events: VideoEvents, *, limit: int | None = None) -> ClipSet:
    """A set of real clips: the first ``limit`` media files of a folder tree that the user trusts to be in sync.

    Raises:
        MediaError: If the folder does not exist.
        ValueError: If it has fewer than two media files.
    """
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
        seed: Of the procedural clips and of the swapped partners.
        command: What to name as the command; this process's by default.
        progress: Whether to show progress bars.

    Returns:
        ``provenance``, ``sets`` (name to :func:`analyse`) and ``errors`` (a line for each clip that was not read).

    Raises:
        ValueError: If there are too few clips, or none could be read.
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
        rows, lines = calibrate_set(clips, folder, progress=progress)
        errors += lines
        if len(rows) < 2:
            raise ValueError(f"{clips.name}: expected two clips at least that can be read, got {len(rows)}; {lines[0]}")
        sets[clips.name] = analyse(clips, rows)
        sets[clips.name]["linear_sync"] = clips.linear_sync and LinearSync.load(clips.linear_sync).source
    return {"provenance": provenance(command, seed), "sets": sets, "errors": errors}
