"""Observations to scores: values with floor, ceiling and interval, and one row per clip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cmmd_lightning.evaluation.measures import Senses, View, has_av_align
from cmmd_lightning.evaluation.observation import Observation
from cmmd_lightning.metrics.functional.events import random_events
from cmmd_lightning.metrics.functional.intervals import ROUGH, bootstrap_interval, shuffled
from cmmd_lightning.metrics.measure import Measure
from cmmd_lightning.metrics.synchrony import Events

PARTNERS = 8
"""Other clips per clip in the shuffled floor, and draws per clip in the random one."""

Table = list[dict[str, float]]


def score(
    observations: Sequence[Observation], *, senses: Senses | None = None, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Every measure over clips, and one row per clip.

    Of each measure ``value`` (the middle over clips: the mean, or a median), ``ci95``, ``floor`` (shuffled pairs),
    ``floor_random`` (events at random times, where the measure is of events), ``ceiling`` (the true clips after the
    round trip), ``true`` (as they are), ``n`` (clips that have it), ``unit``, ``higher_is_better``, ``rough`` (fewer
    than 20 clips) and ``cannot_tell`` (true clips score no better than shuffled ones); of signed ones, whose size
    counts, ``median`` (with its sign) and ``n_without`` (clips that have none) too.
    """
    senses = senses or Senses()
    made = [o.made for o in observations]
    own = [senses.compare(o.made, o.made) for o in observations]
    names = dict.fromkeys(name for scores in own or [_nothing(senses)] for name in scores)
    kinds: dict[str, Table] = {
        "value": own,
        "floor": [senses.compare(*pair) for pair in shuffled(made, made, limit=PARTNERS, seed=seed)],
        "floor_random": [row for i, o in enumerate(observations) for row in _random(o.made, i, senses, seed)],
        "ceiling": [senses.compare(o.best, o.best) for o in observations if o.best is not None],
        "true": [senses.compare(o.true, o.true) for o in observations if o.true is not None],
    }
    metrics = {
        name: entry_of(senses.of(name), {kind: _column(table, name) for kind, table in kinds.items()}, seed)
        for name in names
    }
    return metrics, [_row(o, scores) for o, scores in zip(observations, own, strict=True)]


def run_facts(senses: Senses, rows: Sequence[Mapping[str, Any]], errors: Sequence[str]) -> dict[str, Any]:
    """What a report says of a run beside its scores, whether of files or of clips in memory."""
    return {
        "detectors": {
            "sound": "onsets",
            "video": senses.video_events,
            "reference": sorted({row["source"] for row in rows}),
            "av_align": "OpenCV's Farneback flow, librosa's onsets" if has_av_align() else None,
            "linear_sync": None if senses.linear is None else senses.linear.source,
        },
        "tolerances": list(senses.tolerances),
        "clips_without_events": sum(not row["reference_events"] for row in rows),
        "clips": rows,
        "errors": errors,
    }


def _nothing(senses: Senses) -> dict[str, float]:
    """The names of the event measures, where no clip could be observed."""
    empty = Events([], 0.0)
    return senses.compare(View({"events": empty}), View(right={"events": empty}))


def _random(view: View, index: int, senses: Senses, seed: int) -> Table:
    """A clip's reference events against as many events at random times."""
    reference = view.left["events"]
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    draws = [random_events(reference.times, reference.duration, generator).tolist() for _ in range(PARTNERS)]
    alone = View({"events": reference})
    return [senses.compare(alone, View(right={"events": Events(draw, reference.duration)})) for draw in draws]


def _column(table: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    return np.array([scores[name] for scores in table if name in scores], dtype=np.float64)


def entry_of(measure: Measure, values: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    """What a report says of a number, of its values by kind: ``value`` and ``floor``, and whatever else is known."""
    own = values["value"]
    if not measure.paired:
        values["floor"] = own[:0]
    middles = {kind: _known(measure.middle(column)) for kind, column in values.items()}
    found = own[~np.isnan(own)]
    statistic = measure.middle if measure.size_counts or measure.statistic == "median" else None
    low, high = bootstrap_interval(found, statistic=statistic, bounds=measure.bounds, seed=seed)
    entry = {
        "value": middles.pop("value"),
        "ci95": None if math.isnan(low) else [low, high],
        **middles,
        "n": len(found),
        "n_without": len(own) - len(found),
        "unit": measure.unit,
        "higher_is_better": measure.higher_is_better,
        "rough": len(found) < ROUGH,
        "cannot_tell": _cannot_tell(measure, values, seed),
    }
    return entry | (
        {"median": _known(float(np.median(found)) if len(found) else math.nan)} if measure.size_counts else {}
    )


def _cannot_tell(measure: Measure, values: Mapping[str, np.ndarray], seed: int) -> bool:
    """Whether true clips score no better than shuffled ones, as far as the clips at hand show."""
    floor, best = values["floor"], values["ceiling"] if len(values["ceiling"]) else values.get("true", np.zeros(0))
    if np.isnan(measure.middle(best)) or np.isnan(measure.middle(floor)):
        return False
    sign = 1 if measure.higher_is_better else -1
    gain = sign * (measure.middle(best) - measure.middle(floor))
    if gain <= 0 or measure.size_counts or measure.statistic == "median" or len(floor) % len(best):
        return gain <= 0
    gains = sign * (best - floor.reshape(len(best), -1).mean(axis=1))
    low = bootstrap_interval(gains[~np.isnan(gains)], seed=seed)[0]
    return low <= 0


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _row(observation: Observation, scores: Mapping[str, float]) -> dict[str, Any]:
    kept = {
        name: _known(value)
        for name, value in scores.items()
        if not name.startswith(("event_precision", "event_recall"))
    }
    return {
        "stem": observation.stem,
        "generated": None if observation.generated is None else str(observation.generated),
        "reference": None if observation.reference is None else str(observation.reference),
        "duration": round(observation.duration, 4),
        "source": observation.source,
        "clock": observation.clock,
        "reference_events": [round(time, 4) for time in observation.made.left["events"].times],
        "events": [round(time, 4) for time in observation.made.right["events"].times],
        **kept,
    }
