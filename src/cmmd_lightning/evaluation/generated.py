"""What a model makes of held-out clips, observed in memory as it is made, and the report of it: ``cmmd test``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from torch import Tensor, distributed

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.diffusion.sampling import GuidanceFrom
from cmmd_lightning.evaluation.measures import Senses, VideoEvents
from cmmd_lightning.evaluation.observation import Media, Observation
from cmmd_lightning.evaluation.observe import Observer, Task
from cmmd_lightning.evaluation.provenance import provenance
from cmmd_lightning.evaluation.quality import Extractors, quality_metrics
from cmmd_lightning.evaluation.report import Report, summary_line, write_report
from cmmd_lightning.evaluation.scoring import run_facts, score
from cmmd_lightning.metrics.extractors import build_audio_extractor, build_video_extractor

logger = logging.getLogger(__name__)

REFERENCE = "the true clips as the model knows them: their latents decoded, their Mel through the vocoder"

SHOWN = ("value", "floor", "ceiling")


@dataclass(frozen=True)
class EvaluationSpec:
    """What ``cmmd test`` generates for the test clips, and how it is measured.

    Args:
        tasks: What to generate: any of ``video_to_audio``, ``audio_to_video`` and ``joint``.
        num_inference_steps: Denoiser evaluations.
        guidance_scale: Scale of the guidance; 1 is none.
        ddim_eta: Share of fresh noise per step; 0 is deterministic DDIM.
        seed: Of the noise, which follows from it and the clip's index, and of floors and intervals.
        video_events: Detector of events in pictures: ``impacts`` or ``turns``.
        guidance_from: What guidance leads away from: the other modality ``dropped`` (classifier-free), or ``shifted``
            by half of its length.

    Raises:
        ValueError: If there are no tasks or unknown ones, no steps, or guidance is from something else.
    """

    tasks: tuple[Task, ...] = get_args(Task)
    num_inference_steps: int = 25
    guidance_scale: float = 2.0
    ddim_eta: float = 0.0
    seed: int = 0
    video_events: VideoEvents = "turns"
    guidance_from: GuidanceFrom = "dropped"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(dict.fromkeys(self.tasks)))
        if not self.tasks or not set(self.tasks) <= set(get_args(Task)):
            got = ", ".join(self.tasks) or "none"
            raise ValueError(f"tasks: expected some of {', '.join(get_args(Task))}, got {got}")
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps: expected at least 1, got {self.num_inference_steps}")
        if self.guidance_from not in get_args(GuidanceFrom):
            expected = " or ".join(get_args(GuidanceFrom))
            raise ValueError(f"guidance_from: expected {expected}, got {self.guidance_from}")


class Generator(Protocol):
    """What generates, such as `CMMD`."""

    clip: ClipSpec

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def sample(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """Conditions to normalised latents and log-Mel."""

    @property
    def decode_latents(self) -> Callable[[Tensor], Tensor]:
        """Normalised latents (B, C, T, h, w) to frames (B, 3, T, H, W) in [-1, 1]."""

    @property
    def decode_sound(self) -> Callable[[Tensor, int], Tensor]:
        """Normalised log-Mel (B, M, L) to sound (B, N)."""


class GeneratedClips:
    """Generates for true clips as they come, observes what is made, and keeps the observations, not the media.

    The reference is the true clip as the model knows it: its latents decoded, its log-Mel through the vocoder. Its
    events are those that the detector finds there. The ceiling is therefore a perfect copy: event scores of 1 and
    distances of 0. ``cmmd evaluate --ckpt_path`` on files has references untouched by the codecs, and true event times
    from sidecars.
    """

    def __init__(self, model: Generator, spec: EvaluationSpec) -> None:
        self.model, self.spec = model, spec
        self.senses = Senses(spec.video_events)
        self.extractors = Extractors(build_video_extractor("pixel-statistics"), build_audio_extractor("mel-statistics"))
        self.found: dict[tuple[Task, int], Observation | str] = {}

    def add(self, indices: Sequence[int], video: Tensor, mel: Tensor) -> None:
        """Generate for some clips, and observe.

        A clip whose result cannot be observed (NaN) is left out, and the report names it. On a CPU, clips go through
        the network one by one: in company their last digits would change, and with them what Griffin-Lim makes of them.

        Args:
            indices: Number of each clip in the test set, which names its noise.
            video: True latents, normalised (B, C, T, h, w).
            mel: True log-Mel, normalised (B, M, L).
        """
        together = 1 if self.model.device.type == "cpu" else len(indices)
        for i in range(0, len(indices), together):
            part = slice(i, i + together)
            self._add(indices[part], video[part], mel[part])

    def _add(self, indices: Sequence[int], video: Tensor, mel: Tensor) -> None:
        true = [self._media("joint", *pair) for pair in zip(video, mel, strict=True)]
        for task in self.spec.tasks:
            drawn = self.model.sample(
                task,
                video if task == "video_to_audio" else None,
                mel if task == "audio_to_video" else None,
                video.shape[2],
                names=[str(index) for index in indices],
                num_inference_steps=self.spec.num_inference_steps,
                guidance_scale=self.spec.guidance_scale,
                guidance_from=self.spec.guidance_from,
                ddim_eta=self.spec.ddim_eta,
                seed=self.spec.seed,
            )
            observer = Observer(task, self.senses, extractors=self.extractors)
            for index, clip, *pair in zip(indices, true, *drawn, strict=True):
                try:
                    self.found[task, index] = observer.observe(str(index), self._media(task, *pair), clip, clip)
                except ValueError as error:
                    self.found[task, index] = f"clip {index}: {' '.join(str(error).split())}"

    def _media(self, task: Task, video: Tensor, mel: Tensor) -> Media:
        """The generated modalities of one clip, from latents (C, T, h, w) and log-Mel (M, L), both normalised."""
        clip, frames, sound = self.model.clip, None, None
        if task != "video_to_audio":
            pixels = _finite(self.model.decode_latents(video[None])[0], "frames").transpose(0, 1)
            frames = pixels.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        if task != "audio_to_video":
            sound = _finite(self.model.decode_sound(mel[None], clip.samples_of(video.shape[1]))[0], "sound")
        return Media(frames, clip.fps, sound, clip.sample_rate)

    def report(self, *, command: str | None = None) -> Report | None:
        """The report over the clips of all processes, which all have to call this; None but for the first."""
        found = _gathered(self.found)
        if _processes() > 1 and distributed.get_rank() > 0:
            return None
        source = provenance(command, self.spec.seed)
        report: Report = {"provenance": source, "tasks": {}, "runs": {}}
        for task in self.spec.tasks:
            results = [found[key] for key in sorted(found) if key[0] == task]
            seen = [result for result in results if isinstance(result, Observation)]
            metrics, rows = score(seen, senses=self.senses, seed=self.spec.seed)
            report["tasks"][task] = metrics | quality_metrics(seen, self.extractors, seed=self.spec.seed)
            report["runs"][task] = {
                "provenance": source,
                "generated": None,
                "reference": None,
                "reference_clips": REFERENCE,
                "sampling": {key: value for key, value in asdict(self.spec).items() if key != "tasks"},
                **run_facts(self.senses, rows, [r for r in results if isinstance(r, str)]),
                "unpaired": {"generated": [], "reference": []},
            }
        return report


def logged_values(report: Report) -> dict[str, float]:
    """What a logger is given of a report: ``test/TASK/MEASURE``, and with ``/floor`` and ``/ceiling`` where known.

    Event scores of a task none of whose clips has reference events are left out, with a warning.

    Example:
        >>> run = {"errors": [], "clips": [{}], "clips_without_events": 0}
        >>> entry = {"value": 0.8, "floor": 0.3, "ceiling": None}
        >>> logged_values({"tasks": {"joint": {"event_f1@100ms": entry}}, "runs": {"joint": run}})
        {'test/joint/event_f1@100ms': 0.8, 'test/joint/event_f1@100ms/floor': 0.3}
    """
    values: dict[str, float] = {}
    for task, metrics in report["tasks"].items():
        run = report["runs"][task]
        for line in run["errors"]:
            logger.warning("test/%s: %s", task, line)
        silent = run["clips_without_events"] == len(run["clips"])
        if silent:
            logger.warning("test/%s: no events in the %d clips, event scores are not logged", task, len(run["clips"]))
        for name, entry in metrics.items():
            if not (silent and name.startswith("event_")):
                keys = {"value": name, "floor": f"{name}/floor", "ceiling": f"{name}/ceiling"}
                values |= {f"test/{task}/{keys[kind]}": entry[kind] for kind in SHOWN if entry[kind] is not None}
    return values


def save_report(report: Report, folder: str | Path) -> None:
    """Write ``test_report.json`` and ``.html`` in place of older ones; tell the scores, and where."""
    path = Path(folder) / "test_report.json"
    path.unlink(missing_ok=True)  # of another checkpoint: nothing to be merged with
    written = write_report(report, path, examples=4)
    for task, metrics in report["tasks"].items():
        logger.info("%s", summary_line(task, metrics))
        for name, entry in metrics.items():
            if not name.startswith(("event_precision", "event_recall")):
                known = [f"{key} {value:.3f}" for key, value in entry.items() if key in SHOWN and value is not None]
                logger.info("  %-36s %s", name, ", ".join(known))
    logger.info("written: %s", ", ".join(str(file) for file in written))


def _finite(media: Tensor, what: str) -> Tensor:
    """Decoded media on the CPU; ValueError if a value is not finite."""
    if not torch.isfinite(media).all():
        raise ValueError(f"expected finite {what} from the model, got NaN or infinity")
    return media.float().cpu()


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _gathered(found: dict[tuple[Task, int], Any]) -> dict[tuple[Task, int], Any]:
    """What all processes have found; a clip that several have, as samplers repeat some, is there once."""
    parts: list[Any] = [found] * _processes()
    if len(parts) > 1:
        distributed.all_gather_object(parts, found)
    return {key: result for part in parts for key, result in part.items()}
