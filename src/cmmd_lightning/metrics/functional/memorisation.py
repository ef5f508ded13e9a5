"""Does a model repeat its training clips? Distances to the nearest training clip, and what they say.

The distance of a generated clip to its nearest training clip means nothing alone: held-out real clips are near to
some training clip too. So their distances stand beside, as in the test for data copying of Meehan, Chaudhuri and
Dasgupta ("A non-parametric test to detect data-copying in generative models", AISTATS 2020), who compare the two with
the Mann-Whitney U (standardised, and cell by cell of the space; here as an AUROC over all). Where held-out clips are
near-copies of training clips (another camera, the same recording cut twice), copying hides behind them: split by
source.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class MemorisationScores(NamedTuple):
    """Distances to the nearest training clip of generated clips, against those of held-out clips."""

    generated_median: float
    held_out_median: float
    share_below_1st_percentile: float
    share_below_5th_percentile: float
    auroc: float


def nearest_distances(queries: Tensor, bank: Tensor, *, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Distance of each query to its nearest row of a bank, and which row that is.

    The distance is Euclidean after each feature is divided by its standard deviation over the bank, so that no
    feature counts for more because of its unit. Features that are constant over the bank (to float32 rounding, 1e-6 of
    their size) are left out: nothing says what a difference in them is worth. Computed on the CPU in float64, and a
    copy has distance exactly 0.

    Args:
        queries: (Q, D) feature rows.
        bank: (N, D) feature rows, two different ones at least.
        chunk: Rows of either that are compared at once: memory is bounded by the bank's own and chunk times chunk.

    Returns:
        Distances (Q,) float64 in units of the bank's standard deviations, and indices (Q,) int64 into the bank.

    Raises:
        ValueError: If shapes are not (Q, D) and (N, D), values are not finite, or all rows of the bank are equal.

    Example:
        >>> bank = torch.tensor([[0.0, 0.0], [2.0, 100.0]])  # standard deviations 1 and 50
        >>> [values.tolist() for values in nearest_distances(torch.tensor([[5.0, 300.0], [0.0, 0.0]]), bank)]
        [[5.0, 0.0], [1, 0]]
    """
    if queries.dim() != 2 or bank.dim() != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(f"expected rows (Q, D) and (N, D), got {tuple(queries.shape)} and {tuple(bank.shape)}")
    queries, bank = (rows.detach().to("cpu", torch.float64) for rows in (queries, bank))
    if not (bool(torch.isfinite(queries).all()) and bool(torch.isfinite(bank).all())):
        raise ValueError("features must be finite, got NaN or infinity")
    if len(bank) < 2:
        raise ValueError(f"the bank must have two different rows at least, got {len(bank)} rows")
    scale, mean = torch.std_mean(bank, dim=0, correction=0)
    varies = scale > 1e-6 * bank.abs().amax(dim=0)
    if not bool(varies.any()):
        raise ValueError(f"the bank must have two different rows at least, got {len(bank)} equal ones")
    queries, bank = (((rows - mean) / scale)[:, varies] for rows in (queries, bank))
    nearest = [_nearest(block, bank, chunk) for block in queries.split(chunk)]
    indices = torch.cat([*nearest, torch.zeros(0, dtype=torch.int64)])
    # the product form of cdist finds the row, the difference tells the distance: 0 for a copy, not a rounding error
    return torch.linalg.vector_norm(queries - bank[indices], dim=1), indices


def _nearest(queries: Tensor, bank: Tensor, chunk: int) -> Tensor:
    """Index (Q,) into the bank of the nearest row."""
    best = torch.full((len(queries),), math.inf, dtype=torch.float64)
    indices = torch.zeros(len(queries), dtype=torch.int64)
    for start in range(0, len(bank), chunk):
        block = bank[start : start + chunk]
        distances, found = torch.cdist(queries, block, compute_mode="use_mm_for_euclid_dist").min(dim=1)
        closer = distances < best
        best, indices = torch.where(closer, distances, best), torch.where(closer, found + start, indices)
    return indices


def memorisation_scores(generated: Tensor, held_out: Tensor) -> MemorisationScores:
    """Whether generated clips lie nearer to the training clips than held-out real clips do.

    Args:
        generated: (G,) distances to the nearest training clip.
        held_out: (H,) the same of real clips that were not trained on.

    Returns:
        Both medians; the shares of generated clips strictly below the 1st and the 5th percentile of the held-out
        distances (no sign of copying: about 0.01 and 0.05; the percentiles interpolate, and with fewer than 100 or 20
        held-out clips they say little); and the AUROC, the probability that a generated clip is nearer than a held-out
        one, ties counting half: 0.5 is no sign of copying, 1 is every generated clip nearer, below 0.5 is farther
        than real clips, which poor quality gives. What an empty side leaves undefined is NaN.

    Raises:
        ValueError: If either is not one-dimensional, or a distance is negative or not a number.

    Example:
        >>> scores = memorisation_scores(torch.tensor([0.0, 1.5, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
        >>> round(scores.auroc, 4), round(scores.share_below_5th_percentile, 4), scores.generated_median
        (0.5556, 0.3333, 1.5)
    """
    from scipy.stats import mannwhitneyu

    for name, distances in (("generated", generated), ("held-out", held_out)):
        if distances.dim() != 1 or not bool((distances >= 0).all()):
            raise ValueError(f"{name} distances must be (clips,) and 0 or more, got shape {tuple(distances.shape)}")
    generated, held_out = (distances.detach().to("cpu", torch.float64) for distances in (generated, held_out))
    median, held_median = (float(side.quantile(0.5)) if len(side) else math.nan for side in (generated, held_out))
    if not (len(generated) and len(held_out)):
        return MemorisationScores(median, held_median, math.nan, math.nan, math.nan)
    first, fifth = (float((generated < held_out.quantile(share)).double().mean()) for share in (0.01, 0.05))
    nearer = float(mannwhitneyu(held_out.numpy(), generated.numpy(), method="asymptotic").statistic)  # pairs
    return MemorisationScores(median, held_median, first, fifth, nearer / (len(generated) * len(held_out)))
