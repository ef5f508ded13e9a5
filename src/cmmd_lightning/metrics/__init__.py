"""Synchrony and quality measures: pure functions first, torchmetrics second."""
