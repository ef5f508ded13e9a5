"""Building vocoders: by name, from a training checkpoint, or from a published vocos."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cmmd_lightning.codecs.mel import LogMel
from cmmd_lightning.codecs.vocoders import GriffinLimVocoder, Vocoder
from cmmd_lightning.codecs.vocos import Vocos

# The magnitude that vocos was taught to take for silence.
_VOCOS_FLOOR = 1e-7

_VOCOS_EXPECTED = "expected a folder with vocos' config.yaml and pytorch_model.bin, or a hub name"
_VOCOS_PARTS = {
    "feature_extractor": "vocos.feature_extractors.MelSpectrogramFeatures",
    "backbone": "vocos.models.VocosBackbone",
    "head": "vocos.heads.ISTFTHead",
}


def build_vocoder(vocoder: str | Mapping[str, Any], mel: LogMel) -> Vocoder:
    """The vocoder that ``vocoder`` names, for ``mel``, frozen.

    Args:
        vocoder: ``griffin_lim``; the path of a checkpoint of `VocoderModule`; ``vocos:PATH`` with a folder or a hub
            name of a published vocos; or the settings of a `Vocos` whose weights are still to be loaded.
        mel: The Mel to invert.

    Returns:
        A module: (log_mel (B, M, L), num_samples) -> sound (B, N).

    Raises:
        ValueError: If the name is unknown, or the vocoder does not load or was made for another Mel.

    Example:
        >>> type(build_vocoder("griffin_lim", LogMel())).__name__
        'GriffinLimVocoder'
    """
    if isinstance(vocoder, Mapping):
        return _frozen(Vocos(**vocoder))
    if vocoder == "griffin_lim":
        return GriffinLimVocoder(mel)
    if vocoder.startswith("vocos:") and vocoder != "vocos:":
        return _frozen(_load_published(vocoder.removeprefix("vocos:"), mel))
    if vocoder.endswith(".ckpt"):
        return _frozen(_load_checkpoint(vocoder, mel))
    raise ValueError(
        f"vocoder: expected 'griffin_lim', the path of a vocoder's .ckpt or 'vocos:PATH_OR_HUB_NAME', got {vocoder!r}"
    )


def _frozen(vocoder: Vocoder) -> Vocoder:
    return vocoder.eval().requires_grad_(False)


def _load_checkpoint(path: str, mel: LogMel) -> Vocos:
    """The averaged weights of a training, where it averaged."""
    try:
        checkpoint = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
        vocoder = Vocos(**checkpoint["hyper_parameters"]["vocoder"])
        prefix = "vocoder."
        weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        vocoder.load_state_dict(weights)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: expected a vocoder checkpoint (.ckpt), got a file that is none ({type(error).__name__}: {reason})"
        ) from error
    _refuse_other_mel(path, dict(checkpoint["hyper_parameters"]["vocoder"]["mel"]), mel)
    return vocoder


def _refuse_other_mel(path: str, made_for: Mapping[str, Any], mel: LogMel) -> None:
    given = {name: value for name, value in mel.settings.items() if name in made_for}
    if made_for != given:
        raise ValueError(f"vocoder {path}: made for {_in_words(made_for)}; got {_in_words(given)}")


def _in_words(mel: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in sorted(mel.items()))


def _load_published(path: str, mel: LogMel) -> Vocos:
    """A vocos as its authors publish it, such as ``charactr/vocos-mel-24khz``."""
    config_file, weights_file = _published_files(path)
    config = _read_config(path, config_file)
    _refuse_other_mel(path, _published_mel(path, config["feature_extractor"]), mel)
    sizes = ("dim", "intermediate_dim", "num_layers")
    try:
        vocoder = Vocos(
            mel.settings,
            **{name: config["backbone"][name] for name in sizes},
            synthesis_n_fft=config["head"]["n_fft"],
            feature_floor=_VOCOS_FLOOR,
        )
        weights = torch.load(weights_file, map_location="cpu", weights_only=True)
        parts = ("backbone.", "head.out.")
        vocoder.load_state_dict({name: value for name, value in weights.items() if name.startswith(parts)})
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{weights_file}: expected the weights of its config.yaml, got others ({reason})") from error
    return vocoder


def _published_files(path: str) -> tuple[Path, Path]:
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


def _read_config(path: str, file: Path) -> dict[str, dict[str, Any]]:
    """The arguments of its parts, which must be those that `Vocos` is made of."""
    import yaml

    try:
        config = yaml.safe_load(file.read_text())
        classes = {part: str(config[part]["class_path"]) for part in _VOCOS_PARTS}
        arguments = {part: dict(config[part].get("init_args", {})) for part in _VOCOS_PARTS}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: expected vocos' config.yaml, got a file that is none ({reason})") from error
    for part, expected in _VOCOS_PARTS.items():
        if classes[part] != expected:
            raise ValueError(f"vocoder {path}: expected a {part} of class {expected}, got {classes[part]}")
    return arguments


def _published_mel(path: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The Mel that it was trained on; only one centred on its samples can be served."""
    defaults = {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": "center"}
    made_for = {**defaults, **arguments}
    if made_for.pop("padding") != "center":
        raise ValueError(f"vocoder {path}: expected Mel frames centred on their samples, got padding 'same'")
    return {**made_for, "f_min": 0.0, "f_max": made_for["sample_rate"] / 2}
