"""Log-Mel back to sound: Griffin-Lim, which always works, and vocos, by name or path."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmmd_lightning.codecs.mel import LogMel

# The magnitude that vocos was taught to take for silence.
_VOCOS_FLOOR = 1e-7

_VOCOS_EXPECTED = "expected a folder with vocos' config.yaml and pytorch_model.bin, or a hub name"


class GriffinLimVocoder(nn.Module):
    """Phases by the fast Griffin-Lim algorithm (Perraudin, Balazs and Sondergaard 2013), as torchaudio has it.

    Deterministic, and each example by itself: the phases start at zero, which on speech, tones and clicks comes out as
    good as a random start (log-spectral distance equal to 0.1 dB, transients within 3 ms). The linear spectrum is the
    least-squares one of the Mel's, negative values cut: what torchaudio's InverseMelScale computes, with the solution
    operator kept and no demand on the rank of the filter bank.

    Args:
        mel: The Mel to invert.
        n_iter: Iterations; 32 take about 0.1 s for 1.6 s of sound at 16 kHz on one core.
        momentum: Of the fast algorithm, in [0, 1); 0 is the original one.

    Example:
        >>> mel = LogMel(sample_rate=16000, n_fft=1024, hop_length=200, n_mels=80)
        >>> sound = torch.sin(torch.arange(3200) * 0.3)[None]
        >>> GriffinLimVocoder(mel)(mel(sound), num_samples=3200).shape
        torch.Size([1, 3200])
    """

    window: Tensor
    inverse_bank: Tensor

    def __init__(self, mel: LogMel, n_iter: int = 32, momentum: float = 0.99) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.n_mels = mel.n_fft, mel.hop_length, mel.n_mels
        self.floor, self.n_iter, self.momentum = mel.floor, n_iter, momentum
        inverse = torch.linalg.pinv(mel.bank.detach().cpu().double().T).float()
        self.register_buffer("inverse_bank", inverse, persistent=False)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    @torch.no_grad()
    def forward(self, log_mel: Tensor, num_samples: int) -> Tensor:
        """Sound of a log-Mel.

        Args:
            log_mel: (B, M, L), natural log of the magnitude, not normalised.
            num_samples: Length of the sound, N <= L * hop_length.

        Returns:
            (B, N); frame ``l`` is centred on sample ``l * hop_length``.

        Raises:
            ValueError: If the bands are not the Mel's, or the frames do not cover ``num_samples``.
        """
        import torchaudio

        _check(log_mel, self.n_mels, self.hop_length, num_samples)
        # torch.stft wants a frame at the very end too, and more samples than half a window.
        frames = max(log_mel.shape[2], self.n_fft // 2 // self.hop_length + 1)
        with torch.autocast(log_mel.device.type, enabled=False):
            spectrum = (self.inverse_bank @ _magnitude(log_mel, self.floor)).clamp(min=0.0)
            sound = torchaudio.functional.griffinlim(
                _extend(spectrum, frames + 1),
                self.window,
                n_fft=self.n_fft,
                hop_length=self.hop_length,
                win_length=self.n_fft,
                power=1.0,
                n_iter=self.n_iter,
                momentum=self.momentum,
                length=frames * self.hop_length,
                rand_init=False,
            )
        return sound[:, :num_samples]


class VocosVocoder(nn.Module):
    """The vocos neural vocoder (Siuzdak 2023), for exactly the Mel it was trained on.

    The published ``charactr/vocos-mel-24khz`` wants 24 kHz, n_fft 1024, hop 256 and 100 bands.

    Args:
        path: A folder with ``config.yaml`` and ``pytorch_model.bin``, or a name on the Hugging Face hub.
        mel: The Mel that will be handed in.

    Raises:
        ImportError: If vocos is not installed.
        ValueError: If nothing loads from ``path``, or its Mel is another one than ``mel``; one line that names both.
    """

    def __init__(self, path: str, mel: LogMel) -> None:
        super().__init__()
        self.n_mels, self.hop_length, self.floor = mel.n_mels, mel.hop_length, mel.floor
        self.path = path
        config_file, weights_file = _vocos_files(path)
        config = _read_config(config_file)
        made_for, given = _vocos_mel(path, config), _describe_mel(mel)
        if made_for != given:
            raise ValueError(f"vocoder {path}: made for {_in_words(made_for)}; got {_in_words(given)}")
        self.model: Any = _load_vocos(path, config, weights_file).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, log_mel: Tensor, num_samples: int) -> Tensor:
        """Sound (B, N) of a log-Mel (B, M, L), as ``GriffinLimVocoder.forward`` has it."""
        _check(log_mel, self.n_mels, self.hop_length, num_samples)
        # Frames are centred, so L of them span (L - 1) hops: one more reaches the end.
        features = _magnitude(log_mel, self.floor).clamp(min=_VOCOS_FLOOR).log()
        features = _extend(features, log_mel.shape[2] + 1)
        sound: Tensor = self.model.head(self.model.backbone(features))
        return sound[:, :num_samples]


def vocoder_class(name: str | Mapping[str, Any]) -> str | None:
    """The class path that a vocoder is given by, or None where it is one of the built-in ones."""
    path = name.get("class_path") if isinstance(name, Mapping) else name
    if not isinstance(path, str):
        raise ValueError(
            "vocoder: expected griffin_lim, vocos:NAME, a class path, or class_path and init_args, got "
            f"{type(name).__name__}; a vocoder that is built already is assigned: model.vocoder = ..."
        )
    return path if "." in path and ":" not in path else None


def build_vocoder(name: str | Mapping[str, Any], mel: LogMel) -> nn.Module:
    """The vocoder called ``name``, for ``mel``.

    One of your own is a class that is built as ``Class(mel, **init_args)``: it reads the settings off the `LogMel`
    (``sample_rate``, ``n_fft``, ``hop_length``, ``n_mels``, ``f_min``, ``f_max``, ``floor``), refuses those that it was
    not made for, and is called as `GriffinLimVocoder` is.

    Args:
        name: ``griffin_lim``; ``vocos:PATH`` with a folder or a hub name; ``theirs.module.Vocoder``; or
            ``{"class_path": ..., "init_args": ...}``.
        mel: The Mel to invert.

    Returns:
        A module: (log_mel (B, M, L), num_samples) -> sound (B, N).

    Raises:
        ImportError: If the vocoder's package is not installed.
        ValueError: If the name is unknown, or the vocoder does not load or fit.

    Example:
        >>> type(build_vocoder("griffin_lim", LogMel())).__name__
        'GriffinLimVocoder'
    """
    class_path = vocoder_class(name)
    if class_path is not None:
        arguments = name.get("init_args") if isinstance(name, Mapping) else None
        vocoder: nn.Module = import_class(class_path, "vocoder")(mel, **(arguments or {}))
        return vocoder
    if name == "griffin_lim":
        return GriffinLimVocoder(mel)
    if isinstance(name, str) and name.startswith("vocos:") and name != "vocos:":
        return VocosVocoder(name.removeprefix("vocos:"), mel)
    raise ValueError(f"vocoder: expected 'griffin_lim' or 'vocos:PATH_OR_HUB_NAME', got {name!r}")


def import_class(path: str, what: str) -> Any:
    """The class of a path ``module.Class``.

    Raises:
        ValueError: If there is none; one line that says what was looked for.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{what} {path}: expected the path of a class, got none ({error})") from error


