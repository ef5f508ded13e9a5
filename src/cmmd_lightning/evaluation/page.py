"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmmd_lightning.evaluation.figures import Lane, clip_figure, to_data_uri, tolerance_figure
from cmmd_lightning.evaluation.observe import SAMPLE_RATE, load_frames, load_sound
from cmmd_lightning.media import VIDEO_SUFFIXES, probe

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
LEGEND = "Blue: reference events. Green: detected events with a partner within 100 ms. Red, dashed: detected without."


def render_page(report: Mapping[str, Any], *, examples: int = 3) -> str:
    """A report as HTML, with nothing to load from elsewhere.

    Args:
        report: As ``report.json`` holds it; media are read from where its clips say, and left out where they are gone.
        examples: Clips shown per task: the best, the worst, and others evenly between.

    Returns:
        The page.
    """
    body = ["<h1>Synchrony of sound and picture</h1>"]
    for task, metrics in report.get("tasks", {}).items():
        run = report.get("runs", {}).get(task, {})
        body.append(f"<h2>{html.escape(TITLES.get(task, task))} <small>({html.escape(task)})</small></h2>")
        body += [_table(metrics), _curve(metrics), _notes(run)]
        body += [_example(task, run, row) for row in _examples(run.get("clips", []), examples)]
    body.append(_provenance(report))
    content = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Synchrony report</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{content}\n</body></html>\n"
    )


def _table(metrics: Mapping[str, Any]) -> str:
    heads = ("measure", "value", "95 % interval", "floor: shuffled", "floor: random", "ceiling", "clips")
    lines = ["<table><tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for name, entry in metrics.items():
        if not isinstance(entry, Mapping) or "value" not in entry:
            continue
        interval = entry.get("ci95")
        spread = "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
        numbers = [_number(entry.get(key)) for key in ("floor", "floor_random", "ceiling")]
        cells = [html.escape(name), _number(entry["value"]), spread, *numbers, str(entry.get("n", ""))]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _curve(metrics: Mapping[str, Any]) -> str:
    known = [entry for name, entry in metrics.items() if name.startswith("event_f1@")]
    if not known or any(entry["value"] is None for entry in known):
        return ""
    return f'<p><img alt="F1 over the tolerance" src="{to_data_uri(tolerance_figure(metrics))}"></p>'


def _notes(run: Mapping[str, Any]) -> str:
    """What was detected how, and what could not be scored."""
    lines = []
    detectors = run.get("detectors")
    if detectors:
        reference = ", ".join(detectors["reference"])
        lines.append(
            f"Detectors: {detectors['sound']} (sound), {detectors['video']} (picture); reference events: {reference}."
        )
    for side, names in run.get("unpaired", {}).items():
        if names:
            more = "" if len(names) <= 20 else f" and {len(names) - 20} more"
            lines.append(f"No partner ({side}): {', '.join(names[:20])}{more}.")
    lines += [f"Not scored: {line}" for line in run.get("errors", [])]
    return "".join(f'<p class="note">{html.escape(line)}</p>' for line in lines)


def _examples(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Rows from the best to the worst, evenly spaced in rank."""
    ranked = sorted(rows, key=lambda row: (-row["event_f1@mean"], row["stem"]))
    if len(ranked) <= count or count < 2:
        return ranked[:count]
    return [ranked[round(i * (len(ranked) - 1) / (count - 1))] for i in range(count)]


def _example(task: str, run: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{name.removeprefix('event_')} {row[name]:.2f}" for name in row if name.startswith("event_f1@"))
    caption = f"<b>{html.escape(row['stem'])}</b>: {scores}"
    try:
        figure = clip_figure(_lanes(task, row), row["duration"])
        media = [_media("generated", Path(row["generated"]))]
        if row["reference"] is not None:
            media.append(_media("reference", Path(row["reference"])))
    except (ValueError, OSError) as error:
        return f'<figure>{caption}<p class="note">{html.escape(" ".join(str(error).split()))}</p></figure>'
    picture = f'<img alt="{html.escape(row["stem"])}" src="{to_data_uri(figure)}">'
    players = f'<div class="media">{"".join(media)}</div>'
    return f'<figure>{caption}<p class="note">{LEGEND}</p>{picture}{players}</figure>'


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
    tag = "video" if path.suffix.lower() in VIDEO_SUFFIXES else "audio"
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
