"""The commands that are not Lightning's: thin, typed functions."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from cmmd_lightning.datamodule import AudioVideoDataModule
    from cmmd_lightning.evaluation import RoundTrip

logger = logging.getLogger(__name__)


def render(
    scene: Literal["bounce", "dance"],
    output_dir: str,
    num_clips: int = 16,
    seed: int = 0,
    duration: float = 4.0,
    fps: float = 25.0,
    height: int = 64,
    width: int = 64,
    sample_rate: int = 16000,
    correlation: float = 1.0,
    max_shapes: int = 2,
    streams: Literal["both", "video", "audio"] = "both",
    num_workers: int = 2,
) -> int:
    """Render procedural clips with exact event times.

    Args:
        scene: bounce (shapes whose impacts sound) or dance (a figure that moves to a beat).
        output_dir: Folder for the clips and their JSON sidecars.
        num_clips: How many.
        seed: A clip follows from scene, seed, its number and the settings below.
        duration: Seconds of each clip.
        fps: Frames per second.
        height: Pixels.
        width: Pixels.
        sample_rate: Hz.
        correlation: Share of the sounds that have a visible cause.
        max_shapes: Most shapes in one clip (bounce only).
        streams: both, video (silent mp4) or audio (wav).
        num_workers: Processes.
    """
    from cmmd_lightning.procedural import render as render_clips

    paths = render_clips(
        scene,
        output_dir,
        num_clips,
        seed,
        duration=duration,
        fps=fps,
        height=height,
        width=width,
        sample_rate=sample_rate,
        correlation=correlation,
        max_shapes=max_shapes,
        streams=streams,
        num_workers=num_workers,
    )
    logger.info("%s: %d clips", output_dir, len(paths))
    return 0


def evaluate(
    task: Literal["video_to_audio", "audio_to_video", "joint"],
    generated: str,
    reference: str | None = None,
    report: str | None = None,
    ckpt_path: str | None = None,
    video_events: Literal["auto", "impacts", "turns"] = "auto",
    linear_sync: str | None = None,
    video_extractor: str = "pixel-statistics",
    audio_extractor: str = "mel-statistics",
    encoders: str | None = None,
    classifier: str | None = None,
    training: str | None = None,
    examples: int = 4,
    seed: int = 0,
) -> int:
    """Measure synchrony and quality of two folders of media, whoever made them.

    Args:
        task: What was generated.
        generated: Folder of generated media.
        reference: Folder of true media of the same stems, with event sidecars where there are any; joint needs none.
        report: The report's file; its page lies beside it, and a report that is there already is added to.
            By default report.json in the generated folder.
        ckpt_path: A checkpoint whose codec and vocoder give the ceiling.
        video_events: Detector of events in pictures.
        linear_sync: linear_sync.safetensors, as `cmmd calibrate --fit` writes it from clips of the same kind.
        video_extractor: Features for distances between sets of pictures: pixel-statistics (no weights, not FVD), or
            i3d:FILE for FVD.
        audio_extractor: The same for sound: mel-statistics (no weights, not FAD), vggish:FILE or clap:FOLDER for FAD.
        encoders: For audio-visual agreement: clip+clap:CLIP,CLAP,LABELS_FILE or torchscript:VIDEO.pt,AUDIO.pt.
        classifier: Judge of generated against true sound: hf:FOLDER.
        training: Folder of the clips that the generator was trained on, to look for memorised ones.
        examples: Clips shown on the page, the best and the worst among them.
        seed: Of floors and intervals.
    """
    from cmmd_lightning.evaluation import Extractors, detail_line, evaluate_folders, summary_line, write_report
    from cmmd_lightning.metrics.encoders import build_classifier, build_encoders
    from cmmd_lightning.metrics.extractors import build_audio_extractor, build_video_extractor
    from cmmd_lightning.metrics.functional.linear_sync import LinearSync

    result = evaluate_folders(
        task,
        generated,
        reference,
        video_events=video_events,
        linear_sync=None if linear_sync is None else LinearSync.load(linear_sync),
        encoders=None if encoders is None else _built(build_encoders, encoders),
        extractors=Extractors(
            _built(build_video_extractor, video_extractor),
            _built(build_audio_extractor, audio_extractor),
            None if classifier is None else _built(build_classifier, classifier),
        ),
        training=training,
        round_trip=None if ckpt_path is None else codec_round_trip(ckpt_path, task),
        seed=seed,
    )
    written = write_report(result, report or Path(generated) / "report.json", examples=examples)
    for line in (summary_line(task, result["tasks"][task]), detail_line(result["tasks"][task])):
        if line:
            logger.info("%s", line)
    logger.info("written: %s", ", ".join(str(path) for path in written))
    scored = result["tasks"][task]["event_f1@100ms"]["n"]
    return int(bool(result["runs"][task]["errors"]) or scored == 0)


def _built(build: Callable[[str], Any], spec: str) -> Any:
    """What a flag names.

    Raises:
        ValueError: If it cannot be loaded, whatever the library of its format raises.
    """
    try:
        return build(spec)
    except (ValueError, OSError, ModuleNotFoundError):
        raise
    except Exception as error:  # safetensors, TorchScript and transformers have their own
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(f"{spec}: expected weights of that format, got {reason[:200]}") from error


def calibrate(
    output_dir: str = "runs/calibrate",
    scenes: Literal["both", "bounce", "dance", "none"] = "both",
    real: str | None = None,
    fit: str | None = None,
    num_clips: int = 100,
    video_events: Literal["impacts", "turns"] = "turns",
    encoders: str | None = None,
    seed: int = 0,
) -> int:
    """Measure the synchrony measures: how well each tells known faults from clips in sync.

    Args:
        output_dir: Folder for calibration.json, .md, .html and .png, and for what is kept to go on after a stop.
        scenes: Procedural clips, rendered in memory, with exact event times.
        real: A folder of real clips that are in sync.
        fit: A folder of other real clips of the same kind that are in sync: the linear synchrony is fitted on them and
            left in the output folder as linear_sync-NAME.safetensors, for `cmmd evaluate --linear_sync`.
        num_clips: Clips of each set (real: at most).
        video_events: Detector of events in the pictures of real clips.
        encoders: A pair of encoders whose agreement is calibrated too, as for `cmmd evaluate`.
        seed: Of the procedural clips and of the swapped partners.
    """
    from cmmd_lightning.evaluation.calibrate import calibrate_all
    from cmmd_lightning.evaluation.calibration_report import calibration_lines, write_calibration

    if scenes == "none" and real is None:
        raise ValueError("calibrate: expected scenes or a folder of real clips, got neither")
    if fit is not None and real is None:
        raise ValueError(f"calibrate: expected --real with --fit {fit}, got none")
    names = {"both": ("bounce", "dance"), "none": ()}.get(scenes, (scenes,))
    folder = Path(output_dir)
    found = calibrate_all(
        folder,
        scenes=names,
        real=real,
        fit=fit,
        num_clips=num_clips,
        video_events=video_events,
        encoders=encoders,
        seed=seed,
    )
    for line in found["errors"]:
        logger.warning(line)
    written = write_calibration(found, folder)
    for line in calibration_lines(found):
        logger.info("%s", line)
    logger.info("written: %s", ", ".join(str(path) for path in written))
    return int(bool(found["errors"]))


def prepare(data: AudioVideoDataModule, shard: str = "1/1") -> int:
    """Media to latent and Mel cache: resumable, parallel, shardable.

    Args:
        data: The data.
        shard: i/n, to take the i-th of n shares of the files.

    Raises:
        ValueError: If ``shard`` is not of that form.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard {shard}: expected i/n with 1 <= i <= n, such as 3/16")
    report = data.prepare((int(match[1]), int(match[2])))
    quality = data.round_trip()
    if quality is not None:
        logger.info(
            "round trip of %d clips: frames %.1f dB PSNR; sound %.1f dB log-spectral distance (griffin_lim)", *quality
        )
    return int(bool(report.failed))


