"""Two folders of media to scores: pair, observe, score, with floor, ceiling and interval."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from cmmd_lightning.evaluation.observe import Observation, Observer, RoundTrip, Task, VideoEvents, sidecar_kinds
from cmmd_lightning.evaluation.pairs import Pair, Pairing, PathLike, pair_folders
from cmmd_lightning.evaluation.provenance import provenance
from cmmd_lightning.metrics.functional.events import TOLERANCES, EventScores, event_scores, random_events
from cmmd_lightning.metrics.functional.intervals import bootstrap_interval, derangements

log = logging.getLogger(__name__)

PARTNERS = 8
"""Wrong partners per clip in the shuffled floor, and draws per clip in the random one."""
TASKS = ("video_to_audio", "audio_to_video", "joint")


def evaluate_folders(
    task: Task,
    generated: PathLike,
    reference: PathLike | None,
    *,
    tolerances: Sequence[float] = TOLERANCES,
    video_events: VideoEvents | Literal["auto"] = "auto",
    round_trip: RoundTrip | None = None,
    seed: int = 0,
    command: str | None = None,
    max_seconds: float = 60.0,
    progress: bool = True,
) -> dict[str, Any]:
    """Score a folder of generated media against a folder of references.

    ``video_to_audio``: onsets in the generated sound against the reference events. ``audio_to_video``: motion events
    in the generated picture against the reference events. Reference events are those of the sidecar ``STEM.json``
    that are visible and audible, else what the same detector finds in the reference. ``joint``: onsets in the
    generated sound against motion events in the generated picture. Only the span that both files cover counts. Files
    are paired by stem; what is unpaired or unreadable is listed, and the rest is scored. One clip is in memory at a
    time.

    Args:
        task: ``video_to_audio``, ``audio_to_video`` or ``joint``.
        generated: Folder of generated media of any format, rate and size.
        reference: Folder of reference media; may be None for ``joint``, where it is not read.
        tolerances: Seconds.
        video_events: Detector for pictures: ``impacts``, ``turns``, or ``auto``: impacts where a sidecar of the
            references has
            events of that kind, else turns.
        round_trip: Codec and vocoder for the ceiling; None leaves it null.
        seed: Of the floors and the intervals.
        command: What to name as the command in the provenance; ``sys.argv`` by default.
        max_seconds: Longer clips are scored over their first seconds.
        progress: Whether to show a progress bar.

    Returns:
        The report, as :func:`cmmd_lightning.evaluation.report.write_report` writes it: ``provenance``;
        ``tasks[task]`` with, for each of ``event_f1``, ``event_precision``, ``event_recall`` at each tolerance and
        ``event_f1@mean`` over all of them, ``value``, ``ci95``, ``floor`` (shuffled pairs), ``floor_random`` (random
        events at the same rate), ``ceiling`` and ``n``; ``runs[task]`` with the clips, the unpaired and the errors.

    Raises:
        ValueError: If the task is unknown or a reference folder is missing.
        MediaError: If a folder does not exist.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if reference is None and task != "joint":
        raise ValueError(f"{task}: expected a folder of references, got none")
    pairing = pair_folders(generated, None if task == "joint" else reference)
    detector = _choose(video_events, reference)
    observer = Observer(task, detector, round_trip, max_seconds)
    seen = _observe(pairing, observer, progress)
    for line in pairing.errors:
        log.warning(line)
    metrics, rows = score(seen, tolerances=tolerances, seed=seed)
    source = provenance(command, seed)
    run = {
        "provenance": source,
        "generated": str(generated),
        "reference": None if reference is None else str(reference),
        "detectors": {"sound": "onsets", "video": detector, "reference": sorted({row["source"] for row in rows})},
        "tolerances": list(tolerances),
        "clips_without_events": sum(not observation.reference for observation in seen),
        "clips": rows,
        "unpaired": {"generated": pairing.unpaired_generated, "reference": pairing.unpaired_reference},
        "errors": pairing.errors,
    }
    return {"provenance": source, "tasks": {task: metrics}, "runs": {task: run}}


def _choose(video_events: VideoEvents | Literal["auto"], reference: PathLike | None) -> VideoEvents:
    if video_events != "auto":
        if video_events not in ("impacts", "turns"):
            raise ValueError(f"video_events must be 'auto', 'impacts' or 'turns', got {video_events!r}")
        return video_events
    for sidecar in sorted(Path(reference).rglob("*.json")) if reference is not None else []:
        try:
            kinds = sidecar_kinds(sidecar)
        except ValueError:
            continue  # some other JSON file, or named with its clip when that is read
        if kinds:
            return "impacts" if "impact" in kinds else "turns"
    return "turns"


