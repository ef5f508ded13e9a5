"""How the learning rate goes over a run."""

from __future__ import annotations

import math
from typing import Literal

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Decay = Literal["constant", "cosine", "wsd"]


def with_schedule(
    optimizer: Optimizer, warmup: int, decay: Decay, end: int, begin: int = 0, share: float = 0.2
) -> OptimizerLRSchedulerConfig:
    """An optimiser with its learning rate, step by step, for ``configure_optimizers``; see `rate_factor`.

    Raises:
        ValueError: If the learning rate has to fall until a step that nobody named.
    """
    if decay != "constant" and end < 1:
        raise ValueError(f"decay {decay}: a learning rate that falls to the end needs the trainer's max_steps")
    schedule = LambdaLR(optimizer, lambda step: rate_factor(step, warmup, decay, end, begin, share))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate_factor(step: int, warmup: int, decay: Decay, end: int, begin: int = 0, share: float = 0.2) -> float:
    """Share of the peak learning rate at a step.

    Args:
        step: From 0.
        warmup: Steps over which it rises.
        decay: ``constant`` after that; ``cosine`` falls to zero along a half cosine; ``wsd`` stays up and falls along
            a line over the last ``share`` of the steps, so that a run can be made longer from before the fall.
        end: Step at which it has fallen to zero.
        begin: Step from which a cosine falls.
        share: Of ``wsd``.

    Example:
        >>> [round(rate_factor(step, 3, "wsd", 100, share=0.2), 2) for step in (0, 3, 79, 80, 90, 100)]
        [0.25, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    rise = min(1.0, (step + 1) / (warmup + 1))
    if decay == "cosine":
        progress = min(1.0, max(0.0, step - begin) / max(1, end - begin))
        return rise * 0.5 * (1.0 + math.cos(math.pi * progress))
    if decay == "wsd":
        return rise * min(1.0, max(0.0, end - step) / max(1.0, share * end))
    return rise
