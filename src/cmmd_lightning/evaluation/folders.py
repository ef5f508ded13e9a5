"""Two folders of media to scores: pair, observe, score, with floor, ceiling and interval."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from cmmd_lightning.evaluation.measures import Senses, VideoEvents
from cmmd_lightning.evaluation.observation import RoundTrip
from cmmd_lightning.evaluation.observe import GENERATED, Observer, Task
from cmmd_lightning.evaluation.pairs import PathLike, pair_folders
from cmmd_lightning.evaluation.provenance import provenance
from cmmd_lightning.evaluation.quality import Extractors, clip_features, quality_metrics
from cmmd_lightning.evaluation.scoring import run_facts, score
from cmmd_lightning.evaluation.sidecar import sidecar_kinds
from cmmd_lightning.media import find_media
from cmmd_lightning.metrics.functional.events import TOLERANCES
from cmmd_lightning.metrics.functional.linear_sync import LinearSync
from cmmd_lightning.metrics.measure import Measure

log = logging.getLogger(__name__)

TASKS = ("video_to_audio", "audio_to_video", "joint")

Item = TypeVar("Item")
Found = TypeVar("Found")


def evaluate_folders(
    task: Task,
    generated: PathLike,
    reference: PathLike | None,
    *,
    tolerances: Sequence[float] = TOLERANCES,
    video_events: VideoEvents | Literal["auto"] = "auto",
    linear_sync: LinearSync | None = None,
    encoders: tuple[Any, Any] | None = None,
    extractors: Extractors | None = None,
    training: PathLike | None = None,
    round_trip: RoundTrip | None = None,
    measures: Sequence[Measure] = (),
    without: Sequence[str] = (),
    seed: int = 0,
    command: str | None = None,
    max_seconds: float = 60.0,
    progress: bool = True,
) -> dict[str, Any]:
    """Score a folder of generated media against a folder of references.

    ``video_to_audio``: onsets in the generated sound against the reference events. ``audio_to_video``: motion events in
    the generated picture against the reference events. Reference events are those of the sidecar ``STEM.json`` that are
    visible and audible, else what the same detector finds in the reference. ``joint``: onsets in the generated sound
    against motion events in the generated picture; there the references are a set of true clips, for quality and the
    ceiling, and no partners. Beside the events, what is seen is compared with what is heard, a given picture or sound
    being taken from the reference where the generated file lacks it; and generated with true media as sets. Only the
    span that both files cover counts. Files are paired by stem; what is unpaired or unreadable is listed, and the rest
    is scored. One clip is in memory at a time.

    Args:
        task: ``video_to_audio``, ``audio_to_video`` or ``joint``; ValueError for others.
        generated: Folder of generated media of any format, rate and size; MediaError where there is none.
        reference: Folder of reference media; may be None for ``joint``.
        tolerances: Seconds.
        video_events: Detector for pictures: ``impacts``, ``turns``, or ``auto``: impacts where a sidecar of the
            references has events of that kind, else turns.
        linear_sync: A linear synchrony fitted on clips of the same kind, if there is one.
        encoders: A pair of encoders for audio-visual agreement, if there is one.
        extractors: Of features for the distances between sets; none by default.
        training: Folder of the clips that the generator was trained on, to look for memorised ones.
        round_trip: Codec and vocoder for the ceiling; None leaves it null.
        measures: Measures of one's own beside the built-in ones.
        without: Names of measures, or of their classes, to leave out.
        seed: Of the floors and the intervals.
        command: What to name as the command in the provenance; ``sys.argv`` by default.
        max_seconds: Longer clips are scored over their first seconds.
        progress: Whether to show a progress bar.

    Returns:
        The report, as ``write_report`` writes it: ``provenance``; ``tasks[task]`` with, for each measure, ``value``,
        ``ci95``, ``floor`` (shuffled pairs), ``floor_random`` (random events at the same rate), ``ceiling`` and ``n``;
        ``runs[task]`` with the clips, the unpaired and the errors.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if reference is None and task != "joint":
        raise ValueError(f"{task}: expected a folder of references, got none")
    extractors = extractors or Extractors()
    pairing = pair_folders(generated, reference, as_sets=task == "joint")
    senses = Senses(
        _choose(video_events, reference), linear_sync, encoders, tolerances, tuple(measures), tuple(without)
    )
    observer = Observer(task, senses, round_trip, extractors, max_seconds)
    for side, names in (("generated", pairing.unpaired_generated), ("reference", pairing.unpaired_reference)):
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            log.warning("%d %s files have no partner: %s%s", len(names), side, ", ".join(names[:10]), more)
    seen = _each(pairing.pairs, observer, "Scoring clips", pairing.errors, progress)
    bank = None if training is None else _bank(training, task, observer, pairing.errors, progress)
    for line in pairing.errors:
        log.warning(line)
    metrics, rows = score(seen, senses=senses, seed=seed)
    metrics |= quality_metrics(seen, extractors, seed=seed, training=bank and bank[0])
    _name_nearest(rows, metrics, bank and bank[1])
    one_sided = sum(not (o.made.left.keys() & {"motion"} and o.made.right.keys() & {"loudness"}) for o in seen)
    if one_sided:
        log.info("%d of %d clips have no picture beside the sound: left out where both compare", one_sided, len(seen))
    source = provenance(command, seed)
    run = {
        "provenance": source,
        "generated": str(generated),
        "reference": None if reference is None else str(reference),
        **run_facts(senses, rows, pairing.errors),
        "clips_without_picture_and_sound": one_sided,
        "unpaired": {"generated": pairing.unpaired_generated, "reference": pairing.unpaired_reference},
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


def _each(
    items: Iterable[Item], work: Callable[[Item], Found], title: str, errors: list[str], progress: bool
) -> list[Found]:
    """What the work makes of each item; one line is added to the errors for each that cannot be used."""
    found = []
    for item in track(list(items), title, console=Console(stderr=True), disable=not progress, transient=True):
        try:
            found.append(work(item))
        except (ValueError, OSError) as error:
            errors.append(" ".join(str(error).split()))
    return found


def _bank(
    training: PathLike, task: Task, observer: Observer, errors: list[str], progress: bool
) -> tuple[dict[str, np.ndarray], list[str]] | None:
    """Features of the training clips, a row each, by modality; and their names. None for fewer than two clips."""
    extractors = replace(observer.extractors, classifier=None)

    def features(path: Path) -> tuple[str, dict[str, np.ndarray]]:
        clip = observer.read(path, min(observer.span(path), observer.max_seconds), GENERATED[task])
        rows = extractors.rows(task, clip, None, None)
        return path.name, {modality: clip_features(kinds["generated"]) for modality, kinds in rows.items()}

    read = _each(find_media(training), features, "Reading training clips", errors, progress)
    if len(read) < 2:
        errors.append(f"{training}: expected two training clips at least to look for memorised ones, got {len(read)}")
        return None
    return {m: np.concatenate([rows[m] for _, rows in read]) for m in read[0][1]}, [name for name, _ in read]


def _name_nearest(rows: list[dict[str, Any]], metrics: dict[str, Any], names: list[str] | None) -> None:
    """Say of each generated clip which training clip is nearest."""
    for key, entry in metrics.items():
        if key.startswith("memorisation") and names is not None and len(entry["nearest"]) == len(rows):
            for row, index, distance in zip(rows, entry.pop("nearest"), entry["distances"]["generated"], strict=True):
                row[f"nearest_training_clip{key.removeprefix('memorisation')}"] = [names[index], distance]
