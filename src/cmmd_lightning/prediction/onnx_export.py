"""A model as ONNX files, for runtimes other than torch, with its settings in a JSON file beside them."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmmd_lightning.codecs import FrameCodec
from cmmd_lightning.codecs.vocoders import GriffinLimVocoder
from cmmd_lightning.codecs.vocos import Vocos, VocosHead
from cmmd_lightning.prediction.latent_diffusion import LatentDiffusion
from cmmd_lightning.prediction.onnx_runtime import SETTINGS, Session, weights_of
from cmmd_lightning.version import __version__

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference between torch and ONNX, of values of about 1 (of larger ones, as a share of the largest)."""
_BATCH = 2  # that is traced; 1 would be taken for a constant


class _Encoder(nn.Module):
    """Frames (N, 3, H, W) to the mean of their latents and its log-variance, each (N, C, h, w)."""

    def __init__(self, codec: FrameCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.codec.encode(frames)


class _Decoder(nn.Module):
    """Clips of raw latents (B, C, T, h, w) to frames (B, 3, T, H, W), not clamped."""

    def __init__(self, codec: FrameCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents: Tensor) -> Tensor:
        return self.codec.reconstruct_clips(latents)


class _Synthesis(nn.Module):
    """`VocosHead` with the inverse transform written as a transposed convolution: ONNX knows no complex numbers."""

    basis: Tensor
    power: Tensor

    def __init__(self, head: VocosHead) -> None:
        super().__init__()
        self.out, self.n_fft, self.hop_length, self.largest = head.out, head.n_fft, head.hop_length, head.largest
        one = torch.eye(head.n_fft // 2 + 1, dtype=torch.complex128)
        waves = torch.cat([torch.fft.irfft(one, head.n_fft), torch.fft.irfft(1j * one, head.n_fft)])
        self.register_buffer("basis", (waves * head.window).float()[:, None])
        self.register_buffer("power", head.window.square()[None, None])

    def forward(self, x: Tensor, audible: Tensor) -> Tensor:
        """As `VocosHead.forward`."""
        magnitude, phase = self.out(x).transpose(1, 2).chunk(2, dim=1)
        magnitude = magnitude.exp().clamp(max=self.largest) * audible[:, None]
        parts = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=1)
        sound, power = (
            functional.conv_transpose1d(part, kernel, stride=self.hop_length)[:, 0]
            for part, kernel in ((parts, self.basis), (torch.ones_like(parts[:, :1]), self.power))
        )
        span = slice(self.n_fft // 2, self.n_fft // 2 + (x.shape[1] - 1) * self.hop_length)
        return sound[:, span] / power[:, span]


class _Vocoder(nn.Module):
    """Log-Mel (B, M, L), not normalised, to sound (B, L * hop_length)."""

    def __init__(self, vocoder: Vocos) -> None:
        super().__init__()
        self.vocoder = vocoder
        self.vocoder.head = _Synthesis(vocoder.head)  # type: ignore[assignment]

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.vocoder(log_mel, log_mel.shape[2] * self.vocoder.hop_length)


def export_onnx(model: LatentDiffusion, output_dir: str | Path) -> list[Path]:
    """Write a model as ONNX, each part checked against torch, and ``model.json`` with all else that sampling needs.

    The parts are ``network.onnx``, ``encoder.onnx`` and ``decoder.onnx`` of the frame codec and, of a Vocos,
    ``vocoder.onnx``; Griffin-Lim has no weights and stays in torch. Batches are of any size, and clips of any length
    where the two streams keep the proportion of the model's clip.

    Args:
        model: The model.
        output_dir: Folder to write to; made where it is missing.

    Returns:
        The files.

    Raises:
        ModuleNotFoundError: If the extra ``onnx`` is not installed.
        ValueError: If a part differs from torch's by more than `TOLERANCE`.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: _write(folder / f"{name}.onnx", *part) for name, part in _parts(model).items()}
    path = folder / SETTINGS
    path.write_text(json.dumps({**_settings(model), "parts": parts}, indent=1) + "\n")
    return [*(folder / f"{name}.onnx" for name in parts), path]


def _parts(model: LatentDiffusion) -> dict[str, tuple[nn.Module, tuple[Tensor, ...], Sequence[str]]]:
    """Each part, inputs of the kind that it takes, and names of its outputs."""
    clip, generator = model.clip, torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    channels, height, width = model.latent_shape
    latents, mel = noise(_BATCH, channels, clip.num_frames, height, width), noise(_BATCH, clip.n_mels, clip.mel_frames)
    times = torch.rand(2, _BATCH, generator=generator)
    frames = noise(_BATCH, 3, clip.height, clip.width).clamp(-1, 1)
    raw = model.codec.cpu().denormalize(latents)
    codec = _plain(model.codec)
    parts: dict[str, tuple[nn.Module, tuple[Tensor, ...], Sequence[str]]] = {
        "network": (_plain(model.network), (latents, mel, *times), ("v_video", "v_audio")),
        "encoder": (_Encoder(codec), (frames,), ("mean", "logvar")),
        "decoder": (_Decoder(codec), (raw,), ("frames",)),
    }
    if isinstance(model.vocoder, Vocos):
        parts["vocoder"] = (_Vocoder(_plain(model.vocoder)), (model.mel.cpu().denormalize(mel),), ("sound",))
    return parts


def _plain(module: Any) -> Any:
    return copy.deepcopy(module).cpu().float().eval().requires_grad_(False)


def _write(path: Path, module: nn.Module, inputs: tuple[Tensor, ...], outputs: Sequence[str]) -> dict[str, Any]:
    """Write one part; what `model.json` says of it.

    Raises:
        ModuleNotFoundError: If a package is missing.
        ValueError: If it differs from torch.
    """
    # the batch must be free; a time axis may turn out to be bound by the architecture
    dim = torch.export.Dim
    shapes = tuple({0: dim.DYNAMIC, **({2: dim.AUTO} if x.ndim in (3, 5) else {})} for x in inputs)
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                dynamic_shapes=shapes,
                output_names=list(outputs),
                optimize=False,  # onnxruntime does it, in a hundredth of the time
                verbose=False,
            )
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"export: expected the package {error.name}, found none: pip install 'cmmd-lightning[onnx]'"
        ) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    program.save(path)
    session = Session(path)
    others = tuple(torch.cat([x, x.flip(0), x[:1]]) for x in inputs)  # another batch size than the traced one
    with torch.no_grad():
        expected = module(*others)
    difference = max(
        float((made - true).abs().max() / true.abs().max().clamp(min=1.0))
        for made, true in zip(session(*others), expected if isinstance(expected, tuple) else (expected,), strict=True)
    )
    if not difference <= TOLERANCE:
        raise ValueError(f"{path}: expected what torch gives to {TOLERANCE:g}, got a difference of {difference:g}")
    return {"inputs": session.inputs, "outputs": list(outputs), "difference": difference}


def _settings(model: LatentDiffusion) -> dict[str, Any]:
    """What sampling needs beside the networks, in plain types."""
    clip, codec, vocoder = model.clip, model.codec, model.vocoder
    return {
        "version": __version__,
        "weights": weights_of(model),
        "clip": clip.to_dict(),
        "num_samples": clip.num_samples,
        "mel_frames": clip.mel_frames,
        "latent_shape": list(model.latent_shape),
        "schedule": {"kind": "cosine", "prediction": "velocity", "shift": model.schedules.shift},
        "video_noise": model.video_noise.to_dict(),
        "latents": {"shift": codec.shift.tolist(), "scale": codec.scale.tolist(), "context": codec.context},
        "mel": {"mean": model.mel.mean.item(), "std": model.mel.std.item()},
        "vocoder": type(vocoder).__name__,
        **(
            {"griffin_lim": {"n_iter": vocoder.n_iter, "momentum": vocoder.momentum}}
            if isinstance(vocoder, GriffinLimVocoder)
            else {}
        ),
    }
