"""What is drawn for training examples: their tasks, times, roles and noise.

Tasks are numbered by their place in `TASKS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmmd_lightning.diffusion.noise import TimeNoise
from cmmd_lightning.diffusion.objective_spec import ObjectiveSpec

TASKS = ("joint", "video_to_audio", "audio_to_video")
JOINT, VIDEO_TO_AUDIO, AUDIO_TO_VIDEO = range(3)
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, are spread evenly however many there are


@dataclass(frozen=True)
class Draws:
    """What is drawn for a batch of B examples, N of which are also measured with negatives.

    Args:
        t_video: Time of the video, (B,); 0 where it is the condition, 1 where it is dropped.
        t_audio: Time of the sound, (B,); likewise.
        generates_video: (B,) bool, true where the video is in the loss.
        generates_audio: (B,) bool, true where the sound is in the loss.
        noise_video: Normal of unit variance, (B, C, T, H, W).
        noise_audio: Standard normal, (B, M, L).
        rows: The examples that the contrastive term is measured on, (N,), ascending; N depends on B alone.
        measures_audio: (N,) bool, true where the sound is measured with another video, false where the video is
            measured with another sound.
        weight: Weight of each of these, (N,): 1, or 2 for a joint example, of whose two sides one is drawn, and 0 where
            the condition is dropped or the time is outside of ``contrastive_times``.
    """

    t_video: Tensor
    t_audio: Tensor
    generates_video: Tensor
    generates_audio: Tensor
    noise_video: Tensor
    noise_audio: Tensor
    rows: Tensor
    measures_audio: Tensor
    weight: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Draws:
        """Return the same on another device."""
        return Draws(**{name: value.to(device, non_blocking=non_blocking) for name, value in vars(self).items()})

    def pin_memory(self) -> Draws:
        """Return the same in pinned memory, for the loader."""
        return Draws(**{name: value.pin_memory() for name, value in vars(self).items()})

    def of_rows(self) -> Draws:
        """Return those of the N examples that are measured with negatives, and of no others."""
        own = {name: value for name, value in vars(self).items() if name not in ("rows", "measures_audio", "weight")}
        taken = {name: value.index_select(0, self.rows) for name, value in own.items()}
        places = torch.arange(len(self.rows), device=self.rows.device)
        return Draws(**taken, rows=places, measures_audio=self.measures_audio, weight=self.weight)


@dataclass(frozen=True)
class _Roles:
    """What one example does."""

    times: tuple[float, float]
    generates: tuple[bool, bool]
    measures_audio: bool
    weight: float

    def both_sides(self) -> list[tuple[bool, float]]:
        """Whether the sound is measured, and its weight, for the one side and for the other."""
        return [(side, float(self.weight > 0 and self.generates[int(side)])) for side in (False, True)]


def draw_batch(
    shared: torch.Generator,
    generators: Sequence[torch.Generator],
    spec: ObjectiveSpec,
    position: int,
    indices: Sequence[int],
    video_shape: torch.Size,
    audio_shape: torch.Size,
    every_side: bool = False,
    video_noise: TimeNoise = TimeNoise(),
) -> Draws:
    """Draw tasks, times, dropping and noise of a batch, and which examples are measured with negatives.

    Times are stratified over the whole batch, whatever number of processes shares it. The examples with negatives are
    spread over the stream: as many in every batch, and each example alike often.

    Args:
        shared: CPU generator of what the examples of one position share.
        generators: CPU generators, one per example.
        spec: Settings.
        position: Position in the stream, which moves the choice of examples with negatives on from batch to batch.
        indices: Global indices of the examples, consecutive.
        video_shape: (C, T, H, W).
        audio_shape: (M, L).
        every_side: Whether every example is measured with negatives, joint ones on both sides: N = 2 B, for validation.
        video_noise: How the video's noise is correlated along time.

    Returns:
        Draws on the CPU.
    """
    offset = float(torch.rand(1, generator=shared, dtype=torch.float64))
    roles, noise = [], []
    for index, generator in zip(indices, generators, strict=True):
        roles.append(_draw_roles(generator, spec, (offset + index * _GOLDEN) % 1.0))
        noise.append((video_noise.draw(video_shape, generator), torch.randn(audio_shape, generator=generator)))
    if every_side:
        rows = [row for row in range(len(roles)) for _ in range(2)]
        sides = [side for role in roles for side in role.both_sides()]
    else:
        rows = contrastive_rows(len(roles), spec.contrastive_share, position, indices[0])
        sides = [(roles[row].measures_audio, roles[row].weight) for row in rows]
    return Draws(
        t_video=torch.tensor([role.times[0] for role in roles]),
        t_audio=torch.tensor([role.times[1] for role in roles]),
        generates_video=torch.tensor([role.generates[0] for role in roles]),
        generates_audio=torch.tensor([role.generates[1] for role in roles]),
        noise_video=torch.stack([video for video, _ in noise]),
        noise_audio=torch.stack([audio for _, audio in noise]),
        rows=torch.tensor(rows),
        measures_audio=torch.tensor([measures_audio for measures_audio, _ in sides]),
        weight=torch.tensor([weight for _, weight in sides]),
    )


def contrastive_rows(batch: int, share: float, position: int, first: int = 0) -> list[int]:
    """Choose the examples of a batch that are measured with negatives.

    Where ``batch * share`` is a whole number, the choice is the same however many processes share the global batch.

    Args:
        batch: B, examples of this process.
        share: Share of them, in (0, 1]; at least one is chosen.
        position: Position in the stream.
        first: Global index of the first example.

    Returns:
        Places in the batch, ascending; as many at every position, each as often as any other in the long run.

    Example:
        >>> [contrastive_rows(4, 0.25, position) for position in range(5)]
        [[3], [1], [3], [0], [2]]
        >>> contrastive_rows(2, 0.25, 0)
        [1]
    """
    count = max(1, math.floor(batch * share + 0.5))
    divisor = math.gcd(count, batch)
    step, parts = count // divisor, batch // divisor
    start = int((position * _GOLDEN) % 1.0 * parts)
    return [
        i for i in range(batch) if ((first + i + 1) * step + start) // parts > ((first + i) * step + start) // parts
    ]


def _draw_roles(generator: torch.Generator, spec: ObjectiveSpec, t: float) -> _Roles:
    weights = torch.tensor(spec.task_probabilities, dtype=torch.float64)
    task = int(torch.multinomial(weights, 1, generator=generator))
    drop, side = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    times = {JOINT: (t, t), VIDEO_TO_AUDIO: (0.0, t), AUDIO_TO_VIDEO: (t, 0.0)}[task]
    generates = [task != VIDEO_TO_AUDIO, task != AUDIO_TO_VIDEO]
    dropped = drop < spec.drop_probability
    if dropped:
        lost = {JOINT: int(side < 0.5), VIDEO_TO_AUDIO: 0, AUDIO_TO_VIDEO: 1}[task]
        times = (1.0, t) if lost == 0 else (t, 1.0)
        generates[lost] = False
    low, high = spec.contrastive_times
    weight = 0.0 if dropped or not low <= t <= high else 2.0 if task == JOINT else 1.0
    measures_audio = task == VIDEO_TO_AUDIO or (task == JOINT and side < 0.5)
    return _Roles(times, (generates[0], generates[1]), measures_audio, weight)
