"""What every procedural scene is given and what it hands back: settings, clip, events, and who is heard or seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.floating[Any]]

MIN_GAP = 0.08
"""Seconds between two audible events of one clip, at least."""


@dataclass(frozen=True)
class SceneSettings:
    """Everything beside the seed that decides a clip.

    The events of a clip depend on ``duration``, ``correlation`` and ``max_shapes`` only: the same seed at another
    frame rate, size or sample rate shows and sounds the same events.

    Args:
        duration: Length in seconds.
        fps: Frames per second.
        height: Frame height in pixels.
        width: Frame width in pixels.
        sample_rate: Samples per second (Hz).
        correlation: Share of the sounds that have a visible cause, and of the visible events that sound; 0 to 1.
        max_shapes: Most shapes in one clip, 1 or 2 (``bounce`` only).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> settings = SceneSettings(duration=1.5, fps=29.97, sample_rate=16000)
        >>> settings.num_frames, settings.num_samples
        (45, 24024)
    """

    duration: float = 4.0
    fps: float = 25.0
    height: int = 64
    width: int = 64
    sample_rate: int = 16000
    correlation: float = 1.0
    max_shapes: int = 2

    def __post_init__(self) -> None:
        for name in ("duration", "fps", "height", "width", "sample_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if not 0 <= self.correlation <= 1:
            raise ValueError(f"correlation must be between 0 and 1, got {self.correlation!r}")
        if self.max_shapes not in (1, 2):
            raise ValueError(f"max_shapes must be 1 or 2, got {self.max_shapes!r}")

    @property
    def num_frames(self) -> int:
        """Video frames, T; frame ``i`` shows the instant ``i / fps``."""
        return max(1, round(self.duration * self.fps))

    @property
    def num_samples(self) -> int:
        """Sound samples, N, over the span of the frames."""
        return round(self.num_frames / self.fps * self.sample_rate)

    @property
    def frame_times(self) -> FloatArray:
        """(T,) instants in seconds that the frames show."""
        return np.arange(self.num_frames) / self.fps

    def to_dict(self) -> dict[str, Any]:
        """Plain-dict form, as written in sidecars."""
        return asdict(self)


@dataclass
class SceneEvent:
    """One instant that is seen, heard, or both.

    Args:
        time: Seconds from the clip's start.
        visible: Whether the picture shows it.
        audible: Whether the sound has it.
        kind: ``impact`` or ``beat``.
        details: More about it (``pitch_hz``, ``level_db``, ``x``, ``y`` ...), plain numbers and strings.
    """

    time: float
    visible: bool
    audible: bool
    kind: str
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain-dict form, as written in sidecars."""
        head = {"time": round(self.time, 6), "visible": self.visible, "audible": self.audible, "kind": self.kind}
        return head | self.details


@dataclass
class SceneClip:
    """A clip in memory.

    Args:
        frames: (T, 3, H, W) uint8, or None where only the sound was asked for.
        sound: (N,) float32 in [-1, 1], or None where only the picture was asked for.
        events: Sorted by time; dictionaries with ``time`` (seconds), ``visible``, ``audible``, ``kind`` and more.
        meta: The rest of the sidecar: settings, scene, seed, index, period (seconds or None).
    """

    frames: Tensor | None
    sound: Tensor | None
    events: list[dict[str, Any]]
    meta: dict[str, Any]

    @property
    def sidecar(self) -> dict[str, Any]:
        """The clip's sidecar: ``events`` and ``meta`` in one dictionary."""
        return {"events": self.events, **self.meta}


class Scene(ABC):
    """A kind of procedural clip whose event times are known. Derive from it for a scene of one's own.

    `render` and ``cmmd render`` take it by its class path, or by ``{class_path: ..., init_args: {...}}`` where its
    constructor takes arguments (numbers, strings, lists of these).
    """

    @abstractmethod
    def simulate(
        self, rng: np.random.Generator, settings: SceneSettings, *, video: bool = True, audio: bool = True
    ) -> SceneClip:
        """Simulate one clip.

        Args:
            rng: Everything random follows from it; events must not depend on ``video`` and ``audio``.
            settings: Length, rates, size, correlation.
            video: Whether to draw the frames.
            audio: Whether to make the sound.

        Returns:
            The clip. ``meta`` needs a ``period`` (seconds or None) and may hold more that JSON can.
        """


def sorted_events(events: Iterable[SceneEvent], settings: SceneSettings) -> list[dict[str, Any]]:
    """Events as sidecars have them: plain dictionaries in order of time, those within the span of the frames."""
    span = settings.num_frames / settings.fps
    return [event.to_dict() for event in sorted(events, key=lambda event: event.time) if event.time < span]


def decouple(
    rng: np.random.Generator, seen: FloatArray, unseen: FloatArray, correlation: float, duration: float
) -> tuple[NDArray[np.bool_], FloatArray]:
    """Decide which visible events sound, and which events of an unseen second performance are heard in their stead.

    Each visible event keeps its sound with probability ``correlation``; each event of the unseen performance, which
    has the same statistics but its own times, sounds with probability 1 - ``correlation``. So the rates of both
    streams stay what they are, the share of sounds with a visible cause is ``correlation``, and at 0 sound and picture
    are independent.

    Args:
        rng: Source of the draws.
        seen: (E,) times of the visible events, seconds.
        unseen: (U,) times of the unseen performance, seconds.
        correlation: 0 to 1.
        duration: Clip length in seconds.

    Returns:
        (E,) bool, whether each visible event sounds; and (U,) times of the unseen events, NaN for those not heard. A
        heard one that falls within ``MIN_GAP`` of another sound is moved to a free place (dropped where there is none).

    Example:
        >>> import numpy as np
        >>> decouple(np.random.default_rng(0), np.array([0.5, 1.0]), np.array([0.7]), correlation=1.0, duration=2.0)
        (array([ True,  True]), array([nan]))
    """
    sounding = rng.random(len(seen)) < correlation
    heard = rng.random(len(unseen)) >= correlation
    taken = [float(time) for time in seen[sounding]]
    times = np.full(len(unseen), np.nan)
    for index in np.flatnonzero(heard):
        candidates = [float(unseen[index]), *rng.uniform(0.0, duration, 50)]
        free = [time for time in candidates if all(abs(time - other) >= MIN_GAP for other in taken)]
        if free:
            times[index] = float(free[0])
            taken.append(float(free[0]))
    return sounding, times
