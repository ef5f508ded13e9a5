"""How well the codecs restore clips of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cmmd_lightning.codecs import FrameCodec, LogMel, build_vocoder
from cmmd_lightning.codecs.quality import frame_round_trip, sound_round_trip
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.sources.source import Source
from cmmd_lightning.media import read_frames, read_sound


def measure_round_trip(
    sources: Sequence[Source], clip: ClipSpec, codec: FrameCodec, mel: LogMel
) -> tuple[int, float, float] | None:
    """Measure the codecs on the first clip of each source.

    Args:
        sources: The sources; those that cannot be read are passed over.
        clip: Lengths and rates.
        codec: The frame codec.
        mel: The log-Mel.

    Returns:
        Clips measured, PSNR of frames through the codec, log-spectral distance of sound through log-Mel and
        Griffin-Lim, both in dB; None where no clip can be read.
    """
    frames, sounds = [], []
    for source in sources:
        try:
            size, length, at = (clip.height, clip.width), clip.num_frames, source.start
            read = read_frames(source.path, start=at, num_frames=length, fps=clip.fps, size=size, fit=clip.fit)
            sound = read_sound(source.path, start=at, num_samples=clip.num_samples, sample_rate=clip.sample_rate)
        except (ValueError, OSError):
            continue  # prepare has named it
        frames.append(read.float() / 127.5 - 1)
        sounds.append(sound)
    if not sounds:
        return None
    distance = sound_round_trip(mel, build_vocoder("griffin_lim", mel), torch.stack(sounds))["log_spectral_distance"]
    return len(sounds), frame_round_trip(codec, torch.cat(frames))["psnr"], distance
