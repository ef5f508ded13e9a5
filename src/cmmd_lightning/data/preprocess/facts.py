"""What is measured of a source while it is decoded: what the data report judges by."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional

from cmmd_lightning.codecs import LogMel
from cmmd_lightning.data.clips import ClipSpec

BLOCK_SECONDS = 0.1  # sound is judged by the level of such blocks
SILENT_DBFS = -60.0  # root mean square below which a block is silent (a full-scale sine has -3 dBFS)
BLACK_LEVEL = 24.0  # of 255: a picture is black where no part of it is brighter
STILL_LEVEL = 3.0  # of 255: a picture is still where no part of it differs by more from the one it stands still on

_GRID = 12  # a picture is judged by the mean brightness of 12 x 12 parts
CELLS, BANDS = 6, 12  # fingerprints: brightness of 6 x 6 parts of the picture, level of 12 bands of the sound
# By stretches of time: at most 32 of the sound, of 0.1, 0.2, 0.4 ... s; half as many, of twice that, of the picture.
_STRETCH, _STRETCHES = 0.1, 32
_SOUND_RANGE = 7.0  # natural log of magnitude below full scale (61 dB) that the sound's fingerprint tells apart
_PROBLEMS, _PROBLEM_LENGTH = 5, 120
_QUIETEST = -120.0


@dataclass(frozen=True)
class Facts:
    """What was measured of one source. Runs are the longest without a break, in seconds.

    Args:
        problems: What the file's headers say is wrong with it, as `probe` does.
        fps: The file's frames per second; 0 where it is not known.
        level: Root mean square of the loudest 0.1 s, in dBFS.
        silence: Longest run of silence.
        black: Longest run of black pictures.
        still: Longest run of pictures that do not change.
        picture: Fingerprint of the picture, see `picture_vectors`.
        sound: Fingerprint of the sound, see `sound_vectors`.
    """

    problems: tuple[str, ...] = ()
    fps: float = 0.0
    level: float = 0.0
    silence: float = 0.0
    black: float = 0.0
    still: float = 0.0
    picture: str = ""
    sound: str = ""


class Measurement:
    """Measures a source while its pieces pass.

    Args:
        clip: Rates.
        mel: The log-Mel.
        num_frames: Frames that will come.
    """

    def __init__(self, clip: ClipSpec, mel: LogMel, num_frames: int) -> None:
        self.clip = clip
        seconds = num_frames / clip.fps
        stretch = stretch_seconds(seconds)
        self._pictures = _Bins(1 / clip.fps, 2 * stretch, seconds, CELLS**2)
        self._bands = _Bins(mel.hop_length / mel.sample_rate, stretch, seconds, BANDS)
        self._floor = math.log(mel.n_fft / 4) - _SOUND_RANGE
        self._black, self._still, self._silence = _Run(), _Run(), _Run()
        self._anchor: np.ndarray | None = None
        self._rest = np.zeros(0)
        self._loudest = 0.0

    def add_frames(self, frames: Tensor) -> None:
        """Takes the next frames (n, 3, H, W), uint8."""
        step = max(1, min(frames.shape[2:]) // 128)  # of large pictures, every second or fourth pixel tells as much
        parts = functional.adaptive_avg_pool2d(frames[:, :, ::step, ::step].float(), _GRID)
        grids = (parts * parts.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1).numpy()
        for grid in grids:
            self._black.add(float(grid.max()) < BLACK_LEVEL)
            still = self._anchor is not None and float(np.abs(grid - self._anchor).max()) <= STILL_LEVEL
            self._still.add(still)
            if not still:
                self._anchor = grid
        n, side = len(grids), _GRID // CELLS
        self._pictures.add(grids.reshape(n, CELLS, side, CELLS, side).mean(axis=(2, 4)).reshape(n, -1))

    def listen(self, sound: Iterator[Tensor]) -> Iterator[Tensor]:
        """Passes pieces (n,) of sound on, and measures their level."""
        size = max(1, round(BLOCK_SECONDS * self.clip.sample_rate))
        for piece in sound:
            samples = np.concatenate([self._rest, piece.double().numpy()])
            whole = len(samples) // size * size
            self._rest = samples[whole:]
            self._hear(samples[:whole].reshape(-1, size))
            yield piece

    def add_mel(self, mel: Tensor) -> None:
        """Takes the next frames (M, n) of the log-Mel."""
        level = functional.adaptive_avg_pool1d((mel.t() - self._floor).clamp_min(0.0)[None], BANDS)[0]
        self._bands.add(level.double().numpy())

    def facts(self, problems: tuple[str, ...], fps: float) -> Facts:
        """What was measured, once everything has passed."""
        if len(self._rest):
            self._hear(self._rest[None])
            self._rest = self._rest[:0]
        level = 20 * math.log10(self._loudest) if self._loudest > 0 else _QUIETEST
        # The picture that a run of still ones repeats is part of it.
        still = self._still.longest + bool(self._still.longest)
        return Facts(
            problems=tuple(problem[:_PROBLEM_LENGTH] for problem in problems[:_PROBLEMS]),
            fps=round(fps, 3),
            level=round(max(level, _QUIETEST), 1),
            silence=round(self._silence.longest * BLOCK_SECONDS, 3),
            black=round(self._black.longest / self.clip.fps, 3),
            still=round(still / self.clip.fps, 3),
            picture=_packed(self._pictures.means(), 255.0),
            sound=_packed(self._bands.means(), _SOUND_RANGE),
        )

    def _hear(self, blocks: np.ndarray) -> None:
        for level in np.sqrt((blocks**2).mean(axis=1)):
            self._silence.add(float(level) < 10 ** (SILENT_DBFS / 20))
            self._loudest = max(self._loudest, float(level))


def stretch_seconds(seconds: float) -> float:
    """The stretches by which a source of so many seconds has its sound's fingerprint."""
    stretch = _STRETCH
    while seconds > stretch * _STRETCHES + 1e-6:
        stretch *= 2
    return stretch


