"""The commands that are not Lightning's: thin, typed functions."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from cmmd_lightning.datamodule import AudioVideoDataModule
    from cmmd_lightning.evaluation import RoundTrip
    from cmmd_lightning.module import CMMD

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
    examples: int = 4,
    seed: int = 0,
) -> int:
    """Measure the synchrony of two folders of media, whoever made them.

    Args:
        task: What was generated.
        generated: Folder of generated media.
        reference: Folder of true media of the same stems, with event sidecars where there are any; joint needs none.
        report: The report's file; its page lies beside it, and a report that is there already is added to.
            By default report.json in the generated folder.
        ckpt_path: A checkpoint whose codec and vocoder give the ceiling.
        video_events: Detector of events in pictures.
        examples: Clips shown on the page.
        seed: Of floors and intervals.
    """
    from cmmd_lightning.evaluation import evaluate_folders, summary_line, write_report

    result = evaluate_folders(
        task,
        generated,
        reference,
        video_events=video_events,
        round_trip=None if ckpt_path is None else codec_round_trip(ckpt_path, task),
        seed=seed,
    )
    written = write_report(result, report or Path(generated) / "report.json", examples=examples)
    logger.info("%s", summary_line(task, result["tasks"][task]))
    logger.info("written: %s", ", ".join(str(path) for path in written))
    scored = result["tasks"][task]["event_f1@100ms"]["n"]
    return int(bool(result["runs"][task]["errors"]) or scored == 0)


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


def describe(model: CMMD) -> int:
    """The cost card of a config: parameters, FLOPs, memory, cache size.

    Args:
        model: The model.
    """
    from cmmd_lightning.cost import cost_card

    for name, value in cost_card(model).items():
        logger.info("%-34s %s", name, value)
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
    "render": render,
    "describe": describe,
}
