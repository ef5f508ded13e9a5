"""How late each clip's sound is against its picture, with an interval and a verdict; and copies that are mended."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from cmmd_lightning.evaluation.figures import new_figure
from cmmd_lightning.evaluation.loading import load_frames, load_sound, picture_start
from cmmd_lightning.evaluation.measures import SAMPLE_RATE, Senses, VideoEvents
from cmmd_lightning.evaluation.rendering import Section, Table, write_document, write_whole
from cmmd_lightning.media import MediaError, find_media, probe
from cmmd_lightning.media.muxing import copy_delayed
from cmmd_lightning.metrics.functional.evidence import Evidence, best_lag, event_evidence, lag_interval, series_evidence
from cmmd_lightning.metrics.functional.linear_sync import FPS, LinearSync
from cmmd_lightning.metrics.synchrony import ENVELOPE_RATE

logger = logging.getLogger(__name__)

Verdict = Literal["in sync", "borderline", "out of sync", "cannot tell"]
VERDICTS = get_args(Verdict)

EARLY, LATE = 0.045, 0.125
"""Seconds by which sound may lead or trail its picture before viewers notice (ITU-R BT.1359, detectability)."""
SPAN = 60.0
"""Seconds of a clip that are looked at."""
NULLS, LEAST_CLIPS = 60, 8
"""Sounds that a clip's own has to beat, 19 of 20 of them: of other clips, also backwards and from their middle on;
and without how many clips in all nothing is told."""
WIDEST = 0.1
"""Seconds; with a wider interval nothing is told."""


@dataclass(frozen=True)
class ClipSync:
    """What was found of one clip; seconds, positive where the sound is late, NaN where there is none."""

    path: str
    verdict: Verdict
    lag: float = math.nan
    low: float = math.nan
    high: float = math.nan
    strength: float = math.nan
    chance: float = math.nan  # the strength that sounds of other clips stay below, 19 of 20
    reason: str = ""
    curve: tuple[float, ...] = ()
    step: float = 0.0

    def said(self) -> str:
        """The clip in one line."""
        if self.verdict == "cannot tell":
            return f"{self.path}: cannot tell: {self.reason}"
        way = "late" if self.lag >= 0 else "early"
        return (
            f"{self.path}: {self.verdict}: sound {abs(self.lag) * 1000:.0f} ms {way}, 95 % interval "
            f"[{self.low * 1000:+.0f}, {self.high * 1000:+.0f}] ms (+ is late)"
        )


def judge(path: str, own: Evidence, others: Sequence[Evidence], seed: int = 0) -> ClipSync:
    """The verdict on one clip.

    Args:
        path: Of the clip.
        own: Its picture with its own sound.
        others: Its picture with sounds that it cannot be in sync with.
        seed: Of the interval, by bootstrap over units of time.
    """
    lag, strength = best_lag(own)
    if math.isnan(lag):
        return ClipSync(path, "cannot tell", reason="nothing in its picture and sound agrees at any lag")
    if len(others) < 3 * (LEAST_CLIPS - 1):
        reason = f"expected {LEAST_CLIPS} clips of one kind in the folder, got {len(others) // 3 + 1}"
        return ClipSync(path, "cannot tell", reason=reason)
    chance = float(np.quantile([best_lag(other).strength for other in others], 0.95))
    low, high = lag_interval(own, seed)
    low, high = min(low, lag), max(high, lag)
    curve = tuple(own.units.sum(axis=0).round(5).tolist())
    verdict: Verdict = "borderline"
    reason = ""
    if strength <= chance:
        reason = f"its own sound agrees no better than those of other clips ({strength:.2f}, they reach {chance:.2f})"
    elif len(own.units) < 2 or high - low > WIDEST:
        reason = f"the lag is not certain: between {low * 1000:+.0f} and {high * 1000:+.0f} ms"
    elif low > LATE or high < -EARLY:
        verdict = "out of sync"
    elif low >= -EARLY and high <= LATE:
        verdict = "in sync"
    if reason:
        verdict = "cannot tell"
    return ClipSync(path, verdict, lag, low, high, strength, chance, reason, curve, own.step)


def measure_sync(
    paths: Sequence[Path],
    *,
    measure: Literal["events", "envelope", "linear"],
    video_events: VideoEvents = "impacts",
    linear: LinearSync | None = None,
    max_lag: float = 0.5,
    seed: int = 0,
    advance: Callable[[Path], Any] = lambda path: None,
) -> tuple[list[ClipSync], list[str]]:
    """The lag of every clip, and a line for each file that was not measured.

    Args:
        paths: Clips with a picture and a sound.
        measure: ``events`` seen and heard, motion's and loudness' ``envelope``, or a fitted ``linear`` synchrony.
        video_events: Detector of events in pictures.
        linear: Fitted on clips of the same kind (`cmmd calibrate --fit`).
        max_lag: Greatest lag looked for either way, in seconds; at most a quarter of a clip's length is.
        seed: Of intervals, and of which clips' sounds stand for chance.
        advance: Told of each file when it has been read.
    """
    senses, clips, errors = Senses(video_events, linear), {}, []
    key = {"events": ("video_events", "onsets"), "envelope": ("motion", "loudness"), "linear": ("linear", "linear")}
    for path in paths:
        try:
            info = probe(path)
            if not (info.has_video and info.has_audio):
                raise MediaError(
                    path, "a picture and a sound", "a picture alone" if info.has_video else "a sound alone"
                )
            start = picture_start(path) or 0.0
            seconds = min(info.duration - start, SPAN)
            seen = senses.see(*load_frames(path, seconds, start=start))[key[measure][0]]
            heard = senses.hear(load_sound(path, seconds, start=start), SAMPLE_RATE)[key[measure][1]]
            clips[path] = (seen.times, heard.times, seconds) if measure == "events" else (seen, heard, seconds)
        except (OSError, ValueError) as error:
            errors.append(" ".join(str(error).split()))
        advance(path)

    def evidence(seen: Any, heard: Any, seconds: float) -> Evidence:
        reach = min(max_lag, seconds / 4)
        if measure == "events":
            return event_evidence(seen, heard, reach)
        if linear is not None and measure == "linear":
            return series_evidence(seen, heard, reach, FPS, linear.correlations**2)
        return series_evidence(seen, heard, reach, ENVELOPE_RATE)

    found = []
    for number, (path, (seen, heard, seconds)) in enumerate(clips.items()):
        rng = np.random.default_rng([seed, number])
        strangers = [other for other in clips if other != path and clips[other][2] >= 0.5 * seconds]
        sounds = [sound for other in strangers for sound in _unrelated(clips[other][1], clips[other][2])]
        chosen = rng.permutation(len(sounds))[:NULLS]
        others = [evidence(seen, sounds[i], seconds) for i in chosen]
        found.append(judge(str(path), evidence(seen, heard, seconds), others, seed))
    return found, errors


def _unrelated(heard: Any, seconds: float) -> list[Any]:
    """What is heard of another clip: as it is, backwards, and from its middle on."""
    if isinstance(heard, list):  # times
        return [heard, [seconds - time for time in heard], [(time + seconds / 2) % seconds for time in heard]]
    return [heard, heard[::-1], np.roll(heard, len(heard) // 2, axis=0)]


def repair(found: Sequence[ClipSync], root: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Copies of the clips out of sync, their streams copied with the sound where the picture wants it.

    Gives the files, and a line for each that could not be written.
    """
    written, errors = [], []
    for clip in found:
        if clip.verdict != "out of sync":
            continue
        path = Path(clip.path)
        target = folder / (path.relative_to(root) if path != root else path.name)
        try:
            if target.exists() and target.samefile(path):
                raise MediaError(path, "another folder for the repaired clip", "its own")
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_delayed(path, target, -clip.lag)
            written.append(target)
        except (OSError, ValueError) as error:
            errors.append(" ".join(str(error).split()))
    return written, errors


