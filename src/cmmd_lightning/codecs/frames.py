"""Frames to latents and back: the Gaussian VAE (diffusers' AutoencoderKL), and a pixel-unshuffle codec."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmmd_lightning.codecs.blocks import block_basis

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CodecKind = Literal["pixel_unshuffle", "autoencoder_kl", "clip_autoencoder"]

NO_SPREAD = -30.0  # log-variance of a codec that has no posterior spread: a standard deviation of 3e-7

# What of an AutoencoderKL's configuration shapes the network; the rest (its scaling factor, tiling) is not used here.
_ARCHITECTURE = (
    "in_channels",
    "out_channels",
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "act_fn",
    "latent_channels",
    "norm_num_groups",
    "use_quant_conv",
    "use_post_quant_conv",
    "mid_block_add_attention",
)


@dataclass
class CodecConfig:
    """Which frame codec to use, in plain types (``asdict`` and back).

    Args:
        kind: ``pixel_unshuffle`` (no training, exact), ``autoencoder_kl`` (the Gaussian VAE), or ``clip_autoencoder``
            (one whose decoder sees neighbouring frames).
        path: For the two that are trained: a ``FrameAutoencoderModule`` checkpoint (``.ckpt``); for ``autoencoder_kl``
            also a diffusers folder, or a hub name. None builds the network from ``config``, with random weights until a
            state dict is loaded.
        unshuffle: Pixel-unshuffle factor: the codec's own for ``pixel_unshuffle``; in front of the network for
            ``autoencoder_kl`` (1 is none). A loaded network knows its own factor, which then replaces this one.
        config: Keyword arguments of ``diffusers.AutoencoderKL``, or of `ClipAutoencoderSpec`. The number of picture
            channels follows from ``unshuffle``, and the block types from ``block_out_channels``.
        shortcut: For ``autoencoder_kl`` trained here: see ``AutoencoderKLCodec``. A loaded network knows its own.

    Raises:
        ValueError: If ``kind`` is unknown or ``unshuffle`` is not positive.
    """

    kind: CodecKind = "pixel_unshuffle"
    path: str | None = None
    unshuffle: int = 4
    config: dict[str, Any] | None = None
    shortcut: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(CodecKind):
            raise ValueError(f"CodecConfig.kind must be one of {get_args(CodecKind)}, got {self.kind!r}")
        if self.unshuffle < 1:
            raise ValueError(f"CodecConfig.unshuffle must be at least 1, got {self.unshuffle!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain-dict form, as stored in checkpoints."""
        return plain(asdict(self))


