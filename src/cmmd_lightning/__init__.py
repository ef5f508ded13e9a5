"""CMMD (Contrastive Multi-Modal Diffusion, arXiv 2312.05412) as PyTorch Lightning modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cmmd_lightning.version import __version__ as __version__

if TYPE_CHECKING:
    from cmmd_lightning.codecs import CodecConfig
    from cmmd_lightning.data.clips import ClipSpec
    from cmmd_lightning.diffusion.objective_spec import ObjectiveSpec
    from cmmd_lightning.diffusion.schedule import NoiseSchedule
    from cmmd_lightning.models.unet import JointUNet, NetworkSpec
    from cmmd_lightning.training.autoencoder import FrameAutoencoderModule
    from cmmd_lightning.training.checkpoint import StepCheckpoint
    from cmmd_lightning.training.datamodule import AudioVideoDataModule
    from cmmd_lightning.training.ema import EMA
    from cmmd_lightning.training.module import CMMD
    from cmmd_lightning.training.sample_logger import SampleLogger
    from cmmd_lightning.training.vocoder import VocoderModule
    from cmmd_lightning.training.watch import Watch

# loaded at first use, so that the ground floor (metrics, media) can be imported without Lightning
_HOMES = {
    "CMMD": "training.module",
    "EMA": "training.ema",
    "AudioVideoDataModule": "training.datamodule",
    "ClipSpec": "data.clips",
    "CodecConfig": "codecs",
    "FrameAutoencoderModule": "training.autoencoder",
    "JointUNet": "models.unet",
    "NetworkSpec": "models.unet",
    "NoiseSchedule": "diffusion.schedule",
    "ObjectiveSpec": "diffusion.objective_spec",
    "SampleLogger": "training.sample_logger",
    "StepCheckpoint": "training.checkpoint",
    "VocoderModule": "training.vocoder",
    "Watch": "training.watch",
}

__all__ = [
    "CMMD",
    "EMA",
    "AudioVideoDataModule",
    "ClipSpec",
    "CodecConfig",
    "FrameAutoencoderModule",
    "JointUNet",
    "NetworkSpec",
    "NoiseSchedule",
    "ObjectiveSpec",
    "SampleLogger",
    "StepCheckpoint",
    "VocoderModule",
    "Watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
