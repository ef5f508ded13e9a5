"""The training objective: diffusion loss plus eta times a contrastive term (arXiv 2312.05412).

Notation: e is the squared error of a predicted velocity, averaged over elements, one number per example and modality;
e_neg the same number for a wrong partner, e_ref and e_ref_neg those of a frozen reference network. See
`contrastive_bound` for what is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmmd_lightning.diffusion.bounds import contrastive_bound
from cmmd_lightning.diffusion.draws import Draws
from cmmd_lightning.diffusion.objective_spec import Form, ObjectiveSpec
from cmmd_lightning.diffusion.sampling import Denoiser, Pair
from cmmd_lightning.diffusion.schedule import NoiseSchedule


def velocity_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error, mean over elements: (B, ...), (B, ...) -> (B,), float32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


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

    def pairs(self) -> tuple[Pair, Pair]:
        """Of the video and of the sound: e, (N,), and e_neg, (N, K), of the examples measured with wrong partners."""
        return (self.video[self.video_rows], self.video_negative), (self.audio[self.audio_rows], self.audio_negative)


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


@torch.no_grad()
def reference_errors(
    reference: Denoiser,
    schedule: NoiseSchedule,
    data: Pair,
    negatives: Pair | None,
    draws: Draws,
    form: Form = "condition",
) -> Errors | None:
    """`measure_errors` of a frozen network, without gradients and of no more examples than the contrastive term needs.

    Args:
        reference: The frozen velocity predictor.
        schedule: As for `measure_errors`, likewise the rest.
        data: Of the whole batch.
        negatives: Of the whole batch.
        draws: Of the whole batch.
        form: See `ObjectiveSpec`.

    Returns:
        The errors of the contrastive examples: their `Errors.pairs` stand beside those of the whole batch. None where
        there are no such examples.
    """
    rows = draws.contrastive.nonzero().squeeze(1)
    if negatives is None or len(rows) == 0:
        return None
    some, wrong = (data[0][rows], data[1][rows]), (negatives[0][rows], negatives[1][rows])
    return measure_errors(reference, schedule, some, wrong, draws.take(rows), form)


def diffusion_loss(errors: Errors, draws: Draws) -> Tensor:
    """Sum of e over examples and generated modalities, divided by the batch size: a scalar."""
    total = (errors.video * draws.generates_video).sum() + (errors.audio * draws.generates_audio).sum()
    return total / len(errors.video)


def contrastive_loss(errors: Errors, spec: ObjectiveSpec, reference: Errors | None = None) -> Tensor:
    """The contrastive term under the same reduction as `diffusion_loss`: a scalar, to be weighted by eta.

    Measured on a share of the examples, it is divided by that share, so that the weight keeps its meaning; of
    ``contrastive_times`` this does not hold.

    Args:
        errors: Of the network.
        spec: Settings.
        reference: Of the frozen network on the same examples, from `reference_errors`; for the bound ``preference``.

    Returns:
        The term.

    Raises:
        ValueError: If ``preference`` is measured on an example and there is no reference.
    """
    total = errors.video.new_zeros(())
    known = (None, None) if reference is None else reference.pairs()
    for (error, negative), frozen in zip(errors.pairs(), known, strict=True):
        if len(error):
            bound = contrastive_bound(error, negative, spec.bound, spec.temperature, spec.margin, spec.beta, frozen)
            total = total + bound.sum()
    return total / (len(errors.video) * spec.contrastive_share)