def describe(settings: Mapping[str, Any], negatives: Mapping[str, Any], batch_size: int, max_steps: int) -> int:
    """The cost card of a config: parameters, FLOPs, memory, cache size.

    Args:
        settings: The model's settings.
        negatives: The data's wrong partners.
        batch_size: Examples per process and step.
        max_steps: Steps.
    """
    from cmmd_lightning.cost import cost_card
    from cmmd_lightning.data.negatives import NegativeSpec

    card = cost_card(settings, negatives=NegativeSpec.of(negatives), batch_size=batch_size, max_steps=max_steps)
    for name, value in card.items():
        logger.info("%-34s %s", name, value)
    return 0


def ablate(
    recipes: list[str],
    scenes: list[str] = ["bounce"],  # noqa: B006
    seeds: list[int] = [0, 1, 2],  # noqa: B006
    steps: list[int] = [600],  # noqa: B006
    equal_compute: bool = True,
    tasks: list[Literal["video_to_audio", "audio_to_video", "joint"]] = ["video_to_audio"],  # noqa: B006
    guidance_scales: list[float] = [1.0, 2.0, 3.0, 5.0],  # noqa: B006
    guidance_from: list[Literal["dropped", "shifted"]] = ["dropped"],  # noqa: B006
    num_inference_steps: int = 15,
    num_clips: int = 200,
    num_train_clips: int = 800,
    base: str = "ablation/base.yaml",
    vae: str = "ablation/vae.yaml",
    output_dir: str = "runs/ablation",
) -> int:
    """Train and measure recipes that differ in one thing each.

    Args:
        recipes: What is laid over the base: names of configs in ablation/ and flags KEY=VALUE, joined by +, such as
            infonce+model.objective.temperature=0.05.
        scenes: bounce, dance, or with a share of sounds that have a visible cause, such as bounce@0.5.
        seeds: Of training.
        steps: Optimiser steps after which a recipe is measured.
        equal_compute: Measure also where a recipe has cost what the first one costs by then.
        tasks: What is generated.
        guidance_scales: Scales tried; 1 is no guidance.
        guidance_from: What guidance leads away from.
        num_inference_steps: Denoiser evaluations.
        num_clips: Held-out clips.
        num_train_clips: Clips to train on.
        base: Config below the recipes.
        vae: Config of the frame VAE, one for each scene.
        output_dir: Folder for data, trainings and results.jsonl; what is there already is not done again.
    """
    from cmmd_lightning.ablation.plan import Plan
    from cmmd_lightning.ablation.run import run_ablation

    plan = Plan(
        recipes=tuple(recipes),
        scenes=tuple(scenes),
        seeds=tuple(seeds),
        steps=tuple(steps),
        equal_compute=equal_compute,
        tasks=tuple(tasks),
        guidance_scales=tuple(guidance_scales),
        guidance_from=tuple(guidance_from),
        num_inference_steps=num_inference_steps,
        num_clips=num_clips,
        num_train_clips=num_train_clips,
        base=base,
        vae=vae,
    )
    written, failed = run_ablation(plan, output_dir)
    logger.info("written: %s", written)
    return int(bool(failed))


