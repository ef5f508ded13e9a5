"""Synchrony of event lists as a torchmetrics.Metric, whose states sync across processes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from cmmd_lightning.metrics.functional.events import TOLERANCES, Times, as_times, event_scores


class EventAgreement(Metric):
    """Precision, recall and F1 of event times, at several tolerances: the mean over clips.

    The recall is the paper's "beat tracking accuracy". A clip in which both lists are empty counts as full agreement;
    how many there were is warned of when the value is computed.

    Args:
        tolerances: Seconds.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> metric = EventAgreement(tolerances=(0.05, 0.1))
        >>> metric.update([[0.5, 1.0]], [[0.53, 1.08]])
        >>> {name: round(float(value), 3) for name, value in metric.compute().items() if "f1" in name}
        {'event_f1@50ms': 0.5, 'event_f1@100ms': 1.0, 'event_f1@mean': 0.75}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    sums: Tensor
    clips: Tensor
    empty: Tensor

    def __init__(self, tolerances: Sequence[float] = TOLERANCES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not tolerances or not all(0 <= tolerance < float("inf") for tolerance in tolerances):
            raise ValueError(f"tolerances must be finite seconds, 0 or more, at least one, got {tolerances!r}")
        self.tolerances = tuple(tolerances)
        self.add_state("sums", torch.zeros(len(self.tolerances), 3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("empty", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, reference: Sequence[Times], estimate: Sequence[Times]) -> None:
        """Count clips.

        Args:
            reference: For each clip, its reference times in seconds.
            estimate: For each clip, its estimated times in seconds.

        Raises:
            ValueError: If there are not as many of both, or times are malformed.
        """
        if len(reference) != len(estimate):
            raise ValueError(
                f"expected as many clips of both, got {len(reference)} references, {len(estimate)} estimates"
            )
        pairs = [(as_times(ref), as_times(est)) for ref, est in zip(reference, estimate, strict=True)]
        for ref, est in pairs:
            scores = [event_scores(ref, est, tolerance) for tolerance in self.tolerances]
            self.sums += torch.tensor(scores, dtype=torch.float64, device=self.sums.device)
        self.clips += len(pairs)
        self.empty += sum(ref.size == 0 and est.size == 0 for ref, est in pairs)

    def compute(self) -> dict[str, Tensor]:
        """Means over clips.

        Returns:
            ``event_precision@100ms`` and so on, and ``event_f1@mean`` over the tolerances; NaN before any clip.
        """
        if int(self.empty):
            warnings.warn(f"{int(self.empty)} clips without any events count as full agreement", stacklevel=2)
        means = self.sums / self.clips
        names = ("precision", "recall", "f1")
        values = {
            f"event_{name}@{tolerance * 1000:g}ms": means[t, k].float()
            for k, name in enumerate(names)
            for t, tolerance in enumerate(self.tolerances)
        }
        return {**values, "event_f1@mean": means[:, 2].mean().float()}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the values.

        Args:
            val: What ``compute`` or ``forward`` gave, or a list of such; computed where None.
            ax: matplotlib axes to draw on; new ones where None.

        Returns:
            Figure and axes.
        """
        return self._plot(val, ax)