def _check(log_mel: Tensor, n_mels: int, hop_length: int, num_samples: int) -> None:
    if log_mel.ndim != 3 or log_mel.shape[1] != n_mels:
        raise ValueError(f"vocoder: expected log_mel of shape (batch, {n_mels}, frames), got {tuple(log_mel.shape)}")
    if math.ceil(num_samples / hop_length) > log_mel.shape[2]:
        raise ValueError(
            f"vocoder: {num_samples} samples need {math.ceil(num_samples / hop_length)} frames of "
            f"{hop_length} samples, got {log_mel.shape[2]}"
        )


def _magnitude(log_mel: Tensor, floor: float) -> Tensor:
    """Mel magnitudes, with the Mel's floor taken off in power, so that what lies on it is silent and not a hiss."""
    return ((2.0 * log_mel.float()).exp() - floor**2).clamp(min=0.0).sqrt()


def _extend(frames: Tensor, length: int) -> Tensor:
    """The last frame of (B, M, L) repeated up to ``length``."""
    surplus = length - frames.shape[2]
    return torch.cat([frames, frames[:, :, -1:].expand(-1, -1, surplus)], dim=2)


def _vocos_files(path: str) -> tuple[Path, Path]:
    """The configuration and the weights of a folder, or of a hub name."""
    folder = Path(path).expanduser()
    if folder.exists():
        files = folder / "config.yaml", folder / "pytorch_model.bin"
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ValueError(f"vocoder {path}: {_VOCOS_EXPECTED}, got no {' and no '.join(missing)}")
        return files
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise ValueError(f"vocoder {path}: {_VOCOS_EXPECTED}, got a path that does not exist")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(path, "config.yaml")), Path(hf_hub_download(path, "pytorch_model.bin"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"vocoder {path}: {_VOCOS_EXPECTED}, got no such path, and from the hub: {reason}") from error


def _read_config(file: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(file.read_text())
        return {part: config[part] for part in ("feature_extractor", "backbone", "head")}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: expected vocos' config.yaml, got a file that is none ({reason})") from error


def _vocos_mel(path: str, config: dict[str, Any]) -> dict[str, Any]:
    """The Mel a vocos was trained on; only the Mel kind, centred, can be served."""
    extractor = config["feature_extractor"]
    if not extractor["class_path"].endswith(".MelSpectrogramFeatures"):
        raise ValueError(f"vocoder {path}: expected one that takes a Mel spectrogram, got {extractor['class_path']}")
    defaults = {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": "center"}
    made_for = {**defaults, **extractor.get("init_args", {})}
    if made_for.pop("padding") != "center":
        raise ValueError(f"vocoder {path}: expected Mel frames centred on their samples, got padding 'same'")
    return {**made_for, "f_min": 0.0, "f_max": made_for["sample_rate"] / 2}


def _describe_mel(mel: LogMel) -> dict[str, Any]:
    names = ("sample_rate", "n_fft", "hop_length", "n_mels", "f_min", "f_max")
    return {name: getattr(mel, name) for name in names}


def _in_words(mel: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in sorted(mel.items()))


def _load_vocos(path: str, config: dict[str, Any], weights_file: Path) -> nn.Module:
    """Vocos' own loader unpickles anything and asks the hub; this one reads tensors only, from a file."""
    try:
        vocos = importlib.import_module("vocos")
    except ImportError as error:
        raise ImportError("vocoder 'vocos' needs the package vocos: pip install 'cmmd-lightning[vocos]'") from error
    parts = []
    for name, part in config.items():
        module, _, cls = part["class_path"].rpartition(".")
        if module.split(".")[0] != "vocos":
            raise ValueError(f"vocoder {path}: expected a {name} from the package vocos, got {part['class_path']}")
        parts.append(getattr(importlib.import_module(module), cls)(**part.get("init_args", {})))
    model: nn.Module = vocos.Vocos(*parts)
    try:
        model.load_state_dict(torch.load(weights_file, map_location="cpu", weights_only=True))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{weights_file}: expected the weights of its config.yaml, got others ({reason})") from error
    return model
