"""What preparing will take: hours of media and bytes of cache, estimated before it begins."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cmmd_lightning.data.preprocess.cache import Cache
from cmmd_lightning.data.sources.source import Source
from cmmd_lightning.media import probe

logger = logging.getLogger(__name__)

# Files whose headers are read, evenly spread, where their sources do not state how long they are.
_PROBED = 100


@dataclass(frozen=True)
class Estimate:
    """What is expected of a run.

    Args:
        num_sources: Entries to make.
        num_probed: Files whose headers were read for this.
        media_seconds: Seconds of media in them.
        cache_bytes: Bytes they will take in the cache.
        free_bytes: Bytes that are free on its disk.
    """

    num_sources: int
    num_probed: int
    media_seconds: float
    cache_bytes: int
    free_bytes: int

    def check(self, cache_dir: str) -> None:
        """Tells what is expected, in one line.

        Raises:
            ValueError: If it does not fit the disk.
        """
        what = f"{self.num_sources} sources, about {self.media_seconds / 3600:.2f} h of media"
        size, free = (f"{count / 1e9:.3g} GB" for count in (self.cache_bytes, self.free_bytes))
        if self.cache_bytes > self.free_bytes:
            raise ValueError(f"{cache_dir}: expected {size} of free disk space for {what}, got {free}")
        logger.info(
            "%s: to prepare: %s (%d probed), %s of cache, %s free", cache_dir, what, self.num_probed, size, free
        )


def estimate(sources: Sequence[Source], cache: Cache, latent_shape: tuple[int, int, int]) -> Estimate:
    """Estimates the length of sources by what they state, and by the headers of some of their files.

    Args:
        sources: Those whose entries are to be made.
        cache: The cache.
        latent_shape: (C, h, w) of a frame.
    """
    stated = [source.stop - source.start for source in sources if source.stop is not None]
    unstated = [source for source in sources if source.stop is None]
    chosen = [unstated[i * len(unstated) // _PROBED] for i in range(_PROBED)] if len(unstated) > _PROBED else unstated
    with ThreadPoolExecutor(4) as pool:
        lengths = list(pool.map(_seconds, chosen))
    seconds = [*stated, *lengths]
    scale = len(unstated) / max(len(chosen), 1)
    sizes = [cache.num_bytes(cache.clip.frames_in(length), latent_shape) if length else 0 for length in seconds]
    return Estimate(
        num_sources=len(sources),
        num_probed=len(chosen),
        media_seconds=sum(stated) + scale * sum(lengths),
        cache_bytes=round(sum(sizes[: len(stated)]) + scale * sum(sizes[len(stated) :])),
        free_bytes=_free_bytes(cache.cache_dir),
    )


def _seconds(source: Source) -> float:
    """Length of a source that goes to the end of its file, by the headers; 0 where they cannot be read."""
    try:
        return max(probe(source.path).duration - source.start, 0.0)
    except (ValueError, OSError):
        return 0.0  # decoding will name it


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
