"""The noise schedule: every relation between data, noise, velocity and time is written here once.

Notation (Ho and Salimans, "Classifier-free guidance", and Salimans and Ho, arXiv 2202.00512, for the velocity):

=====  =====================================================
x      clean data
eps    standard normal noise
t      diffusion time in [0, 1]: 0 is clean, 1 is pure noise
z      alpha(t) x + sigma(t) eps, the noisy data
v      alpha(t) eps - sigma(t) x, the velocity
=====  =====================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def expand_like(value: Tensor, x: Tensor) -> Tensor:
    """One value per example, (B,), shaped so that it multiplies ``x``, (B, ...)."""
    return value.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class NoiseSchedule:
    """Cosine schedule with zero signal at t = 1, variance preserving: alpha^2 + sigma^2 = 1.

    alpha(t) : sigma(t) = shift * cos(pi t / 2) : sin(pi t / 2). A ``shift`` below 1 moves the signal-to-noise ratio
    down, for larger pictures (Hoogeboom et al., arXiv 2301.11093, eq. 4); 1 is the plain cosine schedule of Nichol and
    Dhariwal without its offset.

    Args:
        shift: Factor on alpha / sigma at every t, above 0.

    Raises:
        ValueError: If ``shift`` is not positive.

    Example:
        >>> schedule = NoiseSchedule()
        >>> alpha, sigma = schedule.alpha_sigma(torch.tensor([0.0, 0.5, 1.0]))
        >>> alpha.tolist()[0], alpha.tolist()[2], sigma.tolist()[2]
        (1.0, 0.0, 1.0)
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"NoiseSchedule.shift must be positive, got {self.shift!r}")

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of signal and noise.

        Args:
            t: Times in [0, 1], any shape.

        Returns:
            alpha and sigma, float32, of the shape of ``t``; exact at both ends.
        """
        t = t.float()
        # sin(pi (1 - t) / 2) is cos(pi t / 2), and exactly 0 at t = 1
        signal = self.shift * torch.sin((1 - t) * (math.pi / 2))
        noise = torch.sin(t * (math.pi / 2))
        norm = torch.hypot(signal, noise)
        return signal / norm, noise / norm

    def _factors(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.alpha_sigma(t)
        return expand_like(alpha, x), expand_like(sigma, x)

    def add_noise(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Noisy data z = alpha x + sigma eps; ``x``, ``eps`` (B, ...), ``t`` (B,)."""
        alpha, sigma = self._factors(x, t)
        return alpha * x + sigma * eps

    def velocity(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Velocity v = alpha eps - sigma x; ``x``, ``eps`` (B, ...), ``t`` (B,)."""
        alpha, sigma = self._factors(x, t)
        return alpha * eps - sigma * x

    def data_from_velocity(self, z: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """Clean data x = alpha z - sigma v; ``z``, ``v`` (B, ...), ``t`` (B,)."""
        alpha, sigma = self._factors(z, t)
        return alpha * z - sigma * v

    def noise_from_velocity(self, z: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """Noise eps = sigma z + alpha v; ``z``, ``v`` (B, ...), ``t`` (B,)."""
        alpha, sigma = self._factors(z, t)
        return sigma * z + alpha * v


@dataclass(frozen=True)
class Schedules:
    """The noise schedules of the two modalities.

    Args:
        video: Of the video latents.
        audio: Of the log-Mel.
    """

    video: NoiseSchedule = NoiseSchedule()
    audio: NoiseSchedule = NoiseSchedule()

    @classmethod
    def of(cls, schedule: NoiseSchedule | Schedules) -> Schedules:
        """Return schedules as they are, or one schedule for both modalities."""
        return schedule if isinstance(schedule, Schedules) else cls(schedule, schedule)

    @classmethod
    def from_shift(cls, shift: float | Mapping[str, float]) -> Schedules:
        """Build schedules from one shift, or from one for ``video`` and one for ``audio``.

        Raises:
            ValueError: If a shift is not positive, or the keys are others.
        """
        if not isinstance(shift, Mapping):
            return cls.of(NoiseSchedule(shift))
        if set(shift) != {"video", "audio"}:
            raise ValueError(f"schedule_shift: expected a number, or one for video and one for audio, got {shift!r}")
        return cls(NoiseSchedule(shift["video"]), NoiseSchedule(shift["audio"]))

    @property
    def shift(self) -> float | dict[str, float]:
        """The shift of both, or by modality where they differ."""
        video, audio = self.video.shift, self.audio.shift
        return video if video == audio else {"video": video, "audio": audio}
