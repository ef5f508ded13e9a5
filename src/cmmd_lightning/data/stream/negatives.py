"""Negatives: wrong partners for a clip, by temporal shift, segment swap, substitution from another source, or reversal.

Here it is decided what to cut, in frames and as pure functions of a random generator; ``dataset`` cuts it. A choice
is a ``Cut``: which source, from which frame on, and in what order the frames are taken. Video and sound follow the
same choice alike: the Mel frames are reordered as the video frames are, in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

NegativeKind = Literal["shift", "swap", "substitution", "reversal"]
# The place of a kind here is its number in ``video_negative_kinds`` and ``mel_negative_kinds``.
NEGATIVE_KINDS: tuple[NegativeKind, ...] = get_args(NegativeKind)

_TRIES = 16


@dataclass(frozen=True)
class NegativeSpec:
    """Which negatives a training example gets.

    Args:
        num_negatives: K, the wrong partners per modality; 0 is none.
        kinds: Kinds drawn from: ``shift`` (another stretch of the same source), ``swap`` (segments of the clip change
            places), ``substitution`` (a stretch of another source), ``reversal`` (the clip played backwards).
        weights: How often each kind is drawn, relative to each other; None is alike.
        min_shift_seconds: A shift is at least this long.
        max_shift_seconds: And at most this long; None is as long as the source allows.
        segments: Segments that a swap cuts the clip into.
        curriculum_steps: Over so many training steps the longest shift falls geometrically from ``max_shift_seconds``,
            which must then be given, to twice ``min_shift_seconds``, where it stays; 0 is no curriculum. See `at`.

    Raises:
        ValueError: If a setting is out of range, a kind is unknown, or a curriculum has no longest shift to begin with.

    Example:
        >>> NegativeSpec(kinds=("shift",)).probabilities
        (1.0,)
    """

    num_negatives: int = 1
    kinds: tuple[NegativeKind, ...] = ("shift", "swap", "substitution")
    weights: tuple[float, ...] | None = None
    min_shift_seconds: float = 0.2
    max_shift_seconds: float | None = None
    segments: int = 4
    curriculum_steps: int = 0

    def __post_init__(self) -> None:
        # Lists come from configs and checkpoints.
        object.__setattr__(self, "kinds", tuple(self.kinds))
        object.__setattr__(self, "weights", None if self.weights is None else tuple(self.weights))
        unknown = [kind for kind in self.kinds if kind not in NEGATIVE_KINDS]
        if unknown or not self.kinds:
            raise ValueError(f"NegativeSpec.kinds must be some of {', '.join(NEGATIVE_KINDS)}, got {self.kinds!r}")
        if self.num_negatives < 0:
            raise ValueError(f"NegativeSpec.num_negatives must not be negative, got {self.num_negatives!r}")
        if self.segments < 2:
            raise ValueError(f"NegativeSpec.segments must be at least 2, got {self.segments!r}")
        self._check_weights()
        self._check_shift()
        self._check_curriculum()

    def _check_weights(self) -> None:
        weights = self.weights
        if weights is not None and (len(weights) != len(self.kinds) or min(weights) < 0 or sum(weights) <= 0):
            raise ValueError(f"NegativeSpec.weights must be one number >= 0 per kind, not all 0, got {weights!r}")

    def _check_shift(self) -> None:
        if self.min_shift_seconds <= 0:
            raise ValueError(f"NegativeSpec.min_shift_seconds must be positive, got {self.min_shift_seconds!r}")
        if self.max_shift_seconds is not None and self.max_shift_seconds < self.min_shift_seconds:
            raise ValueError(
                f"NegativeSpec.max_shift_seconds must be at least min_shift_seconds ({self.min_shift_seconds}), "
                f"got {self.max_shift_seconds!r}"
            )

    def _check_curriculum(self) -> None:
        if self.curriculum_steps < 0:
            raise ValueError(f"NegativeSpec.curriculum_steps must not be negative, got {self.curriculum_steps!r}")
        if self.curriculum_steps and self.max_shift_seconds is None:
            raise ValueError("NegativeSpec.curriculum_steps needs max_shift_seconds to begin with, got None")

    @classmethod
    def of(cls, spec: NegativeSpec | Mapping[str, Any] | None) -> NegativeSpec:
        """A NegativeSpec from itself, from its plain-dict form, or the default from None."""
        return spec if isinstance(spec, NegativeSpec) else cls(**(spec or {}))

    def to_dict(self) -> dict[str, Any]:
        """Plain-dict form, lists for tuples, as stored in checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Probability of each of ``kinds``."""
        weights = self.weights or (1.0,) * len(self.kinds)
        return tuple(weight / sum(weights) for weight in weights)

    def at(self, position: int) -> NegativeSpec:
        """What the curriculum has come to at a training step.

        Args:
            position: The step, from 0; a negative number, as of validation clips, is the end of the curriculum.

        Returns:
            These settings with the longest shift of that step, and without a curriculum.

        Example:
            >>> spec = NegativeSpec(min_shift_seconds=0.2, max_shift_seconds=1.6, curriculum_steps=100)
            >>> [round(spec.at(step).max_shift_seconds, 3) for step in (0, 50, 100, -1)]
            [1.6, 0.8, 0.4, 0.4]
        """
        if not self.curriculum_steps or self.max_shift_seconds is None:
            return self
        first, last = self.max_shift_seconds, min(self.max_shift_seconds, 2 * self.min_shift_seconds)
        done = position / self.curriculum_steps if 0 <= position < self.curriculum_steps else 1.0
        return replace(self, max_shift_seconds=first * (last / first) ** done, curriculum_steps=0)


@dataclass(frozen=True)
class Place:
    """Where a clip lies.

    Args:
        source: Number of its source.
        frame: Its first frame.
        num_frames: Its length T in frames.
        source_frames: Frames F of the source.
        fps: Frames per second.
        period: Seconds after which the source repeats, where known.
    """

    source: int
    frame: int
    num_frames: int
    source_frames: int
    fps: float
    period: float | None = None


@dataclass(frozen=True)
class Cut:
    """What to cut for a negative.

    Args:
        kind: What kind of negative this is; None is the clip itself.
        source: Number of the source to cut from.
        frame: First frame of the stretch.
        order: Frames of the stretch in the order they are taken, as (first, stop) runs in frames from the start of
            the stretch; a run with stop < first is taken backwards. None takes the stretch as it is.
    """

    kind: NegativeKind | None
    source: int
    frame: int
    order: tuple[tuple[int, int], ...] | None = None

    def indices(self, length: int, num_frames: int) -> np.ndarray:
        """Positions in the stretch, in the order they are taken, for one modality.

        Args:
            length: Frames of the modality in the clip: ``num_frames`` for video, L for a Mel.
            num_frames: T.

        Returns:
            (length,) int64, a permutation of 0 .. length - 1.
        """
        runs = self.order or ((0, num_frames),)
        scaled = [(_scale(first, length, num_frames), _scale(stop, length, num_frames)) for first, stop in runs]
        pieces = [np.arange(a, b) if a <= b else np.arange(b, a)[::-1] for a, b in scaled]
        return np.concatenate(pieces)


def draw_kind(spec: NegativeSpec, rng: np.random.Generator) -> NegativeKind:
    """One of the kinds of ``spec``, by its probabilities."""
    place = np.searchsorted(np.cumsum(spec.probabilities), rng.random(), side="right")
    return spec.kinds[min(int(place), len(spec.kinds) - 1)]


def draw_shift(spec: NegativeSpec, clip: Place, rng: np.random.Generator) -> Cut:
    """Another stretch of the same source.

    Its distance from the clip is within the limits of ``spec`` and not near a whole number of the source's periods.
    Where the source is too short for that, the clip is rolled: its end comes first. Where it is too short for that
    too, it is rolled by half.
    """
    reach = np.arange(-clip.frame, clip.source_frames - clip.num_frames - clip.frame + 1)
    offsets = reach[_misaligned(reach / clip.fps, spec, clip.period, limit=True)]
    if len(offsets):
        return Cut("shift", clip.source, clip.frame + int(rng.choice(offsets)))
    rolls = np.arange(1, clip.num_frames)
    # A roll by r frames shifts one part of the clip by r and the other by r - T: neither may look like no shift at all.
    apart = _misaligned(rolls / clip.fps, spec, clip.period) & _misaligned(
        (rolls - clip.num_frames) / clip.fps, spec, clip.period
    )
    roll = int(rng.choice(rolls[apart])) if apart.any() else clip.num_frames // 2
    return Cut("shift", clip.source, clip.frame, ((roll, clip.num_frames), (0, roll)))


def draw_swap(spec: NegativeSpec, clip: Place, rng: np.random.Generator) -> Cut:
    """The clip with its segments in another order.

    Where the cuts lie is drawn too. Of some tries, the first is taken in which at least half of the frames are
    displaced by at least the shortest shift and not near whole periods; if there is none, the one that displaces
    most.
    """
    frames = clip.num_frames
    segments = min(spec.segments, frames)
    best: tuple[float, tuple[tuple[int, int], ...]] | None = None
    for _ in range(_TRIES):
        cuts = [0, *sorted((rng.choice(frames - 1, segments - 1, replace=False) + 1).tolist()), frames]
        order = rng.permutation(segments)
        if (order == np.arange(segments)).all():
            order = np.roll(order, 1)
        runs = tuple((cuts[i], cuts[i + 1]) for i in order)
        taken = np.concatenate([np.arange(first, stop) for first, stop in runs])
        displaced = float(_misaligned((taken - np.arange(frames)) / clip.fps, spec, clip.period).mean())
        if best is None or displaced > best[0]:
            best = (displaced, runs)
        if displaced >= 0.5:
            break
    assert best is not None
    return Cut("swap", clip.source, clip.frame, best[1])


def draw_substitution(clip: Place, other: int, other_frames: int, rng: np.random.Generator) -> Cut:
    """A stretch of another source, which has ``other_frames`` frames, from anywhere in it."""
    return Cut("substitution", other, int(rng.integers(other_frames - clip.num_frames + 1)))


def draw_reversal(clip: Place) -> Cut:
    """The clip played backwards."""
    return Cut("reversal", clip.source, clip.frame, ((clip.num_frames, 0),))


def _misaligned(seconds: np.ndarray, spec: NegativeSpec, period: float | None, *, limit: bool = False) -> np.ndarray:
    """Which displacements are long enough (with ``limit``, and short enough) and off whole periods.

    A displacement is off a whole period by at least the shortest shift, or a quarter of the period where that is less.
    """
    tiny = 1e-6
    size = np.abs(seconds)
    fine = size >= spec.min_shift_seconds - tiny
    if limit and spec.max_shift_seconds is not None:
        fine &= size <= spec.max_shift_seconds + tiny
    if period is not None:
        off = np.abs(size - period * np.round(size / period))
        fine &= off >= min(spec.min_shift_seconds, period / 4) - tiny
    return fine


def _scale(frame: int, length: int, num_frames: int) -> int:
    """Position among ``length`` that corresponds to ``frame`` among ``num_frames``."""
    return round(frame * length / num_frames)
