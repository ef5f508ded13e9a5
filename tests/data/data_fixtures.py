"""Clips for these tests, and what is made of them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cmmd_lightning.codecs import FrameCodec, LogMel
from cmmd_lightning.data import Cache, ClipSpec, PrepareReport, Source
from cmmd_lightning.data.preprocess.entry import Moments, Sums
from cmmd_lightning.data.preprocess.facts import Facts
from cmmd_lightning.media import write_video

CLIP = ClipSpec(num_frames=8, fps=10.0, height=32, width=32, sample_rate=8000, n_fft=256, hop_length=100, n_mels=16)


def mel_of(clip: ClipSpec) -> LogMel:
    return LogMel(clip.sample_rate, clip.n_fft, clip.hop_length, clip.n_mels)


def moving_frames(num_frames: int, seed: int) -> Tensor:
    """uint8 (T, 3, 32, 32): every frame its own brightness and tint."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (num_frames, 3, 2, 2), generator=generator, dtype=torch.uint8)
    return colours.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)


def write_clip(path: Path, seconds: float, seed: int, *, fps: float = 25.0, sample_rate: int = 16000) -> Path:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(round(seconds * sample_rate), generator=generator)
    loudness = torch.rand(round(seconds * 20) + 1, generator=generator).repeat_interleave(sample_rate // 20)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, moving_frames(round(seconds * fps), seed), fps, 0.2 * noise * loudness[: len(noise)], sample_rate)
    return path


@dataclass
class Prepared:
    folder: Path
    sources: list[Source]
    clip: ClipSpec
    codec: FrameCodec
    mel: LogMel
    cache: Cache
    report: PrepareReport


def entry_bytes(cache_dir: Path) -> dict[str, bytes]:
    """Content of every entry of a cache, by name."""
    return {path.name: path.read_bytes() for path in sorted((cache_dir / "entries").rglob("*.safetensors"))}


def write_entry(cache: Cache, key: str, mean: Tensor, logvar: Tensor, mel: Tensor, start: float = 0.0) -> None:
    """An entry of latents (F, C, h, w), as mean and log-variance, and of a log-Mel (M, L)."""
    writer = cache.writer(key, len(mean), mel.shape[1], (mean.shape[1], mean.shape[2], mean.shape[3]))
    try:
        writer.add_latents(mean.half(), logvar.half())
        writer.add_mel(mel.float().t())
        cache.finish(writer, start=start, facts=Facts())
    finally:
        writer.abandon()


def moments_of(mean: Tensor, logvar: Tensor, mel: Tensor) -> Moments:
    """Moments of latents (F, C, h, w), as mean and log-variance, and of a log-Mel (L, M)."""
    sums = Sums(mean.shape[1])
    sums.add_latents(mean, logvar)
    sums.add_mel(mel)
    return sums.moments()
