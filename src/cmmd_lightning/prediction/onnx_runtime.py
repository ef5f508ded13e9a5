"""Prediction by onnxruntime: the networks of a model replaced by those that `export_onnx` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from cmmd_lightning.codecs import FrameCodec
from cmmd_lightning.codecs.vocos import Vocos
from cmmd_lightning.models.fingerprint import fingerprint
from cmmd_lightning.prediction.latent_diffusion import LatentDiffusion

SETTINGS = "model.json"
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class Session:
    """An ONNX file, called with tensors: (inputs) -> a list of outputs, on the device of the first input.

    It runs on the GPU where onnxruntime's package is the one for CUDA, and on as many threads as torch.

    Args:
        path: The file.

    Attributes:
        inputs: Shape of each input by its name; an axis that is free has a name.

    Raises:
        ModuleNotFoundError: If onnxruntime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "runtime onnx: expected the package onnxruntime, found none: pip install 'cmmd-lightning[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        known = onnxruntime.get_available_providers()
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=[name for name in _PROVIDERS if name in known]
        )
        self.inputs: dict[str, list[int | str]] = {x.name: x.shape for x in self._session.get_inputs()}

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the file."""
        arrays = (x.detach().float().cpu().contiguous().numpy() for x in inputs)
        made = self._session.run(None, dict(zip(self.inputs, arrays, strict=True)))
        return [torch.from_numpy(x).to(inputs[0].device) for x in made]


class OnnxNetwork(nn.Module):
    """`JointUNet` from a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = Session(path)

    def forward(self, z_video: Tensor, z_audio: Tensor, t_video: Tensor, t_audio: Tensor) -> tuple[Tensor, Tensor]:
        """As `JointUNet.forward`."""
        v_video, v_audio = self.session(z_video, z_audio, t_video, t_audio)
        return v_video, v_audio


class OnnxCodec(FrameCodec):
    """A frame codec from files, with the scaling of the one that they were made of."""

    def __init__(self, codec: FrameCodec, folder: Path) -> None:
        super().__init__(codec.config, codec.latent_channels, codec.downsample)
        self.context, self.shift, self.scale = codec.context, codec.shift, codec.scale
        self.encoder, self.decoder = Session(folder / "encoder.onnx"), Session(folder / "decoder.onnx")

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """As `FrameCodec.encode`."""
        mean, logvar = self.encoder(frames)
        return mean, logvar

    def reconstruct(self, latents: Tensor) -> Tensor:
        """As `FrameCodec.reconstruct`."""
        return self.reconstruct_clips(latents.unsqueeze(2)).squeeze(2)

    def reconstruct_clips(self, latents: Tensor) -> Tensor:
        """As `FrameCodec.reconstruct_clips`."""
        return self.decoder(latents)[0]


class OnnxVocoder(nn.Module):
    """A `Vocos` from a file."""

    def __init__(self, vocoder: Vocos, path: Path) -> None:
        super().__init__()
        self.context, self.check, self.session = vocoder.context, vocoder.check, Session(path)

    def forward(self, log_mel: Tensor, num_samples: int) -> Tensor:
        """As `Vocoder.forward`."""
        self.check(log_mel, num_samples)
        return self.session(log_mel)[0][:, :num_samples]


def weights_of(model: LatentDiffusion) -> dict[str, str]:
    """Hashes of what is exported, by which a model knows its own files."""
    hashes = {"network": fingerprint(model.network), "codec": model.codec.fingerprint()}
    return hashes | ({"vocoder": fingerprint(model.vocoder)} if isinstance(model.vocoder, Vocos) else {})


def read_settings(folder: str | Path) -> dict[str, Any]:
    """The ``model.json`` of an export.

    Raises:
        ValueError: If there is none.
    """
    try:
        settings: dict[str, Any] = json.loads((Path(folder) / SETTINGS).read_text())
        settings["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: expected a folder that cmmd export wrote, got none with a {SETTINGS}; "
            f"write it by: cmmd export --ckpt_path CHECKPOINT --output_dir {folder}"
        ) from error
    return settings


def use_onnx(model: LatentDiffusion, folder: str | Path) -> dict[str, nn.Module]:
    """Replace a model's networks by those of an export, in place; sampling and decoding stay what they are.

    Args:
        model: The model that was exported.
        folder: Where `export_onnx` wrote it.

    Returns:
        What was replaced, by the name of the attribute.

    Raises:
        ModuleNotFoundError: If onnxruntime is not installed.
        ValueError: If there is no export, or one of another model.
    """
    exported = read_settings(folder)["weights"]
    other = [part for part, value in weights_of(model).items() if exported.get(part) != value]
    if other:
        raise ValueError(
            f"{folder}: expected an export of the model of --ckpt_path, got one of another {' and '.join(other)}; "
            "export it again"
        )
    parts: dict[str, nn.Module] = {
        "network": OnnxNetwork(Path(folder) / "network.onnx"),
        "codec": OnnxCodec(model.codec, Path(folder)),
    }
    if isinstance(model.vocoder, Vocos):
        parts["vocoder"] = OnnxVocoder(model.vocoder, Path(folder) / "vocoder.onnx")
    replaced = {name: getattr(model, name) for name in parts}
    for name, part in parts.items():
        setattr(model, name, part)
    return replaced


class OnnxRuntime(Callback):
    """Have ``predict`` run on the files of an export.

    Args:
        folder: As for `use_onnx`.

    Raises:
        ValueError: If it is no export.
    """

    def __init__(self, folder: str | Path) -> None:
        read_settings(folder)
        self.folder, self._replaced = folder, dict[str, nn.Module]()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the networks, once the checkpoint has been loaded."""
        assert isinstance(pl_module, LatentDiffusion)
        self._replaced = use_onnx(pl_module, self.folder)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put back what was replaced."""
        for name, part in self._replaced.items():
            setattr(pl_module, name, part)
        self._replaced = {}
