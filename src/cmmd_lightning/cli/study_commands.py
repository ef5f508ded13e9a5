"""The commands that make experiments: thin, typed functions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)


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
    from cmmd_lightning.studies.calibration.calibrate import calibrate_all
    from cmmd_lightning.studies.calibration.report import calibration_lines, write_calibration

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
    from cmmd_lightning.studies.ablation.plan import Plan
    from cmmd_lightning.studies.ablation.run import run_ablation

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
    from cmmd_lightning.studies.ablation.report import write_comparison

    written = write_comparison(results, output_dir, baseline=baseline, recipes=recipes)
    logger.info("written: %s", ", ".join(str(path) for path in written))
    return 0


def sync(
    clips: str,
    repair: str | None = None,
    output_dir: str = "runs/sync",
    measure: Literal["auto", "events", "envelope", "linear"] = "auto",
    video_events: Literal["impacts", "turns"] = "impacts",
    linear_sync: str | None = None,
    max_lag: float = 0.5,
    seed: int = 0,
) -> int:
    """Tell how late the sound of each clip is, and mend those that are out of sync.

    Args:
        clips: A folder of clips of one kind, eight at least: the sounds of others tell what agrees by chance.
        repair: Folder for copies of the clips that are out of sync, with the offset mended and nothing encoded anew.
        output_dir: Folder for sync.json, .csv, .md, .tex, .html and .png.
        measure: events seen and heard; the envelope of motion and loudness; or the linear synchrony. auto is linear
            where --linear_sync is given, else events. `cmmd calibrate` tells which of them works on such clips.
        video_events: Detector of events in pictures.
        linear_sync: linear_sync.safetensors, as `cmmd calibrate --fit` writes it from clips of the same kind.
        max_lag: Greatest lag looked for either way, in seconds. Keep it below half of the period of what is periodic.
        seed: Of intervals, and of which other clips stand for chance.
    """
    from cmmd_lightning.studies.sync import sync_folder

    return sync_folder(
        Path(clips),
        None if repair is None else Path(repair),
        Path(output_dir),
        measure=measure,
        video_events=video_events,
        linear_sync=linear_sync,
        max_lag=max_lag,
        seed=seed,
    )
