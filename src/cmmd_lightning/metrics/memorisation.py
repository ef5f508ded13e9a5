"""Memorisation as a torchmetrics.Metric: is what was generated nearer to the training clips than held-out clips are?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from cmmd_lightning.metrics.feature_sets import FeatureSets
from cmmd_lightning.metrics.functional.memorisation import MemorisationScores, memorisation_scores, nearest_distances

Kind = Literal["training", "held_out", "generated"]


class Nearest(NamedTuple):
    """Nearest training row of each generated and each held-out row: distances float64 and indices int64."""

    generated_distances: Tensor
    generated_indices: Tensor
    held_out_distances: Tensor
    held_out_indices: Tensor

    def scores(self) -> MemorisationScores:
        """What the distances say."""
        return memorisation_scores(self.generated_distances, self.held_out_distances)


class Memorisation(FeatureSets):
    """Signs that a model repeats its training clips, from distances to the nearest training clip in feature space.

    Distances of held-out real clips stand beside those of generated ones: see ``functional.memorisation``. What is
    compared are rows of features: with one for each second of a clip, a copied second is found.

    Args:
        extractor: ``(*media) -> (rows, D)``, a module or any function; None where ``update`` is given the rows.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> metric = Memorisation()
        >>> training = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
        >>> metric.update(training, kind="training")
        >>> metric.update(training + 1, kind="held_out")
        >>> metric.update(training[:2], kind="generated")
        >>> values = metric.compute()
        >>> float(values["memorisation_auroc"]), metric.nearest().generated_indices.tolist()
        (1.0, [0, 1])
    """

    kinds = get_args(Kind)

    def __init__(self, extractor: Callable[..., Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(extractor, **kwargs)

    def update(self, *media: Any, kind: Kind) -> None:
        """Take clips in; ValueError for another kind, or rows that are not finite (rows, D) of one D throughout.

        Args:
            *media: What the extractor takes, e.g. frames and fps; or feature rows (rows, D) where there is none.
            kind: Whose clips these are.
        """
        if kind not in self.kinds:
            raise ValueError(f"kind must be one of {', '.join(self.kinds)}, got {kind!r}")
        self._take(kind, media)

    def nearest(self) -> Nearest:
        """Nearest training row of each row, over all processes, in the order of updates (rank by rank).

        Distances are in the training rows' standard deviations; ValueError without two different ones.
        """
        local = not self._is_synced  # inside of compute the states are those of all processes already
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=local, should_unsync=local):
            training, held_out, generated = self._rows()
        return Nearest(*nearest_distances(generated, training), *nearest_distances(held_out, training))

    def compute(self) -> dict[str, Tensor]:
        """Scores of generated against held-out clips.

        Returns:
            ``memorisation_auroc``, the probability that a generated clip is nearer to the training clips than a
            held-out one (no sign of copying: 0.5 or less); ``memorisation_share_below_1%`` and ``_5%``, the shares of
            generated clips nearer than those percentiles of the held-out distances (no sign: 0.01, 0.05); and
            ``memorisation_median_generated`` and ``_held_out``, median distances. NaN for what lacks clips.
        """
        counts = [len(rows) for rows in self._rows()]
        if counts[0] < 2 or not counts[1] or not counts[2]:
            warnings.warn(
                f"memorisation needs clips of all three kinds, got {counts[0]} training, {counts[1]} held-out, "
                f"{counts[2]} generated rows",
                stacklevel=2,
            )
        nothing = torch.zeros(0)
        scores = (self.nearest() if counts[0] > 1 else Nearest(nothing, nothing, nothing, nothing)).scores()
        values = {
            "auroc": scores.auroc,
            "share_below_1%": scores.share_below_1st_percentile,
            "share_below_5%": scores.share_below_5th_percentile,
            "median_generated": scores.generated_median,
            "median_held_out": scores.held_out_median,
        }
        return {f"memorisation_{name}": torch.tensor(value) for name, value in values.items()}
