"""What is drawn for a training example: its task, times, roles and noise.

Tasks are numbered by their place in `TASKS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmmd_lightning.diffusion.objective_spec import ObjectiveSpec

TASKS = ("joint", "video_to_audio", "audio_to_video")
JOINT, VIDEO_TO_AUDIO, AUDIO_TO_VIDEO = range(3)


@dataclass(frozen=True)
class Draws:
    """What is drawn for each example of a batch; B examples.

    Args:
        t_video: Time of the video, (B,); 0 where it is the condition, 1 where it is dropped.
        t_audio: Time of the sound, (B,); likewise.
        generates_video: (B,) bool, true where the video is in the loss.
        generates_audio: (B,) bool, true where the sound is in the loss.
        contrastive: (B,) bool, true where the contrastive term is measured.
        noise_video: Standard normal, (B, C, T, H, W).
        noise_audio: Standard normal, (B, M, L).
    """

    t_video: Tensor
    t_audio: Tensor
    generates_video: Tensor
    generates_audio: Tensor
    contrastive: Tensor
    noise_video: Tensor
    noise_audio: Tensor

    def to(self, device: torch.device) -> Draws:
        """The same on another device."""
        return Draws(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def take(self, rows: Tensor) -> Draws:
        """Those of some examples, by their places (N,)."""
        return Draws(**{name: value[rows] for name, value in vars(self).items()})


def draw_example(
    generator: torch.Generator, spec: ObjectiveSpec, index: int, video_shape: torch.Size, audio_shape: torch.Size
) -> Draws:
    """Task, times, dropping and noise of one example; a batch of one.

    Args:
        generator: CPU generator of this example; nothing else decides what is drawn.
        spec: Settings.
        index: Global index of the example in the batch; the contrastive share is spread evenly over it.
        video_shape: (C, T, H, W).
        audio_shape: (M, L).

    Returns:
        Draws with B = 1.
    """
    weights = torch.tensor(spec.task_probabilities, dtype=torch.float64)
    task = int(torch.multinomial(weights, 1, generator=generator))
    t, drop, side = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    times = {JOINT: (t, t), VIDEO_TO_AUDIO: (0.0, t), AUDIO_TO_VIDEO: (t, 0.0)}[task]
    generates = [task != VIDEO_TO_AUDIO, task != AUDIO_TO_VIDEO]
    dropped = drop < spec.drop_probability
    if dropped:
        lost = {JOINT: int(side < 0.5), VIDEO_TO_AUDIO: 0, AUDIO_TO_VIDEO: 1}[task]
        times = (1.0, t) if lost == 0 else (t, 1.0)
        generates[lost] = False
    share = spec.contrastive_share
    chosen = int((index + 1) * share + 1e-9) > int(index * share + 1e-9)
    low, high = spec.contrastive_times
    return Draws(
        t_video=torch.tensor([times[0]], dtype=torch.float64),
        t_audio=torch.tensor([times[1]], dtype=torch.float64),
        generates_video=torch.tensor([generates[0]]),
        generates_audio=torch.tensor([generates[1]]),
        contrastive=torch.tensor([chosen and not dropped and low <= t <= high]),
        noise_video=torch.randn(1, *video_shape, generator=generator),
        noise_audio=torch.randn(1, *audio_shape, generator=generator),
    )


def stack_draws(draws: list[Draws]) -> Draws:
    """One batch of draws from several."""
    return Draws(**{name: torch.cat([getattr(d, name) for d in draws]) for name in vars(draws[0])})
