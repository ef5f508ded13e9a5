"""Blocks of the joint network.

Both streams are kept as (B, C, T, H, W) folded to four axes and held in channels_last memory, so that space and time
convolutions read the same memory without a copy:

- by frame: (B T, C, H, W), for convolutions over space;
- by clip: (B, C, T, S) with S = H W, for convolutions over time and for attention.

Sound is a video of one pixel: (B, C, L, 1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor, nn

from cmmd_lightning.models.embeddings import clip_positions

_SHORT = 64  # keys


def zero_init(module: nn.Module) -> nn.Module:
    """The module with all parameters at zero, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class _GroupNorm(nn.GroupNorm):
    """Group norm in float32 under autocast, as torch has it on GPUs; on a CPU it is 2.5 times as slow in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        return super().forward(x.float() if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") else x)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with groups of at least 8 channels, at most 32 groups."""
    groups = max(g for g in range(1, 33) if channels % g == 0 and (channels // g >= 8 or g == 1))
    return _GroupNorm(groups, channels)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot product attention, (..., N, D), (..., M, D), (..., M, D) -> (..., N, D).

    In bfloat16 on a CPU torch's own kernel is slower than in float32, with few keys four times (torch 2.12): there the
    products are written out for short sequences, and long ones go through it in float32.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v)
    if k.shape[-2] > _SHORT:
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(v.dtype)
    weights = (q.shape[-1] ** -0.5 * (q @ k.mT).float()).softmax(-1)
    return weights.to(v.dtype) @ v


def by_clip(x: Tensor, frames: int) -> Tensor:
    """(B T, C, H, W) -> (B, C, T, H W); a view in channels_last memory."""
    return rearrange(x.permute(0, 2, 3, 1), "(b t) h w c -> b t (h w) c", t=frames).permute(0, 3, 1, 2)


def by_frame(x: Tensor, height: int) -> Tensor:
    """(B, C, T, H W) -> (B T, C, H, W); a view in channels_last memory."""
    return rearrange(x.permute(0, 2, 3, 1), "b t (h w) c -> (b t) h w c", h=height).permute(0, 3, 1, 2)


def time_conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Convolution over the time axis of (B, C, T, S)."""
    return nn.Conv2d(in_channels, out_channels, (kernel, 1), (stride, 1), (kernel // 2, 0))


class ResidualBlock(nn.Module):
    """Residual block: one convolution, modulation by the diffusion times, then a convolution over time.

    For video the first convolution is over space (2D + 1D); for sound both are over time (1D).

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        embedding_channels: Features of the times' embedding.
        spatial: True for video.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_channels: int, spatial: bool) -> None:
        super().__init__()
        self.spatial = spatial
        self.norm_in = group_norm(in_channels)
        self.conv_in = (
            nn.Conv2d(in_channels, out_channels, 3, padding=1) if spatial else time_conv(in_channels, out_channels)
        )
        self.modulation = nn.Linear(embedding_channels, 2 * out_channels)
        self.norm_out = group_norm(out_channels)
        self.conv_out = zero_init(time_conv(out_channels, out_channels))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor, height: int) -> Tensor:
        """(B, C, T, S), (B, D), H of S = H W -> (B, C', T, S)."""
        frames = x.shape[2]
        h = F.silu(self.norm_in(x))
        h = by_clip(self.conv_in(by_frame(h, height)), frames) if self.spatial else self.conv_in(h)
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_out(F.silu(self.norm_out(h) * (1 + scale) + shift))
        return self.skip(x) + h


def heads_of(channels: int, head_channels: int) -> int:
    """Number of attention heads.

    Raises:
        ValueError: If ``channels`` is no multiple of ``head_channels``.
    """
    if channels % head_channels:
        raise ValueError(f"attention needs channels as a multiple of {head_channels} (head_channels), got {channels}")
    return channels // head_channels


class SelfAttention(nn.Module):
    """Self-attention over all positions of a clip, time and space together.

    Args:
        channels: C, a multiple of ``head_channels``.
        head_channels: Features per head.
    """

    def __init__(self, channels: int, head_channels: int = 32) -> None:
        super().__init__()
        self.heads = heads_of(channels, head_channels)
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, S) -> (B, C, T, S)."""
        tokens = rearrange(self.norm(x).permute(0, 2, 3, 1), "b t s c -> b (t s) c")
        q, k, v = rearrange(self.qkv(tokens), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        h = rearrange(attend(q, k, v), "b h n d -> b n (h d)")
        return x + rearrange(self.out(h), "b (t s) c -> b t s c", t=x.shape[2]).permute(0, 3, 1, 2)


class TimeAttention(nn.Module):
    """Self-attention along time, each place by itself, with the times of the frames in queries and keys.

    Args:
        channels: C, a multiple of ``head_channels``.
        head_channels: Features per head.
    """

    def __init__(self, channels: int, head_channels: int = 32) -> None:
        super().__init__()
        self.heads = heads_of(channels, head_channels)
        self.norm = group_norm(channels)
        self.query_key = nn.Linear(channels, 2 * channels)
        self.value = nn.Linear(channels, channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, S) -> (B, C, T, S)."""
        tokens = rearrange(self.norm(x).permute(0, 2, 3, 1), "b t s c -> (b s) t c")
        timed = tokens + clip_positions(x.shape[2], x.shape[1], tokens)
        q, k = rearrange(self.query_key(timed), "n t (two h d) -> two n h t d", two=2, h=self.heads)
        v = rearrange(self.value(tokens), "n t (h d) -> n h t d", h=self.heads)
        h = rearrange(attend(q, k, v), "n h t d -> n t (h d)")
        return x + rearrange(self.out(h), "(b s) t c -> b t s c", b=len(x)).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    """Halves space (video) or time (sound) by a strided convolution."""

    def __init__(self, in_channels: int, out_channels: int, spatial: bool) -> None:
        super().__init__()
        self.spatial = spatial
        self.conv = (
            nn.Conv2d(in_channels, out_channels, 3, 2, 1) if spatial else time_conv(in_channels, out_channels, 5, 2)
        )

    def forward(self, x: Tensor, height: int) -> tuple[Tensor, int]:
        """(B, C, T, S), H -> (B, C', T, S / 4) or (B, C', T / 2, 1), and the new H."""
        if not self.spatial:
            return self.conv(x), height
        h = self.conv(by_frame(x, height))
        return by_clip(h, x.shape[2]), h.shape[2]


class Upsample(nn.Module):
    """Brings space (video) or time (sound) to a wanted size: nearest neighbour, then a convolution."""

    def __init__(self, in_channels: int, out_channels: int, spatial: bool) -> None:
        super().__init__()
        self.spatial = spatial
        self.conv = (
            nn.Conv2d(in_channels, out_channels, 3, padding=1) if spatial else time_conv(in_channels, out_channels)
        )

    def forward(self, x: Tensor, height: int, like: Tensor, like_height: int) -> Tensor:
        """(B, C, T, S), H, and a tensor (B, *, T', S') whose size is wanted -> (B, C', T', S')."""
        if not self.spatial:
            return self.conv(F.interpolate(x, size=like.shape[2:], mode="nearest"))
        h = F.interpolate(by_frame(x, height), size=(like_height, like.shape[3] // like_height), mode="nearest")
        return by_clip(self.conv(h), x.shape[2])
