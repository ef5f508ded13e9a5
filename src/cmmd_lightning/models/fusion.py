"""How the two streams see each other."""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor, nn

from cmmd_lightning.models.blocks import attend, by_clip, by_frame, group_norm, zero_init
from cmmd_lightning.models.embeddings import clip_positions

FusionKind = Literal["easy", "cross_attention", "none"]

_GRID = 4  # of the picture, cross-attention sees at most this many places along height and along width, per frame


def resample_time(x: Tensor, length: int) -> Tensor:
    """Time axis brought to another length over the same span: averaged going down, interpolated linearly going up.

    Args:
        x: (B, C, T).
        length: Wanted T'; any ratio T : T' will do.

    Returns:
        (B, C, T').
    """
    if length == x.shape[2]:
        return x
    make = _resampling if torch.compiler.is_compiling() else _kept_resampling
    return x @ make(x.shape[2], length, x.device, x.dtype)


def _resampling(before: int, after: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`resample_time` as a matrix (T, T'): one kernel, deterministic in its backward, on every device."""
    old, new = torch.arange(before, device=device)[:, None], torch.arange(after, device=device)
    if after < before:
        first, end = new * before // after, -(-(new + 1) * before // after)
        return ((old >= first) & (old < end)).to(dtype) / (end - first)
    places = ((new + 0.5) * (before / after) - 0.5).clamp(0, before - 1)
    return (1 - (old - places).abs()).clamp(min=0).to(dtype)


@functools.cache
def _kept_resampling(before: int, after: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # it outlives the call that asks for it first
        return _resampling(before, after, device, dtype)


class EasyFusion(nn.Module):
    """Easy fusion (arXiv 2312.05412): each stream gets the other along its channels, in its own shape, and projects.

    A projection of concatenated channels is the sum of two projections; written so, the broadcast sound is never laid
    out over all pixels. The projections start at zero, so that each stream starts as it was. Space is reduced to its
    mean and its maximum: a mean alone dilutes what one small object does by the number of positions.

    Args:
        video_channels: C of the video stream.
        audio_channels: C of the audio stream.
    """

    def __init__(self, video_channels: int, audio_channels: int) -> None:
        super().__init__()
        self.norm_video = group_norm(video_channels)
        self.norm_audio = group_norm(audio_channels)
        self.summary = nn.Conv2d(video_channels, audio_channels, 1)
        self.video_from_video = zero_init(nn.Conv2d(video_channels, video_channels, 1))
        self.video_from_audio = zero_init(nn.Conv1d(audio_channels, video_channels, 1))
        self.audio_from_audio = zero_init(nn.Conv1d(audio_channels, audio_channels, 1))
        self.audio_from_video = zero_init(nn.Conv1d(2 * audio_channels, audio_channels, 1))

    def forward(self, video: Tensor, audio: Tensor, height: int = 1) -> tuple[Tensor, Tensor]:
        """(B, C, T, S), (B, C', L, 1), H of S = H W, which does not matter here -> both, fused."""
        norm_video, norm_audio = self.norm_video(video), self.norm_audio(audio).squeeze(3)
        for_video = self.video_from_audio(resample_time(norm_audio, video.shape[2]))
        summary = F.silu(self.summary(norm_video))
        pooled = torch.cat([summary.mean(dim=3), summary.amax(dim=3)], dim=1)
        for_audio = self.audio_from_video(resample_time(pooled, audio.shape[2])) + self.audio_from_audio(norm_audio)
        return (
            video + self.video_from_video(norm_video) + rearrange(for_video, "b c t -> b c t 1"),
            audio + rearrange(for_audio, "b c l -> b c l 1"),
        )


class CrossAttention(nn.Module):
    """One stream asks the other: queries from here, keys and values from there, each with its time in the clip.

    Args:
        channels: C of the stream that asks, a multiple of ``head_channels``.
        context_channels: C' of the stream that is asked.
        head_channels: Features per head.
    """

    def __init__(self, channels: int, context_channels: int, head_channels: int) -> None:
        super().__init__()
        if channels % head_channels:
            raise ValueError(
                f"cross-attention needs channels as a multiple of {head_channels} (head_channels), got {channels}"
            )
        self.heads = channels // head_channels
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(context_channels, channels)
        self.value = nn.Linear(context_channels, channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, C, T, S), (B, C', T', S') -> what x takes from the context, (B, C, T, S)."""
        tokens, others = (rearrange(part, "b c t s -> b t s c") for part in (x, context))
        places = [clip_positions(part.shape[1], part.shape[3], part)[:, None] for part in (tokens, others)]
        parts = self.query(tokens + places[0]), self.key(others + places[1]), self.value(others)
        q, k, v = (rearrange(part, "b t s (h d) -> b h (t s) d", h=self.heads) for part in parts)
        h = rearrange(attend(q, k, v), "b h (t s) d -> b t s (h d)", s=x.shape[3])
        return rearrange(self.out(h), "b t s c -> b c t s")


class CrossAttentionFusion(nn.Module):
    """Explicit cross-attention both ways, the ablation that easy fusion is held against (arXiv 2312.05412).

    Every position of the picture asks the L frames of the sound, and every frame of the sound asks the T frames of the
    picture, brought to at most 4 x 4 places each: the cost grows with T S L and 16 T L, never with (T S)^2. The output
    projections start at zero, so that each stream starts as it was.

    Args:
        video_channels: C of the video stream.
        audio_channels: C of the audio stream.
        head_channels: Features per head; both streams' channels are multiples of it.
    """

    def __init__(self, video_channels: int, audio_channels: int, head_channels: int) -> None:
        super().__init__()
        self.norm_video = group_norm(video_channels)
        self.norm_audio = group_norm(audio_channels)
        self.video_from_audio = CrossAttention(video_channels, audio_channels, head_channels)
        self.audio_from_video = CrossAttention(audio_channels, video_channels, head_channels)

    def forward(self, video: Tensor, audio: Tensor, height: int) -> tuple[Tensor, Tensor]:
        """(B, C, T, S), (B, C', L, 1), H of S = H W -> both, fused."""
        norm_video, norm_audio = self.norm_video(video), self.norm_audio(audio)
        size = min(height, _GRID), min(video.shape[3] // height, _GRID)
        grid = by_clip(F.adaptive_avg_pool2d(by_frame(norm_video, height), size), video.shape[2])
        return (
            video + self.video_from_audio(norm_video, norm_audio),
            audio + self.audio_from_video(norm_audio, grid),
        )


class NoFusion(nn.Module):
    """The ablation: streams that never meet."""

    def forward(self, video: Tensor, audio: Tensor, height: int = 1) -> tuple[Tensor, Tensor]:
        """Both as they came."""
        return video, audio


def build_fusion(kind: FusionKind, video_channels: int, audio_channels: int, head_channels: int = 32) -> nn.Module:
    """The fusion of one level, by name; ``head_channels`` are cross-attention's."""
    match kind:
        case "easy":
            return EasyFusion(video_channels, audio_channels)
        case "cross_attention":
            return CrossAttentionFusion(video_channels, audio_channels, head_channels)
        case "none":
            return NoFusion()
    raise ValueError(f"fusion must be 'easy', 'cross_attention' or 'none', got {kind!r}")
