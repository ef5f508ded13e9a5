"""What scores under known faults say of a measure: AUROC, steadiness, the smallest offset it resolves, its bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu, rankdata

from cmmd_lightning.metrics.synchrony import MAX_LAG

RESOLVED = 0.9
"""AUROC from which an offset counts as resolved, both ways and at every greater one too."""
TRUE = "true"

Row = dict[str, Any]


def auroc(true: np.ndarray, faulty: np.ndarray) -> np.ndarray:
    """Probability (...,) that a true clip (..., N) scores higher than a faulty one (..., M), ties counting half."""
    pairs = true.shape[-1] * faulty.shape[-1]
    return mannwhitneyu(true, faulty, axis=-1, method="asymptotic").statistic / pairs


def analyse(rows: Sequence[Row], offsets: Sequence[float], *, resamples: int = 500) -> dict[str, Any]:
    """What the rows of `calibrate_set` say of each measure.

    Of each ``true`` (its mean on clips in sync; of a lag, of its size), ``bias`` (of a lag: its median on clips in
    sync, signed, in seconds), ``mean``, ``auroc`` and ``ci95`` (fault to the mean score, to the AUROC, to its interval
    over clips), ``monotonicity``, and ``resolves`` (seconds, or null).
    """
    names = list(dict.fromkeys(name for row in rows for name in row["scores"][TRUE]))
    periods = [row["period"] for row in rows if row["period"]]
    faults = list(dict.fromkeys(fault for row in rows for fault in row["scores"] if fault != TRUE))
    return {
        "num_clips": len(rows),
        "seconds": round(float(np.mean([row["duration"] for row in rows])), 3),
        "periods": [min(periods), max(periods)] if periods else None,
        "measures": {name: _analyse_measure(name, offsets, faults, rows, resamples) for name in names},
    }


def _analyse_measure(
    name: str, offsets: Sequence[float], faults: Sequence[str], rows: Sequence[Row], resamples: int
) -> dict[str, Any]:
    """Of each fault, the clips count that have it: one whose own rate is 15 fps has no change to 15 fps."""
    rows = [row for row in rows if name in row["scores"][TRUE]]
    found, intervals, means = {}, {}, {}
    for fault in faults:
        against = fault.split(",")[0] if "," in fault else TRUE
        having = [row["scores"] for row in rows if fault in row["scores"] and against in row["scores"]]
        if not having:
            continue
        good, bad = (_goodness(name, [scores[kind][name] for scores in having]) for kind in (against, fault))
        draws = np.random.default_rng(0).integers(0, len(having), (resamples, len(having)))
        found[fault], means[fault] = float(auroc(good, bad)), _mean(name, bad)
        intervals[fault] = [float(x) for x in np.quantile(auroc(good[draws], bad[draws]), [0.025, 0.975])]
    in_sync = [row["scores"][TRUE][name] for row in rows]
    lags = [lag for lag in in_sync if lag is not None]
    return {
        "true": _mean(name, _goodness(name, in_sync)),
        "bias": float(np.median(lags)) if _is_lag(name) and lags else None,
        "mean": means,
        "auroc": found,
        "ci95": intervals,
        "monotonicity": _monotonicity(name, offsets, rows),
        "resolves": _resolves(found, offsets),
    }


def _is_lag(name: str) -> bool:
    """Whether the size of a number counts, and less is better."""
    return name.endswith("_lag")


def _mean(name: str, goodness: np.ndarray) -> float:
    """The mean score; of a lag, of its size."""
    return float(np.mean(np.abs(goodness) if _is_lag(name) else goodness))


def _goodness(name: str, values: Sequence[float | None]) -> np.ndarray:
    """Scores of which higher is better: of a lag, the size, negative, the greatest where none was found."""
    if not _is_lag(name):
        return np.array([float("nan") if value is None else value for value in values])
    return np.array([-MAX_LAG if value is None else -abs(value) for value in values])


def worse_way(found: Mapping[str, float], offset: float) -> float:
    """The lower AUROC of an offset's two directions."""
    return min(found[f"offset {late * 1000:+g} ms"] for late in (offset, -offset))


def _resolves(found: Mapping[str, float], offsets: Sequence[float]) -> float | None:
    """The smallest offset from which on all are resolved."""
    smallest = None
    for offset in sorted(offsets, reverse=True):
        if worse_way(found, offset) < RESOLVED:
            break
        smallest = offset
    return smallest


def _monotonicity(name: str, offsets: Sequence[float], rows: Sequence[Row]) -> float:
    """Mean over clips and directions of minus Spearman's correlation of score and offset (1: falls all the way).

    Of periodic clips, only offsets below half of the period count: beyond it a clip comes into step again.
    """
    found = []
    for row in rows:
        reach = [offset for offset in sorted(offsets) if not row["period"] or offset < row["period"] / 2]
        for sign in (1, -1):
            steps = [TRUE, *(f"offset {sign * offset * 1000:+g} ms" for offset in reach)]
            scores = _goodness(name, [row["scores"][step][name] for step in steps if step in row["scores"]])
            ranks = rankdata(np.round(scores, 9))
            constant = len(set(ranks)) == 1
            found.append(0.0 if constant else -float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]))
    return float(np.mean(found))
