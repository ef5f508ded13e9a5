"""Sources: the stretches of media files that a data set is made of, each in one split."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from cmmd_lightning.data.clips import ClipSpec
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


class DataSource(ABC):
    """Where clips come from: a corpus, a folder, a table. Derive from it for data of one's own.

    Given as ``--data.source theirs.Corpus --data.source.flag value`` (or ``class_path`` and ``init_args`` in a config),
    and in Python as an instance. The constructor takes what is particular to the corpus.

    Example:
        >>> class Single(DataSource):
        ...     def sources(self, root, clip=ClipSpec(), seed=0):
        ...         return [Source(path=f"{root}/film.mp4", key="film", split="train")]
        >>> Single().sources("data")[0].path
        'data/film.mp4'
    """

    def provide(self, root: str, clip: ClipSpec = ClipSpec(), seed: int = 0) -> None:
        """Make or fetch media that are not there yet; called by one process, before `sources`. By default, nothing."""
        return

    @abstractmethod
    def sources(self, root: str, clip: ClipSpec = ClipSpec(), seed: int = 0) -> list[Source]:
        """Find the stretches of media, each in one split.

        Args:
            root: Folder of the media.
            clip: What a clip is.
            seed: Of splits by hash.

        Returns:
            Sources with unique keys, in the order of these.

        Raises:
            ValueError: If ``root`` does not hold what it should.
        """


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
    check_fractions(val_fraction, test_fraction)
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
    """Find the video files of a folder tree, with those of sound alone if wanted, sorted.

    Those whose names are not UTF-8 are named and left out.
    """
    media = [path for path in find_media([folder]) if sound_files or is_video(path)]
    odd = {path for path in media if not _is_utf8(path)}
    for path in sorted(odd):
        name = str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
        logger.warning("%s: expected a name in UTF-8, got other bytes; left out, rename it", name)
    return [path for path in media if path not in odd]


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


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


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raise ValueError unless the fractions leave something for training."""
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        got = f"val {val_fraction} and test {test_fraction}"
        raise ValueError(f"splits: expected fractions >= 0 with a sum below 1, got {got}")


def _place(name: str, seed: int) -> float:
    """Where a name lies in [0, 1)."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
