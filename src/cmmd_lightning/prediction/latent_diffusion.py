"""The latent diffusion of video and sound: codecs, network and sampler together, and the Python API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import lightning.pytorch as pl
import torch
from torch import Tensor

from cmmd_lightning.checkpoints import packaged_checkpoint
from cmmd_lightning.codecs import CodecConfig, LogMel, build_frame_codec, build_vocoder
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.randomness import example_generator
from cmmd_lightning.diffusion.noise import TimeNoise
from cmmd_lightning.diffusion.sampling import (
    Denoiser,
    GuidanceFrom,
    Pair,
    Task,
    ddim_sample,
    guided,
    window_starts,
    windowed,
)
from cmmd_lightning.diffusion.schedule import Schedules
from cmmd_lightning.models.unet import JointUNet, NetworkSpec
from cmmd_lightning.prediction.requests import GenerationSpec

_VOCODER = "vocoder."  # of names of weights
_ENCODE_CHUNK = 128  # frames through the codec at once


class LatentDiffusion(pl.LightningModule):
    """What generates: a frame codec, a log-Mel with its vocoder, the joint network, and DDIM. `CMMD` trains it.

    Args:
        clip: Lengths and rates of a clip.
        network: Size of the joint network.
        codec: The frame codec.
        schedule_shift: See `NoiseSchedule`; one number, or one each for ``video`` and ``audio``.
        vocoder: As for `build_vocoder`. Where a file or a name was given, its weights are taken, whatever a checkpoint
            that is loaded has.
        video_noise: See `TimeNoise`.
    """

    def __init__(
        self,
        clip: ClipSpec,
        network: NetworkSpec,
        codec: CodecConfig,
        schedule_shift: float | Mapping[str, float],
        vocoder: str | dict[str, Any],
        video_noise: TimeNoise | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.clip = ClipSpec.of(clip)
        self.schedules = Schedules.from_shift(schedule_shift)
        self.video_noise = TimeNoise.of(video_noise)
        self.codec = build_frame_codec(codec)
        config = CodecConfig(**codec) if isinstance(codec, Mapping) else codec
        # else its weights are still to come, from a checkpoint
        self._codec_is_known = config.kind == "pixel_unshuffle" or config.path is not None
        self.mel = LogMel(*self.clip.mel_settings)
        self.latent_shape = self.codec.latent_shape(self.clip.height, self.clip.width)
        self.network = JointUNet(self.latent_shape[0], self.clip.n_mels, NetworkSpec.of(network))
        self.generation: GenerationSpec | None = None
        self.vocoder = build_vocoder(vocoder, self.mel)
        self._vocoder_is_known = not isinstance(vocoder, Mapping)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the weights of a vocoder that was given by name."""
        super().on_load_checkpoint(checkpoint)
        for state in ("state_dict", "current_model_state"):
            if self._vocoder_is_known and state in checkpoint:
                checkpoint[state] = self._with_own_vocoder(checkpoint[state])

    def _with_own_vocoder(self, state: Mapping[str, Any]) -> dict[str, Any]:
        own = {f"{_VOCODER}{name}": value for name, value in self.vocoder.state_dict().items()}
        return {**{name: value for name, value in state.items() if not name.startswith(_VOCODER)}, **own}

    @classmethod
    def from_pretrained(cls, name: str, **kwargs: Any) -> Self:
        """The model of a checkpoint, in eval mode.

        Args:
            name: Path of a ``.ckpt`` file, ``demo`` for the packaged one, or a hub repository ``owner/name`` that holds
                ``cmmd.ckpt``.
            kwargs: Passed to ``load_from_checkpoint``.

        Raises:
            FileNotFoundError: If neither is there.
        """
        path = Path(name).expanduser()
        if not path.is_file():
            path = packaged_checkpoint(name) or path
        if not path.is_file():
            if path.suffix == ".ckpt" or name.count("/") != 1:
                raise FileNotFoundError(f"{name}: expected a checkpoint or a hub name, found no such file")
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(name, "cmmd.ckpt"))
        model = cls.load_from_checkpoint(path, map_location="cpu", weights_only=True, **kwargs)
        return model.eval()

    def take_over(self, name: str) -> Self:
        """Takes over the weights and statistics of a checkpoint: its network, codec and Mel, not its vocoder.

        Args:
            name: As for `from_pretrained`.

        Returns:
            The model of the checkpoint, in eval mode.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If it is no checkpoint of such a model, or one of another clip, network, codec or schedule.
        """
        try:
            pretrained = self.from_pretrained(name)
        except FileNotFoundError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{name}: expected a checkpoint of CMMD, got a file that is none ({reason})") from error
        ours, theirs = self._layout(), pretrained._layout()
        other = [key for key in ours if ours[key] != theirs[key] and (self._codec_is_known or key != "codec")]
        if other:
            expected, got = (", ".join(f"{key} {layout[key]}" for key in other) for layout in (ours, theirs))
            raise ValueError(f"{name}: expected a checkpoint with {expected}, got {got}")
        self.load_state_dict(self._with_own_vocoder(pretrained.state_dict()))
        return pretrained

    def _layout(self) -> dict[str, Any]:
        """What two models must agree in for the weights of one to mean the same in the other."""
        network = {key: value for key, value in self.network.spec.to_dict().items() if key != "gradient_checkpointing"}
        parts = {"clip": self.clip.to_dict(), "network": network}
        return {
            **{f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()},
            "schedule_shift": self.schedules.shift,
            "video_noise": self.video_noise.to_dict(),
            "codec": self.codec.fingerprint()[:12],
        }

    @torch.no_grad()
    def encode_frames(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, T, H, W) in [-1, 1] to normalised latents (B, C, T, h, w), the posterior's mean."""
        flat = frames.to(self.device).transpose(1, 2).flatten(0, 1)
        means = [self.codec.encode(part)[0] for part in flat.split(_ENCODE_CHUNK)]
        return self.codec.normalize(torch.cat(means).unflatten(0, (len(frames), -1)).transpose(1, 2))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w) to frames (B, 3, T, H, W) in [-1, 1]."""
        return self.codec.decode_clips(self.codec.denormalize(latents))

    @torch.no_grad()
    def encode_sound(self, sound: Tensor) -> Tensor:
        """Sound (B, N) to normalised log-Mel (B, M, L)."""
        return self.mel.normalize(self.mel(sound.to(self.device)))

    @torch.no_grad()
    def decode_sound(self, mel: Tensor, num_samples: int) -> Tensor:
        """Normalised log-Mel (B, M, L) to sound (B, N) through the vocoder."""
        sound: Tensor = self.vocoder(self.mel.denormalize(mel), num_samples)
        return sound

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
        guidance_from: GuidanceFrom = "dropped",
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
            guidance_scale: Scale of the guidance; 1 is none.
            guidance_from: What guidance leads away from: the other modality ``dropped`` (classifier-free), or
                ``shifted`` by half of its length. See `guided`.
            ddim_eta: Share of fresh noise per step.
            seed: Seed of the noise.
            on_step: Called after each step, for a progress bar.

        Returns:
            Latents and log-Mel, normalised, generated or given.

        Raises:
            ValueError: If T is shorter than the clip, or ``guidance_from`` is unknown.
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
            drawn = [(self.video_noise.draw(shapes[0], g), torch.randn(shapes[1], generator=g)) for g in generators]
            video, mel = (torch.stack(part).to(self.device) for part in zip(*drawn, strict=True))
            return video, mel

        noise_video, noise_mel = noise("start")
        denoiser: Denoiser = self.network
        if num_frames > clip.num_frames:
            starts = window_starts(num_frames, clip.num_frames)
            last = mel_frames - clip.mel_frames  # by rounding not always where the last frame's window would start
            mel_starts = [*(min(clip.mel_index(start), last) for start in starts[:-1]), last]
            denoiser = windowed(denoiser, starts, mel_starts, (clip.num_frames, clip.mel_frames))
        return ddim_sample(
            guided(denoiser, task, noise("dropped"), guidance_scale, guidance_scale, guidance_from),
            self.schedules,
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
            settings: ``num_inference_steps``, ``guidance_scale``, ``guidance_from``, ``ddim_eta``, ``seed``,
                ``on_step``; see `sample`.

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
