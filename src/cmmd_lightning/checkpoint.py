"""Checkpoints by step, and where a resumed run goes on."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class StepCheckpoint(ModelCheckpoint):
    """One checkpoint, kept up to date by step, and ``last.ckpt`` beside it.

    Written every so many steps, on Ctrl-C and SIGTERM, and at the end of training.
    ``fit --ckpt_path last`` goes on from it. (Lightning's own, with steps as its interval, leaves out what
    came after the last whole interval.)

    Args:
        dirpath: Folder; None is the logger's.
        filename: Name without ``.ckpt``.
        every_n_train_steps: Steps between writings.
    """

    def __init__(self, dirpath: str | None = None, filename: str = "cmmd", every_n_train_steps: int = 1000) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            every_n_train_steps=every_n_train_steps,
            save_last=True,
            save_on_exception=True,
            enable_version_counter=False,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what came after the last whole interval."""
        if self._last_global_step_saved != trainer.global_step and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, {})
            self._save_last_checkpoint(trainer, {})


def rewind_to_last_step(checkpoint: MutableMapping[str, Any], accumulate_grad_batches: int = 1) -> None:
    """Sets a checkpoint's count of batches back to the last optimiser step, in place.

    An interruption may fall inside a step, or between the batches whose gradients one step accumulates. What had been
    computed since the last step is not in the checkpoint and has to be done again, but Lightning (2.6.6) goes on
    counting from there: later steps would accumulate too few batches, and validation would come too early.

    Args:
        checkpoint: A training checkpoint; others are left as they are.
        accumulate_grad_batches: Batches per optimiser step.
    """
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress")
    if progress is None:
        return
    done = progress["current"]["processed"]
    beyond = done % accumulate_grad_batches
    if beyond == 0 and progress["current"]["ready"] == done:
        return
    for count in (progress["total"], progress["current"]):
        whole = count["processed"] - beyond
        count.update(ready=whole, started=whole, processed=whole, completed=whole)
