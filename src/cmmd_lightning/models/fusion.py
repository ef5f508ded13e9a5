"""How the two streams see each other."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor, nn

from cmmd_lightning.models.blocks import group_norm, zero_init

FusionKind = Literal["easy", "none"]


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
    if length < x.shape[2]:
        return F.adaptive_avg_pool1d(x, length)
    return F.interpolate(x, size=length, mode="linear", align_corners=False)


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

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T, S), (B, C', L, 1) -> both, fused."""
        norm_video, norm_audio = self.norm_video(video), self.norm_audio(audio).squeeze(3)
        for_video = self.video_from_audio(resample_time(norm_audio, video.shape[2]))
        summary = F.silu(self.summary(norm_video))
        pooled = torch.cat([summary.mean(dim=3), summary.amax(dim=3)], dim=1)
        for_audio = self.audio_from_video(resample_time(pooled, audio.shape[2])) + self.audio_from_audio(norm_audio)
        return (
            video + self.video_from_video(norm_video) + rearrange(for_video, "b c t -> b c t 1"),
            audio + rearrange(for_audio, "b c l -> b c l 1"),
        )


class NoFusion(nn.Module):
    """The ablation: streams that never meet."""

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they came."""
        return video, audio


def build_fusion(kind: FusionKind, video_channels: int, audio_channels: int) -> nn.Module:
    """The fusion of one level, by name."""
    match kind:
        case "easy":
            return EasyFusion(video_channels, audio_channels)
        case "none":
            return NoFusion()
    raise ValueError(f"fusion must be 'easy' or 'none', got {kind!r}")
