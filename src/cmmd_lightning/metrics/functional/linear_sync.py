"""Linear synchrony: what a picture and a sound have in common, learnt from clips that are known to be in sync.

Source: the idea is that of FaceSync (Slaney and Covell, "FaceSync: A linear operator for measuring synchronization of
video facial images and audio tracks", NIPS 2000): canonical correlation analysis between pixels and spectra finds the
directions in which both move together, and the correlation of a clip's projections tells how well it is in sync.
Here: pixels are whitened by principal components, both sides see some frames before and after, several directions
count, and the covariances are regularised. No events are needed, so that it also works for speech; but it
knows only the kind of clips it was fitted on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
import torchaudio
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from cmmd_lightning.metrics.functional.lag import Lag, refine_peak
from cmmd_lightning.metrics.functional.motion import frames_to_unit
from cmmd_lightning.metrics.functional.onsets import checked_sound

FPS = 25.0
"""Frames per second at which pictures and sounds are compared."""
SIDE = 32
"""Pixels on each side of the grey picture that is looked at."""
SAMPLE_RATE = 16000
BANDS = 32
LEAST_FRAMES = 1000
"""Frames (of all clips together) without which nothing is fitted."""


class Sequences(NamedTuple):
    """Pixels (F, SIDE * SIDE) and spectra (F, BANDS) of one clip, at `FPS`, less their means over time."""

    pixels: np.ndarray
    spectrum: np.ndarray


def pixel_sequence(frames: Tensor, fps: float) -> np.ndarray:
    """Grey pictures (F, SIDE * SIDE) float32 at `FPS`, less their mean; between two frames, their mixture.

    Args:
        frames: (T, 3, H, W), uint8 or float in [-1, 1]; ValueError if they are malformed or none.
        fps: Frames per second.

    Example:
        >>> pixel_sequence(torch.zeros(10, 3, 64, 48, dtype=torch.uint8), 10.0).shape
        (25, 1024)
    """
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    if len(frames) == 0:
        raise ValueError("frames must have at least one picture, got none")
    count = max(1, round(len(frames) / fps * FPS))
    grey = frames_to_unit(frames).mean(dim=1, keepdim=True)
    small = torch.nn.functional.adaptive_avg_pool2d(grey, SIDE).flatten(1)
    at = (torch.arange(count) / FPS * fps).clamp(max=len(frames) - 1)
    before = at.floor().long()
    mixed = torch.lerp(small[before], small[(before + 1).clamp(max=len(frames) - 1)], (at - before)[:, None])
    return (mixed - mixed.mean(dim=0)).numpy()


def spectrum_sequence(sound: Tensor, sample_rate: int) -> np.ndarray:
    """Log-Mel spectra (F, BANDS) float32 at `FPS`, less their mean; the level of the clip does not matter.

    Natural logarithms, of 40 ms windows centred at ``f / FPS`` seconds.

    Args:
        sound: Mono sound (N,); ValueError unless it is finite.
        sample_rate: Hz, 2 kHz at least.

    Example:
        >>> spectrum_sequence(torch.zeros(16000), 16000).shape
        (25, 32)
    """
    sound = checked_sound(sound, sample_rate)
    if sample_rate != SAMPLE_RATE:
        sound = torchaudio.functional.resample(sound, sample_rate, SAMPLE_RATE)
    count = max(1, round(len(sound) / SAMPLE_RATE * FPS))
    hop = round(SAMPLE_RATE / FPS)
    spectrum = torch.stft(
        torch.nn.functional.pad(sound, (512, 512 + hop)),
        1024,
        hop,
        win_length=hop,
        window=torch.hann_window(hop),
        center=False,
        return_complex=True,
    ).abs()[:, :count]
    filters = torchaudio.functional.melscale_fbanks(513, 0.0, SAMPLE_RATE / 2, BANDS, SAMPLE_RATE)
    mel = filters.T @ spectrum
    level = (mel / mel.max().clamp(min=1e-6)).clamp(min=1e-4).log().T  # 80 dB below the loudest
    return (level - level.mean(dim=0)).numpy()


@dataclass(frozen=True)
class LinearSync:
    """A fitted operator: directions of pixels and of spectra that move together.

    Args:
        components: (SIDE * SIDE, P) whitening principal components of the pixels.
        video: (P * (2 context + 1), K) directions.
        audio: (BANDS * (2 context + 1), K) directions.
        correlations: (K,) canonical correlations on the clips it was fitted on.
        context: Frames before and after each instant that count.
        source: What it was fitted on, in words.
    """

    components: np.ndarray
    video: np.ndarray
    audio: np.ndarray
    correlations: np.ndarray
    context: int = 2
    source: str = field(default="", compare=False)

    def see(self, frames: Tensor, fps: float) -> np.ndarray:
        """Projection of a picture (:func:`pixel_sequence`): (F, K)."""
        return _with_context(pixel_sequence(frames, fps) @ self.components, self.context) @ self.video

    def hear(self, sound: Tensor, sample_rate: int) -> np.ndarray:
        """Projection of a sound (:func:`spectrum_sequence`): (F, K)."""
        return _with_context(spectrum_sequence(sound, sample_rate), self.context) @ self.audio

    def agreement(self, seen: np.ndarray, heard: np.ndarray, lag: int = 0) -> float:
        """How well a picture and a sound agree, the sound taken ``lag`` frames later; what both cover counts.

        The mean correlation over the K directions, weighted by their squared canonical correlations; in [-1, 1], 0
        where fewer than 3 frames overlap.
        """
        count = min(len(seen), len(heard))
        a, b = seen[max(0, -lag) : count - max(0, lag)], heard[max(0, lag) : count + min(0, lag)]
        if len(a) < 3:
            return 0.0
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        norm = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
        each = np.divide((a * b).sum(axis=0), norm, out=np.zeros_like(norm), where=norm > 1e-9)
        weight = self.correlations**2
        return float((each * weight).sum() / weight.sum())

    def lag(self, seen: np.ndarray, heard: np.ndarray, *, max_lag: float = 0.5) -> Lag:
        """Delay of the sound at which both agree best: ``Lag(seconds, strength)``, ``(nan, 0)`` where nothing agrees.

        Looked for up to ``max_lag`` seconds either way; at least half of the clip must overlap.
        """
        reach = min(int(max_lag * FPS + 1e-9), min(len(seen), len(heard)) // 2)
        curve = np.array([self.agreement(seen, heard, step) for step in range(-reach, reach + 1)])
        best = int(np.argmax(np.round(curve, 9) - 1e-9 * np.abs(np.arange(-reach, reach + 1))))
        if not curve[best] > 0:
            return Lag(float("nan"), 0.0)
        return Lag((best - reach + refine_peak(curve, best)) / FPS, float(curve[best]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the operator to a safetensors file."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        save_file(arrays, os.fspath(path), metadata={"context": str(self.context), "source": self.source})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LinearSync:
        """Read an operator that :meth:`save` wrote; ValueError if the file is none."""
        try:
            with safe_open(os.fspath(path), framework="np") as file:
                meta = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
                return cls(**arrays, context=int(meta["context"]), source=meta.get("source", ""))
        except Exception as error:  # safetensors' own error derives from Exception alone
            reason = " ".join(str(error).split())
            raise ValueError(f"{os.fspath(path)}: expected a fitted linear synchrony, got {reason}") from error


_ARRAYS = ("components", "video", "audio", "correlations")


def fit_linear_sync(
    clips: Iterable[Sequences],
    *,
    num_components: int = 64,
    num_directions: int = 8,
    context: int = 2,
    ridge: float = 0.03,
    source: str = "",
) -> LinearSync:
    """Fit the operator to clips in sync; ValueError if they have fewer than `LEAST_FRAMES` frames together.

    Args:
        clips: Pixels and spectra of each clip.
        num_components: Principal components of the pixels kept.
        num_directions: Canonical directions kept.
        context: Frames before and after each instant that count.
        ridge: Share of the mean variance added to the covariances' diagonals.
        source: What the clips are, in words.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> def clip():
        ...     common = rng.standard_normal((100, 1))
        ...     pixels, spectrum = rng.standard_normal((100, 1024)), rng.standard_normal((100, 32))
        ...     pixels[:, :9] += 5 * common
        ...     spectrum[:, :5] += common
        ...     return Sequences(pixels, spectrum)
        >>> operator = fit_linear_sync([clip() for _ in range(20)], num_components=4, num_directions=1, context=0)
        >>> bool(operator.correlations[0] > 0.8)
        True
    """
    clips = [Sequences(*(np.asarray(x[: min(map(len, clip))], dtype=np.float64) for x in clip)) for clip in clips]
    total = sum(len(clip.pixels) for clip in clips)
    if total < LEAST_FRAMES:
        raise ValueError(
            f"expected at least {LEAST_FRAMES} frames ({LEAST_FRAMES / FPS:g} s) of clips in sync to fit on, "
            f"got {total}"
        )
    components = _whitening(clips, total, num_components)
    dimensions = np.cumsum([0, components.shape[1] * (2 * context + 1), BANDS * (2 * context + 1)])
    covariance = np.zeros((dimensions[-1], dimensions[-1]))
    for clip in clips:
        both = np.hstack([_with_context(clip.pixels @ components, context), _with_context(clip.spectrum, context)])
        covariance += (both - both.mean(axis=0)).T @ (both - both.mean(axis=0)) / total
    video, audio = slice(0, dimensions[1]), slice(dimensions[1], None)
    roots = [
        scipy.linalg.cholesky(covariance[side, side] + ridge * _mean_variance(covariance[side, side]), lower=True)
        for side in (video, audio)
    ]
    whitened = scipy.linalg.solve_triangular(roots[0], covariance[video, audio], lower=True)
    whitened = scipy.linalg.solve_triangular(roots[1], whitened.T, lower=True).T
    left, correlations, right = np.linalg.svd(whitened, full_matrices=False)
    return LinearSync(
        components.astype(np.float32),
        scipy.linalg.solve_triangular(roots[0].T, left[:, :num_directions]).astype(np.float32),
        scipy.linalg.solve_triangular(roots[1].T, right[:num_directions].T).astype(np.float32),
        correlations[:num_directions].astype(np.float32),
        context,
        source,
    )


def _whitening(clips: list[Sequences], total: int, count: int) -> np.ndarray:
    """Principal components of the pixels, each over the deviation along it."""
    covariance = sum(clip.pixels.T @ clip.pixels for clip in clips) / total
    size = len(covariance)
    variances, components = scipy.linalg.eigh(covariance, subset_by_index=[max(0, size - count), size - 1])
    keep = variances > 1e-10 * max(float(variances[-1]), 1e-12)
    return components[:, keep][:, ::-1] / np.sqrt(variances[keep][::-1])


def _mean_variance(covariance: np.ndarray) -> np.ndarray:
    return np.trace(covariance) / len(covariance) * np.eye(len(covariance))


def _with_context(values: np.ndarray, context: int) -> np.ndarray:
    """Each row with the ``context`` rows before and after it; the ends are repeated."""
    padded = np.pad(values, ((context, context), (0, 0)), mode="edge")
    return np.hstack([padded[i : i + len(values)] for i in range(2 * context + 1)])