class FrameCodec(nn.Module, ABC):
    """Frames in [-1, 1] to a Gaussian over latents, and latents back to frames.

    Shapes: N frames of 3 x H x W pixels; C latent channels of h x w, where h = H / ``downsample`` and
    w = W / ``downsample``. Latents are raw, in the codec's own units, until ``normalize`` brings them to about unit
    variance with the buffers ``shift`` and ``scale``, one number per channel, which are measured on the training data.
    Gradients flow through ``encode`` and ``decode``; callers that want none use ``torch.no_grad``.

    Args:
        config: The resolved configuration: it alone rebuilds the module, weights apart.
        latent_channels: C.
        downsample: Pixels per latent cell, along height and along width.
    """

    shift: Tensor
    scale: Tensor
    context = 0  # frames to either side that a decoded frame depends on

    def __init__(self, config: CodecConfig, latent_channels: int, downsample: int) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = latent_channels
        self.downsample = downsample
        self.register_buffer("shift", torch.zeros(latent_channels))
        self.register_buffer("scale", torch.ones(latent_channels))

    @abstractmethod
    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of the latents.

        Args:
            frames: (N, 3, H, W), values in [-1, 1].

        Returns:
            Mean and log-variance, each (N, C, h, w), in raw units.

        Raises:
            ValueError: If H or W is not a multiple of ``downsample``.
        """

    @abstractmethod
    def reconstruct(self, latents: Tensor) -> Tensor:
        """Frames (N, 3, H, W) of raw latents (N, C, h, w), not clamped: what a training loss compares."""

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [-1, 1] of raw latents (N, C, h, w)."""
        return self.reconstruct(latents).clamp(-1.0, 1.0)

    def reconstruct_clips(self, latents: Tensor) -> Tensor:
        """Frames (B, 3, T, H, W) of clips of raw latents (B, C, T, h, w), not clamped."""
        flat = latents.transpose(1, 2).flatten(0, 1)
        return self.reconstruct(flat).unflatten(0, (len(latents), -1)).transpose(1, 2)

    def decode_clips(self, latents: Tensor, max_frames: int = 128) -> Tensor:
        """Frames (B, 3, T, H, W) in [-1, 1] of clips of raw latents (B, C, T, h, w), at most so many at once."""
        starts = range(0, latents.shape[2], max_frames)
        return torch.cat([self.decode_part(latents, start, max_frames) for start in starts], dim=2)

    def decode_part(self, latents: Tensor, start: int, num_frames: int) -> Tensor:
        """Frames ``start`` to ``start + num_frames`` of `decode_clips`, with the context that they need."""
        first = max(0, start - self.context)
        per_clip = [self.reconstruct_clips(x[None, :, first : start + num_frames + self.context]) for x in latents]
        return torch.cat(per_clip)[:, :, start - first :][:, :, :num_frames].clamp(-1.0, 1.0)

    def normalize(self, latents: Tensor) -> Tensor:
        """Raw latents (B, C, ...) to about zero mean and unit variance per channel."""
        return (latents - self._per_channel(self.shift, latents)) / self._per_channel(self.scale, latents)

    def denormalize(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, ...) back to raw units."""
        return latents * self._per_channel(self.scale, latents) + self._per_channel(self.shift, latents)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape (C, h, w) of the latents of one ``height`` x ``width`` frame.

        Raises:
            ValueError: If a side is not a multiple of ``downsample``.
        """
        if height % self.downsample or width % self.downsample or height < 1 or width < 1:
            raise ValueError(
                f"frame height and width must be multiples of {self.downsample} for codec {self.config.kind!r}, "
                f"got {height} x {width}"
            )
        return self.latent_channels, height // self.downsample, width // self.downsample

    def fingerprint(self) -> str:
        """Hash (hex) of kind, architecture and weights.

        The same on every machine, and for any ``shift`` and ``scale``: it names the raw latents.
        """
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for name, weights in sorted(self.state_dict().items()):
            if name not in ("shift", "scale"):
                weights = weights.detach().cpu().contiguous()
                digest.update(f"{name} {weights.dtype} {tuple(weights.shape)}".encode())
                digest.update(weights.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @staticmethod
    def _per_channel(values: Tensor, like: Tensor) -> Tensor:
        return values.to(like.dtype).view(1, -1, *[1] * (like.ndim - 2))


class PixelUnshuffleCodec(FrameCodec):
    """Moves each ``unshuffle`` x ``unshuffle`` block of pixels into channels: exact, no weights, no posterior spread.

    Args:
        unshuffle: Side of the block in pixels.

    Example:
        >>> codec = PixelUnshuffleCodec(unshuffle=4)
        >>> codec.latent_shape(64, 96)
        (48, 16, 24)
    """

    def __init__(self, unshuffle: int = 4) -> None:
        super().__init__(CodecConfig(kind="pixel_unshuffle", unshuffle=unshuffle), 3 * unshuffle**2, unshuffle)

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Rearranged pixels as the mean, and a constant, negligible log-variance; see ``FrameCodec.encode``."""
        self.latent_shape(*frames.shape[-2:])
        mean = functional.pixel_unshuffle(frames, self.config.unshuffle)
        return mean, torch.full_like(mean, NO_SPREAD)

    def reconstruct(self, latents: Tensor) -> Tensor:
        """The exact inverse of the rearrangement."""
        return functional.pixel_shuffle(latents, self.config.unshuffle)


class AutoencoderKLCodec(FrameCodec):
    """``diffusers.AutoencoderKL``, with an optional pixel-unshuffle in front of it and its inverse behind.

    The network's own scaling factor plays no part: ``shift`` and ``scale`` are measured. It runs channels_last, which
    on a CPU is the faster layout by far.

    The network normalises away the level of what it is shown, and learns only slowly to carry colour past that. With
    ``shortcut`` a linear codec runs beside it: the coefficients of the coarsest cosine patterns of each cell's pixels
    (``block_basis``), one per latent channel, are added to the mean, and what the latents say of those patterns is
    added to the decoded frames. The network learns the rest.

    Args:
        vae: The network. Its ``in_channels`` and ``out_channels`` must both be 3 * unshuffle**2, ``unshuffle`` whole.
        shortcut: Whether to run the linear codec beside the network. False for networks that were trained elsewhere.

    Raises:
        ValueError: If the channels fit no unshuffle factor.
    """

    patterns: Tensor
    gains: Tensor

    def __init__(self, vae: AutoencoderKL, shortcut: bool = False) -> None:
        network = cast(Any, vae)
        architecture = plain({key: network.config[key] for key in _ARCHITECTURE})
        channels = architecture["in_channels"]
        unshuffle = math.isqrt(channels // 3)
        if channels != 3 * unshuffle**2 or architecture["out_channels"] != channels:
            raise ValueError(
                f"AutoencoderKL: expected in_channels = out_channels = 3 * unshuffle**2, "
                f"got {channels} and {architecture['out_channels']}"
            )
        latent_channels = architecture["latent_channels"]
        config = CodecConfig("autoencoder_kl", None, unshuffle, architecture, shortcut)
        downsample = unshuffle * 2 ** (len(architecture["block_out_channels"]) - 1)
        super().__init__(config, latent_channels, downsample)
        if shortcut:
            patterns, gains = block_basis(latent_channels, downsample)
            self.register_buffer("patterns", patterns, persistent=False)
            self.register_buffer("gains", gains.view(-1, 1, 1), persistent=False)
        self.vae = network.to(memory_format=torch.channels_last)

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the VAE's posterior; see ``FrameCodec.encode``."""
        self.latent_shape(*frames.shape[-2:])
        pixels = functional.pixel_unshuffle(frames, self.config.unshuffle).contiguous(memory_format=torch.channels_last)
        posterior = self.vae.encode(pixels).latent_dist
        mean = posterior.mean.contiguous()
        if self.config.shortcut:
            mean = mean + self.gains * functional.conv2d(frames, self.patterns, stride=self.downsample)
        return mean, posterior.logvar.contiguous()

    def reconstruct(self, latents: Tensor) -> Tensor:
        """Frames of raw latents, not clamped; see ``FrameCodec.reconstruct``."""
        pixels = self.vae.decode(latents.contiguous(memory_format=torch.channels_last)).sample
        frames = functional.pixel_shuffle(pixels.contiguous(), self.config.unshuffle)
        if self.config.shortcut:
            frames = frames + functional.conv_transpose2d(latents / self.gains, self.patterns, stride=self.downsample)
        return frames


def sample_posterior(mean: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws latents from N(mean, exp(logvar)).

    Args:
        mean: Any shape.
        logvar: Of the same shape.
        generator: Source of the noise, on its own device; None uses the global one.

    Returns:
        A sample of the shape of ``mean``.
    """
    device = mean.device if generator is None else generator.device
    noise = torch.randn(mean.shape, generator=generator, device=device, dtype=mean.dtype)
    return mean + torch.exp(0.5 * logvar) * noise.to(mean.device)


def plain(value: Any) -> Any:
    """``value`` with every mapping as dict and every tuple as list, all the way down, as JSON would have it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def resolved(codec: FrameCodec) -> CodecConfig:
    """A configuration that rebuilds ``codec`` with no file at hand: ``path`` None, ``config`` filled in.

    ``build_frame_codec`` on it gives the network; the weights, ``shift`` and ``scale`` come by ``load_state_dict``.
    """
    return CodecConfig(**plain(asdict(codec.config)))