def picture_vectors(facts: Facts) -> np.ndarray:
    """Fingerprint of the picture: (at most 16, 36), mean brightness (0 to 255) by stretch of time and part."""
    return _unpacked(facts.picture, CELLS**2, 255.0)


def sound_vectors(facts: Facts) -> np.ndarray:
    """Fingerprint of the sound: (at most 32, 12), natural log of level (from 0) by stretch of time and band."""
    return _unpacked(facts.sound, BANDS, _SOUND_RANGE)


class _Run:
    """The longest run of a condition."""

    def __init__(self) -> None:
        self.longest = self._now = 0

    def add(self, holds: bool) -> None:
        self._now = self._now + 1 if holds else 0
        self.longest = max(self.longest, self._now)


class _Bins:
    """Means over equal stretches of time of a sequence whose rows come in pieces; a stretch that is not full is left.

    Args:
        step: Seconds from row to row.
        stretch: Seconds of a stretch.
        seconds: Length of the whole.
        width: Values in a row.
    """

    def __init__(self, step: float, stretch: float, seconds: float, width: int) -> None:
        self._step, self._stretch, self._done = step, stretch, 0
        count = int(seconds / stretch + 1e-6)
        self._sums, self._counts = np.zeros((count, width)), np.zeros(count)

    def add(self, rows: np.ndarray) -> None:
        places = ((self._done + np.arange(len(rows))) * self._step / self._stretch + 1e-6).astype(int)
        inside = places < len(self._sums)
        np.add.at(self._sums, places[inside], rows[inside])
        np.add.at(self._counts, places[inside], 1)
        self._done += len(rows)

    def means(self) -> np.ndarray:
        """(stretches, width); a stretch shorter than a row repeats the one before it."""
        filled = np.maximum.accumulate(np.where(self._counts > 0, np.arange(len(self._counts)), 0))
        return (self._sums / np.maximum(self._counts, 1)[:, None])[filled]


def _packed(values: np.ndarray, full: float) -> str:
    """Values (n, width) from 0 to ``full`` as text: mean over n, a step, and the differences from the mean in steps."""
    if not len(values):
        return ""
    mean = np.round(values.mean(axis=0) / full * 255).clip(0, 255).astype(np.uint8)
    differences = values - mean * (full / 255)
    step = np.float32(max(np.abs(differences).max() / 127, 1e-6))
    steps = np.round(differences / step).clip(-127, 127).astype(np.int8)
    return base64.b64encode(step.tobytes() + mean.tobytes() + steps.tobytes()).decode()


def _unpacked(text: str, width: int, full: float) -> np.ndarray:
    """What `_packed` packed, (n, width)."""
    raw = base64.b64decode(text)
    if not raw:
        return np.zeros((0, width))
    step, mean = np.frombuffer(raw[:4], np.float32)[0], np.frombuffer(raw[4 : 4 + width], np.uint8)
    return mean * (full / 255) + np.frombuffer(raw[4 + width :], np.int8).reshape(-1, width) * float(step)
