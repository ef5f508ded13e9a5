"""Sources: the stretches of media files that a data set is made of, each in one split."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from cmmd_lightning.media import VIDEO_SUFFIXES, find_media

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Source:
    """One stretch of one media file, with picture and sound.

    Args:
        path: The media file.
        key: Name of the source, unique in its data set; for a folder, the file's path relative to it.
        split: ``train``, ``val`` or ``test``.
        start: Where the stretch begins, in seconds from the start of the media.
        stop: Where it ends, in seconds; None is the end of the media.
        label: Class of the stretch, where the data set has classes.
        period: Seconds after which the material repeats (one beat of a dance), where that is known.

    Raises:
        ValueError: If the stretch is empty or the period is not positive.
    """

    path: str
    key: str
    split: Split
    start: float = 0.0
    stop: float | None = None
    label: str | None = None
    period: float | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"{self.path}: expected a split of {', '.join(SPLITS)}, got {self.split!r}")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ValueError(f"{self.path}: expected 0 <= start < stop in seconds, got {self.start} and {self.stop}")
        if self.period is not None and self.period <= 0:
            raise ValueError(f"{self.path}: expected a positive period in seconds, got {self.period}")


def folder_sources(root: str, *, val_fraction: float = 0.05, test_fraction: float = 0.0, seed: int = 0) -> list[Source]:
    """Every video file of a folder tree, as sources.

    Subfolders ``train``, ``val`` and ``test`` give the splits where at least one of them holds media. Otherwise each
    file falls into a split by a seeded hash of its path relative to ``root``: the split of a file does not change
    when others are added. Where no file fell into ``val`` although ``val_fraction`` is positive, the file with the
    lowest hash goes there. A sidecar ``STEM.json`` next to a file may state its ``period`` in seconds.

    Args:
        root: The folder.
        val_fraction: Share of the files for validation, where there are no subfolders.
        test_fraction: Share of the files for testing, where there are no subfolders.
        seed: Seed of that split.

    Returns:
        Sources sorted by key, which is the path relative to ``root`` with forward slashes.

    Raises:
        ValueError: If ``root`` is not a folder, holds no video files, or the fractions leave nothing for training.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        got = f"val {val_fraction} and test {test_fraction}"
        raise ValueError(f"folder_sources: expected fractions >= 0 with a sum below 1, got {got}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"{root}: expected a folder of media files, got {'a file' if folder.exists() else 'nothing'} there"
        )
    by_split = {split: _videos(folder / split) for split in SPLITS if (folder / split).is_dir()}
    if any(by_split.values()):
        sources = [_source(path, folder, split) for split, paths in by_split.items() for path in paths]
        how = "by subfolder"
    else:
        sources = _split_by_hash(_videos(folder), folder, val_fraction, test_fraction, seed)
        how = f"by hash of the relative path, seed {seed}, val {val_fraction:g}, test {test_fraction:g}"
    if not sources:
        raise ValueError(f"{root}: expected video files ({' '.join(sorted(VIDEO_SUFFIXES))}), got none")
    counts = ", ".join(f"{len(of_split(sources, split))} {split}" for split in SPLITS)
    logger.info("%s: %s (split %s)", root, counts, how)
    return sorted(sources, key=lambda source: source.key)


def of_split(sources: Iterable[Source], split: str) -> list[Source]:
    """The sources of one split, in the order given."""
    return [source for source in sources if source.split == split]


def _videos(folder: Path) -> list[Path]:
    return [path for path in find_media([folder]) if path.suffix.lower() in VIDEO_SUFFIXES]


def _source(path: Path, root: Path, split: Split) -> Source:
    return Source(path=str(path), key=path.relative_to(root).as_posix(), split=split, period=_period(path))


def _period(path: Path) -> float | None:
    """``period`` of the sidecar next to a media file, None where there is none."""
    sidecar = path.with_suffix(".json")
    try:
        content = json.loads(sidecar.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s: expected a JSON sidecar, got %s; ignored", sidecar, error)
        return None
    period = content.get("period") if isinstance(content, dict) else None
    return float(period) if isinstance(period, int | float) and period > 0 else None


def _split_by_hash(paths: list[Path], root: Path, val_fraction: float, test_fraction: float, seed: int) -> list[Source]:
    ranked: list[tuple[float, Source]] = []
    for path in paths:
        digest = hashlib.blake2b(f"{seed}/{path.relative_to(root).as_posix()}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "little") / 2**64
        split: Split = "train"
        if place < val_fraction + test_fraction:
            split = "val" if place < val_fraction else "test"
        ranked.append((place, _source(path, root, split)))
    ranked.sort(key=lambda entry: (entry[0], entry[1].key))
    sources = [source for _, source in ranked]
    if val_fraction > 0 and len(sources) > 1 and not of_split(sources, "val"):
        sources[0] = replace(sources[0], split="val")
    return sources
