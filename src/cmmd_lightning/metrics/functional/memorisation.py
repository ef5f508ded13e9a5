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
    """Distance (Q,) float64 of each query (Q, D) to its nearest row of a bank (N, D), and that row's index (Q,) int64.

    It is Euclidean after each feature is divided by its standard deviation over the bank. Features that are constant
    there (to float32 rounding, 1e-6 of their size) are left out. Computed on the CPU in float64, ``chunk`` rows of
    either at once, and a copy has distance exactly 0. ValueError for other shapes, NaN, or a bank of equal rows.
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
    """Whether generated clips lie nearer to the training clips than held-out real clips do, of distances (G,) and (H,).

    Shares are those of generated clips strictly below the percentiles of the held-out distances (no sign of copying:
    about 0.01 and 0.05; with fewer than 100 or 20 held-out clips they say little). The AUROC is the probability that a
    generated clip is nearer than a held-out one, ties counting half: 0.5 is no sign of copying, 1 is every generated
    clip nearer, less is farther than real clips, which poor quality gives. What an empty side leaves undefined is NaN.
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
