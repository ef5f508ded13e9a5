"""Synchrony and quality measures: pure functions first, torchmetrics second."""

from cmmd_lightning.metrics.av_align import AVAlign
from cmmd_lightning.metrics.lag import EnvelopeLag, Lag
from cmmd_lightning.metrics.meaning import AudioVisualAgreement, ClassifierAgreement
from cmmd_lightning.metrics.memorisation import Memorisation
from cmmd_lightning.metrics.quality import FrechetDistance, KernelDistance
from cmmd_lightning.metrics.synchrony import EventAgreement

__all__ = [
    "AVAlign",
    "AudioVisualAgreement",
    "ClassifierAgreement",
    "EnvelopeLag",
    "EventAgreement",
    "FrechetDistance",
    "KernelDistance",
    "Lag",
    "Memorisation",
]
