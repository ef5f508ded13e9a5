"""Floors and intervals: what chance would score, and how sure a mean is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from scipy.stats import norm as normal
from scipy.stats import t as student

First = TypeVar("First")
Second = TypeVar("Second")

ROUGH = 20
"""Clips below which an interval is rough, and widened."""


def derangements(count: int, *, limit: int = 8, seed: int = 0) -> list[np.ndarray]:
    """Distinct permutations (count,) int64 that leave none in its place, ``limit`` at most; none for fewer than two.

    They are cyclic shifts of one seeded random order, so every item meets ``limit`` different partners, evenly.

    Example:
        >>> [p.tolist() for p in derangements(2)]
        [[1, 0]]
        >>> len(derangements(64)), all((p != np.arange(64)).all() for p in derangements(64))
        (8, True)
    """
    if count < 0 or limit < 0:
        raise ValueError(f"count and limit must not be negative, got {count} and {limit}")
    if count < 2:
        return []
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    shifts = np.sort(rng.permutation(np.arange(1, count))[:limit])
    found = []
    for shift in shifts:
        permutation = np.empty(count, dtype=np.int64)
        permutation[order] = np.roll(order, -int(shift))
        found.append(permutation)
    return found


def shuffled(first: Sequence[First], second: Sequence[Second], **of: int) -> list[tuple[First, Second]]:
    """Wrong partners, what a floor is made of: each item of the first with others' of the second, in turn.

    Example:
        >>> shuffled("ab", "xy")
        [('a', 'y'), ('b', 'x')]
    """
    pairings = derangements(len(first), **of)
    return [(one, second[int(pairing[i])]) for i, one in enumerate(first) for pairing in pairings]


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    statistic: Callable[[np.ndarray], float] | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of a mean, or another statistic, over clips (Efron, 1979), widened where clips are few.

    The percentile interval of N clips is too narrow by about sqrt(N / (N - 1)) times the ratio of Student's to the
    normal quantile (Hesterberg, "What teachers should know about the bootstrap", 2015): below 20 clips it is widened by
    that much about the value, within the bounds. Of (N,) scores; ``(nan, nan)`` for fewer than two.

    Example:
        >>> low, high = bootstrap_interval([0.0, 1.0] * 50)
        >>> bool(0.39 < low < 0.42 and 0.58 < high < 0.61)
        True
        >>> low, high = bootstrap_interval([0.44, 0.50], bounds=(0.0, 1.0))
        >>> round(low, 2), round(high, 2)
        (0.09, 0.85)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values must have one dimension (clips,), got shape {array.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if array.size < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    of: Callable[..., Any] = np.mean if statistic is None else lambda rows, axis: np.array([statistic(r) for r in rows])
    draws = np.concatenate(
        [of(array[rng.integers(0, array.size, (100, array.size))], axis=1) for _ in range(-(-resamples // 100))]
    )
    value = float(array.mean() if statistic is None else statistic(array))
    low, high = interval_of(draws[:resamples], value, array.size, bounds=bounds, level=level)
    if statistic is None and array.size < ROUGH:  # no narrower than Student's
        half = float(student.ppf((1 + level) / 2, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size))
        low, high = min(low, max(value - half, bounds[0])), max(high, min(value + half, bounds[1]))
    return low, high


def interval_of(
    draws: np.ndarray,
    value: float,
    count: int,
    *,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    level: float = 0.95,
) -> tuple[float, float]:
    """Ends of the interval of a value by its bootstrap draws: widened for few clips, holding the value."""
    tail = (1 - level) / 2
    ends = np.quantile(draws, [tail, 1 - tail])
    if count < ROUGH:
        reach = student.ppf(1 - tail, count - 1) / normal.ppf(1 - tail) * np.sqrt(count / (count - 1))
        ends = value + reach * (ends - value)
    return float(min(max(ends[0], bounds[0]), value)), float(max(min(ends[1], bounds[1]), value))
