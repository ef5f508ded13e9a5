"""The joint network: two U-Nets, one for video latents and one for log-Mels, fused at every level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
import torch.utils.checkpoint
from einops import rearrange
from torch import Tensor, nn

from cmmd_lightning.models.blocks import (
    Downsample,
    ResidualBlock,
    SelfAttention,
    TimeAttention,
    Upsample,
    by_clip,
    by_frame,
    group_norm,
    time_conv,
    zero_init,
)
from cmmd_lightning.models.embeddings import TimesEmbedding
from cmmd_lightning.models.fusion import FusionKind, build_fusion


@dataclass(frozen=True)
class NetworkSpec:
    """Size of the joint network.

    Args:
        video_channels: Channels of the video stream at each level, finest first. Space halves from level to level.
        audio_channels: Channels of the audio stream at each level; as many levels. Time halves from level to level.
        num_blocks: Residual blocks per level and direction.
        attention_levels: Levels (0 is finest) with self-attention; the bottom always has it.
        time_attention_levels: Levels where each place of the video also attends to itself at all other times: what a
            still background and a moving thing look like over the whole clip, at little cost.
        head_channels: Features per attention head.
        embedding_channels: Features of the diffusion times' embedding.
        fusion: ``easy``, ``cross_attention`` or ``none``.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.

    Raises:
        ValueError: If the two streams differ in their number of levels.
    """

    video_channels: tuple[int, ...] = (64, 96)
    audio_channels: tuple[int, ...] = (96, 128)
    num_blocks: int = 1
    attention_levels: tuple[int, ...] = (1,)
    time_attention_levels: tuple[int, ...] = ()
    head_channels: int = 32
    embedding_channels: int = 128
    fusion: FusionKind = "easy"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("video_channels", "audio_channels", "attention_levels", "time_attention_levels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.video_channels) != len(self.audio_channels):
            raise ValueError(
                "video_channels and audio_channels must have as many levels, "
                f"got {self.video_channels} and {self.audio_channels}"
            )

    @classmethod
    def of(cls, spec: NetworkSpec | Mapping[str, Any] | None) -> NetworkSpec:
        """A NetworkSpec from itself, from its plain-dict form, or the default from None."""
        return spec if isinstance(spec, NetworkSpec) else cls(**(spec or {}))

    def to_dict(self) -> dict[str, Any]:
        """Plain-dict form, as stored in checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class JointLevel(nn.Module):
    """Residual blocks of both streams, their fusion, and each stream's self-attention."""

    def __init__(
        self,
        video: tuple[int, int],
        audio: tuple[int, int],
        spec: NetworkSpec,
        attention: bool,
        over_time: bool = False,
    ) -> None:
        super().__init__()

        def blocks(channels: tuple[int, int], spatial: bool) -> nn.ModuleList:
            widths = [channels[0]] + [channels[1]] * spec.num_blocks
            return nn.ModuleList(ResidualBlock(a, b, spec.embedding_channels, spatial) for a, b in pairwise(widths))

        self.video_blocks = blocks(video, True)
        self.audio_blocks = blocks(audio, False)
        self.fusion = build_fusion(spec.fusion, video[1], audio[1], spec.head_channels)
        self.video_attention = SelfAttention(video[1], spec.head_channels) if attention else nn.Identity()
        self.audio_attention = SelfAttention(audio[1], spec.head_channels) if attention else nn.Identity()
        self.time_attention = TimeAttention(video[1], spec.head_channels) if over_time else nn.Identity()

    def forward(self, video: Tensor, audio: Tensor, embedding: Tensor, height: int) -> tuple[Tensor, Tensor]:
        """(B, C, T, S), (B, C', L, 1), (B, D), H -> both streams."""
        for block in self.video_blocks:
            video = block(video, embedding, height)
        for block in self.audio_blocks:
            audio = block(audio, embedding, 1)
        video, audio = self.fusion(video, audio, height)
        return self.time_attention(self.video_attention(video)), self.audio_attention(audio)