def sync_folder(
    clips: Path,
    repaired: Path | None,
    output_dir: Path,
    *,
    measure: Literal["auto", "events", "envelope", "linear"] = "auto",
    video_events: VideoEvents = "impacts",
    linear_sync: str | None = None,
    max_lag: float = 0.5,
    seed: int = 0,
) -> int:
    """The command: measure, write, mend; gives the exit status. See `measure_sync` for the arguments."""
    if measure == "linear" and linear_sync is None:
        raise ValueError("sync: expected --linear_sync FILE with --measure linear, got none")
    linear = None if linear_sync is None else LinearSync.load(linear_sync)
    chosen = ("events" if linear is None else "linear") if measure == "auto" else measure
    skipped: list[Path] = []
    paths = find_media(clips, skipped)
    if not paths:
        raise MediaError(clips, "clips with a picture and a sound", "no media files")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Reading clips", total=len(paths))
        found, errors = measure_sync(
            paths,
            measure=chosen,
            video_events=video_events,
            linear=linear,
            max_lag=max_lag,
            seed=seed,
            advance=lambda path: progress.advance(task),
        )
    counts = Counter(clip.verdict for clip in found)
    about = f"{len(found)} clips by {chosen}: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    written = write_sync(found, errors, about, output_dir)
    mended, failed = ([], []) if repaired is None else repair(found, clips, repaired)
    for clip in found:
        logger.info("%s", clip.said())
    for line in [*errors, *failed]:
        logger.warning("%s", line)
    logger.info("%s", about)
    if repaired is not None:
        logger.info("repaired: %d of %d clips out of sync, in %s", len(mended), counts["out of sync"], repaired)
    logger.info("written: %s", ", ".join(map(str, written)))
    return int(bool(errors or failed))


