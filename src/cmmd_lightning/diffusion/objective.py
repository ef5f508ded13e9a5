"""The training objective: diffusion loss plus eta times a contrastive term (arXiv 2312.05412).

Notation: e is the squared error of a predicted velocity, averaged over elements, one number per example and modality;
e_neg the same number with a negative in place of the true condition, e_ref and e_ref_neg those of a frozen reference
network. See `contrastive_bound` for what is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from cmmd_lightning.diffusion.bounds import contrastive_bound
from cmmd_lightning.diffusion.draws import Draws
from cmmd_lightning.diffusion.objective_spec import Form, ObjectiveSpec
from cmmd_lightning.diffusion.sampling import Denoiser, Pair
from cmmd_lightning.diffusion.schedule import NoiseSchedule, Schedules


def velocity_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error, mean over elements: (B, ...), (B, ...) -> (B,), float32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Errors:
    """Errors of a batch of B examples, N of them also measured with K negatives; from `measure_errors`.

    Args:
        video: e of the video, (B,).
        audio: e of the sound, (B,).
        true: e of the N examples in the modality that is measured, (N,).
        negative: e_neg of these, (N, K); K is 0 without negatives.
    """

    video: Tensor
    audio: Tensor
    true: Tensor
    negative: Tensor


def measure_errors(
    network: Denoiser,
    schedule: NoiseSchedule | Schedules,
    data: Pair,
    negatives: Pair | None,
    draws: Draws,
    form: Form = "condition",
) -> Errors:
    """Measure errors with the true condition and, for ``draws.rows``, with negatives; one batched forward.

    The size of the forward depends on B, N and K alone.

    Args:
        network: The velocity predictor.
        schedule: The noise schedule, of both modalities or one each.
        data: Clean video latents (B, C, T, H, W) and log-Mel (B, M, L).
        negatives: Other videos (B, K, C, T, H, W) and other sounds (B, K, M, L), or None for none.
        draws: Times, noise and roles.
        form: See `ObjectiveSpec`.

    Returns:
        The errors.
    """
    schedules, (video, audio) = Schedules.of(schedule), data
    batch, count = len(video), 0 if negatives is None else negatives[0].shape[1]
    z_video = schedules.video.add_noise(video, draws.noise_video, draws.t_video)
    z_audio = schedules.audio.add_noise(audio, draws.noise_audio, draws.t_audio)
    inputs = [(z_video, z_audio, draws.t_video, draws.t_audio)]
    if negatives is not None and count and form == "condition":
        inputs.append(_with_negatives(schedules, (z_video, z_audio), negatives, draws))
    v_video, v_audio = network(*(torch.cat(parts) for parts in zip(*inputs, strict=True)))
    target_video = schedules.video.velocity(video, draws.noise_video, draws.t_video)
    target_audio = schedules.audio.velocity(audio, draws.noise_audio, draws.t_audio)
    error_video = velocity_error(v_video[:batch], target_video)
    error_audio = velocity_error(v_audio[:batch], target_audio)
    of_rows = (error.index_select(0, draws.rows) for error in (error_video, error_audio))
    true = _measured(draws.measures_audio, *of_rows)
    if negatives is None or not count:
        return Errors(error_video, error_audio, true, true.new_zeros(len(true), 0))
    if form == "condition":
        outputs = v_video[batch:], v_audio[batch:]
        targets = _repeated(target_video, draws.rows, count), _repeated(target_audio, draws.rows, count)
    else:
        outputs = _repeated(v_video, draws.rows, count), _repeated(v_audio, draws.rows, count)
        targets = _of_negatives("velocity", schedules, negatives, draws)
    errors = (velocity_error(output, target) for output, target in zip(outputs, targets, strict=True))
    negative = _measured(draws.measures_audio.repeat_interleave(count), *errors)
    return Errors(error_video, error_audio, true, rearrange(negative, "(n k) -> n k", k=count))


def _measured(measures_audio: Tensor, video: Tensor, audio: Tensor) -> Tensor:
    """Of the errors of both modalities, (N,), those that are measured."""
    return torch.where(measures_audio, audio, video)


def _repeated(x: Tensor, rows: Tensor, count: int) -> Tensor:
    """Rows of (B, ...), each K times: (N K, ...)."""
    return x.index_select(0, rows).repeat_interleave(count, dim=0)


def _of_negatives(
    relation: Literal["add_noise", "velocity"], schedules: Schedules, negatives: Pair, draws: Draws
) -> Pair:
    """A relation of the schedules for the rows' negatives, with noise and times of the true ones: (N K, ...)."""
    count, own = negatives[0].shape[1], draws.of_rows()
    video, audio = (x.index_select(0, draws.rows).flatten(0, 1) for x in negatives)
    noise = (own.noise_video, own.t_video), (own.noise_audio, own.t_audio)
    repeated = [[part.repeat_interleave(count, dim=0) for part in parts] for parts in noise]
    return (
        getattr(schedules.video, relation)(video, *repeated[0]),
        getattr(schedules.audio, relation)(audio, *repeated[1]),
    )


