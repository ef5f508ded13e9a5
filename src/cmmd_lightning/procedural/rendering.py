"""Procedural scenes as media files: many clips in parallel, each with its sidecar, resumable."""

from __future__ import annotations

import importlib
import json
import logging
import multiprocessing
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cmmd_lightning.media.container import written_whole
from cmmd_lightning.media.write import write_sound, write_video
from cmmd_lightning.procedural.bounce import Bounce
from cmmd_lightning.procedural.dance import Dance
from cmmd_lightning.procedural.scene import Scene, SceneClip, SceneSettings

logger = logging.getLogger(__name__)

Streams = Literal["both", "video", "audio"]
SCENES: dict[str, type[Scene]] = {"bounce": Bounce, "dance": Dance}
"""Scenes by their short names."""
SceneChoice = str | Mapping[str, Any]
"""A short name, a class path, or ``{class_path: ..., init_args: {...}}``."""

FORMAT = 1
"""Raised whenever the same settings give other clips than before."""


def simulate(
    scene: SceneChoice,
    seed: int = 0,
    index: int = 0,
    settings: SceneSettings | None = None,
    *,
    streams: Streams = "both",
) -> SceneClip:
    """One procedural clip in memory.

    Args:
        scene: A key of `SCENES`, or a `Scene` of one's own by its class path.
        seed: Of the whole collection, not negative.
        index: Of the clip in it, not negative.
        settings: Length, rates, size, correlation; default settings where None.
        streams: Whether to make the picture, the sound, or both.

    Returns:
        The clip; it follows from the arguments alone.

    Raises:
        ValueError: If the scene or ``streams`` is unknown, or seed or index is negative.

    Example:
        >>> clip = simulate("bounce", seed=1, settings=SceneSettings(duration=1.6, fps=10.0, height=32, width=32))
        >>> tuple(clip.frames.shape), tuple(clip.sound.shape)
        ((16, 3, 32, 32), (25600,))
    """
    _check(seed, index, streams)
    settings = settings or SceneSettings()
    name, made = _build(scene)
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed, index])
    clip = made.simulate(rng, settings, video=streams != "audio", audio=streams != "video")
    clip.meta = _head(scene, seed, settings, streams) | {"index": index} | clip.meta
    return clip


def _build(scene: SceneChoice) -> tuple[str, Scene]:
    """Build a scene, and name it."""
    described: dict[str, Any] = {"class_path": scene} if isinstance(scene, str) else dict(scene)
    name, arguments = str(described.get("class_path")), dict(described.get("init_args") or {})
    try:
        module, _, attribute = name.rpartition(".")
        kind = SCENES[name] if name in SCENES else getattr(importlib.import_module(module), attribute)
        return name, kind(**arguments)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        known = f"scene must be one of {', '.join(SCENES)}, got {scene!r}"
        raise ValueError(f"{known}; or the class path of a Scene, with its init_args ({error})") from error


def _check(seed: int, index: int, streams: str) -> None:
    if streams not in ("both", "video", "audio"):
        raise ValueError(f"streams must be 'both', 'video' or 'audio', got {streams!r}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")


def _head(scene: SceneChoice, seed: int, settings: SceneSettings, streams: Streams) -> dict[str, Any]:
    """The part of a sidecar that all clips of one folder share."""
    plain = settings.to_dict()
    size = [plain.pop("height"), plain.pop("width")]
    chosen = {"scene": scene} if isinstance(scene, str) else {"scene": scene["class_path"], **scene}
    return {**chosen, "seed": seed, "size": size, **plain, "streams": streams, "format": FORMAT}