class JointUNet(nn.Module):
    """Predicts the velocities of video latents and log-Mel together.

    Args:
        latent_channels: Channels C of the video latents.
        n_mels: Mel bands M, the channels of the sound.
        spec: Sizes, a `NetworkSpec` or its plain-dict form.

    Example:
        >>> network = JointUNet(4, 80, NetworkSpec(video_channels=(32, 32), audio_channels=(32, 32)))
        >>> t = torch.zeros(2)
        >>> v_video, v_audio = network(torch.zeros(2, 4, 16, 8, 8), torch.zeros(2, 80, 128), t, t)
        >>> v_video.shape, v_audio.shape
        (torch.Size([2, 4, 16, 8, 8]), torch.Size([2, 80, 128]))
    """

    def __init__(
        self, latent_channels: int = 4, n_mels: int = 80, spec: NetworkSpec | Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        spec = NetworkSpec.of(spec)
        self.spec = spec
        video, audio = spec.video_channels, spec.audio_channels
        levels = range(len(video))
        last = len(video) - 1

        def attends(i: int) -> tuple[bool, bool]:
            return i in spec.attention_levels, i in spec.time_attention_levels

        self.embedding = TimesEmbedding(spec.embedding_channels)
        self.video_in = nn.Conv2d(latent_channels + 2, video[0], 3, padding=1)
        self.audio_in = time_conv(n_mels, audio[0])
        self.down = nn.ModuleList(
            JointLevel((video[i], video[i]), (audio[i], audio[i]), spec, *attends(i)) for i in levels
        )
        self.video_down = nn.ModuleList(Downsample(video[i], video[i + 1], True) for i in range(last))
        self.audio_down = nn.ModuleList(Downsample(audio[i], audio[i + 1], False) for i in range(last))
        self.middle = JointLevel((video[-1], video[-1]), (audio[-1], audio[-1]), spec, True, False)
        self.up = nn.ModuleList(
            JointLevel((2 * video[i], video[i]), (2 * audio[i], audio[i]), spec, *attends(i)) for i in levels
        )
        self.video_up = nn.ModuleList(Upsample(video[i + 1], video[i], True) for i in range(last))
        self.audio_up = nn.ModuleList(Upsample(audio[i + 1], audio[i], False) for i in range(last))
        self.video_norm, self.audio_norm = group_norm(video[0]), group_norm(audio[0])
        self.video_out = zero_init(nn.Conv2d(video[0], latent_channels, 3, padding=1))
        self.audio_out = zero_init(time_conv(audio[0], n_mels))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _level(self, level: nn.Module, *args: Any) -> tuple[Tensor, Tensor]:
        if self.spec.gradient_checkpointing and self.training:
            return torch.utils.checkpoint.checkpoint(level, *args, use_reentrant=False)
        return level(*args)

    def forward(self, z_video: Tensor, z_audio: Tensor, t_video: Tensor, t_audio: Tensor) -> tuple[Tensor, Tensor]:
        """Velocities of both modalities.

        Args:
            z_video: Noisy video latents, (B, C, T, H, W).
            z_audio: Noisy log-Mel, (B, M, L).
            t_video: Diffusion time of the video, (B,), in [0, 1].
            t_audio: Diffusion time of the sound, (B,), in [0, 1].

        Returns:
            v_video (B, C, T, H, W) and v_audio (B, M, L).
        """
        frames, height = z_video.shape[2], z_video.shape[3]
        embedding = self.embedding(t_video, t_audio)
        video = rearrange(z_video, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        video = by_clip(self.video_in(_with_coordinates(video)), frames)
        audio = self.audio_in(z_audio.unsqueeze(3).contiguous(memory_format=torch.channels_last))

        skips: list[tuple[Tensor, Tensor, int]] = []
        for i, level in enumerate(self.down):
            video, audio = self._level(level, video, audio, embedding, height)
            skips.append((video, audio, height))
            if i < len(self.video_down):
                video, height = self.video_down[i](video, height)
                audio, _ = self.audio_down[i](audio, 1)
        video, audio = self._level(self.middle, video, audio, embedding, height)
        for i in reversed(range(len(self.up))):
            skip_video, skip_audio, skip_height = skips[i]
            if i < len(self.video_up):
                video = self.video_up[i](video, height, skip_video, skip_height)
                audio = self.audio_up[i](audio, 1, skip_audio, 1)
            height = skip_height
            joined = torch.cat([video, skip_video], dim=1), torch.cat([audio, skip_audio], dim=1)
            video, audio = self._level(self.up[i], *joined, embedding, height)

        video = self.video_out(by_frame(F.silu(self.video_norm(video)), height))
        audio = self.audio_out(F.silu(self.audio_norm(audio)))
        return rearrange(video, "(b t) c h w -> b c t h w", t=frames), audio.squeeze(3)


def _with_coordinates(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C + 2, H, W): the places y and x, from -1 to 1 (Liu et al., arXiv 1807.03247).

    What a thing does often shows in where it is (on the floor, in a hand), and convolutions alone hardly know.
    """
    y = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype, device=x.device)[:, None].expand(1, 1, *x.shape[2:])
    x_ = torch.linspace(-1, 1, x.shape[3], dtype=x.dtype, device=x.device).expand(1, 1, *x.shape[2:])
    places = torch.cat([y, x_], dim=1).expand(x.shape[0], -1, -1, -1)
    return torch.cat([x, places], dim=1).contiguous(memory_format=torch.channels_last)
