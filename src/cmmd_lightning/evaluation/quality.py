"""Quality, meaning and memorisation of a set of clips: features are kept, the media are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cmmd_lightning.evaluation.observation import Media, Observation
from cmmd_lightning.evaluation.scoring import entry_of
from cmmd_lightning.metrics.functional.intervals import ROUGH, interval_of, shuffled
from cmmd_lightning.metrics.functional.memorisation import memorisation_scores
from cmmd_lightning.metrics.functional.motion import at_rate
from cmmd_lightning.metrics.meaning import ClassAgreement, ClassDivergence
from cmmd_lightning.metrics.memorisation import Memorisation
from cmmd_lightning.metrics.quality import FeatureDistance, FrechetDistance, KernelDistance
from cmmd_lightning.metrics.weights import weights_hash

RESAMPLES = 200
"""Of the bootstrap of a distance between sets, which is slow for features of many dimensions."""

Rows = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Extractors:
    """Feature extractors for the distances between sets of clips, each with a ``name``; None for no such distances."""

    video: nn.Module | None = None  # (frames uint8 (1, 3, T, H, W), fps) -> (rows, D)
    audio: nn.Module | None = None  # (sound (1, N), sample_rate) -> (rows, D)
    classifier: nn.Module | None = None  # (sound (1, N), sample_rate) -> (1, L) class probabilities

    def rows(self, task: str, made: Media, true: Media | None, best: Media | None) -> dict[str, Rows]:
        """Features of one clip's generated modalities, as far as they are there.

        Modality to rows (R, D) of ``generated``, ``reference``, ``round_trip`` and ``noise`` (as loud as the true
        sound).
        """
        found: dict[str, Rows] = {}
        noise = None if true is None else _noise(true, sound=task != "audio_to_video", frames=task != "video_to_audio")
        clips = {"generated": made, "reference": true, "round_trip": best, "noise": noise}
        present = {name: clip for name, clip in clips.items() if clip is not None}
        if self.audio is not None and task != "audio_to_video":
            found["audio"] = self._sounds(self.audio, present)
        if self.classifier is not None and task == "video_to_audio":
            found["class"] = self._sounds(self.classifier, present)
        if self.video is not None and task != "video_to_audio":
            rate = min(clip.fps for clip in (made, true) if clip is not None and clip.frames is not None)
            found["video"] = {
                name: _extract(self.video, at_rate(clip.frames, clip.fps, rate).transpose(0, 1)[None], rate)
                for name, clip in present.items()
                if clip.frames is not None
            }
        return found

    def _sounds(self, extractor: nn.Module, clips: Mapping[str, Media]) -> Rows:
        return {
            name: _extract(extractor, clip.sound[None], clip.sample_rate)
            for name, clip in clips.items()
            if clip.sound is not None
        }


@torch.no_grad()
def _extract(extractor: nn.Module, media: Tensor, rate: float) -> np.ndarray:
    return extractor(media, rate).double().cpu().numpy()


def _noise(clip: Media, *, sound: bool, frames: bool) -> Media:
    """White noise in place of a clip: sound of the same level, frames of independent pixels."""
    generator = torch.Generator().manual_seed(0)
    noise = pixels = None
    if sound and clip.sound is not None:
        noise = torch.randn(clip.sound.shape, generator=generator) * clip.sound.std()
    if frames and clip.frames is not None:
        pixels = torch.randint(0, 256, clip.frames.shape, dtype=torch.uint8, generator=generator)
    return type(clip)(pixels, clip.fps, noise, clip.sample_rate)


def quality_metrics(
    observations: Sequence[Observation], extractors: Extractors, *, seed: int = 0, training: Rows | None = None
) -> dict[str, Any]:
    """Distances between generated and true clips, and what a classifier and the training clips say.

    Their floor is white noise, their ceiling the true clips after the round trip; ``reference_halves``, between two
    halves of the references, is what a perfect generator may expect of so few. ``training``: modality to features (N,
    D).
    """
    metrics: dict[str, Any] = {}
    modules: dict[str, nn.Module | None] = {"video": extractors.video, "audio": extractors.audio}
    for modality, module in modules.items():
        sets = _sets(observations, modality)
        if module is None or len(sets.get("generated", ())) < 2 or len(sets.get("reference", ())) < 2:
            continue
        about = {
            "extractor": module.name,
            "weights": weights_hash(module),
            "num_features": sets["generated"][0].shape[1],
        }
        for measure in (FrechetDistance, KernelDistance):
            metrics[f"{measure.key}[{module.name}]"] = _distance(measure, sets, seed) | about
        if training is not None and modality in training:
            metrics[f"memorisation[{module.name}]"] = _memorisation(sets, training[modality], seed) | about
    classes = _sets(observations, "class")
    if extractors.classifier is not None and len(classes.get("generated", ())) == len(classes.get("reference", ())) > 0:
        about = {"classifier": extractors.classifier.name, "weights": weights_hash(extractors.classifier)}
        metrics |= {name: entry | about for name, entry in _classes(classes, seed).items()}
    return metrics


def clip_features(rows: np.ndarray) -> np.ndarray:
    """One row (1, D) for a clip: the mean of its rows (R, D)."""
    return rows.mean(axis=0, keepdims=True)


def _sets(observations: Sequence[Observation], modality: str) -> dict[str, list[np.ndarray]]:
    """Kind (``generated`` ...) to the rows of each clip."""
    found: dict[str, list[np.ndarray]] = {}
    for observation in observations:
        for kind, rows in observation.features.get(modality, {}).items():
            found.setdefault(kind, []).append(rows)
    return found


def _distance(measure: type[FeatureDistance], sets: Mapping[str, list[np.ndarray]], seed: int) -> dict[str, Any]:
    def of(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float | None:
        first, second = (torch.from_numpy(np.concatenate(rows)) for rows in (a, b))
        return measure.between(first, second) if min(len(first), len(second)) > 1 else None

    made, true = sets["generated"], sets["reference"]
    count = min(len(made), len(true))
    rng = np.random.default_rng(seed)
    halves = [[true[i] for i in half] for half in np.array_split(rng.permutation(len(true)), 2)]
    value = of(made, true)
    assert value is not None
    found = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, len(made), len(made))  # of as many, a clip and its partner are drawn together
        other = chosen if len(made) == len(true) else rng.integers(0, len(true), len(true))
        found.append(of([made[i] for i in chosen], [true[i] for i in other]))
    draws = np.array([x for x in found if x is not None])
    # a resample's distance is too great by what repeated rows add: that is taken off again
    interval = interval_of(draws - draws.mean() + value, value, count, bounds=measure.bounds)
    floor, ceiling = (of(sets[kind], true) if kind in sets else None for kind in ("noise", "round_trip"))
    return {
        "value": value,
        "ci95": list(interval),
        "floor": floor,
        "ceiling": ceiling,
        "reference_halves": of(*halves),
        "n": len(made),
        "n_reference": len(true),
        "unit": measure.unit,
        "rough": count < ROUGH,
        "cannot_tell": floor is not None and ceiling is not None and ceiling >= floor,
        "rows": [sum(map(len, made)), sum(map(len, true))],
        "higher_is_better": False,
    }


def _memorisation(sets: Mapping[str, list[np.ndarray]], bank: np.ndarray, seed: int) -> dict[str, Any]:
    metric = Memorisation()
    metric.update(torch.from_numpy(bank), kind="training")
    metric.update(torch.from_numpy(np.concatenate(list(map(clip_features, sets["generated"])))), kind="generated")
    metric.update(torch.from_numpy(np.concatenate(list(map(clip_features, sets["reference"])))), kind="held_out")
    nearest = metric.nearest()
    made, held = nearest.generated_distances, nearest.held_out_distances
    scores = nearest.scores()
    rng = np.random.default_rng(seed)
    draws = [
        memorisation_scores(*(side[rng.integers(0, len(side), len(side))] for side in (made, held))).auroc
        for _ in range(RESAMPLES)
    ]
    return {
        "value": scores.auroc,
        "ci95": [float(x) for x in np.quantile(draws, [0.025, 0.975])],
        "floor": None,
        "ceiling": None,
        "n": len(made),
        "unit": "0 to 1",
        "rough": min(len(made), len(held)) < ROUGH,
        "n_held_out": len(held),
        "n_training": len(bank),
        **{key: value for key, value in scores._asdict().items() if key != "auroc"},
        "distances": {"generated": made.tolist(), "held_out": held.tolist()},
        "nearest": nearest.generated_indices.tolist(),
        "higher_is_better": False,
    }


def _classes(sets: Mapping[str, list[np.ndarray]], seed: int) -> dict[str, Any]:
    """Agreement of a classifier on true and generated sound, and its divergence."""
    rows = {kind: [torch.from_numpy(row) for row in clips] for kind, clips in sets.items()}
    true, made = rows["reference"], rows["generated"]
    pairs = {"value": list(zip(true, made, strict=True)), "floor": shuffled(true, made, seed=seed), "ceiling": []}
    if "round_trip" in rows:
        pairs["ceiling"] = list(zip(true, rows["round_trip"], strict=True))
    metrics = {}
    for measure in (ClassAgreement(), ClassDivergence()):
        values = {kind: np.array([measure.score(b, a)[0] for a, b in some]) for kind, some in pairs.items()}
        metrics[measure.names[0]] = entry_of(measure, values, seed)
    return metrics
