"""Which frame codec: its configuration, in plain types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

CODEC_KINDS = ("pixel_unshuffle", "autoencoder_kl", "clip_autoencoder")


@dataclass
class CodecConfig:
    """Which frame codec to use, in plain types (``asdict`` and back).

    Args:
        kind: ``pixel_unshuffle`` (no training, exact), ``autoencoder_kl`` (the Gaussian VAE), or ``clip_autoencoder``
            (one whose decoder sees neighbouring frames); or the path of a class of your own, ``theirs.module.Codec``, a
            `FrameCodec` that is built with ``config`` as its arguments.
        path: For the two that are trained: a checkpoint (``.ckpt``) of ``FrameAutoencoderModule`` or ``CMMD``, or
            ``demo``, the one that ships; for ``autoencoder_kl`` also a diffusers folder, or a hub name. None builds the
            network from ``config``, with random weights until a state dict is loaded.
        unshuffle: Pixel-unshuffle factor: the codec's own for ``pixel_unshuffle``; in front of the network for
            ``autoencoder_kl`` (1 is none). A loaded network knows its own factor, which then replaces this one.
        config: Keyword arguments of ``diffusers.AutoencoderKL``, or of `ClipAutoencoderSpec`. The number of picture
            channels follows from ``unshuffle``, and the block types from ``block_out_channels``.
        shortcut: For ``autoencoder_kl`` trained here: see ``AutoencoderKLCodec``. A loaded network knows its own.

    Raises:
        ValueError: If ``kind`` is unknown or ``unshuffle`` is not positive.
    """

    kind: str = "pixel_unshuffle"
    path: str | None = None
    unshuffle: int = 4
    config: dict[str, Any] | None = None
    shortcut: bool = False

    def __post_init__(self) -> None:
        if self.kind not in CODEC_KINDS and "." not in self.kind:
            raise ValueError(
                f"CodecConfig.kind must be one of {', '.join(CODEC_KINDS)} or the path of a class, got {self.kind!r}"
            )
        if self.unshuffle < 1:
            raise ValueError(f"CodecConfig.unshuffle must be at least 1, got {self.unshuffle!r}")

    @classmethod
    def of(cls, value: CodecConfig | Mapping[str, Any] | None) -> CodecConfig:
        """A configuration, from its plain form, from ``{"class_path": ..., "init_args": ...}``, or the default."""
        if isinstance(value, CodecConfig):
            return value
        if value and "class_path" in value:
            return cls(kind=value["class_path"], config=dict(value.get("init_args") or {}))
        return cls(**(value or {}))

    def to_dict(self) -> dict[str, Any]:
        """Plain-dict form, as stored in checkpoints."""
        return plain(asdict(self))


def plain(value: Any) -> Any:
    """``value`` with every mapping as dict and every tuple as list, all the way down, as JSON would have it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
