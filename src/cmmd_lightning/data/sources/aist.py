"""The AIST Dance Video Database as downloaded, split as AIST++ splits it.

The split lists are those of Li, Yang, Ross and Kanazawa (2021), "AI Choreographer: Music Conditioned 3D Dance
Generation with AIST++".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.sources.aist_name import GENRES, AistName
from cmmd_lightning.data.sources.source import (
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

TEST_MUSIC = frozenset(("mBR0", "mPO1", "mLO2", "mMH3", "mLH4", "mHO5", "mWA0", "mKR2", "mJS3", "mJB5"))
"""The music that AIST++ holds out: one piece per genre."""

# Basic dance: every dancer of a genre dances these ten to several pieces of music; AIST++ holds out two of them.
_BASIC, _BASIC_TEST = "BM", ("ch01", "ch02")
# Showcase, cypher and battle: several pieces of music or none that the name tells, and no choreography.
_OTHER = re.compile(r"s(SH|CY|BT)_c\d{2}.*_v\d+")
_FILES = {
    "train": "crossmodal_train.txt",
    "val": "crossmodal_val.txt",
    "test": "crossmodal_test.txt",
    "ignore": "ignore_list.txt",
}


class Aist(DataSource):
    """The videos of an AIST folder as sources: label the genre, period one beat, group the dance.

    Train and test are disjoint in music and in choreography. In dancers they are not: every dancer of the AIST++ test
    list is in its training list too.

    - With the lists of AIST++, the cross-modal ones, the splits are theirs: 980 dances for training, 20 for validation
      (``ch01`` of basic dance, test music) and 20 for testing (``ch02``, test music). That the lists given are
      disjoint is checked. As shipped they are so in music and in choreography within genre and situation (``ch02`` of
      basic dance and ``ch02`` of advanced dance are two dances), and validation shares its music with test.
    - Without lists, their rule: dances to ``TEST_MUSIC`` are for testing, others for training; of basic dance, test
      keeps ``ch01`` and ``ch02`` and training the other eight; of any other situation, training drops what test holds.

    Where there is no validation list, a share of the training dances is for validation, by a seeded hash of the dance,
    so that its cameras stay together; those share music and choreography with training.

    Showcase, cypher and battle videos, whose names tell neither music nor choreography, are left out, as are dances
    that the ignore list names. Dances whose videos are missing are reported in one warning: those that are listed, or
    that only other cameras show.

    Args:
        cameras: ``all``, one camera or several; ``c01`` is the front.
        annotations: Folder with ``crossmodal_train.txt`` and ``crossmodal_test.txt`` and, if wanted,
            ``crossmodal_val.txt`` and ``ignore_list.txt``, there or in a folder ``splits`` inside; or the paths of such
            files by ``train``, ``test``, ``val`` and ``ignore``; or None.
        val_fraction: Share of the training dances for validation, where there is no list.
    """

    def __init__(
        self,
        cameras: list[str] | str = "c01",
        annotations: dict[str, str] | str | None = None,
        val_fraction: float = 0.05,
    ) -> None:
        self.cameras, self.annotations, self.val_fraction = cameras, annotations, val_fraction

    def sources(self, root: str, clip: ClipSpec = ClipSpec(), seed: int = 0) -> list[Source]:
        """Find the videos anywhere below ``root``; keys are paths relative to it.

        Raises:
            ValueError: If ``root`` holds no such videos, a list is missing or malformed, or train and test share music
                or choreography.
        """
        folder = media_folder(root)
        wanted = _cameras(self.cameras)
        lists = _read_lists(self.annotations)
        ignored = set(lists.pop("ignore", ()))
        videos = _videos(folder)
        if not videos:
            raise ValueError(f"{root}: expected AIST videos such as gBR_sBM_c01_d04_mBR0_ch01.mp4, got none")
        splits = _listed_splits(lists) if lists else _ruled_splits({name.sequence for name in videos}, root)
        _check_disjoint(splits)
        left = {sequence: split for sequence, split in splits.items() if sequence not in ignored}
        if "val" not in lists:
            train = [sequence for sequence, split in left.items() if split == "train"]
            left |= hashed_splits(train, val_fraction=self.val_fraction, seed=seed)
        shown = {name: path for name, path in videos.items() if wanted is None or name.camera in wanted}
        _report_missing(root, left, shown, wanted)
        sources = [
            _source(name, path, folder, left[name.sequence]) for name, path in shown.items() if name.sequence in left
        ]
        if not sources:
            raise ValueError(f"{root}: expected videos of cameras {_in_words(wanted)} in some split, got none")
        how = "by list" if lists else "by test music"
        logger.info(
            "%s: %s (split %s), %d dances ignored", root, counts_by_split(sources), how, len(splits) - len(left)
        )
        return sorted(sources, key=lambda source: source.key)


def _source(name: AistName, path: Path, root: Path, split: Split) -> Source:
    return Source(
        path=str(path),
        key=path.relative_to(root).as_posix(),
        split=split,
        label=GENRES[name.genre],
        period=60.0 / name.bpm,
        class_index=list(GENRES).index(name.genre),
        group=name.sequence,
    )


def _cameras(cameras: str | Sequence[str]) -> frozenset[str] | None:
    """The cameras asked for; None is all of them."""
    if cameras == "all":
        return None
    chosen = frozenset([cameras] if isinstance(cameras, str) else cameras)
    wrong = sorted(camera for camera in chosen if not re.fullmatch(r"c\d{2}", camera))
    if wrong or not chosen:
        raise ValueError(f"cameras: expected 'all', or some of c01 to c10, got {first_few(wrong) or 'none'}")
    return chosen


def _in_words(cameras: frozenset[str] | None) -> str:
    return "c01 to c10" if cameras is None else ", ".join(sorted(cameras))


def _videos(folder: Path) -> dict[AistName, Path]:
    """The videos by what their names say; other files are counted in one line."""
    videos: dict[AistName, Path] = {}
    other: list[str] = []
    twice: list[str] = []
    for path in videos_below(folder):
        try:
            name = AistName.parse(path.stem)
        except ValueError:
            other.append(path.name)
            continue
        if videos.setdefault(name, path) is not path:
            twice.append(path.name)
    stages = [name for name in other if _OTHER.fullmatch(Path(name).stem)]
    unknown = [name for name in other if name not in set(stages)]
    if stages:
        logger.info("%s: %d showcase, cypher and battle videos are left out", folder, len(stages))
    if unknown:
        wanted = "AIST names such as gBR_sBM_c01_d04_mBR0_ch01.mp4"
        logger.warning("%s: expected %s, got %d others, left out: %s", folder, wanted, len(unknown), first_few(unknown))
    if twice:
        logger.warning(
            "%s: %d videos are there twice, the first by path is used: %s", folder, len(twice), first_few(twice)
        )
    return videos


def _read_lists(annotations: str | Mapping[str, str] | None) -> dict[str, list[str]]:
    """Sequence names by ``train``, ``val``, ``test`` and ``ignore``, as far as there are such lists."""
    if annotations is None:
        return {}
    if isinstance(annotations, str):
        folder = Path(annotations).expanduser()
        places = {role: (folder / "splits" / name, folder / name) for role, name in _FILES.items()}
        found = {role: next((file for file in files if file.is_file()), None) for role, files in places.items()}
        paths = {role: file for role, file in found.items() if file is not None}
        missing = [_FILES[role] for role in ("train", "test") if role not in paths]
        if missing:
            raise ValueError(f"{annotations}: expected {' and '.join(missing)} in this folder or in splits/, got none")
    else:
        unknown = sorted(set(annotations) - set(_FILES))
        if unknown or ("train" in annotations) != ("test" in annotations) or {"val"} == {*annotations} - {"ignore"}:
            got = ", ".join(annotations)
            raise ValueError(
                f"annotations: expected train and test, with or without val and ignore, or only ignore; got {got}"
            )
        paths = {role: Path(path).expanduser() for role, path in annotations.items()}
    return {role: _read_list(path) for role, path in paths.items()}


def _read_list(path: Path) -> list[str]:
    """Sequence names of one list, one per line."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ValueError(f"{path}: expected a list of AIST names, got {error.strerror}") from error
    names = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                names.append(AistName.parse(line.strip()).sequence)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
    return names


