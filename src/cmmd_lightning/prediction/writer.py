"""The callback that writes predictions."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich.markup import escape

from cmmd_lightning.models.fingerprint import fingerprint
from cmmd_lightning.prediction.inputs import InputBatch, one_line
from cmmd_lightning.prediction.latent_diffusion import LatentDiffusion
from cmmd_lightning.prediction.outputs import Entry, Generated, Manifest, output_paths, source_state, write_sample
from cmmd_lightning.prediction.requests import GenerationSpec, plan_inputs
from cmmd_lightning.version import __version__

logger = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Writes each prediction as soon as it is made, and the manifest after each.

    Inputs whose entry in the manifest of an earlier run still stands (same settings, same weights, source unchanged,
    files there) are not done again; entries of other inputs stay. With several processes each keeps a manifest of its
    own, which the first one merges at the end, or at the start of the next run.

    Args:
        spec: What to generate, from what and where to; the model's ``generation``.
        checkpoint: Path of the model's checkpoint, stated in the manifest.

    Raises:
        ValueError: If inputs are missing, two have one stem, or an output would overwrite an input.
    """

    def __init__(self, spec: GenerationSpec, checkpoint: str | None = None) -> None:
        self.spec, self.checkpoint = spec, checkpoint
        self.inputs = plan_inputs(spec)
        self.manifest: Manifest | None = None

    @property
    def failed(self) -> list[str]:
        """The status of each input that failed, in one line each."""
        return [] if self.manifest is None else self.manifest.failed

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes over what an earlier run left."""
        spec, barrier = self.spec, trainer.strategy.barrier
        settings = {
            "task": spec.task,
            "seed": spec.seed,
            "steps": spec.num_inference_steps,
            "guidance_scale": spec.guidance_scale,
            "guidance_from": spec.guidance_from,
            "ddim_eta": spec.ddim_eta,
            "model": fingerprint(pl_module),
            "version": __version__,
        }
        part = None if trainer.world_size == 1 else trainer.global_rank
        self.manifest = Manifest(spec.output_dir, self.inputs, settings, part)
        if not spec.overwrite:
            self.manifest.refuse_other_run()
            barrier("PredictionWriter.checked")
        if trainer.is_global_zero:
            self.manifest.begin()
        barrier("PredictionWriter.start")
        if not trainer.is_global_zero:
            self.manifest.join()
        barrier("PredictionWriter.started")
        reused = len(self.manifest.entries)
        if reused and trainer.is_global_zero:
            logger.info("%s: reused %d of %d inputs, made before", spec.output_dir, reused, len(self.inputs))

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leaves out what is done; has each result written as it is made."""
        if not isinstance(batch, InputBatch):
            raise TypeError(f"PredictionWriter: expected batches of predict_dataloader, got {type(batch).__name__}")
        assert self.manifest is not None
        done = self.manifest.entries
        batch.inputs = [item for item in batch.inputs if item.stem not in done]
        batch.consume = lambda results: self._write(results, pl_module)  # type: ignore[arg-type]
        batch.on_progress = lambda text: show_progress(trainer, text)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges the manifests of several processes, and tells how it went."""
        assert self.manifest is not None
        self.manifest.save()
        trainer.strategy.barrier("PredictionWriter.end")
        if trainer.is_global_zero:
            self.manifest.merge()
            done, failed = len(self.manifest.entries) - len(self.failed), len(self.failed)
            logger.info("%s: %d of %d inputs done, %d failed", self.spec.output_dir, done, len(self.inputs), failed)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keeps what is done."""
        if self.manifest is not None:
            self.manifest.save()
            done, total = len(self.manifest.entries) - len(self.failed), len(self.inputs)
            logger.warning("%s: stopped after %d of %d inputs, which are kept", self.spec.output_dir, done, total)

    # ---- entries

    def _write(self, results: Iterable[Generated], module: LatentDiffusion) -> list[Entry]:
        assert self.manifest is not None
        entries = []
        for result in results:
            entries.append(self._written(result, module))
            self.manifest.add(entries[-1])
        return entries

    def _written(self, result: Generated, module: LatentDiffusion) -> Entry:
        """Writes the files of one input and gives its entry."""
        began, item, error = time.monotonic(), result.input, result.error
        state, done = source_state(item.source), 0
        assert self.manifest is not None
        try:
            for sample in result.samples:
                write_sample(self.spec.output_dir, self.spec.task, item.source, sample, result.num_frames, module.clip)
                done += 1
        except (OSError, ValueError, RuntimeError) as caught:
            logger.debug("writing failed", exc_info=True)
            error = one_line(caught, item.source)
        if error is not None:
            logger.error("%s", error)
        outputs = output_paths(item, self.spec.task, self.spec.output_dir)
        outputs = outputs[: done * len(outputs) // max(1, len(item.stems))]
        return {
            "source": item.source,
            "outputs": outputs,
            **self.manifest.settings,
            "media_seconds": round(result.num_frames / module.clip.fps, 6) if outputs else 0.0,
            "work_seconds": round(result.seconds + time.monotonic() - began, 3),
            "status": error or "ok",
            "condition_error": result.condition_error,
            "clipped_samples": sum(int((s.sound.abs() > 1).sum()) for s in result.samples if s.sound is not None),
            "name": item.stem,
            "checkpoint": self.checkpoint,
            **state,
        }


def show_progress(trainer: Trainer, text: str) -> None:
    """A few words beside the bar of ``predict``, whichever of Lightning's two it is."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        bar.predict_progress_bar.set_postfix_str(text)
    elif isinstance(bar, RichProgressBar) and bar.progress is not None and bar.predict_progress_bar_id is not None:
        bar.progress.update(bar.predict_progress_bar_id, description=escape(f"{bar.predict_description} ({text})"))
