"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
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
from cmmd_lightning.evaluation.observation import SAMPLE_RATE
from cmmd_lightning.evaluation.observe import load_frames, load_sound
from cmmd_lightning.evaluation.table import tables
from cmmd_lightning.media import is_video, probe

MAX_EMBEDDED = 3_000_000
"""Bytes of a media file that the page carries with it."""
TITLES = {
    "video_to_audio": "Sound for silent video",
    "audio_to_video": "Pictures for sound",
    "joint": "Sound and pictures together",
}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd;
} td:first-child, th:first-child { text-align: left; } img { max-width: 100%; } video { width: 192px; margin-right:
1rem; } figure { margin: 1.2rem 0; border-top: 1px solid #ddd; padding-top: .6rem; } .note { color: #666; font-size:
13px; } .media { display: flex; gap: 1rem; align-items: end; } .media div { font-size: 13px; color: #666; }
"""
REPORT_STYLE = """
body { max-width: 68rem; } .wide { overflow-x: auto; } .wide td, .wide th { padding: .2rem .6rem; } .wide td {
white-space: nowrap; vertical-align: top; } .wide td:first-child { min-width: 16rem; white-space: normal; } .wide th {
font-size: 13px; vertical-align: bottom; } .wide code { display: block; color: #666; font-size: 12px; } .figures {
display: flex; flex-wrap: wrap; gap: 1rem; align-items: start; } .figures img { width: 31rem; } summary { cursor:
pointer; font-weight: 600; margin: 1.2rem 0 .6rem; } h2 { border-top: 2px solid #222; padding-top: .6rem; margin-top:
2.5rem; }
"""
RANKING = {
    "event_f1@mean": "mean event F1",
    "linear_sync": "linear synchrony",
    "motion_loudness_correlation": "correlation of motion and loudness",
    "audio_visual_agreement": "agreement of what is seen and heard",
}
"""What clips are ranked by: the first that they have."""
LEGEND = (
    "Blue lines, and triangles above: reference events. Green: detected events with a partner within 100 ms. "
    "Red, dashed: detected without."
)


def render_page(report: Mapping[str, Any], *, examples: int = 3) -> str:
    """A report as HTML, with nothing to load from elsewhere.

    Args:
        report: As ``report.json`` holds it; media are read from where its clips say, and left out where they are gone.
        examples: Clips shown per task: half of them the best, half the worst.

    Returns:
        The page.
    """
    body = ["<h1>Synchrony and quality of generated sound and picture</h1>"]
    for task, metrics in report.get("tasks", {}).items():
        run = report.get("runs", {}).get(task, {})
        body.append(f"<h2>{html.escape(TITLES.get(task, task))} <small>({html.escape(task)})</small></h2>")
        body += [_figures(metrics, run.get("clips", [])), tables(metrics), _notes(run)]
        body += _examples(task, run.get("clips", []), examples)
    body.append(_provenance(report))
    content = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Synchrony and quality</title>'
        f"<style>{STYLE}{REPORT_STYLE}</style></head>\n<body>\n{content}\n</body></html>\n"
    )


def _figures(metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Tolerance curve, lags, and distances to training clips: those that there is something for."""
    known = [entry for name, entry in metrics.items() if name.startswith("event_f1@")]
    drawn: list[tuple[str, Figure | None]] = []
    if known and all(entry["value"] is not None for entry in known):
        drawn.append(("F1 over the tolerance", tolerance_figure(metrics)))
    drawn.append(("Histograms of the lags", lag_figure(rows)))
    for name, entry in metrics.items():
        if name.startswith("memorisation") and "distances" in entry:
            drawn.append((f"Distances to the nearest training clip, {name}", memorisation_figure(entry)))
    images = [f'<img alt="{html.escape(alt)}" src="{to_data_uri(figure)}">' for alt, figure in drawn if figure]
    return f'<div class="figures">{"".join(images)}</div>'


def _notes(run: Mapping[str, Any]) -> str:
    """What was detected how, and what could not be scored."""
    lines = []
    detectors = run.get("detectors")
    if detectors:
        reference = ", ".join(detectors["reference"])
        lines.append(
            f"Detectors: {detectors['sound']} (sound), {detectors['video']} (picture); reference events: {reference}."
        )
    clips = len(run.get("clips", []))
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
    lines += [f"Not scored: {line}" for line in run.get("errors", [])]
    return "".join(f'<p class="note">{html.escape(line)}</p>' for line in lines)


def _examples(task: str, rows: Sequence[Mapping[str, Any]], count: int) -> list[str]:
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
    body = []
    for title, chosen in parts.items():
        if chosen:
            noun = "clip" if len(chosen) == 1 else "clips"
            body.append(f"<h3>{title} {noun} <small>of {len(rated)}, by {RANKING[key]}</small></h3>")
            body += [f'<p class="note">{LEGEND}</p>', *(_example(task, row) for row in chosen)]
    return body


def _off(row: Mapping[str, Any]) -> float:
    """Size of a clip's lag: among equals, the one in time is better."""
    lag = row.get("event_lag")
    return math.inf if lag is None else abs(lag)


def _caption(row: Mapping[str, Any]) -> str:
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
    return f"<b>{html.escape(row['stem'])}</b>: {html.escape('; '.join(facts))}"


def _example(task: str, row: Mapping[str, Any]) -> str:
    caption = _caption(row)
    if row["generated"] is None:
        return f"<figure>{caption}</figure>"
    try:
        figure = clip_figure(_lanes(task, row), row["duration"])
        media = [_media("generated", Path(row["generated"]))]
        if row["reference"] is not None and task != "joint":  # there it is one of a set, no partner
            media.append(_media("reference", Path(row["reference"])))
    except (ValueError, OSError) as error:
        return f'<figure>{caption}<p class="note">{html.escape(" ".join(str(error).split()))}</p></figure>'
    picture = f'<img alt="{html.escape(row["stem"])}" src="{to_data_uri(figure)}">'
    players = f'<div class="media">{"".join(media)}</div>'
    return f"<figure>{caption}<br>{picture}{players}</figure>"


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


def _media(title: str, path: Path) -> str:
    """A player with the file inside, where the file is small and browsers play it."""
    kinds = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".wav": "audio/wav", ".mp3": "audio/mpeg"}
    kind = kinds.get(path.suffix.lower())
    if kind is None or path.stat().st_size > MAX_EMBEDDED:
        return f"<div>{title}: {html.escape(str(path))}</div>"
    tag = "video" if is_video(path) else "audio"
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<div>{title}<br><{tag} controls loop src="data:{kind};base64,{content}"></{tag}></div>'


def _provenance(report: Mapping[str, Any]) -> str:
    runs = {task: run["provenance"] for task, run in report.get("runs", {}).items() if "provenance" in run}
    sources = runs or ({"report": report["provenance"]} if "provenance" in report else {})
    lines = ["<h2>Provenance</h2>"]
    for name, source in sources.items():
        facts = "; ".join(f"{key}: {value}" for key, value in source.items())
        lines.append(f'<p class="note">{html.escape(name)}: {html.escape(facts)}</p>')
    return "\n".join(lines)
