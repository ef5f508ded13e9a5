"""The report as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cmmd_lightning.evaluation.figures import (
    LAGS,
    Lane,
    clip_figure,
    lag_figure,
    memorisation_figure,
    to_data_uri,
    tolerance_figure,
)
from cmmd_lightning.evaluation.loading import load_frames, load_sound
from cmmd_lightning.evaluation.observation import SAMPLE_RATE
from cmmd_lightning.evaluation.rendering import data_uri, render
from cmmd_lightning.evaluation.table import groups
from cmmd_lightning.media import is_video, probe

MAX_EMBEDDED = 3_000_000
"""Bytes of a media file that the page carries with it."""
TITLES = {
    "video_to_audio": "Sound for silent video",
    "audio_to_video": "Pictures for sound",
    "joint": "Sound and pictures together",
}
RANKING = {
    "event_f1@mean": "mean event F1",
    "linear_sync": "linear synchrony",
    "motion_loudness_correlation": "correlation of motion and loudness",
    "audio_visual_agreement": "agreement of what is seen and heard",
}
"""What clips are ranked by: the first that they have."""
CLOCKS = {
    "picture": "Generated and true files are laid over each other at their first frames.",
    "sound": "Generated and true files without a picture in common are laid over each other by their sound.",
}
LEGEND = (
    "Blue lines, and triangles above: reference events. Green: detected events with a partner within 100 ms. "
    "Red, dashed: detected without."
)


def render_page(report: Mapping[str, Any], *, examples: int = 3) -> str:
    """A report as one HTML page with so many example clips a task, whose media are read from where they lie."""
    runs = report.get("runs", {})
    tasks = []
    for task, metrics in report.get("tasks", {}).items():
        run = runs.get(task, {})
        rows = run.get("clips", [])
        tasks.append(
            {
                "name": task,
                "title": TITLES.get(task, task),
                "figures": _figures(metrics, rows),
                "groups": groups(metrics),
                "notes": _notes(run),
                "examples": _examples(task, rows, examples),
            }
        )
    sources = {task: run["provenance"] for task, run in runs.items() if "provenance" in run}
    if not sources and "provenance" in report:
        sources = {"report": report["provenance"]}
    return render("report.html", tasks=tasks, sources=sources, legend=LEGEND)


def _figures(metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Tolerance curve, lags, and distances to training clips: what each shows, and its address."""
    known = [entry for name, entry in metrics.items() if name.startswith("event_f1@")]
    drawn: list[tuple[str, Figure | None]] = []
    if known and all(entry["value"] is not None for entry in known):
        drawn.append(("F1 over the tolerance", tolerance_figure(metrics)))
    drawn.append(("Histograms of the lags", lag_figure(rows)))
    for name, entry in metrics.items():
        if name.startswith("memorisation") and "distances" in entry:
            drawn.append((f"Distances to the nearest training clip, {name}", memorisation_figure(entry)))
    return [(alt, to_data_uri(figure)) for alt, figure in drawn if figure]


def _notes(run: Mapping[str, Any]) -> list[str]:
    """What was detected how, and what could not be scored."""
    lines = []
    detectors = run.get("detectors")
    if detectors:
        reference = ", ".join(detectors["reference"])
        lines.append(
            f"Detectors: {detectors['sound']} (sound), {detectors['video']} (picture); reference events: {reference}."
        )
    clips = len(run.get("clips", []))
    clocks = {row.get("clock") for row in run.get("clips", [])}
    lines += [words for name, words in CLOCKS.items() if name in clocks]
    if run.get("clips_without_events"):
        lines.append(f"{run['clips_without_events']} of {clips} clips have no reference events.")
    if run.get("clips_without_picture_and_sound"):
        lines.append(
            f"{run['clips_without_picture_and_sound']} of {clips} clips have no picture beside the sound: left out of "
            "the measures that compare what is seen with what is heard."
        )
    for side, names in run.get("unpaired", {}).items():
        if names:
            more = "" if len(names) <= 20 else f" and {len(names) - 20} more"
            lines.append(f"No partner ({side}): {', '.join(names[:20])}{more}.")
    return [*lines, *(f"Not scored: {line}" for line in run.get("errors", []))]