def render(
    scene: SceneChoice,
    output_dir: str | os.PathLike[str],
    num_clips: int,
    seed: int = 0,
    *,
    duration: float = 4.0,
    fps: float = 25.0,
    height: int = 64,
    width: int = 64,
    sample_rate: int = 16000,
    correlation: float = 1.0,
    max_shapes: int = 2,
    streams: Streams = "both",
    num_workers: int = 2,
    first_index: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Render clips of a scene to ``clip_00000.mp4`` (or ``.wav``) and ``clip_00000.json`` files.

    A clip follows from scene, seed, index and settings, whatever the number of clips or workers. Whole clips that are
    there already are kept, so that an interrupted call continues where it was.

    Args:
        scene: A key of `SCENES`, or a `Scene` of one's own by its class path.
        output_dir: Folder, made where it is missing.
        num_clips: How many, numbered from ``first_index``.
        seed: Of the collection.
        duration: Seconds of each clip.
        fps: Frames per second.
        height: Pixels.
        width: Pixels.
        sample_rate: Hz.
        correlation: Share of the sounds that have a visible cause, 0 to 1.
        max_shapes: Most shapes in one clip, 1 or 2 (``bounce`` only).
        streams: ``both``, ``video`` (silent mp4) or ``audio`` (wav).
        num_workers: Processes beside this one; 0 renders in this one.
        first_index: Number of the first clip.
        progress: Whether to show a progress bar.

    Returns:
        The media files, in order.

    Raises:
        ValueError: If an argument is out of range, or the folder holds clips of other settings or files that are not
            ours.
    """
    settings = SceneSettings(duration, fps, height, width, sample_rate, correlation, max_shapes)
    if num_clips < 0 or num_workers < 0:
        raise ValueError(f"num_clips and num_workers must not be negative, got {num_clips} and {num_workers}")
    _check(seed, first_index, streams)
    name, _ = _build(scene)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    suffix = ".wav" if streams == "audio" else ".mp4"
    paths = [folder / f"clip_{index:05d}{suffix}" for index in range(first_index, first_index + num_clips)]
    _refuse_others(folder, _head(scene, seed, settings, streams), paths)
    missing = [index for index, path in enumerate(paths, first_index) if not path.exists()]
    if len(missing) < num_clips:
        logger.info("%s: keeping %d clips that are there already", folder, num_clips - len(missing))
    jobs = [(scene, seed, index, settings, streams, paths[index - first_index]) for index in missing]
    with Progress(
        TextColumn("render {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not progress,
    ) as bar:
        task = bar.add_task(name, total=num_clips, completed=num_clips - len(missing))
        for _ in _run(jobs, num_workers):
            bar.advance(task)
    return paths


Job = tuple[SceneChoice, int, int, SceneSettings, Streams, Path]


def _run(jobs: list[Job], num_workers: int) -> Iterator[None]:
    """Do the jobs, yielding after each."""
    if num_workers == 0 or len(jobs) < 2:
        yield from map(_render_clip, jobs)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(num_workers, len(jobs)), context, torch.set_num_threads, (1,)) as pool:
        futures: list[Future[None]] = [pool.submit(_render_clip, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _render_clip(job: Job) -> None:
    """Write one clip, the sidecar before the media file and each whole or not at all: a media file is a whole clip."""
    scene, seed, index, settings, streams, path = job
    clip = simulate(scene, seed, index, settings, streams=streams)
    with written_whole(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(clip.sidecar, indent=1) + "\n")
    if streams == "audio":
        assert clip.sound is not None
        write_sound(path, clip.sound, settings.sample_rate)
    elif streams == "video":
        write_video(path, clip.frames, settings.fps)
    else:
        write_video(path, clip.frames, settings.fps, clip.sound, settings.sample_rate)


def _refuse_others(folder: Path, head: dict[str, Any], paths: list[Path]) -> None:
    """Raise where the folder holds clips of other settings, or a file that would be taken for a finished clip."""
    for sidecar in sorted(folder.glob("clip_*.json")):
        found = _load(sidecar)
        for key, expected in head.items():
            if found.get(key) != expected:
                raise ValueError(
                    f"{sidecar}: expected a clip with {key} {expected!r}, as asked for, got {found.get(key)!r}; "
                    "choose another folder"
                )
    for path in paths:
        if path.exists() and not path.with_suffix(".json").exists():
            raise ValueError(
                f"{path}: expected a rendered clip with its sidecar, got a file without one; choose another folder"
            )


def _load(sidecar: Path) -> dict[str, Any]:
    """A sidecar's content."""
    try:
        content = json.loads(sidecar.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{sidecar}: expected the sidecar of a rendered clip, got unreadable JSON ({error})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{sidecar}: expected the sidecar of a rendered clip, got a JSON {type(content).__name__}")
    return content
