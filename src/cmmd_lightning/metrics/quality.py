"""Frechet and kernel distance of any feature extractor, with what a figure needs to be compared with another's."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.wrappers.feature_share import NetworkCache

from cmmd_lightning.metrics.feature_sets import FeatureSets
from cmmd_lightning.metrics.functional.quality import frechet_distance_of_features, kernel_distance
from cmmd_lightning.metrics.weights import weights_hash

MAX_SIZES, MAX_DIMS = 16, 6


def _union(sizes: Tensor) -> Tensor:
    """The distinct rows of stacked tables (W, MAX_SIZES, MAX_DIMS) of sizes, as one table; rows of 0 are empty."""
    rows = sizes.reshape(-1, MAX_DIMS).unique(dim=0)
    rows = rows[rows.any(dim=1)][:MAX_SIZES]
    return torch.cat([rows, rows.new_zeros(MAX_SIZES - len(rows), MAX_DIMS)])


class FeatureDistance(FeatureSets):
    """What distances between features of real and of generated media have in common."""

    feature_network: str = "extractor"  # lets torchmetrics' FeatureShare run the extractor once for several distances
    kinds = ("real", "generated")
    key: str
    unit: str
    bounds: tuple[float, float]
    clips: Tensor
    sizes: Tensor

    def __init__(
        self, extractor: nn.Module, name: str | None = None, *, num_features: int | None = None, **kwargs: Any
    ) -> None:
        width = num_features if num_features is not None else getattr(extractor, "num_features", None)
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"expected num_features, or an extractor that has it, as a positive int, got {width!r}")
        super().__init__(extractor.eval(), width, **kwargs)
        self.extractor_name = str(name or getattr(extractor, "name", type(extractor).__name__))
        self.num_features = width
        self.add_state("clips", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("sizes", torch.zeros(MAX_SIZES, MAX_DIMS, dtype=torch.int64), dist_reduce_fx=_union)

    @staticmethod
    def between(a: Tensor, b: Tensor) -> float:
        """The distance of two sets of rows (N, D) and (M, D), two of each at least."""
        raise NotImplementedError

    def update(self, *media: Any, real: bool) -> None:
        """Extract and count features; ValueError unless they are finite rows (R, num_features).

        Args:
            *media: What the extractor takes, such as frames (B, 3, T, H, W) and their rate; the first is a batch.
            real: Whether these are real clips, else generated ones.
        """
        self._take("real" if real else "generated", media)
        self.clips[0 if real else 1] += len(media[0])
        for tensor in media:
            if isinstance(tensor, Tensor) and tensor.ndim > 1:
                seen = torch.zeros_like(self.sizes)
                seen[0, : min(tensor.ndim - 1, MAX_DIMS)] = torch.tensor(tensor.shape[1 : 1 + MAX_DIMS])
                self.sizes = _union(torch.stack([self.sizes, seen]))

    def compute(self) -> dict[str, Tensor]:
        """The distance (float32; NaN where a side has fewer than 2 rows), ``num_real``, ``num_generated``: the rows."""
        real, generated = self._rows()
        value = float("nan")
        if min(len(real), len(generated)) < 2:
            message = f"no distance with {len(real)} real and {len(generated)} generated rows of features"
            warnings.warn(message, stacklevel=2)
        else:
            value = self.between(real, generated)
        counts = {"num_real": torch.tensor(len(real)), "num_generated": torch.tensor(len(generated))}
        return {self.key: torch.tensor(value), **counts}

    def describe(self) -> dict[str, Any]:
        """What must stand beside the figure, as plain values; all processes must call it.

        Returns:
            ``extractor``, ``weights`` (their hash), ``num_features``, ``num_real`` and ``num_generated`` (rows),
            ``clips_real`` and ``clips_generated``, and ``sizes``, the 16 smallest shapes of one clip that were seen.
        """
        # FeatureShare puts a cache around the extractor, which must not change the hash
        network = self.extractor.network if isinstance(self.extractor, NetworkCache) else self.extractor
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            rows, clips, sizes = [len(rows) for rows in self._rows()], self.clips.tolist(), self.sizes.tolist()
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


class FrechetDistance(FeatureDistance):
    """Frechet distance between the features of real and of generated media.

    It is an FVD or FAD only with that measure's extractor, and comparable only with figures of the same extractor,
    weights, sizes and about as many clips: report ``describe()`` beside it.

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

    key, unit, bounds = "frechet_distance", "squared features", (0.0, float("inf"))
    between = staticmethod(frechet_distance_of_features)

    def compute(self) -> dict[str, Tensor]:
        """As of every distance, with a warning where rows are too few for a covariance."""
        rows = [len(side) for side in self._rows()]
        if 2 <= min(rows) <= self.num_features:
            warnings.warn(
                f"covariances of {self.num_features} features from {rows} rows (real, generated) are "
                "singular: the distance is not comparable with others",
                stacklevel=2,
            )
        return super().compute()


class KernelDistance(FeatureDistance):
    """Kernel distance between the features of real and of generated media (KID, KVD, over all samples).

    Unbiased, so that it also serves where clips are few. The arguments are those of `FrechetDistance`.

    Example:
        >>> metric = KernelDistance(nn.Identity(), name="rows", num_features=1)
        >>> metric.update(torch.zeros(2, 1), real=True)
        >>> metric.update(torch.ones(2, 1), real=False)
        >>> float(metric.compute()["kernel_distance"])
        7.0
    """

    key, unit, bounds = "kernel_distance", "no unit", (-float("inf"), float("inf"))
    between = staticmethod(kernel_distance)
