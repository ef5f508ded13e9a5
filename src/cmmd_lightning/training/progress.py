"""How far a run has come: a bar on terminals, elsewhere a line now and then."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from cmmd_lightning.data.progress import duration_text

logger = logging.getLogger(__name__)

_FIRST_STEPS = 3  # to measure the speed on
_LONG = 60.0  # seconds from which on what a run takes is told ahead


class RunProgress(TQDMProgressBar):
    """One bar for the whole run that counts optimiser steps; without a terminal, a line of the log every so often.

    Only then does it look at the loss, since a look makes the processor wait for the GPU. Before a long run one line
    tells what it will take on this machine, measured on its first steps. Only the first of several processes shows it.

    Args:
        line_seconds: Seconds between lines, where there is no terminal.
        refresh_seconds: Seconds between looks at the loss for the bar.
        measure_seconds: Seconds of the run on which its speed is measured for the first line.
    """

    def __init__(self, line_seconds: float = 30.0, refresh_seconds: float = 1.0, measure_seconds: float = 10.0) -> None:
        super().__init__()
        self.line_seconds, self.refresh_seconds, self.measure_seconds = line_seconds, refresh_seconds, measure_seconds
        self._lines = False
        self._begun: tuple[float, int] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A bar where standard output is a terminal, lines where it is none."""
        super().setup(trainer, pl_module, stage)
        self._begun, self._due, self._told = None, 0.0, False
        self._lines = trainer.is_global_zero and not sys.stdout.isatty()
        if self._lines:
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The losses, as they were logged last."""
        logged = trainer.callback_metrics.items()
        return {name: f"{float(value):.4g}" for name, value in logged if name.endswith("/loss")}

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """A bar that begins where the run goes on."""
        self.train_progress_bar = bar = self.init_train_tqdm()
        total = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
        self._total = int(total) if math.isfinite(total) else None
        bar.total, bar.initial, bar.n = self._total, trainer.global_step, trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Nothing: the run is one, however many epochs it has."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing, likewise."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Shows how far it has come, if it is time to."""
        step, bar = trainer.global_step, self.train_progress_bar
        self._tell_ahead(step)
        if not bar.disable and self._is_due(self.refresh_seconds, step == self._total):
            bar.n = step
            bar.set_postfix(self.get_metrics(trainer, pl_module))
        elif self._lines and self._is_due(self.line_seconds):
            of = "" if self._total is None else f" of {self._total:,} ({step / self._total:.0%})"
            parts = [f"{name} {value}" for name, value in self.get_metrics(trainer, pl_module).items()]
            logger.info("%s", ", ".join([f"step {step:,}{of}", *parts, *self._speed(step)]))

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """A validation may be longer than the time between two lines."""
        super().on_validation_batch_end(trainer, *args, **kwargs)
        if not trainer.sanity_checking:
            self._count("validation", args[3], self.total_val_batches_current_dataloader)

    def on_test_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Likewise."""
        super().on_test_batch_end(trainer, *args, **kwargs)
        self._count("test", args[3], self.total_test_batches_current_dataloader)

    def on_predict_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Likewise."""
        super().on_predict_batch_end(trainer, *args, **kwargs)
        self._count("predict", args[3], self.total_predict_batches_current_dataloader)

    def _count(self, what: str, batch_idx: int, total: int | float) -> None:
        if self._lines and self._is_due(self.line_seconds):
            logger.info("%s: batch %d of %s", what, batch_idx + 1, total)

    def _is_due(self, seconds: float, at_end: bool = False) -> bool:
        """Whether it is time again; the first time is one such time after the beginning."""
        now = time.monotonic()
        due, self._due = self._due, self._due or now + seconds
        if not at_end and (due == 0.0 or now < due):
            return False
        self._due = now + seconds
        return True

    def _tell_ahead(self, step: int) -> None:
        """Tells once what the run will take; the first step, with all that begins in it, is not measured."""
        if self._begun is None:
            self._begun = time.monotonic(), step
        passed = time.monotonic() - self._begun[0]
        if self._told or passed < self.measure_seconds or step - self._begun[1] < _FIRST_STEPS:
            return
        self._told = True
        if (self._lines or self.is_enabled) and self._seconds_left(step) >= _LONG:
            bar = self.train_progress_bar
            bar.clear()
            logger.info("%s", ", ".join([f"the first steps on this machine: step {step:,}", *self._speed(step)]))
            bar.refresh()

    def _seconds_left(self, step: int) -> float:
        assert self._begun is not None
        since, done = self._begun
        if self._total is None or step == done:
            return 0.0
        return (self._total - step) * (time.monotonic() - since) / (step - done)

    def _speed(self, step: int) -> list[str]:
        assert self._begun is not None
        since, done = self._begun
        if step == done:
            return []
        speed, left = (step - done) / (time.monotonic() - since), self._seconds_left(step)
        told = f"{speed:.3g} steps/s" if speed >= 1 else f"{1 / speed:.3g} s a step"
        return [told] + [f"about {duration_text(left)} left"] * (left > 0)
