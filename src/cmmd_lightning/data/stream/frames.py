"""Frames for training the frame VAE, and sound for training the vocoder, straight from media files."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.randomness import example_rng
from cmmd_lightning.data.sources.source import Source
from cmmd_lightning.media import MediaError, MediaInfo, probe, read_frames, read_sound

logger = logging.getLogger(__name__)

_TRIES = 32


class FrameDataset(Dataset[dict[str, Tensor]]):
    """Short random stretches of frames.

    ``dataset[position, index]`` is a training example, as ``StreamSampler`` asks for it, from a source drawn at
    random; ``dataset[i]`` is a fixed one from source i. Which stretch it is follows from (seed, position, index) and
    nothing else. A file that cannot be read is named in one warning, and another source takes its place, always the
    same one.

    An example is a dict: ``frames`` (n, 3, H, W), values in [-1, 1].

    Args:
        sources: The sources of one split; only their pictures are used.
        clip: Frame rate and size. Its other fields play no part.
        frames_per_item: n, consecutive frames at the clip's rate.
        seed: Seed of the run.

    Raises:
        ValueError: If there are no sources, or n is not positive.
    """

    item, noun = "frames", "picture"

    def __init__(self, sources: Sequence[Source], clip: ClipSpec, *, frames_per_item: int = 4, seed: int = 0) -> None:
        if not sources or frames_per_item < 1:
            got = f"{len(sources)} sources and {frames_per_item}"
            raise ValueError(f"{type(self).__name__}: expected sources and frames_per_item >= 1, got {got}")
        self.sources, self.clip, self.frames_per_item, self.seed = list(sources), clip, frames_per_item, seed
        self._ends: dict[int, float] = {}
        # In shared memory, so that several loader workers give one warning.
        self._warned = torch.zeros(len(self.sources), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        """Number of fixed examples, one per source."""
        return len(self.sources)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor]:
        """A training example for (position, index), a fixed one for a number.

        Raises:
            MediaError: If a great many files in a row cannot be read.
        """
        fixed = None if isinstance(item, tuple) else range(len(self))[item]
        position, index = item if isinstance(item, tuple) else (-1, range(len(self))[item])
        for attempt in range(_TRIES):
            rng = example_rng(self.seed, position, index, f"{self.item} {attempt}")
            source = int(rng.integers(len(self.sources)))
            if fixed is not None and attempt == 0:
                source = fixed
            try:
                return {self.item: self._read(source, float(rng.random()))}
            except (ValueError, OSError, RuntimeError) as error:  # MediaError, and what a decoder may come up with
                self._warn(source, error)
        raise MediaError(self.sources[source].path, f"a readable file among {_TRIES} that were drawn", "none")

    def _read(self, number: int, place: float) -> Tensor:
        """The stretch at ``place`` in [0, 1) of the room there is in a source."""
        source = self.sources[number]
        if number not in self._ends:
            end = self._duration(probe(source.path))
            if end is None:
                raise MediaError(source.path, self.noun, "none")
            self._ends[number] = min(end, source.stop or end)
        seconds = self.frames_per_item / self.clip.fps
        room = self._ends[number] - source.start - seconds
        if room < -0.01 / self.clip.fps:
            wanted = f"at least {seconds:g} s of {self.noun} ({self.frames_per_item} frames at {self.clip.fps:g} fps)"
            raise MediaError(source.path, wanted, f"{room + seconds:.3f} s")
        return self._stretch(source.path, source.start + place * max(room, 0.0))

    def _duration(self, info: MediaInfo) -> float | None:
        return info.video_duration

    def _stretch(self, path: str, start: float) -> Tensor:
        """(n, 3, H, W)."""
        frames = read_frames(
            path,
            start=start,
            num_frames=self.frames_per_item,
            fps=self.clip.fps,
            size=(self.clip.height, self.clip.width),
            fit=self.clip.fit,
        )
        return frames.float() / 127.5 - 1.0

    def _warn(self, number: int, error: Exception) -> None:
        if not self._warned[number]:
            self._warned[number] = True
            logger.warning("%s; left out of training", " ".join(str(error).split()))


class SoundDataset(FrameDataset):
    """Short random stretches of sound, as long as ``frames_per_item`` frames; drawn as `FrameDataset` draws.

    An example is a dict: ``sound`` (N,), mono, values in [-1, 1], at the clip's sample rate.
    """

    item, noun = "sound", "sound"

    def _duration(self, info: MediaInfo) -> float | None:
        return info.audio_duration

    def _stretch(self, path: str, start: float) -> Tensor:
        """(N,)."""
        count = self.clip.samples_of(self.frames_per_item)
        return read_sound(path, start=start, num_samples=count, sample_rate=self.clip.sample_rate)
