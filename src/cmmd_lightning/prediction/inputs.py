"""Inputs of prediction: read where they are used, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.diffusion.sampling import Task
from cmmd_lightning.media import MediaError, iter_frames, probe, read_sound
from cmmd_lightning.prediction.requests import PredictInput

_HELD_BYTES = 1 << 26  # pictures of a longer input are not held but read again, chunk by chunk, while they are encoded
_CHUNK = 64  # frames read and encoded at once


@dataclass(eq=False)
class Loaded:
    """An input that was read.

    Args:
        input: Which one.
        num_frames: Whole frames of the clip's rate that it covers, T.
        clip: Rate and size of the pictures.
        frames: uint8 (T, 3, H, W) where pictures are the condition and few enough to be held.
        sound: (N,) where sound is the condition.
    """

    input: PredictInput
    num_frames: int
    clip: ClipSpec
    frames: Tensor | None = None
    sound: Tensor | None = None

    def frame_chunks(self) -> Iterator[Tensor]:
        """The pictures, uint8 (at most 64, 3, H, W) at a time."""
        if self.frames is not None:
            return iter(self.frames.split(_CHUNK))
        assert self.input.source is not None
        return _frame_chunks(self.input.source, self.num_frames, self.clip)


class InputBatch:
    """Inputs that are taken together. Neither collection nor dataclass: Lightning hands it through as it is.

    Args:
        inputs: The inputs.
        max_examples: Clips that may go through the network at once.
        num_threads: Threads to read with.

    Attributes:
        done: Called with each result as it is made; `PredictionWriter` writes it there.
        on_progress: Called with a few words on what is being done.
    """

    def __init__(self, inputs: list[PredictInput], max_examples: int = 16, num_threads: int = 1) -> None:
        self.inputs, self.max_examples, self.num_threads = inputs, max_examples, num_threads
        self.done: Callable[[Any], Any] = lambda result: result
        self.on_progress: Callable[[str], None] = lambda text: None

    def __len__(self) -> int:
        return len(self.inputs)

    def load(self, task: Task, clip: ClipSpec) -> Iterator[tuple[PredictInput, Loaded | str]]:
        """Each input, read, or the reason why it cannot be, in one line."""

        def read(item: PredictInput) -> Loaded | str:
            try:
                return item.error or load_input(item, task, clip)
            except (OSError, ValueError) as error:
                return one_line(error, item.source)

        with ThreadPoolExecutor(self.num_threads) as pool:
            yield from zip(self.inputs, pool.map(read, self.inputs), strict=True)


class InputLoader:
    """Batches of the inputs; with several processes, each takes every n-th input, and at least an empty batch.

    It takes the place of a DataLoader: batches hold names only, and are read by threads where they are used, so that
    inputs which need no work are never read.

    Args:
        inputs: The plan, of `plan_inputs`.
        batch_size: Clips that may go through the network at once, per process.
        num_threads: Threads to read with, at least one.
    """

    def __init__(self, inputs: list[PredictInput], batch_size: int = 16, num_threads: int = 1) -> None:
        self.inputs, self.batch_size, self.num_threads = inputs, batch_size, max(1, num_threads)
        self.per_batch = max(1, batch_size // max([1, *(len(item.names) for item in inputs)]))

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[InputBatch]:
        for inputs in self._batches():
            yield InputBatch(inputs, self.batch_size, self.num_threads)

    def _batches(self) -> list[list[PredictInput]]:
        world, rank = 1, 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        own = self.inputs[rank::world]
        return [own[i : i + self.per_batch] for i in range(0, len(own), self.per_batch)] or [[]]


def load_input(item: PredictInput, task: Task, clip: ClipSpec) -> Loaded:
    """Reads what the task needs of an input.

    Args:
        item: The input.
        task: What will be generated.
        clip: The model's clip, which the input must at least last for.

    Returns:
        The input; a whole number of frames.

    Raises:
        MediaError: If the file is unreadable, truncated, lacks the stream, or is shorter than the clip.
    """
    if task == "joint" or item.source is None:
        return Loaded(item, clip.num_frames, clip)
    info = probe(item.source)
    if task == "audio_to_video":
        count = _covered(item.source, "sound", info.audio_duration, f"only picture ({info.video_codec})", clip)
        samples = clip.samples_of(count)
        sound = read_sound(item.source, num_samples=samples, sample_rate=clip.sample_rate)
        return Loaded(item, count, clip, sound=sound)
    count = _covered(item.source, "picture", info.video_duration, f"only sound ({info.audio_codec})", clip)
    held = count * 3 * clip.height * clip.width <= _HELD_BYTES
    frames = torch.cat(list(_frame_chunks(item.source, count, clip))) if held else None
    return Loaded(item, count, clip, frames)


def one_line(error: BaseException, source: str | None = None) -> str:
    """An error as one line that names the input."""
    text = " ".join(str(error).split()) or type(error).__name__
    named = source is None or isinstance(error, MediaError) or source in text
    return text if named else f"{source}: {text}"


def _covered(source: str, noun: str, seconds: float | None, other: str, clip: ClipSpec) -> int:
    """Whole frames in a stream of that length."""
    if seconds is None:
        raise MediaError(source, f"{'a video' if noun == 'picture' else 'an audio'} stream", other)
    count = clip.frames_in(seconds)
    if count < clip.num_frames:
        frames = f"{clip.num_frames} frames at {clip.fps:g} fps, the model's clip"
        raise MediaError(source, f"{clip.duration:g} s of {noun} or more ({frames})", f"{seconds:.3f} s")
    return count


def _frame_chunks(source: str, count: int, clip: ClipSpec) -> Iterator[Tensor]:
    size = (clip.height, clip.width)
    return iter_frames(source, fps=clip.fps, size=size, fit=clip.fit, num_frames=count, chunk=_CHUNK)
