"""Callbacks: writing predictions, and samples in the logger while training."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.utilities.seed import isolate_rng
from rich.markup import escape
from torch import Tensor

import cmmd_lightning
from cmmd_lightning.data.inputs import InputBatch, one_line
from cmmd_lightning.data.outputs import (
    Entry,
    Generated,
    Manifest,
    fingerprint,
    output_paths,
    source_state,
    write_sample,
)
from cmmd_lightning.data.requests import GenerationSpec, plan_inputs
from cmmd_lightning.diffusion.sampling import Task

if TYPE_CHECKING:
    from cmmd_lightning.latent_diffusion import LatentDiffusion

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
            "version": cmmd_lightning.__version__,
        }
        part = None if trainer.world_size == 1 else trainer.global_rank
        self.manifest = Manifest(spec.output_dir, self.inputs, settings, part)
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


class SampleLogger(Callback):
    """Pictures and sounds of a few fixed validation clips, generated while training, in the logger.

    ``TASK/frames`` has the frames of each clip as a strip, the true ones above the generated ones; ``TASK/mel`` the
    log-Mels likewise, low bands at the bottom; ``TASK/sound_i`` is to be listened to. Under ``joint`` nothing is true.
    Loggers with TensorBoard's ``add_image`` and ``add_audio`` get all of it, those with ``log_image`` the pictures, and
    for others nothing is generated. Weights are those that validation uses, averaged ones where there are such. The
    random state of the training is left alone.

    Args:
        every_n_validations: Generate in every n-th validation.
        num_samples: Clips, from the first validation batch.
        tasks: What to generate.
        num_inference_steps: Denoiser evaluations.
        guidance_scale: Classifier-free guidance; 1 is none.
        seed: Seed of the noise; the same every time.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(
        self,
        every_n_validations: int = 1,
        num_samples: int = 4,
        tasks: tuple[Task, ...] = ("video_to_audio", "audio_to_video", "joint"),
        num_inference_steps: int = 25,
        guidance_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        for name, value in {"every_n_validations": every_n_validations, "num_samples": num_samples}.items():
            if value < 1:
                raise ValueError(f"SampleLogger.{name}: expected at least 1, got {value}")
        self.every_n_validations, self.num_samples, self.tasks = every_n_validations, num_samples, tuple(tasks)
        self.sampling: dict[str, Any] = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "seed": seed,
        }
        self._validations = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Generates from the first batch, while the weights for validation are in place."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or batch_idx > 0 or dataloader_idx > 0:
            return
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations or not trainer.is_global_zero:
            return
        if not any(_takes_samples(one) for one in trainer.loggers):
            return
        with isolate_rng(), torch.no_grad():
            self._log_samples(trainer, pl_module, batch)  # type: ignore[arg-type]

    def _log_samples(self, trainer: Trainer, model: LatentDiffusion, batch: dict[str, Tensor]) -> None:
        video = model.codec.normalize(batch["video_latents"][: self.num_samples])
        mel = model.mel.normalize(batch["mel"][: self.num_samples])
        names = [f"sample {i}" for i in range(len(mel))]
        frames = None
        for task in self.tasks:
            given = (video if task == "video_to_audio" else None), (mel if task == "audio_to_video" else None)
            made_video, made_mel = model.sample(task, *given, video.shape[2], names=names, **self.sampling)
            if task != "video_to_audio":
                frames = model.decode_latents(video) if frames is None else frames
                made = model.decode_latents(made_video)
                _log_picture(trainer, f"{task}/frames", _strips([made] if task == "joint" else [frames, made]))
            if task != "audio_to_video":
                _log_picture(trainer, f"{task}/mel", _spectrograms([made_mel] if task == "joint" else [mel, made_mel]))
                _log_sounds(trainer, f"{task}/sound", model, made_mel)


def _takes_samples(one: Any) -> bool:
    return hasattr(one, "log_image") or hasattr(getattr(one, "experiment", None), "add_image")


def _strips(kinds: list[Tensor]) -> Tensor:
    """Frames (B, 3, T, H, W) in [-1, 1] of each kind as one picture (3, height, width): a row per clip and kind."""
    rows = torch.stack(kinds, dim=1).flatten(0, 1).float()
    return rows.add(1.0).div(2.0).clamp(0, 1).permute(1, 0, 3, 2, 4).flatten(3, 4).flatten(1, 2).cpu()


def _spectrograms(kinds: list[Tensor]) -> Tensor:
    """Normalised log-Mels (B, M, L) of each kind as one grey picture (3, height, width), on the first kind's scale."""
    low, high = kinds[0].min(), kinds[0].max()
    rows = torch.stack(kinds, dim=1).flatten(0, 1).float().flip(1)
    grey = ((rows - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    grey[:, 0] = 0.0  # a line between the rows
    return grey.flatten(0, 1).expand(3, -1, -1).cpu()


def _log_picture(trainer: Trainer, name: str, picture: Tensor) -> None:
    for one in trainer.loggers:
        if hasattr(one, "log_image"):
            one.log_image(key=f"samples/{name}", images=[picture.permute(1, 2, 0).numpy()], step=trainer.global_step)
        elif _takes_samples(one):
            one.experiment.add_image(f"samples/{name}", picture, trainer.global_step)  # type: ignore[attr-defined]


def _log_sounds(trainer: Trainer, name: str, model: LatentDiffusion, mel: Tensor) -> None:
    experiments = [getattr(one, "experiment", None) for one in trainer.loggers]
    takers: list[Any] = [experiment for experiment in experiments if hasattr(experiment, "add_audio")]
    if not takers:
        return
    sounds = model.decode_sound(mel, model.clip.num_samples).float().clamp(-1, 1).cpu()
    for taker in takers:
        for i, sound in enumerate(sounds):
            taker.add_audio(f"samples/{name}_{i}", sound, trainer.global_step, sample_rate=model.clip.sample_rate)
