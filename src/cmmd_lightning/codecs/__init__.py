"""Codecs: frames to latents and back, sound to log-Mel and back."""

from cmmd_lightning.codecs.frames import (
    AutoencoderKLCodec,
    CodecConfig,
    FrameCodec,
    PixelUnshuffleCodec,
    resolved,
    sample_posterior,
)
from cmmd_lightning.codecs.loading import build_frame_codec
from cmmd_lightning.codecs.mel import LogMel
from cmmd_lightning.codecs.quality import frame_round_trip, log_spectral_distance, psnr, sound_round_trip
from cmmd_lightning.codecs.vocoder_loading import build_vocoder
from cmmd_lightning.codecs.vocoders import GriffinLimVocoder, Vocoder
from cmmd_lightning.codecs.vocos import Vocos

__all__ = [
    "AutoencoderKLCodec",
    "CodecConfig",
    "FrameCodec",
    "GriffinLimVocoder",
    "LogMel",
    "PixelUnshuffleCodec",
    "Vocoder",
    "Vocos",
    "build_frame_codec",
    "build_vocoder",
    "frame_round_trip",
    "log_spectral_distance",
    "psnr",
    "resolved",
    "sample_posterior",
    "sound_round_trip",
]
