"""Training and validation examples from the cache: a clip, and its wrong partners."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cmmd_lightning.codecs import sample_posterior
from cmmd_lightning.data.preprocess.cache import Cache
from cmmd_lightning.data.randomness import example_generator, example_rng
from cmmd_lightning.data.sources.source import Source
from cmmd_lightning.data.stream.negatives import (
    NEGATIVE_KINDS,
    Cut,
    NegativeKind,
    NegativeSpec,
    Place,
    draw_kind,
    draw_reversal,
    draw_shift,
    draw_substitution,
    draw_swap,
)

logger = logging.getLogger(__name__)

# Two stretches that differ by less than this everywhere, in raw latents or in log-Mel, count as the same (silence, a
# still picture).
_SAME = 1e-3
_TRIES = 4

# What a cut reads in one modality; the first tensor is the one that is compared.
_Read = Callable[[Cut], tuple[Tensor, ...]]
_Found = tuple[Cut, tuple[Tensor, ...]]


class ClipDataset(Dataset[dict[str, Tensor]]):
    """Clips of prepared sources, each with K wrong partners per modality.

    Two ways to ask for an example. ``dataset[position, index]`` is a training example, as ``StreamSampler`` asks for
    it: source, stretch, posterior sample and negatives follow from (seed, position, index) and nothing else. A source
    is drawn in proportion to its length, so every second of the data is seen alike. ``dataset[i]`` is the i-th of
    ``len(dataset)`` fixed validation clips.

    An example is a dict, with C latent channels of h x w, T frames, M bands, L Mel frames:
    ``video_latents`` (C, T, h, w), a sample of the posterior in raw units; ``mel`` (M, L), raw; ``video_negatives``
    (K, C, T, h, w) and ``mel_negatives`` (K, M, L), likewise; ``video_negative_kinds`` and ``mel_negative_kinds``
    (K,), their kinds as numbers of ``NEGATIVE_KINDS``; ``position`` (-1 in validation) and ``index``; ``source``, the
    number of the source in ``sources``, ``label``, the index of its class (-1 where it has none), and ``start``, the
    clip's start in seconds from that of the media.

    Video and sound negatives are drawn independently. A negative that would equal its positive (silence shifted to
    silence) is drawn again, and in the end replaced by a substitution; a substitution where there is but one source
    is a shift instead.

    Args:
        sources: The sources of one split. Those without a cache entry, or shorter than a clip, are left out, which is
            logged.
        cache: The cache that ``prepare`` filled.
        negatives: Which negatives; a NegativeSpec, its plain-dict form, or None for the default.
        seed: Seed of the run.
        clips_per_source: Validation clips per source, evenly spread (1 is its beginning); None tiles each source.

    Raises:
        ValueError: If no source is prepared, or clips are too short for the kinds of negatives.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        cache: Cache,
        *,
        negatives: NegativeSpec | dict | None = None,
        seed: int = 0,
        clips_per_source: int | None = 1,
    ) -> None:
        self.cache, self.clip, self.seed = cache, cache.clip, seed
        self.negatives = NegativeSpec.of(negatives)
        if self.negatives.num_negatives and self.clip.num_frames < 2:
            raise ValueError(
                f"ClipDataset: expected clips of 2 frames or more for negatives, got {self.clip.num_frames}"
            )
        self.sources: list[Source] = []
        self.keys: list[str] = []
        lengths, missing = [], []
        for source in sources:
            key = _key(cache, source)
            entry = None if key is None else cache.entry(key)
            if key is None or entry is None or entry.num_frames < self.clip.num_frames:
                missing.append(source)
                continue
            self.sources.append(source)
            self.keys.append(key)
            lengths.append(entry.num_frames)
        self._report_missing(missing, len(sources))
        self.lengths = np.array(lengths)
        self._ends = np.cumsum(self.lengths)
        self._fixed = self._fixed_clips(clips_per_source)

    def __len__(self) -> int:
        """Number of fixed validation clips."""
        return len(self._fixed)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Tensor]:
        """A training example for (position, index), a validation example for a number."""
        if isinstance(item, tuple):
            position, index = item
            rng = example_rng(self.seed, position, index, "clip")
            source = int(np.searchsorted(self._ends, rng.integers(self._ends[-1]), side="right"))
            frame = int(rng.integers(self.lengths[source] - self.clip.num_frames + 1))
        else:
            position, index = -1, range(len(self))[item]
            source, frame = self._fixed[index]
        return self._example(position, index, source, frame)

    def _example(self, position: int, index: int, source: int, frame: int) -> dict[str, Tensor]:
        clip, spec = self._place(source, frame), self.negatives.at(position)
        video_rng, mel_rng = (example_rng(self.seed, position, index, f"{name} negatives") for name in ("video", "mel"))
        video = self._with_negatives(self._latents, clip, spec, video_rng)
        mels = self._with_negatives(self._mel, clip, spec, mel_rng)
        noise = example_generator(self.seed, position, index, "posterior")
        latents = [_sampled(posterior, noise) for _, posterior in video]
        class_index = self.sources[source].class_index
        return {
            "video_latents": latents[0],
            "mel": mels[0][1][0],
            "video_negatives": _stacked(latents),
            "mel_negatives": _stacked([mel for _, (mel,) in mels]),
            "video_negative_kinds": _kind_numbers(video),
            "mel_negative_kinds": _kind_numbers(mels),
            "position": torch.tensor(position),
            "index": torch.tensor(index),
            "source": torch.tensor(source),
            "label": torch.tensor(-1 if class_index is None else class_index),
            "start": torch.tensor(self.sources[source].start + frame / self.clip.fps),
        }

    def _with_negatives(self, read: _Read, clip: Place, spec: NegativeSpec, rng: np.random.Generator) -> list[_Found]:
        """The clip itself in one modality, and then its K negatives."""
        itself = Cut(None, clip.source, clip.frame)
        found = [(itself, read(itself))]
        for _ in range(spec.num_negatives):
            found.append(self._negative(read, clip, found[0][1][0], spec, rng))
        return found

    def _negative(
        self, read: _Read, clip: Place, positive: Tensor, spec: NegativeSpec, rng: np.random.Generator
    ) -> _Found:
        """A negative that differs from the positive, if any can be had."""
        kind = draw_kind(spec, rng)
        for attempt in range(2 * _TRIES):
            cut = self._cut(kind if attempt < _TRIES else "substitution", clip, spec, rng)
            tensors = read(cut)
            if float((tensors[0] - positive).abs().max()) > _SAME:
                break
        return cut, tensors

    def _cut(self, kind: NegativeKind, clip: Place, spec: NegativeSpec, rng: np.random.Generator) -> Cut:
        if kind == "swap":
            return draw_swap(spec, clip, rng)
        if kind == "reversal":
            return draw_reversal(clip)
        other = self._other_source(clip.source, rng) if kind == "substitution" else None
        if other is None:
            return draw_shift(spec, clip, rng)
        return draw_substitution(clip, other, int(self.lengths[other]), rng)

    def _other_source(self, source: int, rng: np.random.Generator) -> int | None:
        """A source of other content and another group, None where none was found."""
        group = self.sources[source].group
        for _ in range(_TRIES if len(self.sources) > 1 else 0):
            other = int(rng.integers(len(self.sources) - 1))
            other += other >= source
            if self.keys[other] != self.keys[source] and (group is None or self.sources[other].group != group):
                return other
        return None

    def _place(self, source: int, frame: int) -> Place:
        return Place(
            source=source,
            frame=frame,
            num_frames=self.clip.num_frames,
            source_frames=int(self.lengths[source]),
            fps=self.clip.fps,
            period=self.sources[source].period,
        )

    def _latents(self, cut: Cut) -> tuple[Tensor, ...]:
        """Posterior mean and log-variance (T, C, h, w) of a cut."""
        frames = self.clip.num_frames
        both = self.cache.read_latents(self.keys[cut.source], cut.frame, frames)
        if cut.order is None:
            return both
        order = torch.from_numpy(cut.indices(frames, frames))
        return both[0][order], both[1][order]

    def _mel(self, cut: Cut) -> tuple[Tensor, ...]:
        """Log-Mel (M, L) of a cut."""
        length = self.clip.mel_frames
        mel = self.cache.read_mel(self.keys[cut.source], self.clip.mel_index(cut.frame), length)
        if cut.order is None:
            return (mel,)
        return (mel[:, torch.from_numpy(cut.indices(length, self.clip.num_frames))],)

    def _fixed_clips(self, clips_per_source: int | None) -> list[tuple[int, int]]:
        """Source and first frame of each validation clip, in an order whose every beginning is spread over them all.

        Where only so many batches are validated on, these are of all groups, not of the first one.
        """
        clips = []
        for source, length in enumerate(self.lengths.tolist()):
            room = length - self.clip.num_frames
            count = min(clips_per_source or length, length // self.clip.num_frames)
            clips += [(source, round(i * room / max(count - 1, 1))) for i in range(count)]
        return [clips[i] for i in spread_order(len(clips))]

    def _report_missing(self, missing: list[Source], total: int) -> None:
        if not missing and self.sources:
            return
        names = ", ".join(source.path for source in missing[:3]) + (", ..." if len(missing) > 3 else "")
        wanted = f"a cache entry of {self.clip.duration:g} s or more for each of {total} sources"
        line = f"expected {wanted}, got none for {len(missing)}"
        if not self.sources:
            raise ValueError(f"{self.cache.cache_dir}: {line}: {names}")
        logger.warning("%s: %s, which are left out: %s", self.cache.cache_dir, line, names)


def spread_order(count: int) -> list[int]:
    """Order 0 to ``count`` - 1 so that the first n, for every n, are about evenly spread.

    Example:
        >>> spread_order(8)
        [0, 5, 2, 7, 4, 1, 6, 3]
    """
    return sorted(range(count), key=lambda i: i * (5**0.5 - 1) / 2 % 1.0)


def _key(cache: Cache, source: Source) -> str | None:
    try:
        return cache.key(source)
    except OSError:
        return None


def _sampled(posterior: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    """Sample (C, T, h, w) of a posterior, given as mean and log-variance (T, C, h, w) in float16."""
    mean, logvar = posterior
    return sample_posterior(mean.float(), logvar.float(), generator).transpose(0, 1).contiguous()


def _stacked(clip_and_negatives: list[Tensor]) -> Tensor:
    """The K tensors after the first as one (K, ...), also where K is 0."""
    first, *others = clip_and_negatives
    return torch.stack(others) if others else first.new_empty(0, *first.shape)


def _kind_numbers(found: list[_Found]) -> Tensor:
    return torch.tensor([NEGATIVE_KINDS.index(cut.kind) for cut, _ in found if cut.kind is not None], dtype=torch.int64)