def compare(
    results: list[str],
    output_dir: str = "runs/comparison",
    baseline: str = "plain",
    recipes: list[str] | None = None,
) -> int:
    """Make tables and figures of what was ablated.

    Args:
        results: Files results.jsonl of `cmmd ablate`, read as one.
        output_dir: Folder for comparison.md and its figures.
        baseline: The recipe that others are compared with.
        recipes: Those shown, in this order; all unless told otherwise.
    """
    from cmmd_lightning.ablation.report import write_comparison

    written = write_comparison(results, output_dir, baseline=baseline, recipes=recipes)
    logger.info("written: %s", ", ".join(str(path) for path in written))
    return 0


def codec_round_trip(ckpt_path: str, task: str) -> RoundTrip:
    """The true clip through codec or vocoder of a checkpoint, for the ceiling of a score."""
    import torch

    from cmmd_lightning.evaluation import RoundTrip
    from cmmd_lightning.module import CMMD

    model = CMMD.from_pretrained(ckpt_path)
    clip = model.clip

    @torch.no_grad()
    def sound(samples: torch.Tensor) -> torch.Tensor:
        return model.decode_sound(model.encode_sound(samples[None]), len(samples))[0]

    @torch.no_grad()
    def frames(pictures: torch.Tensor) -> torch.Tensor:
        pixels = pictures.float().transpose(0, 1)[None] / 127.5 - 1
        restored = model.decode_latents(model.encode_frames(pixels))[0].transpose(0, 1)
        return ((restored + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    return RoundTrip(
        sound=sound, sample_rate=clip.sample_rate, frames=frames, fps=clip.fps, size=(clip.height, clip.width)
    )


COMMANDS: dict[str, Callable[..., Any]] = {
    "prepare": prepare,
    "evaluate": evaluate,
    "calibrate": calibrate,
    "render": render,
    "describe": describe,
    "ablate": ablate,
    "compare": compare,
}
