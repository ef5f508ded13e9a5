"""The calibration as files: the numbers (json), the tables (md, html) and the figure (png)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cmmd_lightning.evaluation.figures import draw_cells, new_figure
from cmmd_lightning.evaluation.rendering import Section, Table, write_document, write_whole
from cmmd_lightning.studies.calibration.analysis import RESOLVED, worse_way
from cmmd_lightning.studies.calibration.calibrate import PROBE
from cmmd_lightning.studies.calibration.faults import RATES

Calibration = Mapping[str, Any]

SHOWN = {
    "event_f1@mean": ("#4575b4", "-"),
    "event_lag": ("#4575b4", "--"),
    "linear_sync": ("#1a9850", "-"),
    "linear_sync_lag": ("#1a9850", "--"),
    "motion_loudness_correlation": ("#e08214", "-"),
    "motion_loudness_lag": ("#e08214", "--"),
    "av_align[tempotokens-2025]": ("#d73027", "-"),
    "av_align[tempotokens-2024]": ("#d73027", ":"),
}
"""Measures in the figure, with colour and line."""
FAULTS = ("swapped partner", "dropped 25%", "dropped 50%", "added 25%", "added 50%", "drift 2%", "drift 5%")
NOTE = (
    "AUROC: the probability that a clip in sync scores better than a faulty one, ties counting half; 0.5 is a coin, 1 "
    "is always. Of an offset, the worse of its two directions. *resolves*: the smallest offset from which on the AUROC "
    f"is {RESOLVED} or more, both ways. *steady*: how steadily the score falls as the offset grows, clip by clip "
    "(minus Spearman's correlation; 1 is all the way). *bias*: the median lag found in clips that are in sync."
)


def write_calibration(calibration: Calibration, folder: Path) -> list[Path]:
    """Write ``calibration.json``, ``.png``, ``.md``, ``.html``, ``.csv`` and ``.tex``; gives the files."""
    picture = folder / "calibration.png"
    folder.mkdir(parents=True, exist_ok=True)
    calibration_figure(calibration["sets"]).savefig(picture, dpi=90, metadata={"Software": None})
    sections = [
        Section("", NOTE, pictures=[picture]),
        *(
            Section(name, _about(found), [table(found) for table in (fault_table, harmless_table, rate_table)])
            for name, found in calibration["sets"].items()
        ),
    ]
    notes = [f"Not read: {line}" for line in calibration["errors"]]
    notes.append("; ".join(f"{key}: {value}" for key, value in calibration["provenance"].items()))
    title = "How well synchrony measures tell known faults"
    numbers = json.dumps(calibration, indent=1, allow_nan=False) + "\n"
    return [
        write_whole(folder / "calibration.json", numbers),
        picture,
        *write_document(folder / "calibration", title, sections, notes),
    ]


def calibration_lines(calibration: Calibration) -> list[str]:
    """The outcome in a line for each set and chief measure."""
    lines = []
    for name, found in calibration["sets"].items():
        for measure in SHOWN:
            entry = found["measures"].get(measure)
            if entry is not None:
                at, swapped = worse_way(entry["auroc"], PROBE), entry["auroc"]["swapped partner"]
                lines.append(
                    f"{name}: {measure}: AUROC {at:.2f} at {PROBE * 1000:g} ms, {swapped:.2f} for swapped partners; "
                    f"resolves {_resolved(entry)}"
                )
    return lines


def offsets_of(found: Mapping[str, Any]) -> list[float]:
    """The offsets of a set in seconds, ascending."""
    faults = next(iter(found["measures"].values()))["auroc"]
    return sorted(float(f.split()[1]) / 1000 for f in faults if f.startswith("offset +"))


def _resolved(entry: Mapping[str, Any]) -> str:
    return "none" if entry["resolves"] is None else f"{entry['resolves'] * 1000:g} ms"


def fault_table(found: Mapping[str, Any]) -> Table:
    """Measures by faults, with heads."""
    offsets = offsets_of(found)
    faults = [fault for fault in FAULTS if fault in next(iter(found["measures"].values()))["auroc"]]
    heads = ["measure", *(f"{offset * 1000:g} ms" for offset in offsets), "resolves", "steady", "bias", *faults]
    rows = []
    for name, entry in found["measures"].items():
        auroc = entry["auroc"]
        cells = [f"{worse_way(auroc, offset):.2f}" for offset in offsets]
        bias = "" if entry["bias"] is None else f"{entry['bias'] * 1000:+.0f} ms"
        cells += [_resolved(entry), f"{entry['monotonicity']:.2f}", bias]
        rows.append([name, *cells, *(f"{auroc[fault]:.2f}" for fault in faults)])
    return Table(heads, rows, "Faults: higher is better")


def harmless_table(found: Mapping[str, Any]) -> Table:
    """Measures by changes that leave a clip in sync, with heads: the mean score, of lags its size, and the AUROC."""
    every = next(iter(found["measures"].values()))["auroc"]
    changes = [f for f in every if not f.startswith("offset") and f not in FAULTS and "," not in f]
    rows = []
    for name, entry in found["measures"].items():
        cells = [f"{_score(name, entry['mean'][change])} ({entry['auroc'][change]:.2f})" for change in changes]
        rows.append([name, _score(name, entry["true"]), *cells])
    title = "Changes that leave a clip in sync: mean score, and AUROC, of which 0.50 is best"
    return Table(["measure", "in sync", *changes], rows, title)


def _score(name: str, value: float) -> str:
    return f"{value * 1000:.0f} ms" if name.endswith("_lag") else f"{value:.2f}"


def rate_table(found: Mapping[str, Any]) -> Table:
    """Measures by frame rate: AUROC of the offset `PROBE`, the worse of both ways, with heads."""
    every = next(iter(found["measures"].values()))["auroc"]
    rates = [rate for rate in RATES if f"{rate:g} fps" in every]
    rows = []
    signs = (f"offset {PROBE * 1000:+g} ms", f"offset {-PROBE * 1000:+g} ms")
    for name, entry in found["measures"].items():
        worse = [min(entry["auroc"][f"{rate:g} fps, {sign}"] for sign in signs) for rate in rates]
        rows.append([name, *(f"{value:.2f}" for value in worse)])
    title = f"{PROBE * 1000:g} ms at other frame rates: higher is better"
    return Table(["measure", *(f"{rate:g} fps" for rate in rates)], rows, title)


def _about(found: Mapping[str, Any]) -> str:
    text = f"{found['num_clips']} clips, {found['seconds']:g} s of each; events in pictures: {found['video_events']}"
    if found.get("linear_sync"):
        text += f"; linear_sync fitted on {found['linear_sync']}"
    if found["periods"]:
        low, high = found["periods"]
        text += (
            f". Periodic, every {low * 1000:.0f} to {high * 1000:.0f} ms: such clips come into step again after a "
            "period, and a score can fall steadily below half of it only; *steady* looks no further"
        )
    return f"{text}."


def calibration_figure(sets: Mapping[str, Any]) -> Figure:
    """AUROC over the signed offset, and by fault and change, a column for each set."""
    figure = new_figure(5.4 * len(sets), 7.6)
    grid = figure.subplots(2, len(sets), squeeze=False, gridspec_kw={"height_ratios": [1, 1.15]})
    for column, (name, found) in enumerate(sets.items()):
        _curves(grid[0, column], name, found)
        _cells(grid[1, column], found)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, 2 * len(sets)), fontsize=8)
    return figure


def _curves(axes: Axes, name: str, found: Mapping[str, Any]) -> None:
    offsets = offsets_of(found)
    x = np.array([-o for o in reversed(offsets)] + [0.0] + offsets) * 1000
    for measure, (colour, line) in SHOWN.items():
        if measure not in found["measures"]:
            continue
        entry = found["measures"][measure]
        y = [0.5 if ms == 0 else entry["auroc"][f"offset {ms:+g} ms"] for ms in x]
        axes.plot(x, y, line, color=colour, marker=".", label=measure)
        ends = [[0.5, 0.5] if ms == 0 else entry["ci95"][f"offset {ms:+g} ms"] for ms in x]
        if line == "-":
            low, high = zip(*ends, strict=True)
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(0.5, color="#999999", linewidth=0.8)
    axes.set(title=f"{name} ({found['num_clips']} clips)", ylim=(-0.03, 1.03), xlabel="sound late by (ms)")
    axes.set_ylabel("AUROC: in sync against offset")
    axes.grid(alpha=0.3)


def _cells(axes: Axes, found: Mapping[str, Any]) -> None:
    measures = [measure for measure in SHOWN if measure in found["measures"]]
    every = found["measures"][measures[0]]["auroc"]
    faults = [fault for fault in every if not fault.startswith("offset") and "," not in fault]
    values = np.array([[found["measures"][measure]["auroc"][fault] for measure in measures] for fault in faults])
    draw_cells(axes, values, measures, Normalize(0, 1), "RdYlBu", lambda value: f"{value:.2f}")
    split = sum(fault in FAULTS for fault in faults) - 0.5
    axes.axhline(split, color="black", linewidth=1.5)  # above: faults; below: changes that leave a clip in sync
    axes.set_yticks(range(len(faults)), faults, fontsize=7)
    axes.set_title("above the line: faults, 1 is best; below: harmless changes, 0.5 is best", fontsize=7)
