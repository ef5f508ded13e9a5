"""Sources: the stretches of media files that a data set is made of, each in one split."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cmmd_lightning.media import find_media, is_video

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
        label: Class of the stretch, by name, where the data set has classes.
        period: Seconds after which the material repeats (one beat of a dance), where that is known.
        class_index: Number of that class in the data set's own numbering.
        group: What it shares with sources that are no wrong partners for it and belong to the same split: the views of
            one dance by several cameras, the segments of one recording. None: it shares nothing.

    Raises:
        ValueError: If the stretch is empty, the period is not positive or the class index is negative.
    """

    path: str
    key: str
    split: Split
    start: float = 0.0
    stop: float | None = None
    label: str | None = None
    period: float | None = None
    class_index: int | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"{self.path}: expected a split of {', '.join(SPLITS)}, got {self.split!r}")
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ValueError(f"{self.path}: expected 0 <= start < stop in seconds, got {self.start} and {self.stop}")
        if self.period is not None and self.period <= 0:
            raise ValueError(f"{self.path}: expected a positive period in seconds, got {self.period}")
        if self.class_index is not None and self.class_index < 0:
            raise ValueError(f"{self.path}: expected a class index from 0, got {self.class_index}")


def folder_sources(
    root: str,
    *,
    val_fraction: float = 0.05,
    test_fraction: float = 0.0,
    seed: int = 0,
    sound_files: bool = False,
) -> list[Source]:
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
        sound_files: Whether files of sound alone are sources too.

    Returns:
        Sources sorted by key, which is the path relative to ``root`` with forward slashes.

    Raises:
        ValueError: If ``root`` is not a folder, holds no video files, or the fractions leave nothing for training.
    """
    _check_fractions(val_fraction, test_fraction)
    folder = media_folder(root)
    by_split = {split: videos_below(folder / split, sound_files) for split in SPLITS if (folder / split).is_dir()}
    if any(by_split.values()):
        split_of = {path: split for split, paths in by_split.items() for path in paths}
        how = "by subfolder"
    else:
        names = {path: path.relative_to(folder).as_posix() for path in videos_below(folder, sound_files)}
        splits = hashed_splits(names.values(), val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
        split_of = {path: splits[name] for path, name in names.items()}
        how = f"by hash of the relative path, seed {seed}, val {val_fraction:g}, test {test_fraction:g}"
    if not split_of:
        kind = "media" if sound_files else "video"
        raise ValueError(f"{root}: expected {kind} files (.mp4, .mkv, .mov, ...), got none")
    sources = [_source(path, folder, split) for path, split in split_of.items()]
    logger.info("%s: %s (split %s)", root, counts_by_split(sources), how)
    return sorted(sources, key=lambda source: source.key)


def of_split(sources: Iterable[Source], split: str) -> list[Source]:
    """The sources of one split, in the order given."""
    return [source for source in sources if source.split == split]


def hashed_splits(
    names: Iterable[str], *, val_fraction: float, test_fraction: float = 0.0, seed: int = 0
) -> dict[str, Split]:
    """A split for each name by a seeded hash: it does not change when other names are added.

    Where no name fell into ``val`` although ``val_fraction`` is positive, the one with the lowest hash goes there,
    unless it is the only one.

    Args:
        names: The names; equal ones count once.
        val_fraction: Share for validation.
        test_fraction: Share for testing.
        seed: Seed of the hash.

    Returns:
        The split of each name.

    Raises:
        ValueError: If the fractions are negative or leave nothing for training.
    """
    _check_fractions(val_fraction, test_fraction)
    places = {name: _place(name, seed) for name in names}
    splits: dict[str, Split] = {}
    for name, place in places.items():
        splits[name] = "train"
        if place < val_fraction + test_fraction:
            splits[name] = "val" if place < val_fraction else "test"
    if val_fraction > 0 and len(splits) > 1 and "val" not in splits.values():
        splits[min(places, key=lambda name: (places[name], name))] = "val"
    return splits


def media_folder(root: str) -> Path:
    """``root`` as a path.

    Raises:
        ValueError: If it is not a folder.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"{root}: expected a folder of media files, got {'a file' if folder.exists() else 'nothing'} there: "
            "name yours by --data.root"
        )
    return folder


def videos_below(folder: Path, sound_files: bool = False) -> list[Path]:
    """The video files of a folder tree, with those of sound alone if wanted, sorted."""
    return [path for path in find_media([folder]) if sound_files or is_video(path)]


def counts_by_split(sources: Iterable[Source]) -> str:
    """How many sources there are of each split, in words."""
    counted = Counter(source.split for source in sources)
    return ", ".join(f"{counted[split]} {split}" for split in SPLITS)


def first_few(names: Iterable[object], count: int = 3) -> str:
    """The first of many names, in words.

    Example:
        >>> first_few(["a", "b", "c", "d"])
        'a, b, c, ...'
    """
    listed = [str(name) for name in names]
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")


def stated_period(path: Path) -> float | None:
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


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        got = f"val {val_fraction} and test {test_fraction}"
        raise ValueError(f"splits: expected fractions >= 0 with a sum below 1, got {got}")


def _source(path: Path, root: Path, split: Split) -> Source:
    return Source(path=str(path), key=path.relative_to(root).as_posix(), split=split, period=stated_period(path))


def _place(name: str, seed: int) -> float:
    """Where a name lies in [0, 1)."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