def _examples(task: str, rows: Sequence[Mapping[str, Any]], count: int) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """The best and the worst clips, as far as they have what clips are ranked by."""
    rated = [row for row in rows if row["reference_events"]] or rows
    key = next((key for key in RANKING if all(key in row for row in rated)), None)
    if count < 1 or not rated or key is None:
        return []
    if key.startswith("event_") and rated is rows:  # no clip has events that could be met
        key = next((other for other in RANKING if other != key and all(other in row for row in rated)), key)
    ranked = sorted(rated, key=lambda row: (-row[key], _off(row), row["stem"]))
    parts = {"Best": ranked[: -(-count // 2)]}
    parts["Worst"] = ranked[max(len(parts["Best"]), len(ranked) - count // 2) :][::-1]
    about = f"of {len(rated)}, by {RANKING[key]}"
    return [
        (f"{title} {'clip' if len(chosen) == 1 else 'clips'}", about, [_example(task, row) for row in chosen])
        for title, chosen in parts.items()
        if chosen
    ]


def _off(row: Mapping[str, Any]) -> float:
    """Size of a clip's lag: among equals, the one in time is better."""
    lag = row.get("event_lag")
    return math.inf if lag is None else abs(lag)


def _facts(row: Mapping[str, Any]) -> str:
    curve = {name.removeprefix("event_f1@"): row[name] for name in row if name.startswith("event_f1@")}
    facts = ["F1 " + ", ".join(f"{value:.2f} ({at})" for at, value in curve.items())] if curve else []
    facts += [f"{RANKING[name]} {row[name]:.2f}" for name in RANKING if name in row and name != "event_f1@mean"]
    facts += [
        f"lag ({words}) " + ("none found" if row[name] is None else f"{1000 * row[name]:+.0f} ms")
        for name, words in LAGS.items()
        if name in row
    ]
    facts += [
        "nearest training clip {} at {:.2f}".format(*row[name])
        for name in row
        if name.startswith("nearest_training_clip")
    ]
    return "; ".join(facts)


def _example(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """One clip as the template shows it."""
    shown: dict[str, Any] = {"stem": row["stem"], "facts": _facts(row), "error": None, "picture": None, "media": []}
    if row["generated"] is None:
        return shown
    try:
        shown["picture"] = to_data_uri(clip_figure(_lanes(task, row), row["duration"]))
        shown["media"] = [_media("generated", Path(row["generated"]))]
        if row["reference"] is not None and task != "joint":  # there it is one of a set, no partner
            shown["media"].append(_media("reference", Path(row["reference"])))
    except (ValueError, OSError) as error:
        shown["error"] = " ".join(str(error).split())
    return shown


def _lanes(task: str, row: Mapping[str, Any]) -> list[Lane]:
    """What is shown of a clip: the condition, the truth and what was generated."""
    generated = Path(row["generated"])
    reference = None if row["reference"] is None else Path(row["reference"])
    truth, found = row["reference_events"], row["events"]
    if task == "joint":
        return [
            *_picture(generated, row, "generated picture, with the events seen", truth, None),
            *_sound(generated, row, "generated sound, with the onsets heard", found, truth),
        ]
    if reference is None:
        return []
    if task == "video_to_audio":
        given = reference if probe(reference).has_video else generated
        return [
            *_picture(given, row, "given picture", (), None),
            *_sound(reference, row, "true sound, with the reference events", truth, None),
            *_sound(generated, row, "generated sound, with the onsets detected", found, truth),
        ]
    return [
        *_sound(reference, row, "given sound", (), None),
        *_picture(reference, row, "true picture, with the reference events", truth, None),
        *_picture(generated, row, "generated picture, with the events detected", found, truth),
    ]


def _picture(
    path: Path, row: Mapping[str, Any], title: str, events: Sequence[float], against: Sequence[float] | None
) -> list[Lane]:
    if not probe(path).has_video:
        return []
    frames, fps = load_frames(path, row["duration"], fps=min(10.0, 16 / row["duration"]))
    return [Lane(title, frames=frames, rate=fps, events=events, against=against)]


def _sound(
    path: Path, row: Mapping[str, Any], title: str, events: Sequence[float], against: Sequence[float] | None
) -> list[Lane]:
    if not probe(path).has_audio:
        return []
    return [Lane(title, sound=load_sound(path, row["duration"]), rate=SAMPLE_RATE, events=events, against=against)]


def _media(title: str, path: Path) -> dict[str, str | None]:
    """A player with the file inside, where the file is small and browsers play it."""
    kinds = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".wav": "audio/wav", ".mp3": "audio/mpeg"}
    kind, source = kinds.get(path.suffix.lower()), None
    if kind is not None and path.stat().st_size <= MAX_EMBEDDED:
        source = data_uri(path.read_bytes(), kind)
    return {"title": title, "path": str(path), "tag": "video" if is_video(path) else "audio", "source": source}
