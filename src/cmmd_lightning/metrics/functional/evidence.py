"""How well a picture and a sound agree at each lag, unit of time by unit of time: a lag with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cmmd_lightning.metrics.functional.lag import Lag, refine_peak

_WIDTH, _STEP = 0.03, 0.005  # of the agreement of two events, and between lags, in seconds
_BLOCK = 0.5  # seconds of a series that are drawn as one


class Evidence(NamedTuple):
    """Agreement of a picture with a sound: (units, lags), of each unit of time; its sum is the curve over lags."""

    units: np.ndarray
    step: float  # seconds between lags

    @property
    def lags(self) -> np.ndarray:
        """Seconds; positive: the sound is late."""
        return (np.arange(self.units.shape[1]) - self.units.shape[1] // 2) * self.step


def event_evidence(seen: Sequence[float], heard: Sequence[float], max_lag: float) -> Evidence:
    """Of each event seen, how near those heard come at each lag (`event_lag`'s agreement)."""
    count = round(max_lag / _STEP)
    lags = np.arange(-count, count + 1) * _STEP
    apart = np.asarray(heard, float)[None, :, None] - np.asarray(seen, float)[:, None, None] - lags
    near = np.exp(-(apart**2) / (2 * _WIDTH**2)).sum(axis=1)
    return Evidence(near / max(len(seen), len(heard), 1), _STEP)


def series_evidence(
    seen: np.ndarray, heard: np.ndarray, max_lag: float, rate: float, weights: np.ndarray | None = None
) -> Evidence:
    """Of each half second, the correlation of two series (F, K) or (F,) at each lag, weighted over their K columns."""
    count = min(len(seen), len(heard))
    a, b = (np.asarray(side[:count], float).reshape(count, -1) for side in (seen, heard))
    a, b = (np.nan_to_num((side - side.mean(0)) / np.where(side.std(0) > 1e-9, side.std(0), np.inf)) for side in (a, b))
    weights = np.ones(a.shape[1]) if weights is None else weights
    a = a * (weights / weights.sum())
    reach, block = round(max_lag * rate), max(1, round(_BLOCK * rate))
    padded = np.pad(b, ((reach, reach), (0, 0)))
    rows = np.stack([(a * padded[shift : shift + count]).sum(1) for shift in range(2 * reach + 1)], axis=1)
    starts = np.arange(0, count, block)
    return Evidence(np.add.reduceat(rows, starts) / count if count else np.zeros((0, 2 * reach + 1)), 1 / rate)


def best_lag(evidence: Evidence) -> Lag:
    """The highest point of the curve; ``(nan, 0)`` where nothing agrees."""
    curve = evidence.units.sum(axis=0)
    best = int(np.argmax(np.round(curve, 9) - 1e-9 * np.abs(evidence.lags)))
    if not len(evidence.units) or curve[best] < 1e-3:
        return Lag(math.nan, 0.0)
    return Lag(float(evidence.lags[best] + refine_peak(curve, best) * evidence.step), float(curve[best]))


def lag_interval(evidence: Evidence, seed: int = 0, draws: int = 200) -> tuple[float, float]:
    """The 95 % interval of the best lag in seconds, by bootstrap over the units of time; NaN where none has a lag."""
    count = len(evidence.units)
    picks = np.random.default_rng(seed).integers(count, size=(draws, count))
    lags = [best_lag(evidence._replace(units=evidence.units[pick])).seconds for pick in picks]
    if np.isnan(lags).all():
        return math.nan, math.nan
    low, high = np.nanquantile(lags, [0.025, 0.975])
    return float(low), float(high)