def write_sync(found: Sequence[ClipSync], errors: Sequence[str], about: str, folder: Path) -> list[Path]:
    """Write ``sync.json``, ``.csv``, ``.md``, ``.tex``, ``.html`` and the picture of the curves; gives the files."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "sync.png"
    sync_figure(found).savefig(picture, dpi=90, metadata={"Software": None})
    heads = ["clip", "verdict", "sound late by (ms)", "from", "to", "strength", "by chance", "why"]
    rows = [
        [c.path, c.verdict, *map(_known, (1000 * c.lag, 1000 * c.low, 1000 * c.high, c.strength, c.chance)), c.reason]
        for c in found
    ]
    numbers = [{k: _known(v) if isinstance(v, float) else v for k, v in asdict(c).items()} for c in found]
    text = json.dumps({"about": about, "clips": numbers, "errors": list(errors)}, indent=1, allow_nan=False)
    section = Section("", about, [Table(heads, rows)], [picture])
    return [
        write_whole(folder / "sync.json", text + "\n"),
        picture,
        *write_document(folder / "sync", "Sound against picture", [section], [f"Not read: {line}" for line in errors]),
    ]


def sync_figure(found: Sequence[ClipSync]) -> Figure:
    """Agreement over the lag, of the first twelve clips that have some; dashed: what is reached by chance."""
    shown = [clip for clip in found if clip.curve][:12]
    figure = new_figure(9, 0.6 + 1.8 * max(1, math.ceil(len(shown) / 3)))
    for place, clip in enumerate(shown, start=1):
        axes = figure.add_subplot(math.ceil(len(shown) / 3), 3, place)
        lags = (np.arange(len(clip.curve)) - len(clip.curve) // 2) * clip.step * 1000
        axes.axvspan(-EARLY * 1000, LATE * 1000, color="#1a9850", alpha=0.15, linewidth=0)
        axes.plot(lags, clip.curve, linewidth=1)
        axes.axhline(clip.chance, color="black", linewidth=0.7, linestyle="--")
        axes.axvline(clip.lag * 1000, color="#d73027", linewidth=0.8)
        axes.set_title(f"{Path(clip.path).stem[:24]}: {clip.verdict}", fontsize=7)
        axes.tick_params(labelsize=6)
        axes.set_xlabel("sound late by (ms)", fontsize=6)
    return figure


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
