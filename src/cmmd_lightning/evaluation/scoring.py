"""Observations to scores: values with floor, ceiling and interval, and one row per clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cmmd_lightning.evaluation.measures import Events, Senses, View, has_av_align, is_lag, size_of_lag
from cmmd_lightning.evaluation.observation import Observation
from cmmd_lightning.metrics.functional.events import TOLERANCES, random_events
from cmmd_lightning.metrics.functional.intervals import bootstrap_interval, derangements

PARTNERS = 8
"""Wrong partners per clip in the shuffled floor, and draws per clip in the random one."""

Scores = dict[str, float]


def score(
    observations: Sequence[Observation],
    *,
    senses: Senses | None = None,
    tolerances: Sequence[float] = TOLERANCES,
    seed: int = 0,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Synchrony over clips, and one row per clip.

    Args:
        observations: The clips.
        senses: What they were observed with.
        tolerances: Of the event scores, in seconds.
        seed: Of the floors and the intervals.

    Returns:
        Measure to ``value`` (the mean over clips), ``ci95``, ``floor`` (shuffled pairs), ``floor_random`` (events at
        random times, where the measure is of events), ``ceiling``, ``n``; of lags, the size in seconds counts, with
        ``median`` (signed, of the clips that have one) and ``n_without`` beside it; and the rows, in which lags are
        signed.
    """
    senses = senses or Senses()
    compare = _Comparison(senses, tolerances)
    own = [compare(o.made, o.made) for o in observations]
    names = dict.fromkeys(name for scores in own or [_nothing(compare)] for name in scores)
    kinds: dict[str, list[Scores]] = {
        "value": [_sized(scores) for scores in own],
        "floor": _shuffled([o.made for o in observations], compare, seed),
        "floor_random": [_random(o.made, i, compare, seed) for i, o in enumerate(observations)],
        "ceiling": [_sized(compare(o.best, o.best)) for o in observations if o.best is not None],
    }
    metrics = {
        name: _entry({kind: _column(table, name) for kind, table in kinds.items()}, seed)
        | (_of_lags(_column(own, name)) if is_lag(name) else {})
        for name in names
    }
    return metrics, [_row(o, scores) for o, scores in zip(observations, own, strict=True)]


def run_facts(
    senses: Senses, rows: Sequence[Mapping[str, Any]], tolerances: Sequence[float], errors: Sequence[str]
) -> dict[str, Any]:
    """What a report says of a run beside its scores, whether of files or of clips in memory.

    Args:
        senses: What the clips were observed with.
        rows: Of :func:`score`.
        tolerances: Of the event scores, in seconds.
        errors: A line for each clip that could not be observed.

    Returns:
        ``detectors``, ``tolerances``, ``clips_without_events``, ``clips`` (the rows) and ``errors``.
    """
    return {
        "detectors": {
            "sound": "onsets",
            "video": senses.video_events,
            "reference": sorted({row["source"] for row in rows}),
            "av_align": "OpenCV's Farneback flow, librosa's onsets" if has_av_align() else None,
            "linear_sync": None if senses.linear is None else senses.linear.source,
        },
        "tolerances": list(tolerances),
        "clips_without_events": sum(not row["reference_events"] for row in rows),
        "clips": rows,
        "errors": errors,
    }


class _Comparison:
    """Every measure of one view's left against another's right side."""

    def __init__(self, senses: Senses, tolerances: Sequence[float]) -> None:
        self.senses, self.tolerances = senses, tolerances

    def __call__(self, left: View, right: View) -> Scores:
        return self.senses.compare(left, right, self.tolerances)


Compare = Callable[[View, View], Scores]


def _nothing(compare: Compare) -> Scores:
    """The names of the event measures, where no clip could be observed."""
    empty = Events([], 0.0)
    return compare(View({"events": empty}), View(right={"events": empty}))


def _sized(scores: Mapping[str, float]) -> Scores:
    return {name: size_of_lag(value) if is_lag(name) else value for name, value in scores.items()}


def _mean(tables: Iterable[Mapping[str, float]]) -> Scores:
    sized = [_sized(scores) for scores in tables]
    names = dict.fromkeys(name for scores in sized for name in scores)
    return {name: float(np.mean(_column(sized, name))) for name in names}


def _shuffled(views: Sequence[View], compare: Compare, seed: int) -> list[Scores]:
    """Each clip's left side against the right sides of other clips; none where there are no others."""
    pairings = derangements(len(views), limit=PARTNERS, seed=seed)
    if not pairings:
        return []
    return [_mean(compare(view, views[int(p[i])]) for p in pairings) for i, view in enumerate(views)]


def _random(view: View, index: int, compare: Compare, seed: int) -> Scores:
    """A clip's reference events against as many events at random times."""
    reference = view.left["events"]
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    alone = View({"events": reference})
    draws = [random_events(reference.times, reference.duration, generator).tolist() for _ in range(PARTNERS)]
    return _mean(compare(alone, View(right={"events": Events(draw, reference.duration)})) for draw in draws)


def _column(table: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    return np.array([scores[name] for scores in table if name in scores], dtype=np.float64)


def _entry(values: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    own = values["value"]
    means = {kind: float(array.mean()) if len(array) else None for kind, array in values.items()}
    low, high = bootstrap_interval(own, seed=seed)
    return {
        "value": means["value"],
        "ci95": None if math.isnan(low) else [low, high],
        **{kind: mean for kind, mean in means.items() if kind != "value"},
        "n": len(own),
    }


def _of_lags(signed: np.ndarray) -> dict[str, Any]:
    """What is told of lags besides: on which side they lie, and of how many clips none was found."""
    found = signed[~np.isnan(signed)]
    median = float(np.median(found)) if len(found) else None
    return {"unit": "seconds", "higher_is_better": False, "median": median, "n_without": len(signed) - len(found)}


def _row(observation: Observation, scores: Mapping[str, float]) -> dict[str, Any]:
    kept = {
        name: None if math.isnan(value) else value
        for name, value in scores.items()
        if not name.startswith(("event_precision", "event_recall"))
    }
    return {
        "stem": observation.stem,
        "generated": None if observation.generated is None else str(observation.generated),
        "reference": None if observation.reference is None else str(observation.reference),
        "duration": round(observation.duration, 4),
        "source": observation.source,
        "reference_events": [round(time, 4) for time in observation.made.left["events"].times],
        "events": [round(time, 4) for time in observation.made.right["events"].times],
        **kept,
    }
