"""The commands that are not Lightning's: thin, typed functions."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from cmmd_lightning.cli.study_commands import ablate, calibrate, compare, sync
from cmmd_lightning.cli.usage import UsageError

logger = logging.getLogger(__name__)


def render(
    scene: dict[str, Any] | str,
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
        scene: bounce (shapes whose impacts sound), dance (a figure that moves to a beat), or a class path.
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
    from cmmd_lightning.procedural import SCENES
    from cmmd_lightning.procedural import render as render_clips

    if isinstance(scene, str) and "." not in scene and scene not in SCENES:
        raise UsageError(f"scene: expected one of {', '.join(SCENES)} or the class path of a Scene, got {scene!r}")
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
    task: Literal["video_to_audio", "audio_to_video", "joint", "v2a", "a2v"],
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
    measures: list[dict[str, Any]] | None = None,
    without: list[str] | None = None,
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
        measures: Measures of one's own, such as [{class_path: theirs.Measure, init_args: {}}].
        without: Names of measures to leave out, such as [flicker_ratio].
        examples: Clips shown on the page, the best and the worst among them.
        seed: Of floors and intervals.
    """
    from cmmd_lightning.evaluation.pairs import require_media

    require_media(generated, reference)
    from cmmd_lightning.prediction.requests import whole_task

    made = whole_task(task)
    from cmmd_lightning.evaluation import Extractors, detail_line, evaluate_folders, summary_line, write_report
    from cmmd_lightning.metrics.encoders import build_classifier, build_encoders
    from cmmd_lightning.metrics.extractors import build_audio_extractor, build_video_extractor
    from cmmd_lightning.metrics.functional.linear_sync import LinearSync
    from cmmd_lightning.metrics.measure import build_measures

    result = evaluate_folders(
        made,
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
        round_trip=None if ckpt_path is None else codec_round_trip(ckpt_path, made),
        measures=build_measures(measures or ()),
        without=without or (),
        seed=seed,
    )
    written = write_report(result, report or Path(generated) / "report.json", examples=examples)
    for line in (summary_line(made, result["tasks"][made]), detail_line(result["tasks"][made])):
        if line:
            logger.info("%s", line)
    logger.info("written: %s", ", ".join(str(path) for path in written))
    return int(bool(result["runs"][made]["errors"]) or not result["runs"][made]["clips"])


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


def prepare(data: Any, shard: str = "1/1") -> int:
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
    from cmmd_lightning.data.stream.negatives import NegativeSpec
    from cmmd_lightning.training.cost import cost_card

    card = cost_card(settings, negatives=NegativeSpec.of(negatives), batch_size=batch_size, max_steps=max_steps)
    for name, value in card.items():
        logger.info("%-34s %s", name, value)
    return 0


def export(ckpt_path: str, output_dir: str) -> int:
    """Write a model as ONNX files, each checked against torch, and its settings as JSON.

    Args:
        ckpt_path: The checkpoint, demo for the packaged one, a folder or a hub name.
        output_dir: Folder to write to, for `cmmd predict --runtime onnx --onnx_dir`.
    """
    from cmmd_lightning.prediction.onnx_export import export_onnx
    from cmmd_lightning.training.module import CMMD

    for path in export_onnx(CMMD.from_pretrained(ckpt_path), output_dir):
        logger.info("%s: %.1f MB", path, path.stat().st_size / 1e6)
    return 0


def demo(ckpt_path: str = "demo", output_dir: str | None = None, open: bool = True) -> int:
    """A page to try a model on: one HTML file that runs it in the browser.

    Args:
        ckpt_path: As for `cmmd export`.
        output_dir: Folder for index.html; by default one in the user's cache.
        open: Whether to open the page.
    """
    import webbrowser

    from cmmd_lightning.prediction.web_page import make_page
    from cmmd_lightning.training.module import CMMD

    path = make_page(CMMD.from_pretrained(ckpt_path), output_dir).resolve()
    logger.info("%s: %.1f MB; open it by a double click, or put it on any web host", path, path.stat().st_size / 1e6)
    if open:
        webbrowser.open(path.as_uri())
    return 0


def codec_round_trip(ckpt_path: str, task: str) -> Any:
    """The true clip through codec or vocoder of a checkpoint, for the ceiling of a score."""
    import torch

    from cmmd_lightning.evaluation import RoundTrip
    from cmmd_lightning.training.module import CMMD

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
    "export": export,
    "demo": demo,
    "ablate": ablate,
    "compare": compare,
    "sync": sync,
}
