"""DDIM sampling of video and sound together, for any denoiser (Song et al., arXiv 2010.02502, in velocity form)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from cmmd_lightning.diffusion.schedule import NoiseSchedule, Schedules, expand_like

Task = Literal["video_to_audio", "audio_to_video", "joint"]
Denoiser = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(z_video (B, C, T, H, W), z_audio (B, M, L), t_video (B,), t_audio (B,)) -> velocities of both."""
Pair = tuple[Tensor, Tensor]
GuidanceFrom = Literal["dropped", "shifted"]


def ddim_times(num_steps: int, device: torch.device | None = None) -> Tensor:
    """Times of a DDIM run, evenly spaced from 1 to 0: (num_steps + 1,).

    Raises:
        ValueError: If ``num_steps`` is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float32, device=device)


def ddim_step(
    schedule: NoiseSchedule,
    z: Tensor,
    v: Tensor,
    t: Tensor,
    s: Tensor,
    ddim_eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """One step from time ``t`` down to time ``s`` (DDIM eq. 12 and 16; with ``ddim_eta`` 0 it is deterministic).

    Args:
        schedule: The noise schedule.
        z: Noisy data at ``t``, (B, ...).
        v: Predicted velocity, like ``z``.
        t: Time now, (B,).
        s: Time after, (B,), below ``t``.
        ddim_eta: Share of fresh noise: 0 is DDIM, 1 is ancestral sampling.
        noise: Standard normal, like ``z``; needed when ``ddim_eta`` is above 0.

    Returns:
        Noisy data at ``s``.
    """
    x = schedule.data_from_velocity(z, v, t)
    eps = schedule.noise_from_velocity(z, v, t)
    alpha_s, sigma_s = (expand_like(f, z) for f in schedule.alpha_sigma(s))
    if ddim_eta == 0.0:
        return alpha_s * x + sigma_s * eps
    if noise is None:
        raise ValueError("ddim_eta above 0 needs noise")
    alpha_t, sigma_t = (expand_like(f, z) for f in schedule.alpha_sigma(t))
    fresh = ddim_eta * (sigma_s / sigma_t) * (1 - (alpha_t / alpha_s) ** 2).clamp(min=0).sqrt()
    kept = (sigma_s**2 - fresh**2).clamp(min=0).sqrt()
    return alpha_s * x + kept * eps + fresh * noise


def guided(
    denoiser: Denoiser,
    task: Task,
    dropped: Pair,
    scale_video: float = 1.0,
    scale_audio: float = 1.0,
    guidance_from: GuidanceFrom = "dropped",
) -> Denoiser:
    """Guidance per modality away from no partner or from a wrong one, all forwards in one batch.

    The velocity of a generated modality becomes v_away + scale (v - v_away). For ``dropped``, v_away is predicted with
    the other modality dropped, that is pure noise at time 1: classifier-free guidance (Ho and Salimans, arXiv
    2207.12598). For ``shifted`` it is predicted with the other modality as it is, at its own time, but rolled by half
    of its length along time: present, and out of sync. A scale of 1 costs nothing; ``joint`` with both scales takes
    three forwards.

    Args:
        denoiser: The plain denoiser.
        task: What is generated.
        dropped: Noise that stands for the dropped video (B, C, T, H, W) and the dropped sound (B, M, L).
        scale_video: Scale for the generated video.
        scale_audio: Scale for the generated sound.
        guidance_from: What it leads away from.

    Returns:
        A denoiser of the same form.

    Raises:
        ValueError: If ``guidance_from`` is unknown.
    """
    if guidance_from not in get_args(GuidanceFrom):
        raise ValueError(
            f"guidance_from must be {' or '.join(map(repr, get_args(GuidanceFrom)))}, got {guidance_from!r}"
        )
    guide_audio = task != "audio_to_video" and scale_audio != 1.0
    guide_video = task != "video_to_audio" and scale_video != 1.0
    if not (guide_audio or guide_video):
        return denoiser

    def away(z: Tensor, t: Tensor, noise: Tensor) -> Pair:
        """The other modality and its time, as v_away sees them; time is dimension 2 of both."""
        if guidance_from == "shifted":
            return z.roll(z.shape[2] // 2, dims=2), t
        return noise, torch.ones_like(t)

    def denoise(z_video: Tensor, z_audio: Tensor, t_video: Tensor, t_audio: Tensor) -> Pair:
        runs = [(z_video, z_audio, t_video, t_audio)]
        if guide_audio:
            other, t_other = away(z_video, t_video, dropped[0])
            runs.append((other, z_audio, t_other, t_audio))
        if guide_video:
            other, t_other = away(z_audio, t_audio, dropped[1])
            runs.append((z_video, other, t_video, t_other))
        batch = [torch.cat(parts) for parts in zip(*runs, strict=True)]
        videos, audios = (out.chunk(len(runs)) for out in denoiser(*batch))
        v_video, v_audio = videos[0], audios[0]
        if guide_audio:
            v_audio = torch.lerp(audios[1], v_audio, scale_audio)
        if guide_video:
            v_video = torch.lerp(videos[-1], v_video, scale_video)
        return v_video, v_audio

    return denoise


def window_starts(total: int, size: int) -> list[int]:
    """First frames of half-overlapping windows of ``size`` that cover ``total`` frames; the last one ends with them.

    Example:
        >>> window_starts(40, 16)
        [0, 8, 16, 24]
        >>> window_starts(42, 16)
        [0, 8, 16, 24, 26]
    """
    return [*range(0, total - size, max(1, size // 2)), total - size]


def windowed(
    denoiser: Denoiser,
    video_starts: list[int],
    audio_starts: list[int],
    sizes: tuple[int, int],
    max_batch: int = 64,
) -> Denoiser:
    """A denoiser for clips longer than it was trained for: overlapping windows, averaged where they overlap.

    Every window is denoised at once and the velocities are averaged with triangular weights, so that neighbouring
    windows settle on one clip (Bar-Tal et al., "MultiDiffusion", arXiv 2302.08113, along time).

    Args:
        denoiser: Denoiser for ``sizes`` frames.
        video_starts: First video frame of each window.
        audio_starts: First Mel frame of each window; as many.
        sizes: Video frames and Mel frames of a window, (T, L).
        max_batch: Windows that go through the denoiser at once.

    Returns:
        A denoiser for whole clips, (B, C, T', H, W) and (B, M, L').
    """
    frames, mels = sizes

    def blend(parts: Tensor, like: Tensor, starts: list[int], dim: int, size: int) -> Tensor:
        ramp = torch.arange(1, size + 1, device=like.device, dtype=like.dtype)
        weight = torch.minimum(ramp, ramp.flip(0)).reshape(-1, *[1] * (like.ndim - dim - 1))
        total, norm = torch.zeros_like(like), torch.zeros_like(like)
        for part, start in zip(parts, starts, strict=True):
            total.narrow(dim, start, size).add_(part * weight)
            norm.narrow(dim, start, size).add_(weight)
        return total / norm.clamp(min=1e-6)

    def denoise(z_video: Tensor, z_audio: Tensor, t_video: Tensor, t_audio: Tensor) -> Pair:
        count, batch = len(video_starts), len(z_video)
        windows_video = torch.cat([z_video.narrow(2, start, frames) for start in video_starts])
        windows_audio = torch.cat([z_audio.narrow(2, start, mels) for start in audio_starts])
        windows = (windows_video, windows_audio, t_video.repeat(count), t_audio.repeat(count))
        parts = [denoiser(*part) for part in zip(*(x.split(max_batch) for x in windows), strict=True)]
        v_video, v_audio = (torch.cat(outputs) for outputs in zip(*parts, strict=True))
        return (
            blend(v_video.reshape(count, batch, *v_video.shape[1:]), z_video, video_starts, 2, frames),
            blend(v_audio.reshape(count, batch, *v_audio.shape[1:]), z_audio, audio_starts, 2, mels),
        )

    return denoise


def ddim_sample(
    denoiser: Denoiser,
    schedule: NoiseSchedule | Schedules,
    video: Tensor,
    audio: Tensor,
    task: Task,
    num_steps: int = 50,
    ddim_eta: float = 0.0,
    noise: Callable[[int], Pair] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Pair:
    """Draw the generated modalities by DDIM; a condition is held clean.

    Args:
        denoiser: Velocity predictor, see `Denoiser`.
        schedule: The noise schedule, of both modalities or one each.
        video: (B, C, T, H, W): clean latents where video is the condition, else standard normal noise.
        audio: (B, M, L): clean normalised log-Mel where sound is the condition, else standard normal noise.
        task: ``video_to_audio``, ``audio_to_video`` or ``joint``.
        num_steps: Denoiser evaluations.
        ddim_eta: Share of fresh noise in each step.
        noise: Gives the fresh noise for step i, (like video, like audio); needed when ``ddim_eta`` is above 0.
        on_step: Called with i after each step, for a progress bar.

    Returns:
        Video latents and log-Mel; a condition comes back as it was given.

    Raises:
        ValueError: If the task is unknown, the batches differ, or noise is missing.
    """
    if task not in ("video_to_audio", "audio_to_video", "joint"):
        raise ValueError(f"task must be 'video_to_audio', 'audio_to_video' or 'joint', got {task!r}")
    if len(video) != len(audio):
        raise ValueError(f"video and audio must have one batch size, got {len(video)} and {len(audio)}")
    schedules, times = Schedules.of(schedule), ddim_times(num_steps, video.device)
    zero = torch.zeros(len(video), dtype=times.dtype, device=video.device)
    for i in range(num_steps):
        t, s = times[i].expand(len(video)), times[i + 1].expand(len(video))
        t_video = zero if task == "video_to_audio" else t
        t_audio = zero if task == "audio_to_video" else t
        v_video, v_audio = denoiser(video, audio, t_video, t_audio)
        fresh: tuple[Tensor | None, Tensor | None] = (None, None) if noise is None or ddim_eta == 0.0 else noise(i)
        if task != "video_to_audio":
            video = ddim_step(schedules.video, video, v_video, t, s, ddim_eta, fresh[0])
        if task != "audio_to_video":
            audio = ddim_step(schedules.audio, audio, v_audio, t, s, ddim_eta, fresh[1])
        if on_step is not None:
            on_step(i)
    return video, audio
