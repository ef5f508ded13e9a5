"""The cache: one safetensors file per source, with the latents of its frames and the log-Mel of its sound."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cmmd_lightning.codecs import FrameCodec, LogMel
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.content import ContentHashes
from cmmd_lightning.data.sources import Source

FORMAT_VERSION = 1

_MEL_SETTINGS = ("sample_rate", "n_fft", "hop_length", "n_mels", "f_min", "f_max", "floor")
# Files kept open (mapped into memory) per process.
_OPEN_FILES = 512
# Temporary files that are older belong to a writer that was killed.
_STALE_SECONDS = 3600.0


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

    @classmethod
    def of(cls, mean: Tensor, logvar: Tensor, mel: Tensor) -> Moments:
        """Moments of latents (F, C, h, w), as mean and log-variance, and of a log-Mel of any shape."""
        # numpy sums in one thread and in a fixed order: the same digits whatever the number of threads.
        means, variances = mean.double().numpy(), np.exp(logvar.double().numpy())
        mels = mel.double().numpy()
        return cls(
            latent_sum=tuple(means.sum(axis=(0, 2, 3)).tolist()),
            latent_square=tuple((means**2 + variances).sum(axis=(0, 2, 3)).tolist()),
            latent_count=means.size // means.shape[1],
            mel_sum=float(mels.sum()),
            mel_square=float((mels**2).sum()),
            mel_count=mels.size,
        )


@dataclass(frozen=True)
class EntryInfo:
    """What the header of an entry says.

    Args:
        num_frames: Video frames F, at the clip's rate.
        mel_frames: Mel frames over the span of those frames.
        num_bytes: Size of the file.
        moments: Sums for the statistics.
    """

    num_frames: int
    mel_frames: int
    num_bytes: int
    moments: Moments


class Cache:
    """Entries of one format in one folder.

    An entry holds, for F frames at the clip's rate (frame i is the source's frame nearest to ``source.start + i /
    fps``): ``latent_mean`` and ``latent_logvar`` (F, C, h, w) float16 in the codec's raw units, ``mel_by_frame`` (L,
    M) float32 (the raw log-Mel of the whole span, time first so that a stretch is one piece of the file), and
    ``times`` (F,) float64 in seconds from the start of the media. The name of its file is a hash of the media's
    content, the span, the codec, the rates, the sizes, the Mel's settings and the format's version: nothing else is
    in the file, so equal inputs give equal bytes. Several processes may read and write one folder.

    Args:
        cache_dir: The folder; made when something is written.
        clip: Rates and sizes. The clip's length plays no part: one cache serves clips of any length.
        codec: The frame codec; only its fingerprint is kept.
        mel: The log-Mel; only its settings are kept.

    Raises:
        ValueError: If ``clip`` and ``mel`` disagree.
    """

    def __init__(self, cache_dir: str, clip: ClipSpec, codec: FrameCodec, mel: LogMel) -> None:
        self.cache_dir = Path(cache_dir).expanduser()
        self.clip = clip
        mel_settings = {name: getattr(mel, name) for name in _MEL_SETTINGS}
        for name in ("sample_rate", "n_fft", "hop_length", "n_mels"):
            if mel_settings[name] != getattr(clip, name):
                raise ValueError(
                    f"Cache: expected LogMel.{name} {getattr(clip, name)} as in ClipSpec, got {mel_settings[name]}"
                )
        self._format: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "codec": codec.fingerprint(),
            "frames": [clip.fps, clip.height, clip.width, clip.fit],
            "mel": mel_settings,
        }
        self._contents = ContentHashes(self.cache_dir / "contents.jsonl")
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._held: dict[str, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Open files and held tensors stay behind when a cache travels to another process by pickling."""
        return self.__dict__ | {"_open": OrderedDict(), "_held": {}}

    def key(self, source: Source) -> str:
        """Name of the source's entry: a hash (hex) of everything the entry depends on.

        Raises:
            OSError: If the media file cannot be read.
        """
        described = self._format | {"content": self._contents.of(source.path), "span": [source.start, source.stop]}
        return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()

    def path(self, key: str) -> Path:
        """File of an entry."""
        return self.cache_dir / "entries" / key[:2] / f"{key}.safetensors"

    def info(self, key: str) -> EntryInfo | None:
        """What the entry's header says; None where there is no such entry, or the file is damaged."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["entry"])
            sums: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in header["moments"].items()}
            return EntryInfo(header["num_frames"], header["mel_frames"], path.stat().st_size, Moments(**sums))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    def write(self, key: str, mean: Tensor, logvar: Tensor, mel: Tensor, *, start: float = 0.0) -> None:
        """Writes an entry, whole or not at all.

        Args:
            key: Its name.
            mean: (F, C, h, w), posterior means in the codec's raw units.
            logvar: (F, C, h, w), log-variances.
            mel: (M, L), raw log-Mel.
            start: Time of frame 0, in seconds from the start of the media.
        """
        mean, logvar = mean.half().contiguous(), logvar.half().contiguous()
        tensors = {
            "latent_mean": mean,
            "latent_logvar": logvar,
            "mel_by_frame": mel.float().t().contiguous(),
            "times": start + torch.arange(len(mean), dtype=torch.float64) / self.clip.fps,
        }
        header = {
            "version": FORMAT_VERSION,
            "fps": self.clip.fps,
            "num_frames": mean.shape[0],
            "mel_frames": mel.shape[1],
            "moments": asdict(Moments.of(mean, logvar, tensors["mel_by_frame"])),
        }
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary_dir() / f"{key}.{socket.gethostname()}.{os.getpid()}"
        try:
            # One metadata entry only: the order of several would not be fixed.
            save_file(tensors, temporary, metadata={"entry": json.dumps(header, sort_keys=True)})
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def read_latents(self, key: str, frame: int, num_frames: int) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance of ``num_frames`` frames from ``frame`` on; only those are read.

        Returns:
            Two tensors (num_frames, C, h, w), float16.

        Raises:
            ValueError: If the entry has fewer frames.
        """
        span = slice(frame, frame + num_frames)
        mean, logvar = self._tensor(key, "latent_mean")[span], self._tensor(key, "latent_logvar")[span]
        if frame < 0 or len(mean) != num_frames:
            raise ValueError(
                f"{self.path(key)}: expected frames {frame} to {frame + num_frames}, got {len(mean)} of them"
            )
        return mean, logvar

    def read_mel(self, key: str, first: int, mel_frames: int) -> Tensor:
        """``mel_frames`` frames of the raw log-Mel from ``first`` on; only those are read.

        A stretch whose first Mel frame was rounded up may pass the end by one frame, which then repeats the last.

        Returns:
            (M, mel_frames) float32.

        Raises:
            ValueError: If the entry has fewer frames.
        """
        mel = self._tensor(key, "mel_by_frame")[first : first + mel_frames]
        if first < 0 or not 0 <= mel_frames - len(mel) <= 1 or not len(mel):
            raise ValueError(
                f"{self.path(key)}: expected Mel frames {first} to {first + mel_frames}, got {len(mel)} of them"
            )
        if len(mel) < mel_frames:
            mel = torch.cat([mel, mel[-1:]])
        return mel.t().contiguous()

    def hold(self, keys: Iterable[str]) -> None:
        """Loads entries into memory, where reads then find them."""
        for key in keys:
            if key not in self._held:
                with safe_open(self.path(key), framework="pt") as file:
                    self._held[key] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def remove_leftovers(self) -> None:
        """Removes temporary files of writers that were killed."""
        for path in self._temporary_dir().iterdir():
            try:
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                pass

    def _temporary_dir(self) -> Path:
        folder = self.cache_dir / "temporary"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _tensor(self, key: str, name: str) -> Any:
        """A tensor of an entry, or a view of the file that reads what is sliced out of it."""
        held = self._held.get(key)
        return held[name] if held is not None else self._file(key).get_slice(name)

    def _file(self, key: str) -> Any:
        file = self._open.get(key)
        if file is None:
            file = self._open[key] = safe_open(self.path(key), framework="pt")
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(key)
        return file
