"""What prediction is asked for: the settings, and the plan of inputs and outputs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cmmd_lightning.diffusion.sampling import GuidanceFrom, Task
from cmmd_lightning.media import MediaError, find_media, is_video

Weights = Literal["averaged", "raw"]
MYPY = False  # true for mypy; jsonargparse would take what a block of TYPE_CHECKING says, and know no short names
if MYPY:  # noqa: SIM108
    TaskName = Task  # what it is once it is made
else:
    TaskName = Literal[Task, "v2a", "a2v"]
_SHORT: dict[str, Task] = {"v2a": "video_to_audio", "a2v": "audio_to_video"}


def whole_task(name: str) -> Any:
    """A task by its whole name, where it may be a short one; what is neither stays as it is."""
    return _SHORT.get(name, name)


@dataclass(frozen=True)
class GenerationSpec:
    """What to generate, from what, and where to.

    Args:
        task: ``video_to_audio`` (``v2a``), ``audio_to_video`` (``a2v``) or ``joint``.
        inputs: Media files, or folders of them; none for ``joint``.
        output_dir: Folder to write to; made where it is missing.
        num_inference_steps: Denoiser evaluations.
        guidance_scale: Scale of the guidance; 1 is none.
        ddim_eta: Share of fresh noise per step; 0 is deterministic DDIM.
        seed: Seed of the noise, which follows from it, the input's stem and the sample's number.
        num_samples: Samples per input; for ``joint``, samples in all.
        guidance_from: What guidance leads away from: the other modality ``dropped`` (classifier-free), or ``shifted``
            by half of its length.
        weights: The ``averaged`` ones, or the ``raw`` ones that a training checkpoint holds beside them.
        overwrite: Whether files of another run, made with other settings, are replaced.

    Raises:
        ValueError: If a value is out of range.
    """

    task: TaskName = "video_to_audio"
    inputs: tuple[str, ...] = ()
    output_dir: str = "predictions"
    num_inference_steps: int = 50
    guidance_scale: float = 1.0
    ddim_eta: float = 0.0
    seed: int = 0
    num_samples: int = 1
    guidance_from: GuidanceFrom = "dropped"
    weights: Weights = "averaged"
    overwrite: bool = False

    def __post_init__(self) -> None:
        inputs = [self.inputs] if isinstance(self.inputs, (str, os.PathLike)) else self.inputs
        object.__setattr__(self, "inputs", tuple(os.fspath(path) for path in inputs))
        object.__setattr__(self, "task", whole_task(self.task))
        object.__setattr__(self, "output_dir", os.fspath(self.output_dir))
        checks = {
            "task": (self.task in get_args(Task), f"one of {', '.join(get_args(Task))}"),
            "num_inference_steps": (self.num_inference_steps >= 1, "at least 1"),
            "ddim_eta": (0 <= self.ddim_eta <= 1, "0 to 1"),
            "num_samples": (self.num_samples >= 1, "at least 1"),
            "guidance_from": (
                self.guidance_from in get_args(GuidanceFrom),
                f"one of {', '.join(get_args(GuidanceFrom))}",
            ),
            "weights": (self.weights in get_args(Weights), f"one of {', '.join(get_args(Weights))}"),
        }
        for name, (good, expected) in checks.items():
            if not good:
                raise ValueError(f"generate.{name}: expected {expected}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class PredictInput:
    """One input, and what is to be made of it.

    Args:
        source: The media file; None for a joint sample.
        stem: Name of the input, unique in its run.
        names: One per sample: what its noise follows from.
        stems: One per sample: name of its files, without suffix.
        error: Why there is nothing to read, in one line; None where there is.
    """

    source: str | None
    stem: str
    names: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()
    error: str | None = None

    def outputs(self, task: Task) -> tuple[str, ...]:
        """Names of the files to be made."""
        suffixes = (".mp4",) if task == "audio_to_video" else (".mp4", ".wav")
        return tuple(stem + suffix for stem in self.stems for suffix in suffixes)


def plan_inputs(spec: GenerationSpec) -> list[PredictInput]:
    """The inputs of a run and the names of what each becomes, before anything is read.

    Folders are searched for files that may hold what the task needs, those in ``output_dir`` left out where it lies
    inside. A path without media is an input with an error; the others go on.

    Args:
        spec: What to generate from what.

    Returns:
        The inputs in the order given; for ``joint``, one per sample.

    Raises:
        ValueError: If inputs are missing or not wanted, two have one stem, or an output would overwrite an input.

    Example:
        >>> [item.stems for item in plan_inputs(GenerationSpec("joint", num_samples=2))]
        [('sample_0',), ('sample_1',)]
    """
    if spec.task == "joint":
        if spec.inputs:
            raise ValueError(f"generate.inputs: expected none for the task joint, got {' '.join(spec.inputs)}")
        names, stems = _samples("sample", spec.num_samples)
        return [PredictInput(None, stem, (name,), (stem,)) for name, stem in zip(names, stems, strict=True)]
    if not spec.inputs:
        raise ValueError(f"generate.inputs: expected media files or folders for the task {spec.task}, got none")
    found = {os.path.abspath(item.source or ""): item for path in spec.inputs for item in _found(path, spec)}
    inputs = list(found.values())
    _check_names(inputs, spec)
    return inputs


def _found(path: str, spec: GenerationSpec) -> Iterator[PredictInput]:
    """What one of the given paths stands for."""
    try:
        files = find_media([path])
    except MediaError as error:
        yield PredictInput(path, Path(path).stem, error=str(error))
        return
    if Path(path).is_dir():
        kind = "picture" if spec.task == "video_to_audio" else "picture or sound"
        output_dir = Path(os.path.realpath(spec.output_dir))
        inside = Path(os.path.realpath(path)) in output_dir.parents
        files = [
            file
            for file in files
            if (spec.task != "video_to_audio" or is_video(file))
            and not (inside and output_dir in Path(os.path.realpath(file)).parents)
        ]
        if not files:
            error_line = str(MediaError(path, f"media files with {kind}", "a folder without any"))
            yield PredictInput(path, os.path.join(path, ""), error=error_line)
    for file in files:
        yield PredictInput(str(file), file.stem, *_samples(file.stem, spec.num_samples))


def _samples(stem: str, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names for the noise, and stems of the files; the first of several samples has the noise of a lone one."""
    names = tuple(stem if i == 0 else f"{stem}/{i}" for i in range(count))
    return names, tuple(f"{stem}_{i}" for i in range(count)) if count > 1 else (stem,)


def _check_names(inputs: list[PredictInput], spec: GenerationSpec) -> None:
    by_stem: dict[str, str | None] = {}
    sources = {os.path.realpath(item.source): item.source for item in inputs if item.source is not None}
    for item in inputs:
        if item.stem in by_stem:
            both = f"{by_stem[item.stem]} and {item.source}"
            raise ValueError(f"generate.inputs: expected one input for the name {item.stem!r}, got {both}")
        by_stem[item.stem] = item.source
        for name in item.outputs(spec.task):
            output = os.path.join(spec.output_dir, name)
            if os.path.realpath(output) in sources:
                raise ValueError(
                    f"generate.output_dir: expected a folder where no input is overwritten, "
                    f"got {output} for {item.source} over the input {sources[os.path.realpath(output)]}"
                )
