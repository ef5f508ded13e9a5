"""ClipSpec: every length of a training clip, derived from one description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class ClipSpec:
    """What one clip is: frames, sound, and the log-Mel of that sound.

    Frame ``i`` of a clip lies ``i / fps`` seconds after its start, sample ``n`` lies ``n / sample_rate`` seconds after
    it, and Mel frame ``l`` is centred on sample ``l * hop_length``; the three are cut from the same span of time.

    Args:
        num_frames: Video frames in a clip, T.
        fps: Frames per second.
        height: Frame height in pixels.
        width: Frame width in pixels.
        fit: How a picture of another shape is brought to ``height`` x ``width``: centre ``crop`` or ``letterbox``.
        sample_rate: Samples per second (Hz) of the mono sound.
        n_fft: Window of the short-time Fourier transform, in samples.
        hop_length: Step between Mel frames, in samples.
        n_mels: Mel bands, M.
        mel_floor: Mel magnitudes below this are silence (a full-scale tone has n_fft / 4); see `LogMel`.

    Raises:
        ValueError: If a size is not positive.

    Example:
        >>> spec = ClipSpec(num_frames=16, fps=10.0, sample_rate=16000, hop_length=200)
        >>> spec.duration, spec.num_samples, spec.mel_frames
        (1.6, 25600, 128)
    """

    num_frames: int = 16
    fps: float = 10.0
    height: int = 128
    width: int = 128
    fit: Literal["crop", "letterbox"] = "crop"
    sample_rate: int = 16000
    n_fft: int = 1024
    hop_length: int = 200
    n_mels: int = 80
    mel_floor: float = 1e-5

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "fit" and value <= 0:
                raise ValueError(f"ClipSpec.{name} must be positive, got {value!r}")
        if self.fit not in ("crop", "letterbox"):
            raise ValueError(f"ClipSpec.fit must be 'crop' or 'letterbox', got {self.fit!r}")

    @classmethod
    def of(cls, spec: ClipSpec | Mapping[str, Any] | None) -> ClipSpec:
        """A ClipSpec from itself, from its plain-dict form (``asdict``), or the default from None."""
        return spec if isinstance(spec, ClipSpec) else cls(**(spec or {}))

    def to_dict(self) -> dict[str, Any]:
        """Plain-dict form, as stored in checkpoints."""
        return asdict(self)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_frames / self.fps

    @property
    def num_samples(self) -> int:
        """Sound samples in a clip."""
        return self.samples_of(self.num_frames)

    @property
    def mel_frames(self) -> int:
        """Mel frames in a clip, L."""
        return self.mel_frames_of(self.num_samples)

    @property
    def mel_settings(self) -> tuple[int, int, int, int, float, None, float]:
        """Arguments of `LogMel`, in their order."""
        return self.sample_rate, self.n_fft, self.hop_length, self.n_mels, 0.0, None, self.mel_floor

    def samples_of(self, num_frames: int) -> int:
        """Sound samples in the span of ``num_frames`` video frames."""
        return round(num_frames / self.fps * self.sample_rate)

    def mel_frames_of(self, num_samples: int) -> int:
        """Mel frames that cover ``num_samples`` samples."""
        return math.ceil(num_samples / self.hop_length)

    def frames_in(self, seconds: float) -> int:
        """Whole video frames in a span of ``seconds`` (a hundredth of a frame is forgiven)."""
        return int(seconds * self.fps + 0.01)

    def mel_index(self, frame: int) -> int:
        """Index of the Mel frame nearest to the time of video frame ``frame``."""
        return round(frame / self.fps * self.sample_rate / self.hop_length)
