"""Statistics of a prepared data set: what brings latents and log-Mel to unit variance."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cmmd_lightning.codecs import FrameCodec, LogMel
from cmmd_lightning.data.preprocess.cache import FORMAT_VERSION, Cache, Moments
from cmmd_lightning.data.preprocess.leftovers import write_text

# A channel that never changes is left as it is but for its mean.
_SMALLEST_SCALE = 1e-5


@dataclass(frozen=True)
class Statistics:
    """Means and standard deviations over a set of cache entries, each frame counting alike.

    Args:
        latent_shift: Mean of the latents, per channel.
        latent_scale: Standard deviation of posterior samples, per channel: the posterior's variance is part of it.
        mel_mean: Mean of the log-Mel over bands and time.
        mel_std: Its standard deviation.
        num_entries: Entries measured.
    """

    latent_shift: tuple[float, ...]
    latent_scale: tuple[float, ...]
    mel_mean: float
    mel_std: float
    num_entries: int

    @classmethod
    def of(cls, moments: Iterable[Moments]) -> Statistics:
        """Combines the sums of entries.

        The sums are added without rounding (``math.fsum``), so the result does not depend on their order.

        Raises:
            ValueError: If there are none.
        """
        rows = [
            (m.latent_count, m.mel_sum, m.mel_square, m.mel_count, *m.latent_sum, *m.latent_square) for m in moments
        ]
        if not rows:
            raise ValueError("statistics: expected at least one cache entry to measure, got none")
        latent_count, mel_sum, mel_square, mel_count, *latent = map(math.fsum, zip(*rows, strict=True))
        sums, squares = latent[: len(latent) // 2], latent[len(latent) // 2 :]
        channels = [_mean_and_std(*both, latent_count) for both in zip(sums, squares, strict=True)]
        mel_mean, mel_std = _mean_and_std(mel_sum, mel_square, mel_count)
        return cls(
            latent_shift=tuple(mean for mean, _ in channels),
            latent_scale=tuple(std for _, std in channels),
            mel_mean=mel_mean,
            mel_std=mel_std,
            num_entries=len(rows),
        )

    def apply(self, codec: FrameCodec, mel: LogMel) -> None:
        """Sets the codec's ``shift`` and ``scale`` and the Mel's ``mean`` and ``std``, in place."""
        with torch.no_grad():
            codec.shift.copy_(torch.tensor(self.latent_shift))
            codec.scale.copy_(torch.tensor(self.latent_scale))
            mel.mean.fill_(self.mel_mean)
            mel.std.fill_(self.mel_std)

    def to_dict(self) -> dict[str, Any]:
        """Plain-dict form, as stored in JSON."""
        return asdict(self)


def measure_statistics(cache: Cache, keys: Iterable[str]) -> Statistics:
    """Statistics of the entries ``keys``, from the file that holds them or, the first time, from the entries' headers.

    Each set of entries has its own file, ``statistics-HASH.json`` in the cache's folder.

    Args:
        cache: The cache.
        keys: Names of the entries, in any order; one that is named twice counts once.

    Raises:
        ValueError: If there are no keys, or one has no entry.
    """
    ordered = sorted(set(keys))
    name = hashlib.blake2b("/".join([str(FORMAT_VERSION), *ordered]).encode(), digest_size=16).hexdigest()
    path = cache.cache_dir / f"statistics-{name}.json"
    stored = _load(path)
    if stored is not None:
        return stored
    for key in ordered:
        if cache.entry(key) is None:
            raise ValueError(f"{cache.path(key)}: expected a cache entry, got none; run prepare first")
    statistics = Statistics.of(moments for _, moments in cache.moments(ordered))
    if statistics.num_entries < len(ordered):
        got = f"got {statistics.num_entries}: remove it and run prepare again"
        raise ValueError(f"{cache.index.path}: expected the headers of {len(ordered)} entries, {got}")
    write_text(path, json.dumps(statistics.to_dict(), indent=2))
    return statistics


def _load(path: Path) -> Statistics | None:
    try:
        content = json.loads(path.read_text())
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return Statistics(**fields)
    except (OSError, ValueError, TypeError):
        return None


def _mean_and_std(total: float, square: float, count: float) -> tuple[float, float]:
    mean = total / count
    return mean, max(math.sqrt(max(square / count - mean**2, 0.0)), _SMALLEST_SCALE)
