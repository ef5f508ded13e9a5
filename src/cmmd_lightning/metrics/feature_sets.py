"""Sets of feature rows, by kind of clip: extracted, checked, and gathered over processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from cmmd_lightning.metrics.measure import PlottedMetric


class FeatureSets(PlottedMetric):
    """What measures between sets of clips share: ``extractor(*media)`` gives rows (R, D), of any R and of one D."""

    higher_is_better = False
    plot_lower_bound: float = 0.0
    kinds: tuple[str, ...]
    width: Tensor

    def __init__(self, extractor: Callable[..., Tensor] | None, width: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # a process without any rows sends an empty list in this type, as a vector: so rows are kept end to end
        self.set_dtype(torch.float64)
        self.extractor: Any = extractor
        for kind in self.kinds:
            self.add_state(f"{kind}_rows", [], dist_reduce_fx="cat")
        self.add_state("width", torch.tensor(width), dist_reduce_fx="max")

    def _extract(self, media: Sequence[Any]) -> Tensor:
        if self.extractor is None:
            if len(media) != 1 or not isinstance(media[0], Tensor):
                raise ValueError(f"without an extractor one tensor of features is expected, got {len(media)} arguments")
            return media[0]
        if isinstance(self.extractor, nn.Module):
            self.extractor.eval()  # a metric inside of a training module is set to training with it
        with torch.no_grad():
            return self.extractor(*media)

    def _take(self, kind: str, media: Sequence[Any]) -> None:
        """Keep the rows of some clips of a kind."""
        rows, width = self._extract(media), int(self.width)
        if rows.ndim != 2 or rows.shape[1] == 0 or (width and rows.shape[1] != width):
            raise ValueError(f"expected features (rows, {width or 'D'}), got {tuple(rows.shape)}")
        if not bool(torch.isfinite(rows).all()):
            raise ValueError("features must be finite, got NaN or infinity")
        self.width.fill_(rows.shape[1])
        getattr(self, f"{kind}_rows").append(rows.detach().flatten().to(self.device, torch.float64))

    def _rows(self) -> list[Tensor]:
        """Of each kind (R, D) float64."""
        states = [getattr(self, f"{kind}_rows") for kind in self.kinds]
        width = max(1, int(self.width))
        return [(dim_zero_cat(state) if len(state) else torch.zeros(0)).reshape(-1, width) for state in states]
