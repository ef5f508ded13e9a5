"""Building frame codecs: from a configuration, a training checkpoint, a diffusers folder, or a hub name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from cmmd_lightning.codecs.clip_autoencoder import ClipAutoencoderCodec
from cmmd_lightning.codecs.frames import AutoencoderKLCodec, CodecConfig, FrameCodec, PixelUnshuffleCodec, plain

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_EXPECTED = "expected a frame VAE checkpoint (.ckpt), a diffusers AutoencoderKL folder, or a hub name"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def build_frame_codec(config: CodecConfig | Mapping[str, Any] | None = None) -> FrameCodec:
    """The frame codec that ``config`` asks for, frozen (no gradients, eval mode).

    Args:
        config: A ``CodecConfig``, its plain-dict form, or None for the default.

    Returns:
        The codec, on the CPU, in float32.

    Raises:
        ValueError: If the configuration contradicts itself, or there is no such file, folder or name; one line.

    Example:
        >>> codec = build_frame_codec({"kind": "pixel_unshuffle", "unshuffle": 8})
        >>> codec.latent_channels, codec.downsample
        (192, 8)
    """
    config = config if isinstance(config, CodecConfig) else CodecConfig(**(config or {}))
    codec: FrameCodec
    if config.kind == "pixel_unshuffle":
        codec = PixelUnshuffleCodec(config.unshuffle)
    elif config.path is None and config.kind == "clip_autoencoder":
        codec = ClipAutoencoderCodec(config.unshuffle, config.config)
    elif config.path is None:
        codec = AutoencoderKLCodec(_new_network(config), config.shortcut)
    else:
        codec = _load(config.path)
    return codec.float().eval().requires_grad_(False)


def _new_network(config: CodecConfig) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    if config.config is None:
        raise ValueError("codec 'autoencoder_kl': expected a path or a config to build it from, got neither")
    channels = 3 * config.unshuffle**2
    levels = len(config.config.get("block_out_channels", (64,)))
    arguments = {
        "in_channels": channels,
        "out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        **plain(config.config),
    }
    if {arguments["in_channels"], arguments["out_channels"]} != {channels}:
        raise ValueError(
            f"codec 'autoencoder_kl': expected {channels} in_channels and out_channels for "
            f"unshuffle={config.unshuffle}, got {arguments['in_channels']} and {arguments['out_channels']}"
        )
    try:
        return AutoencoderKL(**arguments)
    except TypeError as error:
        raise ValueError(f"codec 'autoencoder_kl': {error}") from error


def _load(path: str) -> FrameCodec:
    """From whatever ``path`` names."""
    found = Path(path).expanduser()
    if found.is_file():
        return _load_checkpoint(found)
    if found.is_dir():
        for folder in (found, found / "vae"):
            if (folder / "config.json").is_file():
                return AutoencoderKLCodec(_load_diffusers(folder))
        raise ValueError(f"{path}: {_EXPECTED}, got a folder without config.json")
    if found.suffix == ".ckpt" or not _HUB_NAME.fullmatch(path):
        raise ValueError(f"{path}: {_EXPECTED}, got a path that does not exist")
    return AutoencoderKLCodec(_load_hub(path))


def _load_checkpoint(path: Path) -> FrameCodec:
    """From a checkpoint that has its codec's configuration among its hyperparameters and its weights under ``codec.``.

    The state dict of a run with weight averaging holds the averages, so those are what is loaded.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        config = checkpoint["hyper_parameters"]["codec"]
        weights = {k.removeprefix("codec."): v for k, v in checkpoint["state_dict"].items() if k.startswith("codec.")}
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: {_EXPECTED}, got a file that is none ({type(error).__name__}: {reason})") from error
    codec = build_frame_codec({**config, "path": None})
    try:
        codec.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: {_EXPECTED}, got other weights than its codec's ({reason})") from error
    return codec


def _load_diffusers(folder: Path) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    try:
        return cast("AutoencoderKL", AutoencoderKL.from_pretrained(str(folder), low_cpu_mem_usage=False))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder}: {_EXPECTED}, got a folder that does not load ({reason})") from error


def _load_hub(name: str) -> AutoencoderKL:
    """The network of that name, or the ``vae`` of the pipeline of that name."""
    from diffusers import AutoencoderKL

    reason = ""
    for subfolder in (None, "vae"):
        try:
            return cast(
                "AutoencoderKL", AutoencoderKL.from_pretrained(name, subfolder=subfolder, low_cpu_mem_usage=False)
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = reason or " ".join(str(error).split())[:200]
    raise ValueError(f"{name}: {_EXPECTED}, got no such path, and from the hub: {reason}")
