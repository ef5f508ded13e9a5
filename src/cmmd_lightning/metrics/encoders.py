"""Encoders for the measures of meaning: one call, frames or sound in, one row per clip out.

Any module or function with these calls can take their place; the measures look at ``outputs`` only, and take an
encoder without it for one of embeddings.

================  ============================================================================================
Video encoder     ``encoder(frames, fps)``: frames (B, 3, T, H, W) uint8 in [0, 255], fps in frames per second
Sound encoder     ``encoder(sound, sample_rate)``: sound (B, N) in [-1, 1], sample_rate in Hz; also a classifier
``outputs``       ``embeddings`` (B, D) in a space that both share, or ``probabilities`` (B, L) over one list of labels
``name``          For reports: what it is
``weights_hash``  For reports: of exactly which weights
================  ============================================================================================

The adapters for CLIP, CLAP and classifiers need transformers: ``pip install 'cmmd-lightning[metrics]'``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cmmd_lightning.metrics.frozen_encoder import (
    FrozenEncoder,
    ScriptedEncoder,
    check_frames,
    resampled,
    stretches,
)
from cmmd_lightning.metrics.functional.meaning import RowKind

__all__ = [
    "AudioClassifier",
    "ClapSound",
    "ClipFrames",
    "ScriptedEncoder",
    "build_classifier",
    "build_encoders",
    "read_labels",
]


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Labels of a text file (UTF-8), one a line, two at least and none twice; empty lines are passed over."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return _checked_labels([line for line in lines if line], f"the labels of {Path(path).name}")


class ClipFrames(FrozenEncoder):
    """What CLIP sees in a clip: probabilities over labels.

    The mean of the normalised embeddings of up to ``num_frames`` frames at even times, compared with the labels' texts
    at CLIP's own temperature.

    Args:
        path: Folder, or name on the Hugging Face hub, of a ``CLIPModel``.
        labels: What to look for; two at least.
        prompt: The sentence for a label, with ``{}`` in its place.
        num_frames: Frames looked at in a clip, at most.
    """

    outputs: RowKind = "probabilities"
    texts: Tensor

    def __init__(self, path: str, labels: Sequence[str], *, prompt: str = "a photo of {}", num_frames: int = 8) -> None:
        library = _transformers()
        labels = _checked_labels(labels)
        super().__init__(library.CLIPModel.from_pretrained(path), f"CLIP {_short(path)}, {len(labels)} labels")
        self.processor = library.AutoImageProcessor.from_pretrained(path, backend="pil")  # the original form
        self.num_frames = num_frames
        self.register_buffer("texts", _text_rows(library, self.module, path, labels, prompt), persistent=False)

    @torch.no_grad()
    def forward(self, frames: Tensor, fps: float) -> Tensor:
        """Probabilities (B, L) float32 of the labels, of frames (B, 3, T, H, W) uint8."""
        check_frames(frames)
        count = min(self.num_frames, frames.shape[2])
        times = ((torch.arange(count) + 0.5) * frames.shape[2] / count).long()
        pictures = frames[:, :, times.to(frames.device)].transpose(1, 2).flatten(0, 1).cpu().numpy()
        pixels = self.processor(list(pictures), input_data_format="channels_first", return_tensors="pt")["pixel_values"]
        rows = self.module.get_image_features(pixel_values=pixels.to(self.device)).pooler_output
        clips = normalize(rows, dim=-1).unflatten(0, (-1, count)).mean(dim=1)
        return _probabilities(clips, self.texts, self.module.logit_scale)


class ClapSound(FrozenEncoder):
    """What CLAP hears in a clip: probabilities over labels.

    The mean of the normalised embeddings of as few equal stretches as cover the sound, each of the checkpoint's longest
    input (10 s) at most, compared with the labels' texts at CLAP's own temperature.

    Args:
        path: Folder, or name on the Hugging Face hub, of a ``ClapModel``.
        labels: What to listen for; two at least.
        prompt: The sentence for a label, with ``{}`` in its place.
    """

    outputs: RowKind = "probabilities"
    texts: Tensor

    def __init__(self, path: str, labels: Sequence[str], *, prompt: str = "This is a sound of {}.") -> None:
        library = _transformers()
        labels = _checked_labels(labels)
        super().__init__(library.ClapModel.from_pretrained(path), f"CLAP {_short(path)}, {len(labels)} labels")
        self.extractor = library.AutoFeatureExtractor.from_pretrained(path)
        self.register_buffer("texts", _text_rows(library, self.module, path, labels, prompt), persistent=False)

    @torch.no_grad()
    def forward(self, sound: Tensor, sample_rate: int) -> Tensor:
        """Probabilities (B, L) float32 of the labels, of sound (B, N) in [-1, 1] at ``sample_rate`` Hz."""
        rate = self.extractor.sampling_rate
        parts = stretches(resampled(sound, sample_rate, rate), self.extractor.nb_max_samples)
        rows = []  # the extractor would crop longer sounds, and mark a shorter one as longer, at random: not here
        for part in parts:
            inputs = self.extractor(list(part.numpy()), sampling_rate=rate, return_tensors="pt")
            mel = inputs["input_features"].to(self.device, self.module.dtype)
            longer = torch.zeros(len(mel), 1, dtype=torch.bool, device=self.device)
            rows.append(self.module.get_audio_features(input_features=mel, is_longer=longer).pooler_output)
        return _probabilities(normalize(torch.stack(rows), dim=-1).mean(dim=0), self.texts, self.module.logit_scale_a)


class AudioClassifier(FrozenEncoder):
    """An audio classifier of the Hugging Face form, such as AST on AudioSet: probabilities of its classes.

    They are averaged over as few equal stretches of at most ``max_seconds`` (AudioSet's 10 s) as cover the sound:
    extractors of fixed length would drop what is longer. They are the softmax of the logits, also where a sigmoid was
    trained for each class, as the field's KL divergence has it. Any module that takes ``(sound, sample_rate)`` will do.
    """

    outputs: RowKind = "probabilities"

    def __init__(self, path: str, *, max_seconds: float = 10.0) -> None:
        library = _transformers()
        super().__init__(library.AutoModelForAudioClassification.from_pretrained(path), _short(path))
        self.extractor = library.AutoFeatureExtractor.from_pretrained(path)
        self.max_seconds = max_seconds

    @torch.no_grad()
    def forward(self, sound: Tensor, sample_rate: int) -> Tensor:
        """Probabilities (B, L) of the classes, of sound (B, N) in [-1, 1] at ``sample_rate`` Hz."""
        rate = self.extractor.sampling_rate
        total: Tensor | float = 0.0
        parts = stretches(resampled(sound, sample_rate, rate), int(self.max_seconds * rate))
        for part in parts:
            inputs = self.extractor(list(part.numpy()), sampling_rate=rate, return_tensors="pt").to(self.device)
            total = total + self.module(**inputs).logits.float().softmax(dim=-1)
        return torch.as_tensor(total) / len(parts)


def build_encoders(spec: str) -> tuple[nn.Module, nn.Module]:
    """The pair of encoders of ``clip+clap:CLIP,CLAP,LABELS_FILE`` or of ``torchscript:VIDEO.pt,AUDIO.pt``."""
    kind, _, rest = spec.partition(":")
    parts = [part.strip() for part in rest.split(",")]
    if all(parts) and (kind, len(parts)) == ("clip+clap", 3):
        labels = read_labels(parts[2])
        return ClipFrames(parts[0], labels), ClapSound(parts[1], labels)
    if all(parts) and (kind, len(parts)) == ("torchscript", 2):
        return ScriptedEncoder(parts[0]), ScriptedEncoder(parts[1])
    raise ValueError(f"encoders must be clip+clap:CLIP,CLAP,LABELS_FILE or torchscript:VIDEO.pt,AUDIO.pt, got {spec!r}")


def build_classifier(spec: str) -> AudioClassifier:
    """The audio classifier of ``hf:PATH``, a folder or a name on the hub (see :class:`AudioClassifier`)."""
    kind, _, path = spec.partition(":")
    if kind != "hf" or not path.strip():
        raise ValueError(f"the classifier must be hf:FOLDER_OR_HUB_NAME, got {spec!r}")
    return AudioClassifier(path.strip())


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "this encoder needs transformers: pip install 'cmmd-lightning[metrics]'", name="transformers"
        ) from None
    return transformers


def _short(path: str) -> str:
    """A folder's own name; a hub name as it is."""
    return Path(path).resolve().name if Path(path).is_dir() else path


def _checked_labels(labels: Iterable[str], what: str = "labels") -> tuple[str, ...]:
    found = tuple(labels)
    if len(found) < 2 or len(set(found)) < len(found):
        raise ValueError(f"{what} must be two or more, none twice, got {len(found)}, {len(set(found))} different ones")
    return found


def _text_rows(library: Any, model: Any, path: str, labels: Sequence[str], prompt: str) -> Tensor:
    """Normalised embeddings (L, D) of the labels' sentences."""
    tokenizer = library.AutoTokenizer.from_pretrained(path)
    tokens = tokenizer([prompt.format(label) for label in labels], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        rows = model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    return normalize(rows.pooler_output, dim=-1)


def _probabilities(clips: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Softmax (B, L) over labels of scaled cosines."""
    return (logit_scale.exp() * normalize(clips, dim=-1) @ texts.T).float().softmax(dim=-1)
