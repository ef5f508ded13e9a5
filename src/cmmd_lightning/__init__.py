"""CMMD (Contrastive Multi-Modal Diffusion, arXiv 2312.05412) as PyTorch Lightning modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cmmd_lightning.autoencoder import FrameAutoencoderModule
    from cmmd_lightning.codecs import CodecConfig
    from cmmd_lightning.data.clips import ClipSpec
    from cmmd_lightning.datamodule import AudioVideoDataModule
    from cmmd_lightning.diffusion.objective import ObjectiveSpec
    from cmmd_lightning.diffusion.schedule import NoiseSchedule
    from cmmd_lightning.models.unet import JointUNet, NetworkSpec
    from cmmd_lightning.module import CMMD
    from cmmd_lightning.vocoder import VocoderModule

# loaded at first use, so that the ground floor (metrics, media) can be imported without Lightning
_HOMES = {
    "CMMD": "module",
    "AudioVideoDataModule": "datamodule",
    "FrameAutoencoderModule": "autoencoder",
    "ClipSpec": "data.clips",
    "CodecConfig": "codecs",
    "JointUNet": "models.unet",
    "NetworkSpec": "models.unet",
    "NoiseSchedule": "diffusion.schedule",
    "ObjectiveSpec": "diffusion.objective",
    "VocoderModule": "vocoder",
}

__all__ = [
    "CMMD",
    "AudioVideoDataModule",
    "ClipSpec",
    "CodecConfig",
    "FrameAutoencoderModule",
    "JointUNet",
    "NetworkSpec",
    "NoiseSchedule",
    "ObjectiveSpec",
    "VocoderModule",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