def _observe(pairing: Pairing, observer: Callable[[Pair], Observation], progress: bool) -> list[Observation]:
    seen = []
    console = Console(stderr=True)
    for pair in track(pairing.pairs, "Scoring clips", console=console, disable=not progress, transient=True):
        try:
            seen.append(observer(pair))
        except (ValueError, OSError) as error:
            pairing.errors.append(" ".join(str(error).split()))
    return seen


@dataclass(frozen=True)
class _Clip:
    """Event lists of one clip, for scoring."""

    duration: float
    reference: list[float]
    estimate: list[float]
    ceiling: list[float] | None


def score(
    observations: Sequence[Observation], *, tolerances: Sequence[float] = TOLERANCES, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics over clips, and one row per clip.

    Args:
        observations: Events of each clip.
        tolerances: Seconds.
        seed: Of the floors and the intervals.

    Returns:
        ``name@tolerance`` to ``value``, ``ci95``, ``floor``, ``floor_random``, ``ceiling``, ``n``; and the rows.
    """
    clips = [_Clip(o.duration, o.reference, o.estimate, o.ceiling) for o in observations]
    kinds = {
        "value": _own(clips, tolerances),
        "floor": _shuffled(clips, tolerances, seed),
        "floor_random": _random(clips, tolerances, seed),
        "ceiling": _own(
            [_Clip(c.duration, c.reference, c.ceiling, None) for c in clips if c.ceiling is not None], tolerances
        ),
    }
    metrics = {}
    for k, name in enumerate(EventScores._fields):
        for t, tolerance in enumerate(tolerances):
            metrics[f"event_{name}@{_milliseconds(tolerance)}"] = _entry(
                {kind: table[:, t, k] for kind, table in kinds.items()}, seed
            )
    metrics["event_f1@mean"] = _entry({kind: table[:, :, 2].mean(axis=1) for kind, table in kinds.items()}, seed)
    return metrics, [_row(o, table, tolerances) for o, table in zip(observations, kinds["value"], strict=True)]


def _row(observation: Observation, table: np.ndarray, tolerances: Sequence[float]) -> dict[str, Any]:
    pair = observation.pair
    return {
        "stem": pair.stem,
        "generated": str(pair.generated),
        "reference": None if pair.reference is None else str(pair.reference),
        "duration": round(observation.duration, 4),
        "source": observation.source,
        "reference_events": [round(time, 4) for time in observation.reference],
        "events": [round(time, 4) for time in observation.estimate],
        **{f"event_f1@{_milliseconds(t)}": float(f1) for t, f1 in zip(tolerances, table[:, 2], strict=True)},
        "event_f1@mean": float(table[:, 2].mean()),
    }


def _milliseconds(tolerance: float) -> str:
    return f"{tolerance * 1000:g}ms"


def _entry(values: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    own = values["value"]
    means = {kind: float(array.mean()) if len(array) else None for kind, array in values.items()}
    low, high = bootstrap_interval(own, seed=seed)
    interval = None if math.isnan(low) else [low, high]
    return {
        "value": means["value"],
        "ci95": interval,
        **{k: v for k, v in means.items() if k != "value"},
        "n": len(own),
    }


def _scores(reference: list[float], estimate: list[float], tolerances: Sequence[float]) -> np.ndarray:
    """(tolerances, 3): precision, recall, F1."""
    return np.array([event_scores(reference, estimate, tolerance) for tolerance in tolerances], dtype=np.float64)


def _stack(tables: list[np.ndarray], tolerances: Sequence[float]) -> np.ndarray:
    return np.stack(tables) if tables else np.zeros((0, len(tolerances), len(EventScores._fields)))


def _own(clips: list[_Clip], tolerances: Sequence[float]) -> np.ndarray:
    return _stack([_scores(clip.reference, clip.estimate, tolerances) for clip in clips], tolerances)


def _shuffled(clips: list[_Clip], tolerances: Sequence[float], seed: int) -> np.ndarray:
    """Each clip's reference against the estimates of other clips; (0, ...) where there are no others."""
    pairings = derangements(len(clips), limit=PARTNERS, seed=seed)
    tables = []
    for i, clip in enumerate(clips if pairings else []):
        partners = [clips[int(p[i])] for p in pairings]
        spans = [min(clip.duration, partner.duration) for partner in partners]
        tables.append(
            np.mean(
                [
                    _scores(
                        [t for t in clip.reference if t < span], [t for t in partner.estimate if t < span], tolerances
                    )
                    for partner, span in zip(partners, spans, strict=True)
                ],
                axis=0,
            )
        )
    return _stack(tables, tolerances)


def _random(clips: list[_Clip], tolerances: Sequence[float], seed: int) -> np.ndarray:
    """Each clip's reference against as many events at random times."""
    tables = []
    for i, clip in enumerate(clips):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        draws = [random_events(clip.reference, clip.duration, generator).tolist() for _ in range(PARTNERS)]
        tables.append(np.mean([_scores(clip.reference, draw, tolerances) for draw in draws], axis=0))
    return _stack(tables, tolerances)
