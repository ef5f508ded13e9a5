"""Watch: a run whose loss or gradient goes wrong is stopped, and its checkpoints stay good."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from cmmd_lightning.training.checkpoint import StepCheckpoint

_SHOWN = 4  # sources named in the message


class TrainingStoppedError(ValueError):
    """A run was stopped because its loss or its gradient went wrong; the message says where."""


@dataclass
class _Step:
    """What is kept of a step until it is judged."""

    number: int
    batches: list[Any]
    values: Tensor  # loss and gradient norm, (2,), on the device


class Watch(Callback):
    """Stops the training where the loss or the gradient is not finite, or where the loss spikes and stays up.

    It logs ``train/grad_norm`` (before clipping), and otherwise leaves the training as it is. It raises
    `TrainingStoppedError`, on all processes at the same step, with one line: the global step and the place in the
    training stream, the values, the process and the examples where the loss went wrong (those with bad numbers in them,
    if there are any), and the last good checkpoint.

    What went wrong never reaches a checkpoint:

    - Steps are judged before the optimiser acts on them. With ``every_n_steps`` of 1 the bad step is not done, and
      `StepCheckpoint` writes the state just before it.
    - On a GPU, looking at a value makes the processor wait. With ``every_n_steps`` of n, n steps are judged together:
      bad weights may exist for some steps, but all steps are judged before any checkpoint is written (other than by
      Lightning's ``save_weights_only``), and such a state is not. The last good checkpoint is then an earlier one.
    - While the loss is up, and may turn out to be a spike, `StepCheckpoint` does not write.

    Losses are means over processes; gradient norms are those after the exchange of gradients. Under ``16-mixed``
    infinite gradients are the loss scaler's daily business, and only the loss is judged.

    Args:
        every_n_steps: Steps judged together.
        nonfinite: Whether to stop at a loss or gradient that is NaN or infinite.
        spike_factor: A loss above this many times the running median is up; None looks for no spikes.
        window: Steps of that median; until there are so many, or where it is not above 0, nothing is up.
        patience: So many steps up, one after the other, are a spike. A single bad batch is none.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        every_n_steps: int = 1,
        nonfinite: bool = True,
        spike_factor: float | None = 5.0,
        window: int = 200,
        patience: int = 10,
    ) -> None:
        if spike_factor is not None and spike_factor <= 1:
            raise ValueError(f"Watch.spike_factor: expected more than 1, or null for none, got {spike_factor}")
        if min(every_n_steps, patience) < 1 or window < 2 * patience:
            raise ValueError(
                "Watch: expected every_n_steps and patience of at least 1 and a window of twice the patience, "
                f"got {every_n_steps}, {patience} and {window}"
            )
        self.every_n_steps, self.nonfinite = every_n_steps, nonfinite
        self.spike_factor, self.window, self.patience = spike_factor, window, patience
        self._losses: deque[float] = deque(maxlen=window)
        self._up = 0
        self._begin()

    def _begin(self) -> None:
        self._steps: list[_Step] = []
        self._batches: list[Any] = []
        self._loss: Tensor | None = None
        self._bad: TrainingStoppedError | None = None
        self._trainer: Trainer | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit; `StepCheckpoint` is told whom to ask."""
        self._begin()
        if stage == "fit":
            self._trainer = trainer
            for saver in trainer.checkpoint_callbacks:
                if isinstance(saver, StepCheckpoint):
                    saver.is_good = self._is_good

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keeps the batch until its step is judged."""
        self._batches.append(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keeps the loss; of accumulated batches, their mean."""
        self._loss = loss.detach().float() + (0.0 if self._loss is None else self._loss)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measures the gradient; judges, every so many steps."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        pl_module.log("train/grad_norm", norm)
        loss = norm.new_tensor(math.nan) if self._loss is None else self._loss
        self._steps.append(_Step(trainer.global_step, self._batches, torch.stack([loss, norm.to(loss)])))
        self._batches, self._loss = [], None
        if len(self._steps) >= self.every_n_steps:
            self._judge_all()

    def state_dict(self) -> dict[str, Any]:
        """The losses of the median, for an exact resume.

        Raises:
            TrainingStoppedError: If the state that is about to be saved is not good.
        """
        if self._bad is None:
            self._judge_all()
        if self._bad is not None:
            raise self._bad
        return {"losses": list(self._losses), "up": self._up}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the losses of a checkpoint."""
        self._losses = deque(state_dict["losses"], maxlen=self.window)
        self._up = state_dict["up"]

    # ---- judging

    def _is_good(self) -> bool:
        """Whether the state is fit to be kept, as far as all steps until now can tell."""
        if self._bad is None:
            self._judge_all()
        return self._bad is None and self._up == 0

    def _judge_all(self) -> None:
        """Judges the steps that wait for it, on all processes together.

        Raises:
            TrainingStoppedError: At the first bad one.
        """
        trainer, steps = self._trainer, self._steps
        if trainer is None or not steps:
            return
        self._steps = []
        own = torch.stack([step.values for step in steps])
        shared = trainer.strategy.reduce(own.clone(), reduce_op="mean")
        for step, (loss, norm), (own_loss, _) in zip(steps, shared.tolist(), own.tolist(), strict=True):
            if self.nonfinite and not (math.isfinite(loss) and (math.isfinite(norm) or _scales_losses(trainer))):
                what = f"loss {loss:g}, gradient norm {norm:g}"
                elsewhere = math.isfinite(own_loss) and not math.isfinite(loss)
                self._stop(trainer, step, step.number, what, elsewhere)
            self._follow(trainer, step, loss, norm)

    def _follow(self, trainer: Trainer, step: _Step, loss: float, norm: float) -> None:
        """Takes one more loss, and looks for a spike."""
        if not math.isfinite(loss):
            return
        usual = median(self._losses) if len(self._losses) == self.window else 0.0
        is_up = self.spike_factor is not None and usual > 0 and loss > self.spike_factor * usual
        self._up = self._up + 1 if is_up else 0
        self._losses.append(loss)
        if self._up >= self.patience:
            what = (
                f"loss {loss:g}, above {self.spike_factor:g} times its median of {usual:g} for {self._up} steps, "
                f"gradient norm {norm:g}"
            )
            self._stop(trainer, step, step.number - self._up + 1, what, False)

    def _stop(self, trainer: Trainer, step: _Step, first_bad: int, what: str, elsewhere: bool) -> None:
        """Writes the state if the optimiser has not acted on anything bad, and raises."""
        examples = [] if elsewhere else [_examples(trainer, step.batches)]
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, examples)
            examples = [f"process {rank}: {text}" for rank, texts in enumerate(gathered) for text in texts]
        savers = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
        acted = first_bad < trainer.global_step
        for saver in savers:
            if isinstance(saver, StepCheckpoint) and not acted:
                saver.save_now(trainer)
        kept = [(s._last_global_step_saved, s.last_model_path or s._last_checkpoint_saved) for s in savers]
        at, path = max([one for one in kept if one[1]], default=(0, ""))
        place = f", batch position {_positions(step.batches)}" if _positions(step.batches) else ""
        good = f"last good checkpoint: {path}{f' (step {at})' if at else ''}" if path else "no checkpoint yet"
        error = TrainingStoppedError(
            "; ".join([f"training stopped at global step {step.number}{place}: {what}", *examples, good])
        )
        self._bad = error if acted else None
        raise error


