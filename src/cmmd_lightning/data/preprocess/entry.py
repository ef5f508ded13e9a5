"""The file of one cache entry: its layout, what its header says, and its writing piece by piece."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cmmd_lightning.data.preprocess.facts import Facts

# Room for the header, which is written last and stands first: what it says besides the sums of each latent channel.
_HEADER_BYTES = 3584
_BYTES_PER_CHANNEL = 56
_NUMPY: dict[str, type] = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


@dataclass(frozen=True)
class Moments:
    """Sums over one entry, in float64, from which means and variances over any set of entries follow.

    Args:
        latent_sum: Sum of the posterior means, per latent channel.
        latent_square: Sum of mean**2 + variance of the posterior, per latent channel.
        latent_count: Values behind each of those sums.
        mel_sum: Sum of the log-Mel.
        mel_square: Sum of its squares.
        mel_count: Values behind those two.
    """

    latent_sum: tuple[float, ...]
    latent_square: tuple[float, ...]
    latent_count: int
    mel_sum: float
    mel_square: float
    mel_count: int


class Sums:
    """`Moments` in the making: the same digits in whatever pieces the entry comes, and for any number of threads.

    Args:
        channels: Latent channels, C.
    """

    def __init__(self, channels: int) -> None:
        self._latent = np.zeros((2, channels))
        self._mel = np.zeros(2)
        self._counts = [0, 0]

    def add_latents(self, mean: Tensor, logvar: Tensor) -> None:
        """Takes the next frames: mean and log-variance (n, C, h, w)."""
        means, variances = mean.double().flatten(2).numpy(), np.exp(logvar.double().flatten(2).numpy())
        by_frame = np.stack([means.sum(axis=2), (means**2 + variances).sum(axis=2)], axis=1)
        self._latent = _accumulated(self._latent, by_frame)
        self._counts[0] += means.shape[0] * means.shape[2]

    def add_mel(self, mel: Tensor) -> None:
        """Takes the next frames of the log-Mel (n, M)."""
        mels = mel.double().contiguous().numpy()
        self._mel = _accumulated(self._mel, np.stack([mels.sum(axis=1), (mels**2).sum(axis=1)], axis=1))
        self._counts[1] += mels.size

    def moments(self) -> Moments:
        """The sums so far."""
        return Moments(
            latent_sum=tuple(self._latent[0].tolist()),
            latent_square=tuple(self._latent[1].tolist()),
            latent_count=self._counts[0],
            mel_sum=float(self._mel[0]),
            mel_square=float(self._mel[1]),
            mel_count=self._counts[1],
        )


def _accumulated(total: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``total`` and the rows added one after the other: frame by frame, wherever one piece ends and the next begins."""
    return np.add.accumulate(np.concatenate([total[None], rows]))[-1]


@dataclass(frozen=True)
class EntryInfo:
    """What the header of an entry says.

    Args:
        num_frames: Video frames F, at the clip's rate.
        mel_frames: Mel frames over the span of those frames.
        num_bytes: Size of the file.
        moments: Sums for the statistics.
        facts: What was measured of the media.
    """

    num_frames: int
    mel_frames: int
    num_bytes: int
    moments: Moments
    facts: Facts

    @classmethod
    def parse(cls, text: str, num_bytes: int) -> EntryInfo:
        """Of the header's text.

        Raises:
            ValueError, KeyError, TypeError: If it is not one.
        """
        header = json.loads(text)
        moments, facts = Moments(**with_tuples(header["moments"])), Facts(**with_tuples(header["facts"]))
        return cls(header["num_frames"], header["mel_frames"], num_bytes, moments, facts)


def with_tuples(part: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a header with its lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in part.items()}


