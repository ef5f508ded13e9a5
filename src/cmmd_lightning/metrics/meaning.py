"""Agreement of meaning as torchmetrics.Metrics: of pictures with sounds, and of generated sounds with true ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from cmmd_lightning.metrics.functional.meaning import (
    RowKind,
    class_agreement_floor,
    classifier_agreement,
    embedding_agreement,
    label_agreement,
)
from cmmd_lightning.metrics.measure import Measure, PlottedMetric

SoundEncoder = Callable[[Tensor, int], Tensor]


class PairAgreement(Measure):
    """How well the rows of what is heard agree with those of what is seen, by a pair of encoders: the mean over clips.

    Args:
        kind: What the encoders give: ``embeddings`` (compared by cosine) or ``probabilities`` of the same labels.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> metric = PairAgreement()
        >>> metric.update([torch.tensor([[1.0, 0.0]])], [torch.tensor([[2.0, 0.0]])])
        >>> float(metric.compute()["audio_visual_agreement"])
        1.0
    """

    names = ("audio_visual_agreement",)
    unit = "at most 1"
    bounds = (-1.0, 1.0)
    reference = estimate = "embedding"

    def __init__(self, kind: RowKind = "embeddings", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agreement = label_agreement if kind == "probabilities" else embedding_agreement

    def score(self, estimate: Tensor, reference: Tensor) -> Sequence[float]:
        """The agreement in one clip, of rows (1, D)."""
        return [float(self.agreement(reference, estimate)[0])]


class ClassAgreement(Measure):
    """Whether a classifier finds the same class most probable in two sounds, of rows (1, L) of its probabilities."""

    names: tuple[str, ...] = ("classifier_agreement",)
    bounds = (0.0, 1.0)
    part = 0

    def score(self, estimate: Tensor, reference: Tensor) -> Sequence[float]:
        """The number of one clip."""
        return [float(classifier_agreement(reference, estimate)[self.part])]


class ClassDivergence(ClassAgreement):
    """Divergence KL(true || generated) of a classifier's probabilities, of rows (1, L)."""

    names = ("classifier_kl",)
    unit = "nats"
    higher_is_better = False
    bounds = (0.0, math.inf)
    part = 1


class ClassifierAgreement(PlottedMetric):
    """Whether an audio classifier hears the same in generated sound as in the true one: means over clips.

    Args:
        classifier: ``(sound, sample_rate) -> (B, L)`` probabilities; a module or any function, see
            ``encoders.AudioClassifier``.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> loud_or_not = lambda sound, sample_rate: torch.stack([sound.abs().mean(1), 1 - sound.abs().mean(1)], dim=1)
        >>> metric = ClassifierAgreement(loud_or_not)
        >>> metric.update(torch.tensor([[0.8], [0.9]]), torch.tensor([[0.9], [0.1]]), 16000, torch.tensor([0, 1]))
        >>> {name: round(float(value), 2) for name, value in metric.compute().items()}  # doctest: +NORMALIZE_WHITESPACE
        {'classifier_agreement': 0.5, 'classifier_agreement_floor': 0.5, 'classifier_kl': 0.9,
         'classifier_accuracy_true': 1.0, 'classifier_accuracy_generated': 0.5}
    """

    higher_is_better = True
    plot_lower_bound: float = 0.0

    true_classes: list[Tensor]
    generated_classes: list[Tensor]
    sums: Tensor
    labelled: Tensor

    def __init__(self, classifier: SoundEncoder, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classifier = classifier
        self.add_state("true_classes", [], dist_reduce_fx="cat")
        self.add_state("generated_classes", [], dist_reduce_fx="cat")
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("labelled", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, generated_sound: Tensor, true_sound: Tensor, sample_rate: int, labels: Tensor | None = None
    ) -> None:
        """Take clips in; ValueError for unequal numbers, labels that are no classes, or rows that are no probabilities.

        Args:
            generated_sound: (B, M) in [-1, 1].
            true_sound: (B, N) in [-1, 1], of the same clips.
            sample_rate: Hz, of both.
            labels: (B,) class indices of the classifier, where they are known.
        """
        if len(true_sound) != len(generated_sound):
            raise ValueError(
                f"expected as many clips of both, got {len(true_sound)} true, {len(generated_sound)} generated"
            )
        true, generated = (_rows(self.classifier, sound, sample_rate) for sound in (true_sound, generated_sound))
        scores = classifier_agreement(true, generated)
        classes = [rows.argmax(dim=1).to(self.device) for rows in (true, generated)]
        hits = [0.0, 0.0]
        if labels is not None:
            labels = _checked_labels(labels, true.shape).to(self.device)
            hits = [float((found == labels).sum()) for found in classes]
            self.labelled += len(labels)
        sums = [float(scores.agreement.sum()), float(scores.kl.sum()), *hits]
        self.sums += torch.tensor(sums, dtype=torch.float64, device=self.sums.device)
        # float32, which is exact for any class index: the type that torchmetrics gives a process without clips
        self.true_classes.append(classes[0].float())
        self.generated_classes.append(classes[1].float())

    def compute(self) -> dict[str, Tensor]:
        """Means over clips; NaN before any.

        Returns:
            ``classifier_agreement``, share of clips whose most probable class is the same;
            ``classifier_agreement_floor``, the same over all wrong partners (NaN for one clip); ``classifier_kl``,
            KL(true || generated) in nats, lower is better; and, where any labels were given,
            ``classifier_accuracy_true`` (what the classifier can do at best) and ``classifier_accuracy_generated``.
        """
        true, generated = _joined(self.true_classes).long(), _joined(self.generated_classes).long()
        if len(true) < 2:
            warnings.warn(f"classifier agreement of {len(true)} clips: shuffling needs two at least", stacklevel=2)
        agreement, kl = (self.sums[:2] / len(true)).tolist()
        values = {
            "classifier_agreement": agreement,
            "classifier_agreement_floor": class_agreement_floor(true, generated),
            "classifier_kl": kl,
        }
        if int(self.labelled):
            hits = (self.sums[2:] / self.labelled).tolist()
            values |= {"classifier_accuracy_true": hits[0], "classifier_accuracy_generated": hits[1]}
        return _tensors(values)


def _rows(encoder: Callable[[Tensor, Any], Tensor], media: Tensor, rate: float) -> Tensor:
    """One row (B, D) for each clip, without gradient or dropout."""
    if isinstance(encoder, nn.Module):
        encoder.eval()  # a metric inside of a training module is set to training with it
    with torch.no_grad():
        rows = encoder(media, rate)
    if rows.dim() != 2 or len(rows) != len(media):
        raise ValueError(f"the encoder must give ({len(media)}, D), a row for each clip, got {tuple(rows.shape)}")
    return rows


def _checked_labels(labels: Tensor, shape: torch.Size) -> Tensor:
    count, classes = shape
    integral = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != (count,) or not integral or bool(((labels < 0) | (labels >= classes)).any()):
        raise ValueError(f"labels must be ({count},) class indices below {classes}, got {labels.dtype} {labels}")
    return labels


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A state of kind "cat" as one tensor, before and after syncing."""
    return dim_zero_cat(state) if len(state) else torch.zeros(0)


def _tensors(values: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}