def _scales_losses(trainer: Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _positions(batches: list[Any]) -> str:
    """Places of batches in the training stream."""
    found = [int(batch["position"][0]) for batch in batches if isinstance(batch, Mapping) and "position" in batch]
    return "" if not found else str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _examples(trainer: Trainer, batches: list[Any]) -> str:
    """Examples with bad numbers in them; where there are none, all; with their sources, if these are known."""
    rows = [(batch, row) for batch in batches for row in range(_length(batch))]
    faulty = [(batch, row) for batch, row in rows if not _is_finite(batch, row)]
    chosen = faulty or rows
    names = [_name(trainer, *one) for one in chosen[:_SHOWN]]
    rest = [f"{len(chosen) - _SHOWN} more"] if len(chosen) > _SHOWN else []
    return f"input {'not ' if faulty else ''}finite: {', '.join(names + rest) or 'examples unknown'}"


def _length(batch: Any) -> int:
    return len(batch["index"]) if isinstance(batch, Mapping) and "index" in batch else 0


def _is_finite(batch: Mapping[str, Tensor], row: int) -> bool:
    tensors = [value for value in batch.values() if isinstance(value, Tensor) and value.is_floating_point()]
    return all(bool(value[row].isfinite().all()) for value in tensors)


def _name(trainer: Trainer, batch: Mapping[str, Tensor], row: int) -> str:
    """Index of an example in the global batch, its source, and where in it."""
    text = f"index {int(batch['index'][row])}"
    sources = getattr(getattr(trainer.train_dataloader, "dataset", None), "sources", None)
    if sources is None or "source" not in batch:
        return text
    start = f" at {float(batch['start'][row]):.2f} s" if "start" in batch else ""
    return f"{text} ({sources[int(batch['source'][row])].key}{start})"
