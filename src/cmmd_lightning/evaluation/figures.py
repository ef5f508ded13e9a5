"""Figures of a report, drawn without pyplot: tolerance curves, histograms, and clips with their event times."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from cmmd_lightning.evaluation.rendering import data_uri
from cmmd_lightning.metrics.functional.events import match_events
from cmmd_lightning.metrics.synchrony import MAX_LAG

COLOURS = (
    "#4d4d4d",
    "#d73027",
    "#4575b4",
    "#1a9850",
    "#984ea3",
    "#ff7f00",
    "#a65628",
    "#e7298a",
    "#66a61e",
    "#17becf",
    "#b2abd2",
    "#8c8c00",
)
"""One for each curve, the first for what others are compared with."""
HIT, MISS, TRUE = "#1a9850", "#d73027", "#4575b4"
LAGS = {
    "event_lag": "events",
    "motion_loudness_lag": "loudness behind motion",
    "linear_sync_lag": "linear synchrony",
}
LAG_BIN = 25
"""Milliseconds."""


@dataclass(frozen=True)
class Lane:
    """One row of a clip's figure: a strip of pictures, or a spectrogram, with events in seconds."""

    title: str
    frames: Tensor | None = None  # uint8 (T, 3, H, W)
    sound: Tensor | None = None  # (N,)
    rate: float = 1.0  # frames per second, or Hz
    events: Sequence[float] = field(default_factory=tuple)
    against: Sequence[float] | None = None  # reference events within 0.1 s of which one is a hit; None: these are it


def tolerance_figure(metrics: Mapping[str, Mapping[str, Any]]) -> Figure:
    """F1 over the tolerance, with its interval, floors and ceiling, of ``report["tasks"][task]``."""
    points = sorted(
        (float(match[1]), metrics[key]) for key in metrics if (match := re.fullmatch(r"event_f1@([\d.]+)ms", key))
    )
    figure = new_figure(5.0, 3.2)
    axes = figure.subplots()
    x = [tolerance for tolerance, _ in points]
    scored = [entry for _, entry in points]
    axes.plot(x, [entry["value"] for entry in scored], "o-", color="black", label="generated")
    if all(entry["ci95"] is not None for entry in scored):
        low, high = zip(*(entry["ci95"] for entry in scored), strict=True)
        axes.fill_between(x, low, high, color="black", alpha=0.15, label="95 % interval over clips")
    for key, label, style, colour in (
        ("ceiling", "ceiling (codec and vocoder)", "^:", HIT),
        ("floor", "floor: shuffled pairs", "s--", MISS),
        ("floor_random", "floor: random events", "x--", "#999999"),
    ):
        if all(entry.get(key) is not None for entry in scored):
            axes.plot(x, [entry[key] for entry in scored], style, color=colour, label=label)
    set_tolerances(axes, x)
    axes.legend(fontsize=7)
    return figure


