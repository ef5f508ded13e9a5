"""The callback that writes predictions."""

from __future__ import annotations

import logging
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from rich.markup import escape

from cmmd_lightning.models.fingerprint import fingerprint
from cmmd_lightning.prediction.inputs import InputBatch, one_line
from cmmd_lightning.prediction.latent_diffusion import LatentDiffusion
from cmmd_lightning.prediction.outputs import Entry, Generated, Manifest, output_paths, source_state, write_sample
from cmmd_lightning.prediction.requests import GenerationSpec, PredictInput
from cmmd_lightning.version import __version__

logger = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Writes each prediction as soon as it is made, and the manifest after each.

    Inputs whose entry in the manifest of an earlier run still stands (same settings, same weights, source unchanged,
    files there) are not done again; entries of other inputs stay. With several processes each keeps a manifest of its
    own, which the first one merges at the end, or at the start of the next run.

    Args:
        spec: What to generate and where to; the model's ``generation``.
        inputs: The plan, of `plan_inputs`, which the loader has too.
        checkpoint: Path of the model's checkpoint, stated in the manifest.
    """

    def __init__(self, spec: GenerationSpec, inputs: list[PredictInput], checkpoint: str | None = None) -> None:
        self.spec, self.inputs, self.checkpoint = spec, inputs, checkpoint
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
        if trainer.is_global_zero:
            self._show_plan(self.manifest)

    def _show_plan(self, manifest: Manifest) -> None:
        """What will be done, before it is begun."""
        spec, total = self.spec, len(self.inputs)
        if reused := len(manifest.entries):
            logger.info("%s: reused %d of %d inputs, made before", spec.output_dir, reused, total)
        to_do = [item for item in self.inputs if item.stem not in manifest.entries]
        files = sum(len(item.outputs(spec.task)) for item in to_do)
        plan = "%s: %s, %d of %d inputs to do, %d files to write, %d steps each"
        logger.info(plan, spec.output_dir, spec.task, len(to_do), total, files, spec.num_inference_steps)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leaves out what is done; has each result written as it is made."""
        if not isinstance(batch, InputBatch):
            raise TypeError(f"PredictionWriter: expected batches of an InputLoader, got {type(batch).__name__}")
        assert self.manifest is not None
        done = self.manifest.entries
        batch.inputs = [item for item in batch.inputs if item.stem not in done]
        batch.done = lambda result: self._write(result, pl_module)  # type: ignore[arg-type]
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

    def _write(self, result: Generated, module: LatentDiffusion) -> Entry:
        """Writes the files of one input, and its entry into the manifest."""
        began, item, error = time.monotonic(), result.input, result.error
        state, limited = source_state(item.source), []
        assert self.manifest is not None
        try:
            for sample in result.samples:
                what = self.spec.output_dir, self.spec.task, item.source, sample, result.num_frames, module.clip
                limited.append(write_sample(*what))
        except (OSError, ValueError, RuntimeError) as caught:
            logger.debug("writing failed", exc_info=True)
            error = one_line(caught, item.source)
        if error is not None:
            logger.error("%s", error)
        outputs = output_paths(item, self.spec.task, self.spec.output_dir)
        outputs = outputs[: len(limited) * len(outputs) // max(1, len(item.stems))]
        entry = {
            "source": item.source,
            "outputs": outputs,
            **self.manifest.settings,
            "media_seconds": round(result.num_frames / module.clip.fps, 6) if outputs else 0.0,
            "work_seconds": round(result.seconds + time.monotonic() - began, 3),
            "status": error or "ok",
            "condition_error": result.condition_error,
            "clipped_samples": sum(int((s.sound.abs() > 1).sum()) for s in result.samples if s.sound is not None),
            "limited_db": round(max(limited, default=0.0), 2),
            "name": item.stem,
            "checkpoint": self.checkpoint,
            **state,
        }
        self.manifest.add(entry)
        return entry


def show_progress(trainer: Trainer, text: str) -> None:
    """A few words beside the bar of ``predict``, whichever of Lightning's two it is."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar) and bar.is_enabled:
        bar.predict_progress_bar.set_postfix_str(text)
    elif isinstance(bar, RichProgressBar) and bar.progress is not None and bar.predict_progress_bar_id is not None:
        bar.progress.update(bar.predict_progress_bar_id, description=escape(f"{bar.predict_description} ({text})"))
