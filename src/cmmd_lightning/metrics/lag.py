"""Lag over clips as a torchmetrics.Metric: its middle, its size, its strength, and its distribution."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from cmmd_lightning.metrics.functional import lag as functional
from cmmd_lightning.metrics.functional.events import Times


class Lag(Metric):
    """Seconds by which the estimated events of each clip are late (negative: early).

    A clip in which no lag is found (a list is empty, or nothing comes near) has strength 0 and no part in the lags;
    how many there were is a value of its own, and warned of when the values are computed.

    Args:
        max_lag: Greatest lag looked at either way, in seconds. Events of one period agree again a period later: keep it
            below half of the period.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> metric = Lag()
        >>> metric.update([[0.2, 0.7], [0.3, 0.5]], [[0.28, 0.78], [0.32, 0.52]])
        >>> {name: round(float(value), 3) for name, value in metric.compute().items()}
        {'lag_seconds': 0.05, 'lag_abs_seconds': 0.05, 'lag_strength': 1.0, 'lag_missing': 0.0}
        >>> metric.lags().round(decimals=3).tolist()
        [0.08, 0.02]
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    seconds: list[Tensor]
    strengths: list[Tensor]

    def __init__(self, max_lag: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not (max_lag > 0 and np.isfinite(max_lag)):
            raise ValueError(f"max_lag must be positive and finite, in seconds, got {max_lag!r}")
        self.max_lag = max_lag
        # a process without any clips sends an empty list in this type, which must be that of the others
        self.set_dtype(torch.float64)
        self.add_state("seconds", [], dist_reduce_fx="cat")
        self.add_state("strengths", [], dist_reduce_fx="cat")

    def update(self, reference: Sequence[Times], estimate: Sequence[Times]) -> None:
        """Measure clips.

        Args:
            reference: For each clip, its reference times in seconds.
            estimate: For each clip, its estimated times in seconds.

        Raises:
            ValueError: If there are not as many of both, or one is malformed.
        """
        if len(reference) != len(estimate):
            raise ValueError(
                f"expected as many clips of both, got {len(reference)} references, {len(estimate)} estimates"
            )
        found = [self._lag_of(ref, est) for ref, est in zip(reference, estimate, strict=True)]
        columns = torch.tensor(found, dtype=torch.float64, device=self.device).reshape(-1, 2)
        self.seconds.append(columns[:, 0])
        self.strengths.append(columns[:, 1])

    def _lag_of(self, reference: Times, estimate: Times) -> functional.Lag:
        return functional.event_lag(reference, estimate, max_lag=self.max_lag)

    def compute(self) -> dict[str, Tensor]:
        """Values over clips.

        Returns:
            ``lag_seconds``, the median lag; ``lag_abs_seconds``, the mean size of the lags; both NaN where no clip has
            one. ``lag_strength``, the mean strength; ``lag_missing``, the share of clips without a lag; both NaN before
            any clip.
        """
        seconds, strengths = _joined(self.seconds), _joined(self.strengths)
        found = seconds[~seconds.isnan()]
        if found.numel() < seconds.numel():
            missing = seconds.numel() - found.numel()
            warnings.warn(f"{missing} clips have no lag, for want of events or of agreement", stacklevel=2)
        return {
            "lag_seconds": found.quantile(0.5).float() if found.numel() else found.mean().float(),
            "lag_abs_seconds": found.abs().mean().float(),
            "lag_strength": strengths.mean().float(),
            "lag_missing": seconds.isnan().double().mean().float(),
        }

    def lags(self) -> Tensor:
        """Lag of each clip, of all processes: where there are several, all of them must call this.

        Returns:
            Seconds (N,) float64, one process's clips after another's; NaN for a clip without one.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return _joined(self.seconds)

    def plot(self, val: Tensor | None = None, ax: Any = None) -> Any:
        """Histogram of the lags, in steps of 20 ms.

        Args:
            val: What ``lags`` gave; asked for where None.
            ax: matplotlib axes to draw on; new ones where None.

        Returns:
            Figure and axes.
        """
        from matplotlib import pyplot as plt

        lags = self.lags() if val is None else val
        axes = plt.subplots()[1] if ax is None else ax
        count = max(1, round(self.max_lag / 0.01))
        axes.hist(lags[~lags.isnan()].cpu().numpy(), bins=count, range=(-self.max_lag, self.max_lag))
        axes.set_xlabel("lag in seconds (positive: late)")
        axes.set_ylabel("clips")
        return axes.figure, axes


class EnvelopeLag(Lag):
    """Seconds by which the second of two envelopes, such as motion and loudness, is late in each clip.

    As :class:`Lag`, with the strength a correlation. A clip in which an envelope is constant has no lag.

    Args:
        rate: Values per second of the envelopes.
        max_lag: Greatest lag looked at either way, in seconds.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> motion = torch.zeros(100)
        >>> motion[30] = motion[62] = 1.0
        >>> metric = EnvelopeLag(rate=50.0)
        >>> metric.update([motion], [motion.roll(5)])
        >>> round(float(metric.compute()["lag_seconds"]), 3)
        0.1
    """

    def __init__(self, rate: float, max_lag: float = 0.5, **kwargs: Any) -> None:
        super().__init__(max_lag, **kwargs)
        if not (rate > 0 and np.isfinite(rate)):
            raise ValueError(f"rate must be positive and finite, in values per second, got {rate!r}")
        self.rate = rate

    def _lag_of(self, reference: Times, estimate: Times) -> functional.Lag:
        first, second = (torch.as_tensor(values, dtype=torch.float64) for values in (reference, estimate))
        return functional.envelope_lag(first, second, self.rate, max_lag=self.max_lag)


def _joined(values: list[Tensor] | Tensor) -> Tensor:
    """(N,) of a state that is a list before it is synced and one tensor after."""
    if isinstance(values, Tensor):
        return values
    return torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)
