"""The GRID audiovisual sentence corpus: Cooke, Barker, Cunningham and Shao (2006), CC BY 4.0."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.sources.folder import Folder
from cmmd_lightning.data.sources.source import (
    SPLITS,
    DataSource,
    Source,
    Split,
    counts_by_split,
    first_few,
    hashed_splits,
    media_folder,
    videos_below,
)

logger = logging.getLogger(__name__)

_TALKER = re.compile(r"s([1-9]|[12]\d|3[0-4])")
# Command, colour, preposition, letter, digit, adverb, each by its first letter: "bin blue at F 2 now" is bbaf2n.
_SENTENCE = re.compile(r"[blps][bgrw][abiw][a-z][1-9z][anps]")


class Grid(DataSource):
    """The clips of GRID as its owners ship it, or of a folder that is split already.

    As shipped, a folder ``s1`` to ``s34`` anywhere on the way to a video names its talker (``s1/bbaf2n.mpg``,
    ``s1/video/mpg_6000/bbaf2n.mpg``). Each talker's sentences are split by a seeded hash, so that every talker is in
    every split. Of a sentence that is there in several encodings, the first by path is taken. Where ``root`` has
    subfolders ``train``, ``val`` or ``test`` with videos, they are the splits. Word alignments may lie anywhere; they
    are not read.

    Args:
        val_fraction: Share of each talker's sentences for validation.
        test_fraction: Share for testing.
    """

    def __init__(self, val_fraction: float = 0.05, test_fraction: float = 0.0) -> None:
        self.val_fraction, self.test_fraction = val_fraction, test_fraction

    def sources(self, root: str, clip: ClipSpec = ClipSpec(), seed: int = 0) -> list[Source]:
        """Find the clips of the corpus, or of one talker; keys are paths relative to ``root``. There are no classes.

        Raises:
            ValueError: If ``root`` holds no clips of GRID, or the fractions leave nothing for training.
        """
        folder = media_folder(root)
        if any((folder / split).is_dir() and videos_below(folder / split) for split in SPLITS):
            return Folder().sources(root)
        talkers: dict[str, dict[str, Path]] = {}
        other: list[str] = []
        again: list[str] = []
        for path in videos_below(folder):
            talker = _talker(path, folder)
            sentence = path.stem.lower()
            if talker is None or not _SENTENCE.fullmatch(sentence):
                other.append(path.relative_to(folder).as_posix())
            elif talkers.setdefault(talker, {}).setdefault(sentence, path) is not path:
                again.append(path.relative_to(folder).as_posix())
        _report(root, other, again)
        if not talkers:
            raise ValueError(f"{root}: expected clips of GRID such as s1/bbaf2n.mpg, got none")
        sources = []
        for talker, clips in talkers.items():
            names = {f"{talker}/{sentence}": path for sentence, path in clips.items()}
            splits: dict[str, Split] = hashed_splits(
                names, val_fraction=self.val_fraction, test_fraction=self.test_fraction, seed=seed
            )
            sources += [
                Source(str(path), path.relative_to(folder).as_posix(), splits[name]) for name, path in names.items()
            ]
        logger.info("%s: %d talkers, %s (split by hash, seed %d)", root, len(talkers), counts_by_split(sources), seed)
        return sorted(sources, key=lambda source: source.key)


def _talker(path: Path, root: Path) -> str | None:
    """The folder nearest to a file that names a talker; ``root`` itself may."""
    folders = [root.absolute().name, *path.relative_to(root).parts[:-1]]
    return next((folder for folder in reversed(folders) if _TALKER.fullmatch(folder)), None)


def _report(root: str, other: list[str], again: list[str]) -> None:
    if other:
        logger.warning(
            "%s: expected clips of GRID such as s1/bbaf2n.mpg, got %d others, left out: %s",
            root,
            len(other),
            first_few(other),
        )
    if again:
        line = "%s: %d clips are there in a second encoding, the first by path is used: %s"
        logger.warning(line, root, len(again), first_few(again))
