"""Exponential moving average of the weights, exact in every checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.nn import Module
from torch.optim.swa_utils import AveragedModel


class _Average(AveragedModel):
    """The average, of the trained parameters alone, whose count of updates stays on the CPU: nothing waits for it."""

    def __init__(self, model: Module, device: Any = None, use_buffers: bool = False, *, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: Module) -> None:
        """Move the average towards the model; a step that is counted n weighs the old average by ``decay_at(n)``."""
        pairs = zip(self.module.parameters(), model.parameters(), strict=True)
        averaged, current = zip(*((old, new) for old, new in pairs if new.requires_grad), strict=True)
        torch._foreach_lerp_(averaged, current, 1.0 - decay_at(int(self.n_averaged), self.decay))
        self.n_averaged += 1


def decay_at(updates: int, decay: float) -> float:
    """Weight of the old average after so many updates: min(decay, (1 + n) / (10 + n)).

    Without this warm-up an average of 0.9999 still holds 61 % of the first step's weights after 5,000 steps.

    Example:
        >>> [round(decay_at(n, 0.999), 3) for n in (0, 10, 1_000, 100_000)]
        [0.1, 0.55, 0.991, 0.999]
    """
    return min(decay, (1 + updates) / (10 + updates))


class EMA(WeightAveraging):
    """Average weights over training: averaged ones for validation, generation and checkpoints, raw ones for training.

    A checkpoint's ``state_dict`` holds the averaged weights, its ``current_model_state`` the raw ones, as with
    Lightning's ``EMAWeightAveraging``, which this mends in seven places (as of 2.6.6):

    - The average is warmed up: ``decay_at``.
    - What is not trained, such as a frozen codec, is neither averaged nor kept twice, in memory or in checkpoints; and
      updating it never makes the device wait.
    - A checkpoint that is written while validation has the averaged weights in the model, or after training has left
      them there, has both in their right places; there they are swapped, or the raw ones lost.
    - Interrupted between an optimiser step and its average, the average is brought up to date before it is saved.
    - The average starts from what training starts from; there it is copied before the model's ``setup`` has set the
      statistics of the data.
    - The average lies on the model's device; there it stays where the model was made.
    - Validation after the end of training uses the averaged weights still.

    Args:
        decay: Weight of the old average in each step, 0 to 1, after the warm-up.

    Raises:
        ValueError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA.decay must be at least 0 and below 1, got {decay!r}")
        super().__init__(use_buffers=False)
        self.decay = decay
        self._swapped = False
        self._finished = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a new average for a new fit."""
        if stage == "fit":
            self._average_model = _Average(pl_module, decay=self.decay)
            self._swapped = self._finished = False
            self._latest_update_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the average as the model is, and where it is, once all of the model is set."""
        if self._average_model is None:
            return
        average = self._average_model.module.to(pl_module.device)
        if int(self._average_model.n_averaged) == 0:
            average.load_state_dict(pl_module.state_dict())
        for old, new in zip(average.parameters(), pl_module.parameters(), strict=True):
            if not new.requires_grad:
                old.data = new.data
        for held, buffer in zip(average.buffers(), pl_module.buffers(), strict=True):
            held.data = buffer.data

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Averaged weights for validation."""
        if self._average_model is not None and not self._swapped:
            self._swap_models(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raw weights for training."""
        self._swap_back(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the averaged weights in the model; the raw ones are kept for checkpoints."""
        if not self._swapped:
            self._swap_models(pl_module)
        self._finished = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Weights in their places, and the average up to date, before anything is saved."""
        if self._average_model is None:
            return
        self._swap_back(pl_module)
        if not self._finished and trainer.global_step > self._latest_update_step:
            self._average_model.update_parameters(pl_module)
            self._latest_update_step = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put averaged weights into ``state_dict``, the trained raw ones into ``current_model_state``."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is None:
            return
        raw, averaged = checkpoint["current_model_state"], checkpoint["state_dict"]
        if self._swapped:
            raw, averaged = averaged, raw
        trained = {
            name.replace("_orig_mod.", "")
            for name, parameter in pl_module.named_parameters()
            if parameter.requires_grad
        }
        checkpoint["state_dict"] = averaged
        checkpoint["current_model_state"] = {name: value for name, value in raw.items() if name in trained}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load both, where the raw ones hold what is trained alone, or everything, as they did before."""
        if "current_model_state" in checkpoint:
            checkpoint["current_model_state"] = checkpoint["state_dict"] | checkpoint["current_model_state"]
        super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap_back(self, pl_module: LightningModule) -> None:
        if self._average_model is not None and self._swapped and not self._finished:
            self._swap_models(pl_module)

    @torch.no_grad()
    def _swap_models(self, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        for old, new in zip(self._average_model.module.parameters(), pl_module.parameters(), strict=True):
            if new.requires_grad:
                kept = old.data.clone()
                old.data.copy_(new.data)
                new.data.copy_(kept)
        self._swapped = not self._swapped
