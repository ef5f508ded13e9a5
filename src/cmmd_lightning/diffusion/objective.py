"""The training objective: diffusion loss plus eta times a contrastive term (arXiv 2312.05412).

Notation: e is the squared error of a predicted velocity, averaged over elements, one number per example and modality;
e_neg the same number for a wrong partner. See `contrastive_bound` for what is made of the two.

Tasks are numbered by their place in `TASKS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from cmmd_lightning.diffusion.sampling import Denoiser, Pair
from cmmd_lightning.diffusion.schedule import NoiseSchedule

TASKS = ("joint", "video_to_audio", "audio_to_video")
JOINT, VIDEO_TO_AUDIO, AUDIO_TO_VIDEO = range(3)

Form = Literal["condition", "target"]
Bound = Literal["linear", "hinge", "infonce"]


@dataclass(frozen=True)
class ObjectiveSpec:
    """Settings of the objective.

    Args:
        contrastive_weight: The paper's eta, relative to the diffusion loss under the same reduction; 0 is nCMMD.
        form: ``condition``: the condition is replaced by a wrong partner, a second forward gives e_neg. ``target``: the
            same prediction is held against the wrong partner's velocity, no second forward.
        bound: ``linear`` (the paper's subtraction, unbounded below in condition form), ``hinge`` or ``infonce``.
        temperature: Temperature of ``infonce``, in units of e.
        margin: Margin of ``hinge``, in units of e.
        contrastive_share: Share of the examples that the contrastive term is measured on, in (0, 1].
        task_probabilities: Of joint, video_to_audio and audio_to_video, in this order.
        drop_probability: How often an example loses its condition, for classifier-free guidance.

    Raises:
        ValueError: If a value is outside of its range.
    """

    contrastive_weight: float = 0.05
    form: Form = "condition"
    bound: Bound = "infonce"
    temperature: float = 0.1
    margin: float = 0.1
    contrastive_share: float = 1.0
    task_probabilities: tuple[float, float, float] = (0.34, 0.33, 0.33)
    drop_probability: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "task_probabilities", tuple(self.task_probabilities))
        checks = {
            "contrastive_weight": self.contrastive_weight >= 0,
            "form": self.form in ("condition", "target"),
            "bound": self.bound in ("linear", "hinge", "infonce"),
            "temperature": self.temperature > 0,
            "contrastive_share": 0 < self.contrastive_share <= 1,
            "task_probabilities": len(self.task_probabilities) == 3
            and min(self.task_probabilities) >= 0
            and sum(self.task_probabilities) > 0,
            "drop_probability": 0 <= self.drop_probability < 1,
        }
        for name, good in checks.items():
            if not good:
                raise ValueError(f"ObjectiveSpec.{name} is out of range: {getattr(self, name)!r}")

    @classmethod
    def of(cls, spec: ObjectiveSpec | Mapping[str, Any] | None) -> ObjectiveSpec:
        """An ObjectiveSpec from itself, from its plain-dict form, or the default from None."""
        return spec if isinstance(spec, ObjectiveSpec) else cls(**(spec or {}))

    def to_dict(self) -> dict[str, Any]:
        """Plain-dict form, as stored in checkpoints."""
        return {**asdict(self), "task_probabilities": list(self.task_probabilities)}


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
    return Draws(
        t_video=torch.tensor([times[0]], dtype=torch.float64),
        t_audio=torch.tensor([times[1]], dtype=torch.float64),
        generates_video=torch.tensor([generates[0]]),
        generates_audio=torch.tensor([generates[1]]),
        contrastive=torch.tensor([chosen and not dropped]),
        noise_video=torch.randn(1, *video_shape, generator=generator),
        noise_audio=torch.randn(1, *audio_shape, generator=generator),
    )


def stack_draws(draws: list[Draws]) -> Draws:
    """One batch of draws from several."""
    return Draws(**{name: torch.cat([getattr(d, name) for d in draws]) for name in vars(draws[0])})


def velocity_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error, mean over elements: (B, ...), (B, ...) -> (B,), float32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def contrastive_bound(
    error: Tensor, error_negative: Tensor, bound: Bound, temperature: float = 0.1, margin: float = 0.1
) -> Tensor:
    """The contrastive term of each example, lower where wrong partners do worse than the true one.

    - ``linear``: -mean_k e_neg, the paper's and CDCD's subtraction;
    - ``hinge``: mean_k max(0, margin + e - e_neg);
    - ``infonce``: -log softmax of -e / temperature over the true and the K wrong partners (van den Oord et al., arXiv
      1807.03748).

    Args:
        error: e with the true partner, (N,).
        error_negative: e_neg with each wrong partner, (N, K).
        bound: Which of the three.
        temperature: For ``infonce``.
        margin: For ``hinge``.

    Returns:
        (N,).
    """
    if bound == "linear":
        return -error_negative.mean(1)
    if bound == "hinge":
        return F.relu(margin + error[:, None] - error_negative).mean(1)
    logits = -torch.cat([error[:, None], error_negative], dim=1) / temperature
    return -F.log_softmax(logits, dim=1)[:, 0]


@dataclass(frozen=True)
class Errors:
    """Errors of a batch, from `measure_errors`.

    Args:
        video: e of the video, (B,).
        audio: e of the sound, (B,).
        video_rows: Examples whose generated video was also measured with wrong partners, (N,).
        video_negative: e_neg of these, (N, K).
        audio_rows: Likewise for sound.
        audio_negative: Likewise for sound.
    """

    video: Tensor
    audio: Tensor
    video_rows: Tensor
    video_negative: Tensor
    audio_rows: Tensor
    audio_negative: Tensor


def measure_errors(
    network: Denoiser,
    schedule: NoiseSchedule,
    data: Pair,
    negatives: Pair | None,
    draws: Draws,
    form: Form = "condition",
) -> Errors:
    """Errors with the true partners and, where ``draws.contrastive`` says so, with the wrong ones; one batched forward.

    Args:
        network: The velocity predictor.
        schedule: The noise schedule.
        data: Clean video latents (B, C, T, H, W) and log-Mel (B, M, L).
        negatives: Wrong videos (B, K, C, T, H, W) and wrong sounds (B, K, M, L), or None for none.
        draws: Times, noise and roles.
        form: See `ObjectiveSpec`.

    Returns:
        The errors.
    """
    if negatives is not None and negatives[0].shape[1] == 0:
        negatives = None
    video, audio = data
    z_video = schedule.add_noise(video, draws.noise_video, draws.t_video)
    z_audio = schedule.add_noise(audio, draws.noise_audio, draws.t_audio)
    target_video = schedule.velocity(video, draws.noise_video, draws.t_video)
    target_audio = schedule.velocity(audio, draws.noise_audio, draws.t_audio)
    none = torch.zeros_like(draws.contrastive)
    wanted = draws.contrastive if negatives is not None else none
    # the sound's error needs wrong videos, and the other way round
    audio_rows = (wanted & draws.generates_audio).nonzero().squeeze(1)
    video_rows = (wanted & draws.generates_video).nonzero().squeeze(1)
    count, batch = (negatives[0].shape[1] if negatives is not None else 1), len(video)

    inputs = [(z_video, z_audio, draws.t_video, draws.t_audio)]
    if form == "condition" and negatives is not None:
        for k in range(count):
            wrong_video = _noised(schedule, negatives[0][:, k], draws.noise_video, draws.t_video, audio_rows)
            inputs.append((wrong_video, z_audio[audio_rows], draws.t_video[audio_rows], draws.t_audio[audio_rows]))
        for k in range(count):
            wrong_audio = _noised(schedule, negatives[1][:, k], draws.noise_audio, draws.t_audio, video_rows)
            inputs.append((z_video[video_rows], wrong_audio, draws.t_video[video_rows], draws.t_audio[video_rows]))
    v_video, v_audio = network(*(torch.cat(parts) for parts in zip(*inputs, strict=True)))
    error_video = velocity_error(v_video[:batch], target_video)
    error_audio = velocity_error(v_audio[:batch], target_audio)

    if negatives is None:
        empty = error_video.new_zeros(0, 1)
        return Errors(error_video, error_audio, video_rows, empty, audio_rows, empty)
    if form == "condition":
        size = [batch, count * len(audio_rows), count * len(video_rows)]
        audio_negative = velocity_error(v_audio.split(size)[1], target_audio[audio_rows].repeat(count, 1, 1))
        video_negative = velocity_error(v_video.split(size)[2], target_video[video_rows].repeat(count, 1, 1, 1, 1))
    else:
        audio_negative = _target_errors(schedule, v_audio, negatives[1], draws.noise_audio, draws.t_audio, audio_rows)
        video_negative = _target_errors(schedule, v_video, negatives[0], draws.noise_video, draws.t_video, video_rows)
    return Errors(
        error_video,
        error_audio,
        video_rows,
        video_negative.reshape(count, -1).T,
        audio_rows,
        audio_negative.reshape(count, -1).T,
    )


def _noised(schedule: NoiseSchedule, x: Tensor, eps: Tensor, t: Tensor, rows: Tensor) -> Tensor:
    return schedule.add_noise(x[rows], eps[rows], t[rows])


def _target_errors(schedule: NoiseSchedule, v: Tensor, wrong: Tensor, eps: Tensor, t: Tensor, rows: Tensor) -> Tensor:
    """Errors of the same prediction against the velocities of wrong data: (K N,), negative after negative."""
    errors = [
        velocity_error(v[rows], schedule.velocity(wrong[rows, k], eps[rows], t[rows])) for k in range(wrong.shape[1])
    ]
    return torch.cat(errors)


def diffusion_loss(errors: Errors, draws: Draws) -> Tensor:
    """Sum of e over examples and generated modalities, divided by the batch size: a scalar."""
    total = (errors.video * draws.generates_video).sum() + (errors.audio * draws.generates_audio).sum()
    return total / len(errors.video)


def contrastive_loss(errors: Errors, spec: ObjectiveSpec) -> Tensor:
    """The contrastive term under the same reduction as `diffusion_loss`: a scalar, to be weighted by eta.

    Measured on a share of the examples, it is divided by that share, so that the weight keeps its meaning.
    """
    total = errors.video.new_zeros(())
    for error, rows, negative in (
        (errors.video, errors.video_rows, errors.video_negative),
        (errors.audio, errors.audio_rows, errors.audio_negative),
    ):
        total = total + contrastive_bound(error[rows], negative, spec.bound, spec.temperature, spec.margin).sum()
    return total / (len(errors.video) * spec.contrastive_share)