def _listed_splits(lists: dict[str, list[str]]) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    roles: tuple[Split, ...] = ("train", "val", "test")
    for split in roles:
        for sequence in lists.get(split, ()):
            if splits.setdefault(sequence, split) != split:
                raise ValueError(f"{sequence}: expected in one list, got {splits[sequence]} and {split}")
    return splits


def _ruled_splits(sequences: Iterable[str], root: str) -> dict[str, Split]:
    """The splits without lists; dances that would make train and test overlap are in none."""
    splits: dict[str, Split] = {}
    tested: set[str] = set()
    names = sorted(map(AistName.parse, sequences), key=str)
    for name in names:
        if name.music in TEST_MUSIC and (name.situation != _BASIC or name.choreography in _BASIC_TEST):
            splits[name.sequence] = "test"
            tested.add(name.danced)
    for name in names:
        held_out = name.danced in tested or (name.situation == _BASIC and name.choreography in _BASIC_TEST)
        if name.music not in TEST_MUSIC and not held_out:
            splits[name.sequence] = "train"
    if len(splits) < len(names):
        logger.info(
            "%s: %d dances share music or choreography across the splits, left out", root, len(names) - len(splits)
        )
    return splits


def _check_disjoint(splits: Mapping[str, Split]) -> None:
    names = {split: [AistName.parse(s) for s in splits if splits[s] == split] for split in ("train", "test")}
    music = {n.music for n in names["train"]} & {n.music for n in names["test"]}
    danced = {n.danced for n in names["train"]} & {n.danced for n in names["test"]}
    if music or danced:
        got = "; ".join(
            f"{kind} {', '.join(sorted(shared))}"
            for kind, shared in (("music", music), ("choreography", danced))
            if shared
        )
        raise ValueError(f"AIST splits: expected train and test disjoint in music and choreography, got in both {got}")


def _report_missing(
    root: str, splits: Mapping[str, Split], shown: Mapping[AistName, Path], cameras: frozenset[str] | None
) -> None:
    """One warning for all the videos that should be there; of all cameras, one is enough for a dance."""
    if cameras is None:
        there = {name.sequence for name in shown}
        missing = [sequence for sequence in splits if sequence not in there]
    else:
        present = set(map(str, shown))
        dances = [AistName.parse(sequence) for sequence in splits]
        filmed = [str(replace(dance, camera=camera)) for dance in dances for camera in sorted(cameras)]
        missing = [name for name in filmed if name not in present]
    if missing:
        wanted = f"{len(splits)} dances by cameras {_in_words(cameras)}"
        logger.warning(
            "%s: expected %s, %d videos are missing: %s", root, wanted, len(missing), first_few(sorted(missing))
        )
