"""How well a model knows the clip that it is given: what tells clips unlike those that it was trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cmmd_lightning.data.randomness import example_generator
from cmmd_lightning.diffusion.sampling import window_starts
from cmmd_lightning.prediction.latent_diffusion import LatentDiffusion

_WINDOWS = 4  # of a long clip, at most
_NOISE = 0.9  # share of the power that is noise


@torch.no_grad()
def condition_error(model: LatentDiffusion, video: Tensor | None, mel: Tensor | None, name: str) -> float:
    """Error of the velocity where a condition is nine tenths noise, the other modality dropped.

    1 is what the best linear denoiser of normalised data has, which knows of the training clips no more than their mean
    and variance; a model that denoises a clip worse than that has not seen the like of it.

    Args:
        model: The model.
        video: Normalised latents (1, C, T, h, w), where video is the condition.
        mel: Normalised log-Mel (1, M, L), where sound is.
        name: What the noise follows from.

    Returns:
        The mean square, over at most four windows of the clip.
    """
    clip, generator = model.clip, example_generator(0, -1, 0, f"condition/{name}")
    clean, length = (video, clip.num_frames) if video is not None else (mel, clip.mel_frames)
    assert clean is not None
    starts = window_starts(clean.shape[2], length)
    starts = starts[:: math.ceil(len(starts) / _WINDOWS)]
    clean = torch.cat([clean[:, :, start : start + length] for start in starts])
    channels, height, width = model.latent_shape
    video_shape, mel_shape = (channels, clip.num_frames, height, width), (clip.n_mels, clip.mel_frames)
    video_noise = torch.stack([model.video_noise.draw(video_shape, generator) for _ in starts]).to(clean)
    mel_noise = torch.randn(len(starts), *mel_shape, generator=generator).to(clean)
    is_video = video is not None
    schedule = model.schedules.video if is_video else model.schedules.audio
    time = 2 / math.pi * math.atan(schedule.shift * math.sqrt(_NOISE / (1 - _NOISE)))  # where sigma^2 is that share
    t, one = clean.new_full((len(starts),), time), clean.new_ones(len(starts))
    noise = video_noise if is_video else mel_noise
    noisy = schedule.add_noise(clean, noise, t)
    velocity = model.denoise(*((noisy, mel_noise, t, one) if is_video else (video_noise, noisy, one, t)))
    return float((velocity[0 if is_video else 1] - schedule.velocity(clean, noise, t)).square().mean())
