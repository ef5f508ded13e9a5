"""A frame VAE whose decoder sees neighbouring frames."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmmd_lightning.codecs.blocks import block_basis
from cmmd_lightning.codecs.frames import CodecConfig, FrameCodec


@dataclass(frozen=True)
class ClipAutoencoderSpec:
    """Sizes of a `ClipAutoencoderCodec`.

    Args:
        latent_channels: Channels C of the latents.
        channels: Features at the first resolution (after the pixel-unshuffle) and at that of the latents, half of it.
        encoder_blocks: Residual blocks of the encoder at each of the two resolutions.
        decoder_blocks: Residual blocks of the decoder at each.
        kernels: Frames that one block of the decoder sees, at each resolution, odd; 1 is none but its own.
        negative_slope: Of the leaky rectifiers; 0 is ReLU, whose units a high learning rate kills for good.

    Raises:
        ValueError: If a kernel is even.
    """

    latent_channels: int = 8
    channels: tuple[int, int] = (64, 96)
    encoder_blocks: int = 1
    decoder_blocks: int = 2
    kernels: tuple[int, int] = (3, 5)
    negative_slope: float = 0.0

    def __post_init__(self) -> None:
        for name in ("channels", "kernels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"ClipAutoencoderSpec.kernels must be odd, got {self.kernels}")

    def to_dict(self) -> dict[str, Any]:
        """Return the plain-dict form, as stored in checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class _Block(nn.Module):
    """Residual block over space and, with a kernel above 1, another over time; both start as nothing."""

    def __init__(self, channels: int, slope: float, kernel: int = 1) -> None:
        super().__init__()
        self.rectify = nn.LeakyReLU(slope)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = _zeroed(nn.Conv2d(channels, channels, 3, padding=1))
        self.time: nn.Module | None = None
        if kernel > 1:
            self.time = _zeroed(nn.Conv2d(channels, channels, (kernel, 1), padding=(kernel // 2, 0)))

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(B T, C, h, w), T -> the same shape."""
        x = x + self.second(self.rectify(self.first(self.rectify(x))))
        if self.time is None:
            return x
        size = x.shape[2:]
        by_clip = self.rectify(x).permute(0, 2, 3, 1).reshape(-1, frames, size[0] * size[1], x.shape[1])
        over_time = self.time(by_clip.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + over_time.reshape(len(x), *size, x.shape[1]).permute(0, 3, 1, 2)


class ClipAutoencoderCodec(FrameCodec):
    """A Gaussian VAE that encodes frames one by one and decodes each with its neighbours (2D + 1D).

    What errs by itself in each frame, as the latents that a diffusion model draws do, is averaged away where the
    picture stands still. There is no normalisation, so that levels and colours pass; as in `AutoencoderKLCodec`, a
    linear codec runs beside the network (``block_basis``), whose branches start at zero. It runs channels_last.

    Args:
        unshuffle: Pixel-unshuffle factor in front of the network; the latents are half as fine again.
        spec: Sizes, in plain form or not.
    """

    patterns: Tensor
    gains: Tensor

    def __init__(self, unshuffle: int = 4, spec: ClipAutoencoderSpec | dict[str, Any] | None = None) -> None:
        spec = spec if isinstance(spec, ClipAutoencoderSpec) else ClipAutoencoderSpec(**(spec or {}))
        config = CodecConfig("clip_autoencoder", None, unshuffle, spec.to_dict(), True)
        super().__init__(config, spec.latent_channels, 2 * unshuffle)
        fine, coarse = spec.channels
        slope = spec.negative_slope
        self.rectify = nn.LeakyReLU(slope)
        pixels, latents = 3 * unshuffle**2, spec.latent_channels
        patterns, gains = block_basis(latents, self.downsample)
        self.register_buffer("patterns", patterns, persistent=False)
        self.register_buffer("gains", gains.view(-1, 1, 1), persistent=False)
        self.encoder_in = nn.Conv2d(pixels, fine, 3, padding=1)
        self.encoder_fine = nn.ModuleList(_Block(fine, slope) for _ in range(spec.encoder_blocks))
        self.encoder_down = nn.Conv2d(fine, coarse, 4, 2, 1)
        self.encoder_coarse = nn.ModuleList(_Block(coarse, slope) for _ in range(spec.encoder_blocks))
        self.encoder_out = _zeroed(nn.Conv2d(coarse, 2 * latents, 3, padding=1))
        self.decoder_in = nn.Conv2d(latents, coarse, 3, padding=1)
        self.decoder_coarse = nn.ModuleList(_Block(coarse, slope, spec.kernels[1]) for _ in range(spec.decoder_blocks))
        self.decoder_up = nn.Conv2d(coarse, 4 * fine, 1)
        self.decoder_fine = nn.ModuleList(_Block(fine, slope, spec.kernels[0]) for _ in range(spec.decoder_blocks))
        self.decoder_out = _zeroed(nn.Conv2d(fine, pixels, 3, padding=1))
        self.context = spec.decoder_blocks * sum(kernel // 2 for kernel in spec.kernels)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior; see `FrameCodec.encode`."""
        self.latent_shape(*frames.shape[-2:])
        x = functional.pixel_unshuffle(frames, self.config.unshuffle).contiguous(memory_format=torch.channels_last)
        x = self.encoder_in(x)
        for block in self.encoder_fine:
            x = block(x, 1)
        x = self.encoder_down(self.rectify(x))
        for block in self.encoder_coarse:
            x = block(x, 1)
        mean, logvar = self.encoder_out(self.rectify(x)).contiguous().chunk(2, dim=1)
        linear = self.gains * functional.conv2d(frames, self.patterns, stride=self.downsample)
        return mean + linear, logvar.clamp(-30.0, 20.0)

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Frames of raw latents, each as a clip of its own; see `FrameCodec.reconstruct`."""
        return self.reconstruct_clips(latents.unsqueeze(2)).squeeze(2)

    def reconstruct_clips(self, latents: Tensor) -> Tensor:
        """Frames (B, 3, T, H, W) of raw latents (B, C, T, h, w), not clamped."""
        frames = latents.shape[2]
        flat = latents.transpose(1, 2).flatten(0, 1)
        x = self.decoder_in(flat.contiguous(memory_format=torch.channels_last))
        for block in self.decoder_coarse:
            x = block(x, frames)
        x = functional.pixel_shuffle(self.decoder_up(self.rectify(x)), 2)
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.decoder_fine:
            x = block(x, frames)
        pixels = functional.pixel_shuffle(self.decoder_out(self.rectify(x)).contiguous(), self.config.unshuffle)
        linear = functional.conv_transpose2d(flat / self.gains, self.patterns, stride=self.downsample)
        return (pixels + linear).unflatten(0, (-1, frames)).transpose(1, 2)


def _zeroed(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
