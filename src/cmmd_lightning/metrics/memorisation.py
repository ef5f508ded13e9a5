"""Memorisation as a torchmetrics.Metric: is what was generated nearer to the training clips than held-out clips are?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from cmmd_lightning.metrics.functional.memorisation import memorisation_scores, nearest_distances

Kind = Literal["training", "held_out", "generated"]


class Nearest(NamedTuple):
    """Nearest training row of each generated and each held-out row: distances float64 and indices int64."""

    generated_distances: Tensor
    generated_indices: Tensor
    held_out_distances: Tensor
    held_out_indices: Tensor


class Memorisation(Metric):
    """Signs that a model repeats its training clips, from distances to the nearest training clip in feature space.

    Distances of held-out real clips stand beside those of generated ones: see ``functional.memorisation``. What is
    compared are rows of features, as many for a clip as the extractor gives: with one for each second, a copied second
    is found.

    Args:
        extractor: ``(*media) -> (rows, D)``, such as one made for Frechet distances; a module or any function. None
            where ``update`` is given the rows themselves.
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

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound: float = 0.0

    training_rows: list[Tensor]
    held_out_rows: list[Tensor]
    generated_rows: list[Tensor]
    width: Tensor

    def __init__(self, extractor: Callable[..., Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extractor = extractor
        # rows are kept end to end, their width apart: so a process that saw none of a kind can sync with the others
        for kind in get_args(Kind):
            self.add_state(f"{kind}_rows", [], dist_reduce_fx="cat")
        self.add_state("width", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, *media: Any, kind: Kind) -> None:
        """Take clips in.

        Args:
            *media: What the extractor takes, e.g. frames and fps; or feature rows (rows, D) where there is none.
            kind: Whose clips these are.

        Raises:
            ValueError: If the kind is none of the three, or the rows are not finite (rows, D), of one D throughout.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
        rows = self._extract(*media)
        if rows.dim() != 2 or rows.shape[1] == 0 or (int(self.width) and rows.shape[1] != int(self.width)):
            width = int(self.width) or "D"
            raise ValueError(f"features must be (rows, {width}), got {tuple(rows.shape)}")
        if not bool(torch.isfinite(rows).all()):
            raise ValueError("features must be finite, got NaN or infinity")
        self.width.fill_(rows.shape[1])
        getattr(self, f"{kind}_rows").append(rows.detach().flatten().to(self.device, torch.float32))

    def _extract(self, *media: Any) -> Tensor:
        if self.extractor is None:
            if len(media) != 1 or not isinstance(media[0], Tensor):
                raise ValueError(f"without an extractor one tensor of features is expected, got {len(media)} arguments")
            return media[0]
        if isinstance(self.extractor, nn.Module):
            self.extractor.eval()  # a metric inside of a training module is set to training with it
        with torch.no_grad():
            return self.extractor(*media)

    def nearest(self) -> Nearest:
        """Which training row is nearest to each row, over all processes, in the order of updates (rank by rank).

        Returns:
            ``Nearest``: distances in units of the training rows' standard deviations, and indices of training rows.

        Raises:
            ValueError: If there are not two different training rows.
        """
        local = not self._is_synced  # inside of compute the states are those of all processes already
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=local, should_unsync=local):
            training, held_out, generated = (self._rows(kind) for kind in get_args(Kind))
        return Nearest(*nearest_distances(generated, training), *nearest_distances(held_out, training))

    def _rows(self, kind: Kind) -> Tensor:
        state = getattr(self, f"{kind}_rows")
        return (dim_zero_cat(state) if len(state) else torch.zeros(0)).reshape(-1, max(1, int(self.width)))

    def compute(self) -> dict[str, Tensor]:
        """Scores of generated against held-out clips.

        Returns:
            ``memorisation_auroc``, the probability that a generated clip is nearer to the training clips than a
            held-out one (no sign of copying: 0.5 or less); ``memorisation_share_below_1%`` and ``_5%``, the shares of
            generated clips nearer than those percentiles of the held-out distances (no sign: 0.01, 0.05); and
            ``memorisation_median_generated`` and ``_held_out``, the medians of the distances. NaN for what lacks
            clips.
        """
        counts = [len(self._rows(kind)) for kind in get_args(Kind)]
        if counts[0] < 2 or not counts[1] or not counts[2]:
            warnings.warn(
                f"memorisation needs clips of all three kinds, got {counts[0]} training, {counts[1]} held-out, "
                f"{counts[2]} generated rows",
                stacklevel=2,
            )
        nothing = torch.zeros(0)
        nearest = self.nearest() if counts[0] > 1 else Nearest(nothing, nothing, nothing, nothing)
        scores = memorisation_scores(nearest.generated_distances, nearest.held_out_distances)
        values = {
            "memorisation_auroc": scores.auroc,
            "memorisation_share_below_1%": scores.share_below_1st_percentile,
            "memorisation_share_below_5%": scores.share_below_5th_percentile,
            "memorisation_median_generated": scores.generated_median,
            "memorisation_median_held_out": scores.held_out_median,
        }
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the values.

        Args:
            val: What ``compute`` or ``forward`` gave, or a list of such; computed where None.
            ax: matplotlib axes to draw on; new ones where None.

        Returns:
            Figure and axes.
        """
        return self._plot(val, ax)
