"""Building frame codecs: from a configuration, a training checkpoint, a diffusers folder, or a hub name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from cmmd_lightning.checkpoints import packaged_checkpoint
from cmmd_lightning.codecs.clip_autoencoder import ClipAutoencoderCodec
from cmmd_lightning.codecs.config import CODEC_KINDS, CodecConfig, plain
from cmmd_lightning.codecs.foreign import import_class, refuse_foreign
from cmmd_lightning.codecs.frames import AutoencoderKLCodec, FrameCodec, PixelUnshuffleCodec

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_EXPECTED = "expected a checkpoint with a frame codec (.ckpt, or demo), a diffusers AutoencoderKL folder, or a hub name"
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
    config = CodecConfig.of(config)
    codec: FrameCodec
    if config.kind == "pixel_unshuffle":
        codec = PixelUnshuffleCodec(config.unshuffle)
    elif config.kind not in CODEC_KINDS and (config.path is None or not config.path.endswith(".ckpt")):
        arguments = {**(config.config or {}), **({} if config.path is None else {"path": config.path})}
        codec = import_class(config.kind, FrameCodec, "codec")(**arguments)
        codec.config = replace(config, path=None)
    elif config.path is None and config.kind == "clip_autoencoder":
        codec = ClipAutoencoderCodec(config.unshuffle, config.config)
    elif config.path is None:
        codec = AutoencoderKLCodec(_new_network(config), config.shortcut)
    else:
        codec = _load(config.path, config.kind)
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


def _load(path: str, kind: str) -> FrameCodec:
    """From whatever ``path`` names."""
    found = packaged_checkpoint(path) or Path(path).expanduser()
    if found.is_file():
        return _load_checkpoint(found, kind)
    if found.is_dir():
        for folder in (found, found / "vae"):
            if (folder / "config.json").is_file():
                try:
                    return AutoencoderKLCodec(_load_diffusers(str(folder)))
                except (OSError, RuntimeError, KeyError) as error:
                    reason = " ".join(str(error).split())[:200]
                    raise ValueError(f"{folder}: {_EXPECTED}, got a folder that does not load ({reason})") from error
        raise ValueError(f"{path}: {_EXPECTED}, got a folder without config.json")
    if found.suffix == ".ckpt" or not _HUB_NAME.fullmatch(path):
        raise ValueError(f"{path}: {_EXPECTED}, got a path that does not exist")
    return AutoencoderKLCodec(_load_hub(path))


def _load_checkpoint(path: Path, kind: str) -> FrameCodec:
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
    refuse_foreign({"codec": config}, [kind], path)
    codec = build_frame_codec({**config, "path": None})
    try:
        codec.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: {_EXPECTED}, got other weights than its codec's ({reason})") from error
    return codec


def _load_diffusers(name: str, subfolder: str | None = None) -> AutoencoderKL:
    """The network of a folder or hub name; one that is another class, or whose weights are not all there, is refused.

    diffusers itself would fill what it does not find with random numbers.
    """
    from diffusers import AutoencoderKL

    found = AutoencoderKL.load_config(name, subfolder=subfolder).get("_class_name", "AutoencoderKL")
    if found != "AutoencoderKL":
        raise ValueError(f"{name}: {_EXPECTED}, got one of {found}")
    vae, loading = AutoencoderKL.from_pretrained(
        name, subfolder=subfolder, low_cpu_mem_usage=False, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := loading.get(problem):
            said = problem.replace("_", " ")
            raise ValueError(f"{name}: {_EXPECTED}, got weights with {len(keys)} {said}, such as {next(iter(keys))}")
    return cast("AutoencoderKL", vae)


def _load_hub(name: str) -> AutoencoderKL:
    """The network of that name, or the ``vae`` of the pipeline of that name."""
    reason = ""
    for subfolder in (None, "vae"):
        try:
            return _load_diffusers(name, subfolder)
        except (OSError, ValueError, RuntimeError) as error:
            reason = reason or " ".join(str(error).split())[:200]
    raise ValueError(f"{name}: {_EXPECTED}, got no such path, and from the hub: {reason}")
