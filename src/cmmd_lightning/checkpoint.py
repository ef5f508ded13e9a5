"""Checkpoints by step, and where a resumed run goes on."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
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


class ExactResume(LightningModule):
    """A module whose resumed runs do what the uninterrupted run would have done; see `mend_progress`."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes whether this is inside of a validation."""
        checkpoint["validating"] = self._trainer is not None and bool(self._trainer.validating)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on after the last whole optimiser step, with the validation that is due there."""
        trainer = self._trainer
        if trainer is None:
            return
        every = trainer.val_check_interval if trainer.check_val_every_n_epoch is None else None
        mend_progress(checkpoint, trainer.accumulate_grad_batches, every if isinstance(every, int) else None)


def mend_progress(
    checkpoint: MutableMapping[str, Any], accumulate_grad_batches: int = 1, validate_every: int | None = None
) -> None:
    """Sets a checkpoint's counts so that a resumed run does what the uninterrupted one would have done, in place.

    Lightning (2.6.6) resumes exactly at ends of epochs. Elsewhere its counts need help:

    - An interruption may fall inside of a step, or between the batches whose gradients one step accumulates. What was
      computed since the last step is not in the checkpoint and has to be done again; Lightning would go on counting,
      later steps would accumulate too few batches, and validation would come too early.
    - A validation that was interrupted, or was due and not begun when the checkpoint was written, is done as a whole;
      Lightning would leave it out, or do a part of it.
    - The step that loggers are given stays right: Lightning counts one too many where it skips a validation.

    Args:
        checkpoint: A training checkpoint; others are left as they are.
        accumulate_grad_batches: Batches per optimiser step.
        validate_every: Batches between validations, where they are counted so.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    progress = loops.get("epoch_loop.batch_progress")
    if progress is None:
        return
    total, current = progress["total"], progress["current"]
    beyond = current["processed"] % accumulate_grad_batches
    inside = beyond > 0 or current["ready"] > current["processed"]
    at_end = not inside and current["completed"] < current["processed"]
    if inside:
        for count in (total, current):
            _set_all(count, count["processed"] - beyond)
    if not validate_every or total["processed"] % validate_every:
        return
    validation = loops["epoch_loop.val_loop.batch_progress"]
    validating = checkpoint.get("validating", False) and not inside
    if at_end or (validating and not _is_finished(validation)):
        for count in (total, current):
            _set_all(count, count["processed"])
        _set_all(validation["current"], 0)
        whole = validation["total"]["completed"]
        validation["total"].update(ready=whole + 1, started=whole + 1, processed=whole, completed=whole)
    elif not validating:
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def _set_all(count: MutableMapping[str, int], value: int) -> None:
    count.update(ready=value, started=value, processed=value, completed=value)


def _is_finished(progress: Mapping[str, Any]) -> bool:
    count = progress["current"]
    return bool(progress["is_last_batch"] and count["completed"] == count["ready"])
