"""The callback that generates samples while training, for the logger."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from cmmd_lightning.diffusion.sampling import Task
from cmmd_lightning.prediction.latent_diffusion import LatentDiffusion


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
