"""What a checkpoint makes of held-out procedural clips, whose event times are known exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from cmmd_lightning.data.randomness import example_generator
from cmmd_lightning.data.stream.dataset import ClipDataset
from cmmd_lightning.data.stream.negatives import NEGATIVE_KINDS, NegativeSpec
from cmmd_lightning.diffusion.draws import Draws
from cmmd_lightning.diffusion.objective import measure_errors
from cmmd_lightning.diffusion.sampling import GuidanceFrom, Pair, Task
from cmmd_lightning.evaluation.measures import Senses
from cmmd_lightning.evaluation.sidecar import sidecar_events, sidecar_kinds
from cmmd_lightning.metrics.extractors import build_audio_extractor, build_video_extractor
from cmmd_lightning.metrics.functional.events import detect_onsets
from cmmd_lightning.metrics.functional.quality import coverage, frechet_distance_of_features
from cmmd_lightning.metrics.synchrony import within
from cmmd_lightning.prediction.latent_diffusion import LatentDiffusion
from cmmd_lightning.training.datamodule import AudioVideoDataModule

GAP_TIMES = (0.3, 0.6, 0.9)
"""Diffusion times at which the loss with wrong partners is measured."""
GAP_CLIPS = 64
WRONG_PARTNERS: dict[str, NegativeSpec] = {
    "slight shift": NegativeSpec(kinds=("shift",), min_shift_seconds=0.05, max_shift_seconds=0.1),
    **{str(kind): NegativeSpec(kinds=(kind,)) for kind in NEGATIVE_KINDS},
}
"""What is held against the true partner, whatever a model was trained with."""
_BATCH = 20
_LARGEST = 20.0  # of normalised latents and log-Mel; beyond are models that have diverged


@dataclass(frozen=True)
class Sampling:
    """One way to draw; a guidance scale of 1 is none."""

    task: Task
    guidance_scale: float
    guidance_from: GuidanceFrom
    num_inference_steps: int  # denoiser evaluations
    seed: int = 0


class HeldOut:
    """Held-out clips as a model knows them: latents, log-Mel, events, and the true sound and picture after the codecs.

    They are the beginnings of the files of the data's test split, so many at most.
    """

    def __init__(self, model: LatentDiffusion, data: AudioVideoDataModule, num_clips: int) -> None:
        data.setup("test")
        dataset = data.datasets["test"]
        assert isinstance(dataset, ClipDataset)
        self.model, self.dataset, count = model, dataset, min(num_clips, len(dataset))
        items = [dataset[i] for i in range(count)]
        self.video = model.codec.normalize(torch.stack([item["video_latents"] for item in items]))
        self.mel = model.mel.normalize(torch.stack([item["mel"] for item in items]))
        paths = [Path(dataset.sources[int(item["source"])].path) for item in items]
        self.events = [within(sidecar_events(path) or [], model.clip.duration) for path in paths]
        impacts = any("impact" in sidecar_kinds(path) for path in paths)
        self.senses = Senses("impacts" if impacts else "turns")
        self.extract_audio = build_audio_extractor("mel-statistics")
        self.extract_video = build_video_extractor("pixel-statistics")
        parts = list(self.batches())
        self.seen = torch.cat([self.seen_features(self.frames(self.video[p])) for p in parts])
        self.heard = torch.cat([self.heard_features(self.sound(self.mel[p])) for p in parts])

    def __len__(self) -> int:
        return len(self.mel)

    def batches(self) -> Iterator[slice]:
        """Clips that go through the network together; always the same, so that results repeat to the last digit."""
        return (slice(i, min(i + _BATCH, len(self))) for i in range(0, len(self), _BATCH))

    def sound(self, mel: Tensor) -> Tensor:
        """Normalised log-Mel (B, M, L) to sound (B, N)."""
        return self.model.decode_sound(mel, self.model.clip.num_samples)

    def frames(self, video: Tensor) -> Tensor:
        """Normalised latents (B, C, T, h, w) to frames uint8 (B, T, 3, H, W)."""
        frames = self.model.decode_latents(video).transpose(1, 2)
        return frames.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)

    def onsets(self, sounds: Tensor) -> list[list[float]]:
        """Event times of sounds (B, N), in seconds."""
        clip = self.model.clip
        return [within(detect_onsets(sound, clip.sample_rate).tolist(), clip.duration) for sound in sounds]

    def seen_events(self, frames: Tensor) -> list[list[float]]:
        """Event times of pictures (B, T, 3, H, W), in seconds."""
        return [self.senses.events_in_picture(clip, self.model.clip.fps) for clip in frames]

    def seen_features(self, frames: Tensor) -> Tensor:
        """Features (B, D) of frames (B, T, 3, H, W)."""
        return self.extract_video(frames.transpose(1, 2), self.model.clip.fps).double()

    def heard_features(self, sound: Tensor) -> Tensor:
        """Features (B, D) of sound (B, N)."""
        return self.extract_audio(sound, self.model.clip.sample_rate).double()


def sample_and_score(held: HeldOut, how: Sampling) -> dict[str, Any]:
    """Generate for all held-out clips, and what came of it.

    Returns:
        ``finite``: share of the clips without NaN or infinity, which count as silence; ``events``: times in seconds,
        per clip, in what was generated (of ``joint`` in the sound, and ``seen`` in the picture); ``frechet[audio]``,
        ``frechet[video]``: to the true clips after the codecs; ``frechet[spectrum]``, ``coverage[spectrum]``: of the
        long-term average spectra of the sound (mean level in each Mel band), to which silence between events adds
        little, the latter the share of true clips that have a generated one in their neighbourhood; ``rank``: per clip,
        the share of other true clips whose sound is less like the generated one than its own, by the greatest level in
        each Mel band (0.5 is chance): whether the right thing sounds, whenever it does; ``pitch``: Spearman
        correlation, over clips, of the loudest Mel band with the true sound's (0 is chance).
    """
    videos, mels = [], []
    for part in held.batches():
        video, mel = held.video[part], held.mel[part]
        drawn = held.model.sample(
            how.task,
            video if how.task == "video_to_audio" else None,
            mel if how.task == "audio_to_video" else None,
            video.shape[2],
            names=[str(i) for i in range(part.start, part.stop)],
            num_inference_steps=how.num_inference_steps,
            guidance_scale=how.guidance_scale,
            guidance_from=how.guidance_from,
            seed=how.seed,
        )
        videos.append(drawn[0])
        mels.append(drawn[1])
    video, mel = torch.cat(videos), torch.cat(mels)
    finite = torch.stack([x.flatten(1).isfinite().all(1) for x in (video, mel)]).all(0)
    kept = [x.nan_to_num(0, 0, 0).clamp(-_LARGEST, _LARGEST) for x in (video, mel)]
    return {"finite": float(finite.double().mean()), **_scores(held, how.task, *kept)}


@torch.no_grad()
def _scores(held: HeldOut, task: Task, video: Tensor, mel: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    seen, heard = [], []
    events: dict[str, list[list[float]]] = {"seen": [], "heard": []}
    for part in held.batches():
        if task != "video_to_audio":
            frames = held.frames(video[part])
            seen.append(held.seen_features(frames))
            events["seen"] += held.seen_events(frames)
        if task != "audio_to_video":
            sound = held.sound(mel[part])
            heard.append(held.heard_features(sound))
            events["heard"] += held.onsets(sound)
    if seen:
        found["frechet[video]"] = frechet_distance_of_features(torch.cat(seen), held.seen)
    if heard:
        found["frechet[audio]"] = frechet_distance_of_features(torch.cat(heard), held.heard)
        spectra, true_spectra = mel.mean(2), held.mel.mean(2)
        found["frechet[spectrum]"] = frechet_distance_of_features(spectra, true_spectra)
        found["coverage[spectrum]"] = coverage(true_spectra, spectra)
        peaks, true_peaks = mel.amax(2), held.mel.amax(2)
        found["rank"] = [round(x, 4) for x in partner_rank(peaks, true_peaks).tolist()]
        found["pitch"] = float(spearman_corrcoef(peaks.argmax(1).double(), true_peaks.argmax(1).double()))
    rounded = {name: _rounded(lists) for name, lists in events.items()}
    found["events"] = rounded["seen" if task == "audio_to_video" else "heard"]
    if task == "joint":
        found["seen"] = rounded["seen"]
    return found


def partner_rank(made: Tensor, true: Tensor) -> Tensor:
    """Of each row (N, D), the share of the other true rows that are farther from it than its own; ties count half.

    Example:
        >>> partner_rank(torch.tensor([[0.0], [9.0]]), torch.tensor([[1.0], [8.0]]))
        tensor([1., 1.])
    """
    distance = torch.cdist(made, true)
    own = distance.diagonal()[:, None]
    better = (distance > own).sum(1) + 0.5 * ((distance == own).sum(1) - 1)
    return better / (len(true) - 1)


@torch.no_grad()
def partner_gaps(held: HeldOut, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """How much worse the network predicts with wrong partners, over the first `GAP_CLIPS` clips.

    By task ``true``, the error e at `GAP_TIMES` with the true partner, and, by kind of negative, e_neg.
    """
    count, found = min(GAP_CLIPS, len(held)), {}
    for task in ("video_to_audio", "audio_to_video"):
        table: dict[str, list[float]] = {"true": []}
        for kind, spec in WRONG_PARTNERS.items():
            wrong = _wrong_partners(held, spec, count)
            errors = [_errors(held, wrong, task, t, count, seed) for t in GAP_TIMES]
            table[kind] = [round(float(negative.mean()), 5) for _, negative in errors]
            table["true"] = [round(float(true.mean()), 5) for true, _ in errors]
        found[task] = table
    return found


def _wrong_partners(held: HeldOut, spec: NegativeSpec, count: int) -> Pair:
    """Of each clip one wrong video (N, 1, C, T, h, w) and one wrong log-Mel (N, 1, M, L)."""
    model, known = held.model, held.dataset
    dataset = ClipDataset(known.sources, known.cache, negatives=spec, seed=known.seed, clips_per_source=1)
    items = [dataset[i] for i in range(count)]
    video, mel = (torch.stack([item[name] for item in items]) for name in ("video_negatives", "mel_negatives"))
    return model.codec.normalize(video.flatten(0, 1)).unflatten(0, (count, 1)), model.mel.normalize(mel)


def _errors(held: HeldOut, wrong: Pair, task: str, t: float, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Errors e and e_neg (count,) of a task at one time."""
    true, negative = [], []
    for begin in range(0, count, _BATCH):
        part = slice(begin, min(begin + _BATCH, count))
        video, mel = held.video[part], held.mel[part]
        generators = [example_generator(seed, -1, i, f"gap/{t}") for i in range(part.start, part.stop)]
        some = torch.ones(len(video), dtype=torch.bool)
        draws = Draws(
            t_video=torch.full((len(video),), t if task == "audio_to_video" else 0.0),
            t_audio=torch.full((len(video),), t if task == "video_to_audio" else 0.0),
            generates_video=some & (task == "audio_to_video"),
            generates_audio=some & (task == "video_to_audio"),
            noise_video=torch.stack([held.model.video_noise.draw(video.shape[1:], g) for g in generators]),
            noise_audio=torch.stack([torch.randn(mel.shape[1:], generator=g) for g in generators]),
            rows=torch.arange(len(video)),
            measures_audio=some & (task == "video_to_audio"),
            weight=torch.ones(len(video)),
        )
        both = wrong[0][part], wrong[1][part]
        errors = measure_errors(held.model.network, held.model.schedules, (video, mel), both, draws)
        true.append(errors.true)
        negative.append(errors.negative[:, 0])
    return torch.cat(true), torch.cat(negative)


def ceiling(held: HeldOut) -> dict[str, list[list[float]]]:
    """Events of the true clips after codecs and vocoder: what a perfect model would be heard and seen to do."""
    parts = list(held.batches())
    heard = [times for p in parts for times in held.onsets(held.sound(held.mel[p]))]
    seen = [times for p in parts for times in held.seen_events(held.frames(held.video[p]))]
    return {"heard": _rounded(heard), "seen": _rounded(seen)}


def _rounded(lists: list[list[float]]) -> list[list[float]]:
    return [[round(time, 4) for time in times] for times in lists]
