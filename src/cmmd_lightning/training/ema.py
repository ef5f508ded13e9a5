"""Exponential moving average of the weights, exact in every checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(WeightAveraging):
    """Averaged weights for validation, generation and checkpoints; raw ones for training.

    A checkpoint's ``state_dict`` holds the averaged weights, its ``current_model_state`` the raw ones, as with
    Lightning's ``EMAWeightAveraging``, which this mends in five places (as of 2.6.6):

    - A checkpoint that is written while validation has the averaged weights in the model, or after training has left
      them there, has both in their right places; there they are swapped, or the raw ones lost.
    - Interrupted between an optimiser step and its average, the average is brought up to date before it is saved.
    - The average starts from what training starts from; there it is copied before the model's ``setup`` has set the
      statistics of the data.
    - The average lies on the model's device; there it stays where the model was made.
    - Validation after the end of training uses the averaged weights still.

    Args:
        decay: Weight of the old average in each step, 0 to 1; the first step takes the weights as they are.

    Raises:
        ValueError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA.decay must be at least 0 and below 1, got {decay!r}")
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.decay = decay
        self._swapped = False
        self._finished = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new average for a new fit."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._swapped = self._finished = False
            self._latest_update_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The average starts as the model is, and where it is, once all of the model is set."""
        if self._average_model is None:
            return
        self._average_model.module.to(pl_module.device)
        if int(self._average_model.n_averaged) == 0:
            self._average_model.module.load_state_dict(pl_module.state_dict())

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
        """Averaged weights in ``state_dict``, raw ones in ``current_model_state``, wherever they are now."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is not None and self._swapped:
            raw, averaged = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = averaged, raw

    def _swap_back(self, pl_module: LightningModule) -> None:
        if self._average_model is not None and self._swapped and not self._finished:
            self._swap_models(pl_module)

    @torch.no_grad()
    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped
