"""CMMD: the LightningModule that wires network, objective, codecs and sampler, and the Python API."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from cmmd_lightning.checkpoint import rewind_to_last_step
from cmmd_lightning.codecs import CodecConfig, LogMel, build_frame_codec, build_vocoder, resolved
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.inputs import InputBatch
from cmmd_lightning.data.randomness import example_generator
from cmmd_lightning.diffusion.objective import (
    Draws,
    Errors,
    ObjectiveSpec,
    contrastive_loss,
    diffusion_loss,
    draw_example,
    measure_errors,
    stack_draws,
)
from cmmd_lightning.diffusion.sampling import Denoiser, Pair, Task, ddim_sample, guided, window_starts, windowed
from cmmd_lightning.diffusion.schedule import NoiseSchedule
from cmmd_lightning.generation import GenerationSpec, generate
from cmmd_lightning.metrics.functional.events import event_scores
from cmmd_lightning.metrics.functional.motion import detect_motion_turns
from cmmd_lightning.metrics.functional.onsets import detect_onsets
from cmmd_lightning.models.unet import JointUNet, NetworkSpec

_ENCODE_CHUNK = 128  # frames through the codec at once


class CMMD(pl.LightningModule):
    """Contrastive multi-modal diffusion (arXiv 2312.05412): one model for video to sound, sound to video, and both.

    Letters in shapes: B examples, T frames of H x W pixels, C latent channels of h x w, M Mel bands, L Mel frames, N
    sound samples, K wrong partners. A batch is a dict of ``video_latents`` (B, C, T, h, w) and ``mel`` (B, M, L) as the
    codecs give them, not normalised; with ``video_negatives`` (B, K, C, T, h, w) and ``mel_negatives`` (B, K, M, L) the
    contrastive term acts; ``position`` and ``index`` (B,), the place in the training stream, decide all randomness.

    Args:
        clip: Lengths and rates of a clip.
        network: Size of the joint network.
        codec: The frame codec; a path is read once, its weights then live in the checkpoint.
        objective: Settings of the loss.
        schedule_shift: See `NoiseSchedule`; below 1 for large latents.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        warmup_steps: Steps of linear warm-up.
        decay: ``constant`` after the warm-up, or ``cosine`` down to zero at the trainer's last step.
        vocoder: ``griffin_lim``, or ``vocos:NAME`` with a hub name or path.
        seed: Seed of everything random in training.

    Example:
        >>> model = CMMD(clip=ClipSpec(height=32, width=32), network=NetworkSpec((32, 32), (32, 32)))
        >>> model.video_to_audio(torch.zeros(1, 3, 16, 32, 32), num_inference_steps=2).shape
        torch.Size([1, 25600])
    """

    def __init__(
        self,
        clip: ClipSpec = ClipSpec(),
        network: NetworkSpec = NetworkSpec(),
        codec: CodecConfig = CodecConfig(),
        objective: ObjectiveSpec = ObjectiveSpec(),
        schedule_shift: float = 1.0,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        decay: Literal["constant", "cosine"] = "constant",
        vocoder: str = "griffin_lim",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.clip, self.objective = ClipSpec.of(clip), ObjectiveSpec.of(objective)
        network = NetworkSpec.of(network)
        self.schedule = NoiseSchedule(schedule_shift)
        self.codec = build_frame_codec(codec)
        self.mel = LogMel(*self.clip.mel_settings)
        self.latent_shape = self.codec.latent_shape(self.clip.height, self.clip.width)
        self.network = JointUNet(self.latent_shape[0], self.clip.n_mels, network)
        self.generation: GenerationSpec | None = None
        self._vocoder: torch.nn.Module | None = None
        # plain types only, so that checkpoints load with weights_only=True
        self.save_hyperparameters(
            {
                "_class_path": "cmmd_lightning.CMMD",
                "clip": self.clip.to_dict(),
                "network": network.to_dict(),
                "codec": resolved(self.codec).to_dict(),
                "objective": self.objective.to_dict(),
                "schedule_shift": schedule_shift,
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "warmup_steps": warmup_steps,
                "decay": decay,
                "vocoder": vocoder,
                "seed": seed,
            }
        )

    # ---- training

    def setup(self, stage: str) -> None:
        """Takes over the statistics that the data module measured, before a fit."""
        statistics = getattr(getattr(self.trainer, "datamodule", None), "statistics", None)
        if stage == "fit" and statistics is not None:
            statistics.apply(self.codec, self.mel)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A resumed run goes on after the last whole optimiser step."""
        if self._trainer is not None:
            rewind_to_last_step(checkpoint, self.trainer.accumulate_grad_batches)

    def configure_optimizers(self) -> Any:
        """AdamW over the network, with warm-up and, if wanted, cosine decay."""
        settings = self.hparams
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, settings["learning_rate"], weight_decay=settings["weight_decay"])
        warmup, total = settings["warmup_steps"], self.trainer.max_steps
        if settings["decay"] == "cosine" and total < 1:
            raise ValueError("decay='cosine' needs the trainer's max_steps")

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / (warmup + 1))
            if settings["decay"] == "constant":
                return rise
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _draws(self, batch: dict[str, Tensor], batch_idx: int) -> Draws:
        """Everything random of a batch: from (seed, position, index) and nothing else."""
        video, mel = batch["video_latents"], batch["mel"]
        first = self.global_rank * len(mel)
        positions = batch["position"].tolist() if "position" in batch else [batch_idx] * len(mel)
        indices = batch["index"].tolist() if "index" in batch else range(first, first + len(mel))
        draws = [
            draw_example(
                example_generator(self.hparams["seed"], position, index, "diffusion"),
                self.objective,
                index,
                video.shape[1:],
                mel.shape[1:],
            )
            for position, index in zip(positions, indices, strict=True)
        ]
        return stack_draws(draws).to(self.device)

    def _errors(self, batch: dict[str, Tensor], draws: Draws, with_negatives: bool) -> Errors:
        data = self.codec.normalize(batch["video_latents"]), self.mel.normalize(batch["mel"])
        negatives: Pair | None = None
        if with_negatives and "video_negatives" in batch:
            wrong_video, wrong_mel = batch["video_negatives"], batch["mel_negatives"]
            negatives = (
                self.codec.normalize(wrong_video.flatten(0, 1)).unflatten(0, wrong_video.shape[:2]),
                self.mel.normalize(wrong_mel),
            )
        return measure_errors(self.network, self.schedule, data, negatives, draws, self.objective.form)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """L_diffusion + eta L_contrastive; logs each modality's loss on true pairs, on negatives, and the gap."""
        draws = self._draws(batch, batch_idx)
        errors = self._errors(batch, draws, self.objective.contrastive_weight > 0)
        diffusion, contrastive = diffusion_loss(errors, draws), contrastive_loss(errors, self.objective)
        loss = diffusion + self.objective.contrastive_weight * contrastive
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(errors.video))
        self.log("train/diffusion", diffusion.detach(), batch_size=len(errors.video))
        self.log("train/contrastive", contrastive.detach(), batch_size=len(errors.video))
        self._log_errors("train", errors, draws)
        return loss

    def _log_errors(self, stage: str, errors: Errors, draws: Draws) -> None:
        for name, error, generated, rows, negative in (
            ("video", errors.video, draws.generates_video, errors.video_rows, errors.video_negative),
            ("audio", errors.audio, draws.generates_audio, errors.audio_rows, errors.audio_negative),
        ):
            values = {"": error[generated].detach()}
            if len(rows):
                wrong = negative.detach().mean(1)
                values |= {"_negative": wrong, "_gap": wrong - error[rows].detach()}
            for suffix, value in values.items():
                if len(value):
                    # rank-local on purpose: a rank may have no example of a kind, and then would not join a reduction
                    self.log(f"{stage}/{name}{suffix}", value.mean(), batch_size=len(value))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """The same losses on held-out clips with fixed draws; wrong partners always measured."""
        self._evaluation_step("val", batch, batch_idx)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """As `validation_step`, and the synchrony of what is generated for the clips (25 steps, guidance 2).

        Onsets of generated sound against those of the true sound through the same vocoder; turns of motion in generated
        frames against those of the true frames through the same codec. `cmmd evaluate` measures files, with floors.
        """
        self._evaluation_step("test", batch, batch_idx)
        video, mel = self.codec.normalize(batch["video_latents"]), self.mel.normalize(batch["mel"])
        names = [str(i) for i in batch["index"].tolist()]
        tasks: tuple[Task, Task] = ("video_to_audio", "audio_to_video")
        for task in tasks:
            given = (video, None) if task == "video_to_audio" else (None, mel)
            settings: dict[str, Any] = {"names": names, "num_inference_steps": 25, "guidance_scale": 2.0}
            drawn = self.sample(task, given[0], given[1], video.shape[2], **settings)
            pairs = zip(self._events(task, (video, mel)), self._events(task, drawn), strict=True)
            scores = [event_scores(true, generated, 0.1).f1 for true, generated in pairs]
            value = sum(scores) / len(scores)
            self.log(f"test/{task}/event_f1@100ms", value, sync_dist=True, batch_size=len(scores))

    def _events(self, task: Task, pair: Pair) -> list[Tensor]:
        """Events in the generated modality of each example, in seconds."""
        clip = self.clip
        if task == "video_to_audio":
            return [detect_onsets(x, clip.sample_rate) for x in self.decode_sound(pair[1], clip.num_samples)]
        return [detect_motion_turns(x.transpose(0, 1), clip.fps) for x in self.decode_latents(pair[0])]

    def _evaluation_step(self, stage: str, batch: dict[str, Tensor], batch_idx: int) -> None:
        draws = self._draws(batch, batch_idx)
        errors = self._errors(batch, draws, with_negatives=True)
        self.log(
            f"{stage}/loss", diffusion_loss(errors, draws), prog_bar=True, sync_dist=True, batch_size=len(errors.video)
        )
        self._log_errors(stage, errors, draws)

    # ---- generation

    def predict_step(self, batch: InputBatch, batch_idx: int) -> list[Any]:
        """Generates for a batch of input files as `generation` says; `PredictionWriter` writes each as it is made."""
        return batch.consume(generate(self, batch, self.generation))

    @property
    def vocoder(self) -> torch.nn.Module:
        """Log-Mel to sound; built at its first use, and never part of the checkpoint."""
        if self._vocoder is None:
            self.__dict__["_vocoder"] = build_vocoder(self.hparams["vocoder"], self.mel).to(self.device)
        return self._vocoder  # type: ignore[return-value]

    @classmethod
    def from_pretrained(cls, name: str, **kwargs: Any) -> CMMD:
        """The model of a checkpoint, in eval mode.

        Args:
            name: Path of a ``.ckpt`` file, or a hub repository ``owner/name`` that holds ``cmmd.ckpt``.
            kwargs: Passed to ``load_from_checkpoint``.

        Raises:
            FileNotFoundError: If neither is there.
        """
        path = Path(name).expanduser()
        if not path.is_file():
            if path.suffix == ".ckpt" or name.count("/") != 1:
                raise FileNotFoundError(f"{name}: expected a checkpoint or a hub name, found no such file")
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(name, "cmmd.ckpt"))
        model = cls.load_from_checkpoint(path, map_location="cpu", weights_only=True, **kwargs)
        return model.eval()

    @torch.no_grad()
    def encode_frames(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, T, H, W) in [-1, 1] to normalised latents (B, C, T, h, w), the posterior's mean."""
        flat = frames.to(self.device).transpose(1, 2).flatten(0, 1)
        means = [self.codec.encode(part)[0] for part in flat.split(_ENCODE_CHUNK)]
        return self.codec.normalize(torch.cat(means).unflatten(0, (len(frames), -1)).transpose(1, 2))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w) to frames (B, 3, T, H, W) in [-1, 1]."""
        flat = self.codec.denormalize(latents).transpose(1, 2).flatten(0, 1)
        frames = [self.codec.decode(part) for part in flat.split(_ENCODE_CHUNK)]
        return torch.cat(frames).unflatten(0, (len(latents), -1)).transpose(1, 2)

    @torch.no_grad()
    def encode_sound(self, sound: Tensor) -> Tensor:
        """Sound (B, N) to normalised log-Mel (B, M, L)."""
        return self.mel.normalize(self.mel(sound.to(self.device)))

    @torch.no_grad()
    def decode_sound(self, mel: Tensor, num_samples: int) -> Tensor:
        """Normalised log-Mel (B, M, L) to sound (B, N) through the vocoder."""
        return self.vocoder(self.mel.denormalize(mel), num_samples)

    @torch.no_grad()
    def sample(
        self,
        task: Task,
        video: Tensor | None,
        mel: Tensor | None,
        num_frames: int,
        *,
        names: Sequence[str],
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        ddim_eta: float = 0.0,
        seed: int = 0,
        on_step: Callable[[int], None] | None = None,
    ) -> Pair:
        """Draws in latent space; clips longer than `ClipSpec` are covered by overlapping windows.

        Args:
            task: What to generate.
            video: Normalised latents (B, C, T, h, w) where video is the condition.
            mel: Normalised log-Mel (B, M, L) where sound is the condition.
            num_frames: T, at least the clip's.
            names: One name per example; noise follows from (seed, name), so a batch and single runs agree.
            num_inference_steps: Denoiser evaluations.
            guidance_scale: Classifier-free guidance; 1 is none.
            ddim_eta: Share of fresh noise per step.
            seed: Seed of the noise.
            on_step: Called after each step, for a progress bar.

        Returns:
            Latents and log-Mel, normalised, generated or given.

        Raises:
            ValueError: If T is shorter than the clip.
        """
        clip = self.clip
        if num_frames < clip.num_frames:
            raise ValueError(
                f"expected at least {clip.num_frames} frames ({clip.duration:g} s, the model's clip), got {num_frames}"
            )
        channels, height, width = self.latent_shape
        mel_frames = clip.mel_frames_of(clip.samples_of(num_frames))
        shapes = (channels, num_frames, height, width), (clip.n_mels, mel_frames)

        def noise(purpose: str) -> Pair:
            generators = [example_generator(seed, -1, 0, f"{purpose}/{name}") for name in names]
            video, mel = (
                torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.device) for shape in shapes
            )
            return video, mel

        noise_video, noise_mel = noise("start")
        denoiser: Denoiser = self.network
        if num_frames > clip.num_frames:
            starts = window_starts(num_frames, clip.num_frames)
            last = mel_frames - clip.mel_frames  # by rounding not always where the last frame's window would start
            mel_starts = [*(min(clip.mel_index(start), last) for start in starts[:-1]), last]
            denoiser = windowed(denoiser, starts, mel_starts, (clip.num_frames, clip.mel_frames))
        return ddim_sample(
            guided(denoiser, task, noise("dropped"), guidance_scale, guidance_scale),
            self.schedule,
            noise_video if video is None else video.to(self.device),
            noise_mel if mel is None else mel.to(self.device),
            task,
            num_inference_steps,
            ddim_eta,
            lambda i: noise(f"step {i}"),
            on_step,
        )

    def video_to_audio(self, frames: Tensor, names: Sequence[str] | None = None, **settings: Any) -> Tensor:
        """Sound for frames.

        Args:
            frames: (B, 3, T, H, W) in [-1, 1], at the clip's rate and size; T at least the clip's.
            names: Names of the examples, for their noise; by default their places in the batch.
            settings: ``num_inference_steps``, ``guidance_scale``, ``ddim_eta``, ``seed``, ``on_step``; see `sample`.

        Returns:
            (B, N) in [-1, 1], exactly as long as the frames.
        """
        names = names or [str(i) for i in range(len(frames))]
        count = frames.shape[2]
        _, mel = self.sample("video_to_audio", self.encode_frames(frames), None, count, names=names, **settings)
        return self.decode_sound(mel, self.clip.samples_of(count))

    def audio_to_video(self, sound: Tensor, names: Sequence[str] | None = None, **settings: Any) -> Tensor:
        """Frames for sound.

        Args:
            sound: (B, N), mono in [-1, 1], at the clip's sample rate; N at least the clip's.
            names: As in `video_to_audio`.
            settings: As in `video_to_audio`.

        Returns:
            (B, 3, T, H, W) in [-1, 1]; T whole frames, the sound's rest is left uncovered.
        """
        names = names or [str(i) for i in range(len(sound))]
        count = self.clip.frames_in(sound.shape[1] / self.clip.sample_rate)
        mel = self.encode_sound(sound[:, : self.clip.samples_of(count)])
        video, _ = self.sample("audio_to_video", None, mel, count, names=names, **settings)
        return self.decode_latents(video)

    def joint(
        self, num_samples: int = 1, num_frames: int | None = None, names: Sequence[str] | None = None, **settings: Any
    ) -> Pair:
        """Frames and sound together.

        Args:
            num_samples: Examples B.
            num_frames: T; by default the clip's.
            names: As in `video_to_audio`.
            settings: As in `video_to_audio`.

        Returns:
            Frames (B, 3, T, H, W) in [-1, 1] and sound (B, N).
        """
        names = names or [str(i) for i in range(num_samples)]
        count = num_frames or self.clip.num_frames
        video, mel = self.sample("joint", None, None, count, names=names, **settings)
        return self.decode_latents(video), self.decode_sound(mel, self.clip.samples_of(count))
