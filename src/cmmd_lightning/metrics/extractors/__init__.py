"""Feature extractors for the distances of :mod:`cmmd_lightning.metrics.quality`, each loaded from a spec.

Video: ``forward(frames, fps)``, uint8 (B, 3, T, H, W), gives rows (R, D). Audio: ``forward(sound, sample_rate)``, float
(B, N) in [-1, 1], likewise. R is B or more, in the clips' order. All have ``name`` and ``num_features``.
"""

from cmmd_lightning.metrics.extractors.build import build_audio_extractor, build_video_extractor

__all__ = ["build_audio_extractor", "build_video_extractor"]