def _with_negatives(
    schedules: Schedules, z: Pair, negatives: Pair, draws: Draws
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs of the network with the condition replaced, same noise, same times: batches of N K."""
    count, others = negatives[0].shape[1], _of_negatives("add_noise", schedules, negatives, draws)
    true, audio = [_repeated(part, draws.rows, count) for part in z], draws.measures_audio.repeat_interleave(count)
    return (
        torch.where(_as_mask(audio, true[0]), others[0], true[0]),
        torch.where(_as_mask(audio, true[1]), true[1], others[1]),
        _repeated(draws.t_video, draws.rows, count),
        _repeated(draws.t_audio, draws.rows, count),
    )


def _as_mask(rows: Tensor, like: Tensor) -> Tensor:
    return rows.reshape(-1, *[1] * (like.ndim - 1))


@torch.no_grad()
def reference_errors(
    reference: Denoiser,
    schedule: NoiseSchedule | Schedules,
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
        The errors of the N examples, their ``true`` and ``negative`` beside those of the whole batch; None without
        negatives.
    """
    if negatives is None:
        return None
    some, others = (tuple(x.index_select(0, draws.rows) for x in pair) for pair in (data, negatives))
    return measure_errors(reference, schedule, (some[0], some[1]), (others[0], others[1]), draws.of_rows(), form)


def diffusion_loss(errors: Errors, draws: Draws) -> Tensor:
    """Sum of e over examples and generated modalities, divided by the batch size: a scalar."""
    total = (errors.video * draws.generates_video).sum() + (errors.audio * draws.generates_audio).sum()
    return total / len(errors.video)


def contrastive_loss(errors: Errors, draws: Draws, spec: ObjectiveSpec, reference: Errors | None = None) -> Tensor:
    """The contrastive term under the same reduction as `diffusion_loss`: a scalar, to be weighted by eta.

    It is divided by the number N of examples that are measured, so that the weight means the same for any share: in
    expectation it is the term of the whole batch. What ``contrastive_times`` leaves out counts as 0.

    Args:
        errors: Of the network.
        draws: Of the same batch.
        spec: Settings.
        reference: Of the frozen network on the same examples, from `reference_errors`; for the bound ``preference``.

    Returns:
        The term; 0 without negatives.

    Raises:
        ValueError: If ``preference`` has no reference.
    """
    if errors.negative.shape[1] == 0:
        return errors.video.new_zeros(())
    frozen = None if reference is None else (reference.true, reference.negative)
    bound = contrastive_bound(
        errors.true, errors.negative, spec.bound, spec.temperature, spec.margin, spec.beta, frozen
    )
    return (bound * draws.weight).sum() / len(draws.weight)


def error_totals(errors: Errors, draws: Draws) -> dict[str, Tensor]:
    """Sum and count, (2,), of each modality's errors, and of what was measured with negatives; nothing waits for them.

    Args:
        errors: Of a batch.
        draws: Of the same batch.

    Returns:
        By ``video``, ``audio`` and, with negatives, these with ``_negative`` (e_neg, mean over negatives) and ``_gap``
        (e_neg - e).
    """
    found = {"video": (errors.video, draws.generates_video), "audio": (errors.audio, draws.generates_audio)}
    if errors.negative.shape[1]:
        negative, measured = errors.negative.mean(1), draws.weight > 0
        for name, rows in (("video", ~draws.measures_audio & measured), ("audio", draws.measures_audio & measured)):
            found |= {f"{name}_negative": (negative, rows), f"{name}_gap": (negative - errors.true, rows)}
    return {
        name: torch.stack([torch.where(rows, value.detach(), 0.0).sum(), rows.sum()])
        for name, (value, rows) in found.items()
    }
