"""Floors and intervals: what chance would score, and how sure a mean is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def derangements(count: int, *, limit: int = 8, seed: int = 0) -> list[np.ndarray]:
    """Distinct permutations of ``count`` items that leave none in its place.

    They are cyclic shifts of one seeded random order, so every item meets ``limit`` different partners, evenly.

    Args:
        count: Items.
        limit: Most permutations to return; all ``count - 1`` shifts where there are fewer.
        seed: Seed of the random order and of the choice of shifts.

    Returns:
        Permutations, each (count,) int64 with ``p[i] != i``; none for fewer than two items.

    Raises:
        ValueError: If ``count`` or ``limit`` is negative.

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


def shuffled_floor(
    score: Callable[[int, int], float], count: int, *, limit: int = 8, seed: int = 0
) -> np.ndarray | None:
    """Score of each item against wrong partners: the chance level of a paired measure.

    Args:
        score: ``score(i, j)``: item i of the reference against item j of the estimate.
        count: Items.
        limit: Wrong partners per item (fewer where there are fewer items).
        seed: Seed of the pairing.

    Returns:
        Mean score per item (count,), or None for fewer than two items, where no wrong partner exists.

    Example:
        >>> shuffled_floor(lambda i, j: float(i == j), 5).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0]
    """
    pairings = derangements(count, limit=limit, seed=seed)
    if not pairings:
        return None
    return np.array([np.mean([score(i, int(p[i])) for p in pairings]) for i in range(count)], dtype=np.float64)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over clips (Efron, 1979).

    Args:
        values: One score per clip (N,).
        level: Coverage, such as 0.95.
        resamples: Resamples with replacement.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end; ``(nan, nan)`` for no values, the value itself twice for one.

    Raises:
        ValueError: If values are not one-dimensional or the level is outside (0, 1).

    Example:
        >>> low, high = bootstrap_interval([0.0, 1.0] * 50)
        >>> bool(0.39 < low < 0.42 and 0.58 < high < 0.61)
        True
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values must have one dimension (clips,), got shape {array.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if array.size == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [array[rng.integers(0, array.size, (100, array.size))].mean(axis=1) for _ in range(-(-resamples // 100))]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(means[:resamples], [tail, 1 - tail])
    return float(low), float(high)
