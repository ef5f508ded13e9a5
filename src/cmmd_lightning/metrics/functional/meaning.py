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
    """Cosine (B,) float64 of clips' embeddings (B, D) in one shared space; 0 where one is all zero.

    With ImageBind's encoders this is what is reported as its audio-visual score (as in "Seeing and Hearing", Xing et
    al., CVPR 2024). Published values depend on the encoder and on how it samples frames: name both.
    """
    video, audio = _row_pair(video_embeddings, audio_embeddings, "embeddings")
    return (video * audio).sum(dim=1).clamp(-1, 1)


def label_agreement(video_probabilities: Tensor, audio_probabilities: Tensor) -> Tensor:
    """One minus the total variation distance of distributions (B, L) over the same labels: (B,) float64 in [0, 1].

    CLIP and CLAP share no space, only a vocabulary. The sum of min(p, q) is by the coupling lemma the greatest possible
    probability that a label drawn from each is the same (Levin and Peres, "Markov Chains and Mixing Times", proposition
    4.7). Unlike the cosine, it counts every bit of mass once, and has a plain meaning at 0 and at 1.
    """
    video, audio = _row_pair(video_probabilities, audio_probabilities, "probabilities")
    return 1 - (video - audio).abs().sum(dim=1) / 2


def classifier_agreement(true_probabilities: Tensor, generated_probabilities: Tensor) -> ClassifierScores:
    """Whether a classifier hears the same class in true and generated sound (B, L), and KL(true || generated) in nats.

    A sound classifier as the judge is the way of EPIC-SOUNDS (Huh et al., ICASSP 2023), and the mean KL is the field's
    "MKL" (Iashin and Rahtu, "Taming Visually Guided Sound Generation", BMVC 2021). Probabilities below 1e-6 are raised
    to it in both, which are then scaled to sum 1 again: equal ones have divergence 0, and none is above about 13.8.
    """
    true, generated = _row_pair(true_probabilities, generated_probabilities, "probabilities")
    agreement = (true.argmax(dim=1) == generated.argmax(dim=1)).double()
    kl = kl_divergence(true.clamp(min=LEAST_PROBABILITY), generated.clamp(min=LEAST_PROBABILITY), reduction="none")
    return ClassifierScores(agreement, kl.clamp(min=0))


def class_agreement_floor(true_classes: Tensor, generated_classes: Tensor) -> float:
    """Share of agreeing classes (N,) over all pairs of two different clips; NaN for fewer than two clips."""
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
