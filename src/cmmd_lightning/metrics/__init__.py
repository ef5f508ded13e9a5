"""Synchrony and quality measures: pure functions first, torchmetrics second."""

from cmmd_lightning.metrics.meaning import ClassifierAgreement, PairAgreement
from cmmd_lightning.metrics.measure import Measure
from cmmd_lightning.metrics.media_quality import (
    AreaConstancy,
    Clipping,
    ColourConstancy,
    Flicker,
    PitchAgreement,
    QuietLevel,
)
from cmmd_lightning.metrics.memorisation import Memorisation
from cmmd_lightning.metrics.quality import FrechetDistance, KernelDistance
from cmmd_lightning.metrics.speech import MouthOpening, WordsRight
from cmmd_lightning.metrics.synchrony import (
    AVAlign,
    EnvelopeCorrelation,
    EnvelopeLag,
    EventAgreement,
    EventLag,
    LinearSynchrony,
    LinearSynchronyLag,
)

__all__ = [
    "AVAlign",
    "AreaConstancy",
    "ClassifierAgreement",
    "Clipping",
    "ColourConstancy",
    "EnvelopeCorrelation",
    "EnvelopeLag",
    "EventAgreement",
    "EventLag",
    "Flicker",
    "FrechetDistance",
    "KernelDistance",
    "LinearSynchrony",
    "LinearSynchronyLag",
    "Measure",
    "Memorisation",
    "MouthOpening",
    "PairAgreement",
    "PitchAgreement",
    "QuietLevel",
    "WordsRight",
]