def tensor_shapes(
    num_frames: int, mel_frames: int, latent_shape: tuple[int, int, int], n_mels: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of an entry, in the file's order: type and shape by name."""
    return {
        "times": ("F64", (num_frames,)),
        "mel_by_frame": ("F32", (mel_frames, n_mels)),
        "latent_mean": ("F16", (num_frames, *latent_shape)),
        "latent_logvar": ("F16", (num_frames, *latent_shape)),
    }


def entry_bytes(num_frames: int, mel_frames: int, latent_shape: tuple[int, int, int], n_mels: int) -> int:
    """Size of an entry's file."""
    tensors = tensor_shapes(num_frames, mel_frames, latent_shape, n_mels).values()
    return _header_bytes(latent_shape[0]) + sum(_size(dtype, shape) for dtype, shape in tensors)


class EntryWriter:
    """Writes one entry, in the safetensors format, to a temporary file as its pieces come.

    Memory does not grow with the entry. ``finish`` puts the file in its place, whole; ``abandon`` removes it.

    Args:
        path: The entry's file.
        temporary: Where to write it, on the same file system.
        num_frames: Frames to come.
        mel_frames: Mel frames to come.
        latent_shape: (C, h, w).
        n_mels: Mel bands.
        described: What the header says besides.
    """

    def __init__(
        self,
        path: Path,
        temporary: Path,
        num_frames: int,
        mel_frames: int,
        latent_shape: tuple[int, int, int],
        n_mels: int,
        described: Mapping[str, Any],
    ) -> None:
        self.path, self.temporary, self.described = path, temporary, dict(described)
        self.num_frames, self.mel_frames = num_frames, mel_frames
        self.frames_done = self.mel_done = 0
        self._sums = Sums(latent_shape[0])
        self._header_bytes = _header_bytes(latent_shape[0])
        self._tensors: dict[str, dict[str, Any]] = {}
        end = 0
        for name, (dtype, shape) in tensor_shapes(num_frames, mel_frames, latent_shape, n_mels).items():
            begin, end = end, end + _size(dtype, shape)
            self._tensors[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        self._file = open(temporary, "wb")  # noqa: SIM115

    def add_latents(self, mean: Tensor, logvar: Tensor) -> None:
        """Takes the next frames: mean and log-variance (n, C, h, w), float16."""
        self._put("latent_mean", self.frames_done, mean)
        self._put("latent_logvar", self.frames_done, logvar)
        self._sums.add_latents(mean, logvar)
        self.frames_done += len(mean)

    def add_mel(self, mel: Tensor) -> None:
        """Takes the next frames (n, M) of the log-Mel, float32."""
        self._put("mel_by_frame", self.mel_done, mel)
        self._sums.add_mel(mel)
        self.mel_done += len(mel)

    @property
    def complete(self) -> bool:
        """Whether all frames and all of the Mel have come."""
        return (self.frames_done, self.mel_done) == (self.num_frames, self.mel_frames)

    def finish(self, times: Tensor, facts: Facts) -> None:
        """Writes what is left and puts the file in its place.

        Args:
            times: (F,) float64, time of each frame in seconds.
            facts: What was measured of the media.
        """
        try:
            if not self.complete:
                wanted, got = (self.num_frames, self.mel_frames), (self.frames_done, self.mel_done)
                raise ValueError(f"{self.path}: expected {wanted} frames of picture and Mel, got {got}")
            self._put("times", 0, times)
            self._write_at(0, self._header(facts))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.temporary, self.path)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Removes what was written, unless it was finished."""
        self._file.close()
        self.temporary.unlink(missing_ok=True)

    def _header(self, facts: Facts) -> bytes:
        entry = {
            **self.described,
            "num_frames": self.num_frames,
            "mel_frames": self.mel_frames,
            "moments": asdict(self._sums.moments()),
            "facts": asdict(facts),
        }
        # One metadata entry only: other writers of the format fix no order of several.
        header = {"__metadata__": {"entry": json.dumps(entry, sort_keys=True)}, **self._tensors}
        text = json.dumps(header, separators=(",", ":")).encode()
        room = self._header_bytes - 8
        if len(text) > room:
            raise ValueError(f"{self.path}: expected a header of at most {room} bytes, got {len(text)}")
        return room.to_bytes(8, "little") + text.ljust(room)  # the format allows a header to end in spaces

    def _put(self, name: str, first: int, rows: Tensor) -> None:
        """Writes rows of a tensor, from row ``first`` on."""
        stated = self._tensors[name]
        array = np.ascontiguousarray(rows.numpy())
        if array.dtype != _NUMPY[stated["dtype"]] or list(array.shape[1:]) != stated["shape"][1:]:
            wanted = f"{stated['dtype']} rows of shape {stated['shape'][1:]}"
            raise ValueError(f"{self.path}: expected {name} as {wanted}, got {array.dtype} {list(array.shape[1:])}")
        if first + len(array) > stated["shape"][0]:
            raise ValueError(f"{self.path}: expected {stated['shape'][0]} rows of {name}, got {first + len(array)}")
        row_bytes = array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        self._write_at(self._header_bytes + stated["data_offsets"][0] + first * row_bytes, array.tobytes())

    def _write_at(self, offset: int, content: bytes) -> None:
        self._file.seek(offset)
        self._file.write(content)


def _header_bytes(channels: int) -> int:
    """Bytes before the tensors, the same for every entry of one format: a multiple of 8."""
    return _HEADER_BYTES + _BYTES_PER_CHANNEL * channels


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return np.dtype(_NUMPY[dtype]).itemsize * int(np.prod(shape, dtype=np.int64))
