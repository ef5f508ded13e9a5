"""The report: ``report.json``, its page ``report.html``, and the line that sums it up."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmmd_lightning.evaluation.page import render_page
from cmmd_lightning.evaluation.rendering import table_texts, write_whole
from cmmd_lightning.evaluation.table import report_table

Report = dict[str, Any]

CANNOT_TELL = "cannot tell: on these clips true pairs score no better than chance; see cmmd calibrate"


def merge_reports(old: Mapping[str, Any], new: Mapping[str, Any]) -> Report:
    """Two reports as one: the union of their tasks, the new one's where both have one; runs keep their provenance."""
    merged = {**old, **new}
    for part in ("tasks", "runs"):
        if part in old or part in new:
            merged[part] = {**old.get(part, {}), **new.get(part, {})}
    return merged


def read_report(path: str | os.PathLike[str]) -> Report:
    """A report from its file ``report.json``; ValueError if it is none."""
    try:
        report = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: expected a report in JSON, got {error}") from error
    if not isinstance(report, dict) or not isinstance(report.get("tasks"), dict):
        raise ValueError(f"{os.fspath(path)}: expected a report with 'tasks', got something else")
    return report


def write_report(
    report: Mapping[str, Any], path: str | os.PathLike[str], *, page: bool = True, examples: int = 3
) -> list[Path]:
    """Write a report, merged into the one that is there, and beside it its page and its tables; gives the files.

    ``examples`` clips are shown of each task, half of them the best, half the worst. ValueError for a file that is no
    report.
    """
    path = Path(path)
    merged = merge_reports(read_report(path), report) if path.exists() else dict(report)
    text = json.dumps(merged, indent=1, allow_nan=False) + "\n"
    written = [write_whole(path, text)]
    if page:
        texts = table_texts([report_table(merged)])
        written.append(write_whole(path.with_suffix(".html"), render_page(merged, examples=examples)))
        written += [write_whole(path.with_suffix(suffix), text) for suffix, text in texts.items()]
    return written


def summary_line(task: str, metrics: Mapping[str, Mapping[str, Any]], *, tolerance: str = "100ms") -> str:
    """A task's main score in one line.

    Example:
        >>> entry = {"value": 0.83, "ci95": [0.79, 0.87], "floor": 0.31, "ceiling": 0.99, "n": 64}
        >>> summary_line("video_to_audio", {"event_f1@100ms": entry})
        'video_to_audio: event F1 within 100 ms 0.83 [0.79, 0.87], floor 0.31 (shuffled pairs), ceiling 0.99, n 64'
    """
    entry = metrics.get(f"event_f1@{tolerance}")
    if entry is None:
        return f"{task}: without event scores, {len(metrics)} measures"
    if entry["value"] is None:
        return f"{task}: no clips could be scored"
    parts = [f"{task}: event F1 within {tolerance.removesuffix('ms')} ms {entry['value']:.2f}"]
    if entry["ci95"] is not None:
        rough = " (rough: few clips)" if entry.get("rough") else ""
        parts[0] += f" [{entry['ci95'][0]:.2f}, {entry['ci95'][1]:.2f}]{rough}"
    if entry["floor"] is not None:
        parts.append(f"floor {entry['floor']:.2f} (shuffled pairs)")
    if entry["ceiling"] is not None:
        parts.append(f"ceiling {entry['ceiling']:.2f}")
    return ", ".join([*parts, f"n {entry['n']}"]) + (f"; {CANNOT_TELL}" if entry.get("cannot_tell") else "")


def detail_line(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Lags and quality in one line, to follow the :func:`summary_line`; empty where none of them is known.

    Example:
        >>> lag = {"value": 0.07, "ci95": [0.05, 0.1], "n": 9, "median": -0.004, "n_without": 1}
        >>> distance = {"value": 10.42, "ci95": [6.6, 15.2], "floor": 96.3, "n": 9, "n_reference": 8}
        >>> detail_line({"event_lag": lag, "frechet_distance[mel-statistics-v2]": distance})
        '  event lag 70 ms (median -4 ms, 1 without); frechet_distance[mel-statistics-v2] 10.4 (white noise 96.3)'
    """
    parts = []
    for name, entry in metrics.items():
        if name == "event_lag" and entry["value"] is not None and entry.get("median") is not None:
            without = f", {entry['n_without']} without" if entry["n_without"] else ""
            parts.append(f"event lag {1000 * entry['value']:.0f} ms (median {1000 * entry['median']:+.0f} ms{without})")
        elif name.startswith("frechet_distance") and entry["value"] is not None:
            noise = "" if entry["floor"] is None else f" (white noise {entry['floor']:.3g})"
            parts.append(f"{name} {entry['value']:.3g}{noise}")
    return "  " + "; ".join(parts) if parts else ""