def set_tolerances(axes: Axes, tolerances: Sequence[float]) -> None:
    """F1 over tolerances in milliseconds."""
    axes.set(xlabel="tolerance (ms)", ylabel="event F1", ylim=(0, 1.02), xscale="log")
    axes.set_xticks(tolerances, [f"{tolerance:g}" for tolerance in tolerances])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def draw_cells(
    axes: Axes, values: np.ndarray, heads: Sequence[str], norm: Normalize, cmap: str, said: Callable[[float], str]
) -> None:
    """Numbers on a map of colours, white where it is dark."""
    axes.imshow(values, cmap=cmap, norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if abs(float(norm(value)) - 0.5) > 0.4 else "black"
        axes.text(column, row, said(value), ha="center", va="center", fontsize=6, color=ink)
    axes.set_xticks(range(len(heads)), heads, rotation=30, ha="right", fontsize=7)


def lag_figure(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Histograms of signed lags, one below the other, of ``report["runs"][task]["clips"]``; None without any."""
    found = {name: [row[name] for row in rows if name in row] for name in LAGS}
    known = {name: lags for name, lags in found.items() if any(lag is not None for lag in lags)}
    if not known:
        return None
    figure = new_figure(5.0, 0.8 + 1.2 * max(2, len(known)))
    edges = (np.arange(-MAX_LAG * 1000, MAX_LAG * 1000 + 2 * LAG_BIN, LAG_BIN) - LAG_BIN / 2).tolist()
    panels = figure.subplots(len(known), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, lags) in zip(panels, known.items(), strict=True):
        values = [1000 * lag for lag in lags if lag is not None]
        axes.axvline(0, color="#999999", linewidth=1)
        axes.hist(np.clip(values, edges[0], edges[-1]), edges, color=TRUE)
        median = float(np.median(values))
        axes.axvline(median, color=MISS, linewidth=1.2, linestyle="--")
        title = f"{LAGS[name]}: median {median:+.0f} ms"
        without = f"no lag found: {len(lags) - len(values)} of {len(lags)} clips"
        axes.set_title(title, fontsize=8, loc="left", pad=3, color=MISS)
        axes.set_title(without, fontsize=8, loc="right", pad=3)
        axes.set_ylabel("clips", fontsize=8)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=7)
    panels[-1].set_xlim(edges[0], edges[-1])
    panels[-1].set_xlabel("lag (ms): positive where the generated events, or the sound, are late", fontsize=8)
    return figure


def memorisation_figure(entry: Mapping[str, Any]) -> Figure:
    """Distances to the nearest training clip, of generated clips beside those of held-out true ones."""
    figure = new_figure(5.0, 2.6)
    axes = figure.subplots()
    generated, held_out = (np.asarray(entry["distances"][side]) for side in ("generated", "held_out"))
    edges = np.linspace(0, max(generated.max(), held_out.max(), 1e-9) * 1.0001, 26).tolist()
    for values, label, colour in ((held_out, "held-out true clips", TRUE), (generated, "generated clips", "black")):
        axes.hist(values, edges, weights=np.full(len(values), 100 / len(values)), color=colour, alpha=0.2)
        heights, _ = np.histogram(values, edges)
        axes.stairs(100 * heights / len(values), edges, color=colour, linewidth=1.4, label=f"{label} ({len(values)})")
    axes.set_xlabel("distance to the nearest training clip (standard deviations)", fontsize=8)
    axes.set_ylabel("% of the clips", fontsize=8)
    axes.set_xlim(0, edges[-1])
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)
    return figure


def clip_figure(lanes: Sequence[Lane], duration: float) -> Figure:
    """A clip on one axis of time: pictures where they are shown, spectrograms, and lines at the events."""
    heights = [0.62 if lane.frames is not None else 1.3 for lane in lanes]
    figure = new_figure(9.0, 0.5 + 1.15 * sum(heights))
    rows = figure.subplots(len(lanes), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, lane in zip(rows, lanes, strict=True):
        if lane.frames is not None:
            _draw_frames(axes, lane.frames, lane.rate, duration)
        elif lane.sound is not None:
            _draw_spectrogram(axes, lane.sound, lane.rate)
        _mark(axes, lane)
        axes.set_title(lane.title, fontsize=8, loc="left", pad=2 if lane.against is None else 6)
        axes.tick_params(labelsize=7)
    rows[-1].set_xlim(0, duration)
    rows[-1].set_xlabel("seconds", fontsize=8)
    return figure


def to_data_uri(figure: Figure) -> str:
    """A figure as a PNG in a ``data:`` address."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return data_uri(buffer.getvalue())


def new_figure(width: float, height: float) -> Figure:
    """A figure of that size in inches that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_frames(axes: Axes, frames: Tensor, fps: float, duration: float) -> None:
    """At most 16 pictures, each with its left edge at its time; the strip fills the span."""
    count = min(len(frames), 16)
    step = max(1, -(-len(frames) // count))
    width = step / fps
    for i in range(0, len(frames), step):
        picture = frames[i].permute(1, 2, 0).numpy()
        axes.imshow(picture, extent=(i / fps, i / fps + 0.96 * width, 0, 1), aspect="auto", interpolation="nearest")
    axes.set_xlim(0, duration)
    axes.set_ylim(0, 1)
    axes.set_yticks([])


def _draw_spectrogram(axes: Axes, sound: Tensor, sample_rate: float) -> None:
    """Magnitudes of a 32 ms window in dB, 70 dB below the loudest."""
    window = 2 ** round(np.log2(0.032 * sample_rate))
    hop = max(1, window // 4)
    spectrum = torch.stft(
        sound.float(),
        window,
        hop,
        window=torch.hann_window(window),
        center=True,
        pad_mode="constant",
        return_complex=True,
    ).abs()
    level = 20 * torch.log10(spectrum / spectrum.max().clamp(min=1e-8) + 1e-8)
    extent = (-hop / 2 / sample_rate, (level.shape[1] - 0.5) * hop / sample_rate, 0, sample_rate / 2000)
    axes.imshow(level.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-70, vmax=0, cmap="magma")
    axes.set_ylabel("kHz", fontsize=7)


def _mark(axes: Axes, lane: Lane) -> None:
    if lane.against is None:
        for time in lane.events:
            axes.axvline(time, color=TRUE, linewidth=1.6)
        return
    events = sorted(lane.events)
    hits = {j for _, j in match_events(lane.against, events, 0.1)}
    for j, time in enumerate(events):
        axes.axvline(time, color=HIT if j in hits else MISS, linewidth=1.6, linestyle="-" if j in hits else "--")
    for time in lane.against:
        axes.plot([time], [1.0], "v", color=TRUE, markersize=6, transform=axes.get_xaxis_transform(), clip_on=False)
