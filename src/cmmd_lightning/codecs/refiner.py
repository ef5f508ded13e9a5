"""A network behind a frame codec that sees neighbouring frames."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

_DILATIONS = (1, 2, 4, 1)


class TemporalRefiner(nn.Module):
    """Mend decoded frames by what their neighbours and their latents say.

    A frame codec shows every error of its latents, each frame its own: what stands still flickers. Here residual blocks
    of a convolution over space and one over time (2D + 1D), on blocks of ``unshuffle`` x ``unshuffle`` pixels, average
    such errors away. It starts as the identity, and holds for any number of frames.

    Args:
        latent_channels: C.
        channels: Width of the blocks.
        blocks: Residual blocks; their convolutions over time reach 1, 2, 4, 1, 1, 2, ... frames.
        unshuffle: Side of a block of pixels, a divisor of the codec's pixels per latent.
    """

    def __init__(self, latent_channels: int, channels: int = 64, blocks: int = 4, unshuffle: int = 4) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        reach = [_DILATIONS[i % len(_DILATIONS)] for i in range(blocks)]
        self.context = sum(reach)
        self.enter = nn.Conv2d(3 * unshuffle**2 + latent_channels, channels, 1)
        self.space = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in reach)
        self.time = nn.ModuleList(
            nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)) for dilation in reach
        )
        self.leave = nn.Conv2d(channels, 3 * unshuffle**2, 3, padding=1)
        for layer in (*self.time, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames: Tensor, latents: Tensor, length: int) -> Tensor:
        """Refine frames of clips.

        Args:
            frames: Decoded one by one, (B T, 3, H, W).
            latents: Raw, (B T, C, h, w).
            length: T.

        Returns:
            Like ``frames``, not clamped.
        """
        pixels = functional.pixel_unshuffle(frames, self.unshuffle)
        given = functional.interpolate(latents, size=pixels.shape[2:], mode="nearest")
        h = self.enter(torch.cat([pixels, given], dim=1).contiguous(memory_format=torch.channels_last))
        height = h.shape[2]
        for space, time in zip(self.space, self.time, strict=True):
            part = functional.silu(space(functional.silu(h)))
            part = rearrange(part.permute(0, 2, 3, 1), "(b t) h w c -> b t (h w) c", t=length).permute(0, 3, 1, 2)
            part = time(part)
            h = h + rearrange(part.permute(0, 2, 3, 1), "b t (h w) c -> (b t) h w c", h=height).permute(0, 3, 1, 2)
        return frames + functional.pixel_shuffle(self.leave(functional.silu(h)).contiguous(), self.unshuffle)
