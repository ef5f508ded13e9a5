"""Agreement of what is seen with what is heard, and of what a classifier hears in true and generated sound.

Rows come from encoders of any kind: one row per clip, either embeddings in one space that pictures and sounds share
(ImageBind: Girdhar et al., CVPR 2023), or probabilities over one list of labels, where each encoder knows pictures or
sounds only (CLIP: Radford et al., ICML 2021; CLAP: Wu et al., ICASSP 2023). All sums are float64.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics.functional import kl_divergence

RowKind = Literal["embeddings", "probabilities"]

LEAST_PROBABILITY = 1e-6


class ClassifierScores(NamedTuple):
    """What a classifier hears in two sounds, clip by clip, (B,) float64 each."""

    agreement: Tensor
    kl: Tensor


def embedding_agreement(video_embeddings: Tensor, audio_embeddings: Tensor) -> Tensor:
    """Cosine of a clip's two embeddings in one shared space.

    With ImageBind's encoders this is what is reported as its audio-visual score (as in "Seeing and Hearing", Xing et
    al., CVPR 2024). Published values depend on the encoder and on how it samples frames: name both.

    Args:
        video_embeddings: (B, D), any scale.
        audio_embeddings: (B, D), any scale.

    Returns:
        (B,) float64 in [-1, 1]; 0 where an embedding is all zero.

    Raises:
        ValueError: If shapes differ or are not (B, D), or values are not finite.

    Example:
        >>> embedding_agreement(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor([1.0000, 0.7071], dtype=torch.float64)
    """
    video, audio = _row_pair(video_embeddings, audio_embeddings, "embeddings")
    return (video * audio).sum(dim=1).clamp(-1, 1)


def label_agreement(video_probabilities: Tensor, audio_probabilities: Tensor) -> Tensor:
    """One minus the total variation distance of two distributions over the same labels.

    CLIP and CLAP share no space, only a vocabulary, so both are asked for one list of labels. One minus the total
    variation distance, the sum of min(p, q), is the mass the two distributions have in common, and by the coupling
    lemma the greatest possible probability that a label drawn from each is the same (Levin and Peres, "Markov Chains
    and Mixing Times", proposition 4.7). It is preferred to the cosine of the two vectors because it counts every bit
    of mass once, where the cosine hears only the few largest labels, and because it has a plain meaning at 0 (no
    label in common) and at 1 (equal).

    Args:
        video_probabilities: (B, L), each row non-negative with sum 1.
        audio_probabilities: (B, L), likewise, of the same labels in the same order.

    Returns:
        (B,) float64 in [0, 1].

    Raises:
        ValueError: If shapes differ or are not (B, L), or rows are not distributions.

    Example:
        >>> label_agreement(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.5, 0.25]]))
        tensor([0.7500], dtype=torch.float64)
    """
    video, audio = _row_pair(video_probabilities, audio_probabilities, "probabilities")
    return 1 - (video - audio).abs().sum(dim=1) / 2


def classifier_agreement(true_probabilities: Tensor, generated_probabilities: Tensor) -> ClassifierScores:
    """Whether a classifier hears the same class in true and generated sound, and how far its distributions lie apart.

    A sound classifier as the judge of generated sound is the way of EPIC-SOUNDS (Huh et al., ICASSP 2023, whose
    classes are actions that sound) and of the field's "MKL", the mean of KL(true || generated) in nats (Iashin and
    Rahtu, "Taming Visually Guided Sound Generation", BMVC 2021). Probabilities below 1e-6 are raised to it in both
    distributions, which are then scaled to sum 1 again: so equal distributions have divergence 0 to rounding, and none
    is above about 13.8.

    Args:
        true_probabilities: (B, L), each row non-negative with sum 1.
        generated_probabilities: (B, L), likewise, of the same classes.

    Returns:
        ``ClassifierScores``: agreement (B,), 1 where the most probable class is the same, else 0; kl (B,) in nats.

    Raises:
        ValueError: If shapes differ or are not (B, L), or rows are not distributions.

    Example:
        >>> scores = classifier_agreement(torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]]))
        >>> scores.agreement.item(), round(scores.kl.item(), 4)
        (1.0, 0.1308)
    """
    true, generated = _row_pair(true_probabilities, generated_probabilities, "probabilities")
    agreement = (true.argmax(dim=1) == generated.argmax(dim=1)).double()
    kl = kl_divergence(true.clamp(min=LEAST_PROBABILITY), generated.clamp(min=LEAST_PROBABILITY), reduction="none")
    return ClassifierScores(agreement, kl.clamp(min=0))


def class_agreement_floor(true_classes: Tensor, generated_classes: Tensor) -> float:
    """Share of agreeing classes over all pairs of two different clips: what shuffled partners give on average.

    Args:
        true_classes: (N,) class indices.
        generated_classes: (N,) class indices.

    Returns:
        In [0, 1]; NaN for fewer than two clips.

    Raises:
        ValueError: If the shapes differ or are not (N,).

    Example:
        >>> class_agreement_floor(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]))
        0.3333333333333333
    """
    if true_classes.dim() != 1 or true_classes.shape != generated_classes.shape:
        raise ValueError(
            f"classes must be (N,) and as many, got {tuple(true_classes.shape)} and {tuple(generated_classes.shape)}"
        )
    count = len(true_classes)
    if count < 2:
        return math.nan
    both = torch.stack([true_classes, generated_classes]).long()
    tallies = torch.stack([torch.bincount(row, minlength=int(both.max()) + 1) for row in both])
    agreeing = int(tallies.prod(dim=0).sum()) - int((both[0] == both[1]).sum())
    return agreeing / (count * (count - 1))


def _row_pair(first: Tensor, second: Tensor, kind: RowKind) -> tuple[Tensor, Tensor]:
    """Both in float64, embeddings at length 1, probabilities at sum 1."""
    if first.dim() != 2 or first.shape != second.shape:
        raise ValueError(f"expected two equal shapes (clips, {kind}), got {tuple(first.shape)}, {tuple(second.shape)}")
    first, second = (rows.detach().double() for rows in (first, second))
    for rows in (first, second):
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(f"{kind} must be finite, got NaN or infinity")
        if kind == "probabilities" and (bool((rows < 0).any()) or bool(((rows.sum(dim=1) - 1).abs() > 1e-3).any())):
            raise ValueError("probabilities must be 0 or more with sum 1 in each row, got others (logits?)")
    if kind == "embeddings":
        return normalize(first, dim=1), normalize(second, dim=1)
    return first / first.sum(dim=1, keepdim=True), second / second.sum(dim=1, keepdim=True)
