"""Checkpoints by step, and where a resumed run goes on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from cmmd_lightning.training.checkpoint_io import install, link, write_whole
from cmmd_lightning.training.preemption import DeferredSignals, agreed, may_ask

logger = logging.getLogger(__name__)

_KEPT = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "hyper_parameters", "hparams_name")


class StepCheckpoint(ModelCheckpoint):
    """One checkpoint, kept up to date by step and by time, and ``last.ckpt``, a second name of it.

    Written every so many steps, every so many minutes, on Ctrl-C and SIGTERM, and at the end of training.
    ``fit --ckpt_path last`` goes on from it. (Lightning's own, with steps as its interval, leaves out what
    came after the last whole interval.) A SLURM requeue signal is answered between two batches, by all processes at
    the same one, so that its ``hpc_ckpt_N.ckpt`` resumes exactly too; see `DeferredSignals`.

    Args:
        dirpath: Folder; None is the trainer's ``default_root_dir``.
        filename: Name without ``.ckpt``.
        every_n_train_steps: Steps between writings.
        every_minutes: Minutes after a writing when the next is due at the latest; None is never.
        keep_every_n_steps: Every so many steps, a multiple of ``every_n_train_steps``, one more is written that stays,
            ``FILENAME-step=N.ckpt``; None is none.
        keep_best: Of this value, such as ``val/loss``, the smallest after a validation: ``FILENAME-best.ckpt`` is
            written there; None is none.

    Raises:
        ValueError: If an interval is not positive, or no multiple.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str = "cmmd",
        every_n_train_steps: int = 1000,
        every_minutes: float | None = None,
        keep_every_n_steps: int | None = None,
        keep_best: str | None = None,
    ) -> None:
        if every_minutes is not None and every_minutes <= 0:
            raise ValueError(f"StepCheckpoint.every_minutes: expected a positive number, got {every_minutes}")
        if every_n_train_steps < 1 or (keep_every_n_steps or every_n_train_steps) % every_n_train_steps:
            raise ValueError(
                "StepCheckpoint: expected every_n_train_steps of at least 1, and keep_every_n_steps as a multiple, "
                f"got {every_n_train_steps} and {keep_every_n_steps}"
            )
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            every_n_train_steps=every_n_train_steps,
            save_last="link",
            save_on_exception=True,
            enable_version_counter=False,
        )
        self.every_minutes, self.keep_every_n_steps, self.keep_best = every_minutes, keep_every_n_steps, keep_best
        self.best = math.inf
        self.is_good: Callable[[], bool] = lambda: True
        """Asked by all processes before anything is written; `Watch` answers it."""
        self._signals: DeferredSignals | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds its folder."""
        if self.dirpath is None:
            self.dirpath = trainer.default_root_dir
        if "://" in str(self.dirpath):
            self.save_last = True  # links are for files of this machine
        super().setup(trainer, pl_module, stage)
        install(trainer)

    @staticmethod
    def _link_checkpoint(trainer: Trainer, filepath: str, linkpath: str) -> None:
        if trainer.is_global_zero:
            link(filepath, linkpath)
        trainer.strategy.barrier()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts; signals that would end the job are held back until a batch is done."""
        super().on_train_start(trainer, pl_module)
        self._last_time_checked = time.monotonic()
        self._signals = DeferredSignals(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes what is due by step or by the clock; then obeys signals."""
        if trainer.global_step % self._every_n_train_steps == 0 or (may_ask(trainer) and self._is_time(trainer)):
            self.save_now(trainer)
        if self._signals is not None and may_ask(trainer):
            self._signals.obey(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Obeys signals: a validation may be longer than a cluster waits."""
        if self._signals is not None and not trainer.sanity_checking:
            self._signals.obey(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the best one until now."""
        trial = trainer.sanity_checking or trainer.fast_dev_run  # type: ignore[attr-defined]
        if self.keep_best is None or trainer.state.fn != "fit" or trial:
            return
        value = float(trainer.callback_metrics.get(self.keep_best, math.inf))
        if value < self.best and self.is_good():
            self.best = value
            trainer.save_checkpoint(f"{self.dirpath}/{self.filename}-best.ckpt")

    def state_dict(self) -> dict[str, Any]:
        """With the best value."""
        return {**super().state_dict(), "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """With the best value, where there was one."""
        super().load_state_dict(state_dict)
        self.best = state_dict.get("best", math.inf)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what came after the last whole interval."""
        self.save_now(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes where the training stands, unless that is not good; tells what is kept."""
        if self._should_save_on_exception(trainer) and self.is_good():
            self._save_topk_checkpoint(trainer, {})
            self._save_last_checkpoint(trainer, {})
        if self.last_model_path and trainer.is_global_zero and not isinstance(exception, ValueError):
            step = self._last_global_step_saved
            logger.info("step %d is saved in %s; fit --ckpt_path last goes on from it", step, self.last_model_path)

    def save_now(self, trainer: Trainer) -> None:
        """Writes where the training stands, between two steps; nothing where that was done or is not good."""
        if self._should_skip_saving_checkpoint(trainer) or not self.is_good():
            return
        step = trainer.global_step
        if self.keep_every_n_steps and step % self.keep_every_n_steps == 0:
            trainer.save_checkpoint(f"{self.dirpath}/{self.filename}-step={step}.ckpt")
        self._save_topk_checkpoint(trainer, {})
        self._save_last_checkpoint(trainer, {})
        self._last_time_checked = time.monotonic()

    def _is_time(self, trainer: Trainer) -> bool:
        if self.every_minutes is None:
            return False
        passed = time.monotonic() - (self._last_time_checked or time.monotonic())
        return agreed(trainer, passed >= 60 * self.every_minutes)


def export_weights(path: str | Path, output: str | Path, *, half: bool = False) -> None:
    """Writes what of a training checkpoint is needed to generate: the averaged weights and the settings.

    Args:
        path: A checkpoint of `CMMD` or of the frame VAE.
        output: The new one, a checkpoint like any other but for that training cannot go on from it.
        half: Whether floating-point weights are stored in float16.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    kept = {key: checkpoint[key] for key in _KEPT if key in checkpoint}
    if half:
        state = kept["state_dict"]
        kept["state_dict"] = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    write_whole(kept, output)


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
