"""Extractors from the words of a command line."""

from __future__ import annotations

from torch import nn


def build_video_extractor(spec: str) -> nn.Module:
    """A video extractor with ``name`` and ``num_features``, in evaluation mode; ValueError for any other spec.

    Args:
        spec: "pixel-statistics", which needs no weights, or "i3d:FILE", a path or "owner/name/filename" on the Hub.

    Example:
        >>> build_video_extractor("pixel-statistics").name
        'pixel-statistics-v1'
    """
    kind, _, where = spec.partition(":")
    if spec == "pixel-statistics":
        from cmmd_lightning.metrics.extractors.statistics import PixelStatistics

        return _frozen(PixelStatistics())
    if kind == "i3d" and where:
        from cmmd_lightning.metrics.extractors.i3d import load_i3d

        return _frozen(load_i3d(where))
    raise ValueError(f"expected pixel-statistics or i3d:PATH_OR_HUB as the video extractor, got {spec!r}")


def build_audio_extractor(spec: str) -> nn.Module:
    """An audio extractor with ``name`` and ``num_features``, in evaluation mode; ValueError for any other spec.

    Args:
        spec: "mel-statistics", which needs no weights, "vggish:FILE" (a path or "owner/name/filename" on the Hub) or
            "clap:FOLDER" (a path or "owner/name" on the Hub; needs the extra ``metrics``).

    Example:
        >>> build_audio_extractor("mel-statistics").name
        'mel-statistics-v2'
    """
    kind, _, where = spec.partition(":")
    if spec == "mel-statistics":
        from cmmd_lightning.metrics.extractors.statistics import MelStatistics

        return _frozen(MelStatistics())
    if kind == "vggish" and where:
        from cmmd_lightning.metrics.extractors.vggish import load_vggish

        return _frozen(load_vggish(where))
    if kind == "clap" and where:
        from cmmd_lightning.metrics.extractors.clap import ClapAudio

        return _frozen(ClapAudio(where))
    raise ValueError(
        f"expected mel-statistics, vggish:PATH_OR_HUB or clap:PATH_OR_HUB as the audio extractor, got {spec!r}"
    )


def _frozen(extractor: nn.Module) -> nn.Module:
    return extractor.eval().requires_grad_(False)
