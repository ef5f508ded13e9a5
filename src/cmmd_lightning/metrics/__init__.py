"""Synchrony and quality measures: pure functions first, torchmetrics second."""

from cmmd_lightning.metrics.synchrony import EventAgreement

__all__ = ["EventAgreement"]
