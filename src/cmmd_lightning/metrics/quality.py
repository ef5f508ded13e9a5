"""Frechet and kernel distance of any feature extractor, with what a figure needs to be compared with another's."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.wrappers.feature_share import NetworkCache

from cmmd_lightning.metrics.functional.quality import frechet_distance, kernel_distance
from cmmd_lightning.metrics.weights import weights_hash

MAX_SIZES, MAX_DIMS = 16, 6


def _union(sizes: Tensor) -> Tensor:
    """The distinct rows of stacked tables (W, MAX_SIZES, MAX_DIMS) of sizes, as one table; rows of 0 are empty."""
    rows = sizes.reshape(-1, MAX_DIMS).unique(dim=0)
    rows = rows[rows.any(dim=1)][:MAX_SIZES]
    return torch.cat([rows, rows.new_zeros(MAX_SIZES - len(rows), MAX_DIMS)])


class _FeatureDistance(Metric):
    """What distances between features of real and of generated media have in common."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    feature_network: str = "extractor"  # lets torchmetrics' FeatureShare run the extractor once for several distances

    rows: Tensor
    clips: Tensor
    sizes: Tensor

    def __init__(self, extractor: nn.Module, name: str | None, num_features: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = num_features if num_features is not None else getattr(extractor, "num_features", None)
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"expected num_features, or an extractor that has it, as a positive int, got {width!r}")
        self.extractor = extractor.eval()
        self.extractor_name = str(name or getattr(extractor, "name", type(extractor).__name__))
        self.num_features = width
        self.add_state("rows", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("sizes", torch.zeros(MAX_SIZES, MAX_DIMS, dtype=torch.int64), dist_reduce_fx=_union)

    def train(self, mode: bool = True) -> _FeatureDistance:
        """Set the training mode of everything but the extractor, which always stays in evaluation mode."""
        super().train(mode)
        self.extractor.eval()
        return self

    def update(self, *media: Any, real: bool) -> None:
        """Extract and count features.

        Args:
            *media: What the extractor takes, such as frames (B, 3, T, H, W) and their rate; the first is a batch.
            real: Whether these are real clips, else generated ones.

        Raises:
            ValueError: If the extractor does not give finite rows (R, num_features).
        """
        with torch.no_grad():
            features = self.extractor(*media)
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(
                f"expected features (rows, {self.num_features}) of {self.extractor_name}, got {tuple(features.shape)}"
            )
        if not bool(torch.isfinite(features).all()):
            raise ValueError(f"expected finite features of {self.extractor_name}, got NaN or infinity")
        side = 0 if real else 1
        self._add(features.to(self.device), side)
        self.rows[side] += len(features)
        self.clips[side] += len(media[0])
        for tensor in media:
            if isinstance(tensor, Tensor) and tensor.ndim > 1:
                seen = torch.zeros_like(self.sizes)
                seen[0, : min(tensor.ndim - 1, MAX_DIMS)] = torch.tensor(tensor.shape[1 : 1 + MAX_DIMS])
                self.sizes = _union(torch.stack([self.sizes, seen]))

    def compute(self) -> dict[str, Tensor]:
        """The distance and how many rows it rests on.

        Returns:
            The distance under its name (float32; NaN where either side has fewer than 2 rows), ``num_real`` and
            ``num_generated``, rows of features.
        """
        real, generated = (int(n) for n in self.rows)
        value = float("nan")
        if min(real, generated) < 2:
            warnings.warn(f"no distance with {real} real and {generated} generated rows of features", stacklevel=2)
        else:
            value = self._distance()
        return {self.key: torch.tensor(value), "num_real": self.rows[0], "num_generated": self.rows[1]}

    def describe(self) -> dict[str, Any]:
        """What must stand beside the figure. All processes must call it.

        Returns:
            Plain values: ``extractor``, ``weights`` (their hash), ``num_features``, ``num_real`` and
            ``num_generated`` (rows of features), ``clips_real`` and ``clips_generated``, and ``sizes``, the distinct
            shapes of one clip that were seen, the 16 smallest.
        """
        # FeatureShare puts a cache around the extractor, which must not change the hash
        network = self.extractor.network if isinstance(self.extractor, NetworkCache) else self.extractor
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            rows, clips, sizes = self.rows.tolist(), self.clips.tolist(), self.sizes.tolist()
        return {
            "extractor": self.extractor_name,
            "weights": weights_hash(network),
            "num_features": self.num_features,
            "num_real": rows[0],
            "num_generated": rows[1],
            "clips_real": clips[0],
            "clips_generated": clips[1],
            "sizes": [[n for n in size if n] for size in sizes if any(size)],
        }

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the values.

        Args:
            val: What ``compute`` or ``forward`` gave, or a list of such; computed where None.
            ax: matplotlib axes to draw on; new ones where None.

        Returns:
            Figure and axes.
        """
        return self._plot(val, ax)

    key: str

    def _add(self, features: Tensor, side: int) -> None:
        raise NotImplementedError

    def _distance(self) -> float:
        raise NotImplementedError


class FrechetDistance(_FeatureDistance):
    """Frechet distance between the features of real and of generated media.

    It is an FVD or FAD only with that measure's extractor, and comparable only with figures of the same extractor,
    weights, sizes and about as many clips: report :meth:`describe` beside it.

    Args:
        extractor: Any module that gives rows (R, D) from media; it is put in evaluation mode.
        name: Name of the extractor; its own ``name``, else its class's, where None.
        num_features: D; the extractor's own ``num_features`` where None.
        **kwargs: Of ``torchmetrics.Metric``.

    Raises:
        ValueError: If D is not known.

    Example:
        >>> metric = FrechetDistance(nn.Identity(), name="rows", num_features=1)
        >>> metric.update(torch.tensor([[0.0], [2.0], [4.0]]), real=True)
        >>> metric.update(torch.tensor([[3.0], [5.0], [7.0]]), real=False)
        >>> float(metric.compute()["frechet_distance"])
        9.0
    """

    plot_lower_bound: float = 0.0
    key = "frechet_distance"

    sums: Tensor
    products: Tensor

    def __init__(
        self, extractor: nn.Module, name: str | None = None, *, num_features: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(extractor, name, num_features, **kwargs)
        size = self.num_features
        self.add_state("sums", torch.zeros(2, size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(2, size, size, dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, features: Tensor, side: int) -> None:
        features = features.double()
        self.sums[side] += features.sum(0)
        self.products[side] += features.T @ features

    def _distance(self) -> float:
        if int(self.rows.min()) <= self.num_features:
            warnings.warn(
                f"covariances of {self.num_features} features from {self.rows.tolist()} rows (real, generated) are "
                "singular: the distance is not comparable with others",
                stacklevel=3,
            )
        count = self.rows[:, None].double()
        means = self.sums / count
        scatter = self.products - count[:, :, None] * means[:, :, None] * means[:, None, :]
        covs = scatter / (count[:, :, None] - 1)
        return frechet_distance(means[0], covs[0], means[1], covs[1])


class KernelDistance(_FeatureDistance):
    """Kernel distance between the features of real and of generated media (KID, KVD, over all samples).

    Unbiased, so that it also serves where clips are few. Keeps all rows of features.

    Args:
        extractor: Any module that gives rows (R, D) from media; it is put in evaluation mode.
        name: Name of the extractor; its own ``name``, else its class's, where None.
        num_features: D; the extractor's own ``num_features`` where None.
        **kwargs: Of ``torchmetrics.Metric``.

    Raises:
        ValueError: If D is not known.

    Example:
        >>> metric = KernelDistance(nn.Identity(), name="rows", num_features=1)
        >>> metric.update(torch.zeros(2, 1), real=True)
        >>> metric.update(torch.ones(2, 1), real=False)
        >>> float(metric.compute()["kernel_distance"])
        7.0
    """

    key = "kernel_distance"

    real: list[Tensor] | Tensor
    generated: list[Tensor] | Tensor

    def __init__(
        self, extractor: nn.Module, name: str | None = None, *, num_features: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(extractor, name, num_features, **kwargs)
        # rows are kept flat: torchmetrics gathers a process without any as a vector of length 0
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("generated", [], dist_reduce_fx="cat")

    def _add(self, features: Tensor, side: int) -> None:
        state = self.generated if side else self.real
        assert isinstance(state, list)
        state.append(features.float().flatten())

    def _distance(self) -> float:
        real, generated = (dim_zero_cat(rows).reshape(-1, self.num_features) for rows in (self.real, self.generated))
        return kernel_distance(real, generated)
