"""EPIC-SOUNDS: annotated sounds in the videos of EPIC-KITCHENS-100.

Huh, Chalk, Kazakos, Damen and Zisserman (2023), "EPIC-SOUNDS: A Large-scale Dataset of Actions That Sound". The
annotations (CC BY-NC 4.0) and the videos are their owners' to give; here they are only read.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.sources.segments import TableRow, read_table
from cmmd_lightning.data.sources.source import (
    SPLITS,
    DataSource,
    Source,
    Split,
    counts_by_split,
    first_few,
    media_folder,
)
from cmmd_lightning.media import is_video

logger = logging.getLogger(__name__)

FILES: dict[Split, str] = {
    "train": "EPIC_Sounds_train.csv",
    "val": "EPIC_Sounds_validation.csv",
    "test": "EPIC_Sounds_recognition_test_timestamps.csv",
}
"""The official files; the last one has no classes."""

SAMPLE_RATE = 24000
"""Hz; ``start_sample`` and ``stop_sample`` count at this rate."""

ShortSegments = Literal["widen", "drop"]

_COLUMNS = ("annotation_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")
_TIME = re.compile(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")
# Samples and timestamps of one row may differ by this many seconds.
_TOLERANCE = 0.010
_MALFORMED_LINES = 5
# Where videos may lie below the root, and folders that hold pictures by the million instead.
_DEPTH, _NO_VIDEOS = 5, {"rgb_frames", "flow_frames", "object_detection_images"}


@dataclass
class _Tally:
    """What reading the annotations came across."""

    rows: int = 0
    malformed: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    missing_rows: int = 0
    missing: dict[str, str] = field(default_factory=dict)  # video to participant
    widened: int = 0
    dropped: int = 0
    cut: int = 0


class EpicSounds(DataSource):
    """The annotated segments of EPIC-SOUNDS as sources: label the class, group the video.

    A row lies where its samples say, at 24 kHz, or its timestamps where the file has no samples; where both are there
    and disagree by more than 10 ms, one warning says so. Malformed rows are left out, and the first few named by file
    and line. Rows whose videos are missing are left out, which is reported in one warning by participant.

    Most sounds are shorter than a clip. ``widen`` takes the picture and sound around their middle too, as long as
    twice a clip in training: every clip in that stretch still covers the middle, and there is room to cut a shifted
    negative beside it. Validation and test segments are widened to one clip. A widened segment that would begin before
    the video does begins with it; where one runs past the video's end is for ``prepare`` to find.

    Args:
        annotations: Folder of the official CSV files, all or some; or their paths by ``train``, ``val`` and ``test``;
            None is ``root``.
        short_segments: What becomes of segments that are shorter than a clip: ``widen`` or ``drop``.
        max_segment_seconds: Longer segments are cut to their first so many seconds; None keeps them whole.
    """

    def __init__(
        self,
        annotations: dict[str, str] | str | None = None,
        short_segments: ShortSegments = "widen",
        max_segment_seconds: float | None = None,
    ) -> None:
        if short_segments not in get_args(ShortSegments):
            raise ValueError(f"short_segments: expected {' or '.join(get_args(ShortSegments))}, got {short_segments!r}")
        self.annotations, self.short_segments = annotations, short_segments
        self.max_segment_seconds = max_segment_seconds

    def sources(self, root: str, clip: ClipSpec = ClipSpec(), seed: int = 0) -> list[Source]:
        """Find the segments; keys are the annotations' ids. Those of the test file have no label.

        Videos lie at ``P01/videos/P01_11.MP4``, ``P01/P01_11.MP4`` or ``P01_11.MP4`` below ``root``, in a folder of
        their own or not, with any suffix of a video, in either case.

        Raises:
            ValueError: If there are no annotations, none of their videos is there, or a setting is out of range.
        """
        clip_seconds, max_seconds = clip.duration, self.max_segment_seconds
        if max_seconds is not None and max_seconds < clip_seconds:
            raise ValueError(f"epic_sounds: expected clip length <= longest segment, got {clip_seconds}, {max_seconds}")
        folder = media_folder(root)
        files = _files(root if self.annotations is None else self.annotations)
        videos = _videos(folder)
        tally = _Tally()
        sources: dict[str, Source] = {}
        for split, file in files.items():
            least = min(clip_seconds * (2 if split == "train" else 1), max_seconds or math.inf)
            for source in _segments(file, split, videos, tally):
                if source.key in sources:
                    tally.malformed.append(f"{file}: expected each annotation once, got {source.key} again")
                    continue
                fitted = _fit(source, clip_seconds, least, self.short_segments, max_seconds, tally)
                if fitted is not None:
                    sources[source.key] = fitted
        _report(root, tally)
        if not sources:
            raise ValueError(
                f"{root}: expected videos of EPIC-KITCHENS such as P01/videos/P01_11.MP4, got none annotated"
            )
        _check_videos(sources.values())
        logger.info("%s: %s segments", root, counts_by_split(sources.values()))
        return [sources[key] for key in sorted(sources)]


def _files(annotations: str | Mapping[str, str]) -> dict[Split, Path]:
    """The annotation files by split."""
    if not isinstance(annotations, str):
        unknown = sorted(set(annotations) - set(SPLITS))
        if unknown or not annotations:
            raise ValueError(f"annotations: expected paths by {', '.join(SPLITS)}, got {', '.join(unknown) or 'none'}")
        return {split: Path(annotations[split]).expanduser() for split in SPLITS if split in annotations}
    folder = Path(annotations).expanduser()
    files = {split: folder / name for split, name in FILES.items() if (folder / name).is_file()}
    if not files:
        raise ValueError(f"{annotations}: expected {' or '.join(FILES.values())} in this folder, got none")
    return files


def _videos(root: Path) -> dict[str, Path]:
    """The video files by name, in capitals and without suffix, whatever their folders."""
    videos: dict[str, Path] = {}
    for folder, names, files in os.walk(root, followlinks=True):
        deep = len(Path(folder).relative_to(root).parts) >= _DEPTH
        names[:] = [] if deep else sorted(set(names) - _NO_VIDEOS)
        for file in sorted(files):
            path = Path(folder, file)
            if not file.startswith(".") and is_video(path):
                videos.setdefault(path.stem.upper(), path)
    return videos


def _segments(file: Path, split: Split, videos: Mapping[str, Path], tally: _Tally) -> Iterator[Source]:
    """The rows of one file whose videos are there, as long as they are annotated."""
    for row in read_table(file, _COLUMNS, tally.malformed):
        tally.rows += 1
        try:
            source = _segment(row, split, videos.get(row.values["video_id"].upper()), tally)
        except ValueError as error:
            tally.malformed.append(str(error))
            continue
        if source.path:
            yield source
        else:
            tally.missing_rows += 1
            tally.missing[row.values["video_id"]] = row.values["participant_id"]


def _segment(row: TableRow, split: Split, video: Path | None, tally: _Tally) -> Source:
    """One row; its path is empty where the video is missing."""
    values = row.values
    if not values["annotation_id"] or not values["video_id"]:
        raise ValueError(f"{row.place}: expected annotation_id and video_id, got an empty field")
    start, stop = (_seconds(row, name, tally) for name in ("start", "stop"))
    if start >= stop:
        raise ValueError(f"{row.place}: expected start < stop, got {start:g} s and {stop:g} s")
    label, number = values.get("class") or None, values.get("class_id", "")
    if number and not number.isdecimal():
        raise ValueError(f"{row.place}: expected class_id as a whole number from 0, got {number!r}")
    return Source(
        path="" if video is None else str(video),
        key=values["annotation_id"],
        split=split,
        start=start,
        stop=stop,
        label=label,
        class_index=int(number) if number else None,
        group=values["video_id"],
    )


def _seconds(row: TableRow, name: str, tally: _Tally) -> float:
    """Where a segment starts or stops, in seconds."""
    stamp, sample = row.values[f"{name}_timestamp"], row.values.get(f"{name}_sample", "")
    found = _TIME.fullmatch(stamp)
    if found is None:
        raise ValueError(f"{row.place}: expected {name}_timestamp as HH:MM:SS.mmm, got {stamp!r}")
    stated = 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
    if not sample:
        return stated
    if not sample.isdecimal():
        raise ValueError(f"{row.place}: expected {name}_sample as a whole number from 0, got {sample!r}")
    seconds = int(sample) / SAMPLE_RATE
    if abs(seconds - stated) > _TOLERANCE:
        tally.differing.append(f"{row.place} ({name} {stamp} and sample {sample})")
    return seconds


def _fit(
    source: Source, clip_seconds: float, least: float, short: ShortSegments, most: float | None, tally: _Tally
) -> Source | None:
    """The stretch to take for a segment; None drops it."""
    assert source.stop is not None
    length = source.stop - source.start
    if most is not None and length > most:
        tally.cut += 1
        return replace(source, stop=source.start + most)
    if short == "drop":
        tally.dropped += length < clip_seconds
        return source if length >= clip_seconds else None
    if length >= least:
        return source
    tally.widened += 1
    middle = (source.start + source.stop) / 2
    start = max(0.0, middle - least / 2)
    return replace(source, start=start, stop=max(middle + least / 2, start + clip_seconds))


def _report(root: str, tally: _Tally) -> None:
    """What was left out and what was changed, once each."""
    for line in tally.malformed[:_MALFORMED_LINES]:
        logger.warning("%s; left out", line)
    if len(tally.malformed) > _MALFORMED_LINES:
        logger.warning("%s: %d malformed rows in all are left out", root, len(tally.malformed))
    if tally.differing:
        line = "%s: %d timestamps differ from their samples at %d Hz by more than %g ms, samples are believed: %s"
        differing = first_few(tally.differing, 1)
        logger.warning(line, root, len(tally.differing), SAMPLE_RATE, 1000 * _TOLERANCE, differing)
    if tally.missing:
        counted = sorted(Counter(tally.missing.values()).items())
        by_participant = ", ".join(f"{participant} {count}" for participant, count in counted)
        line = "%s: %d videos with %d of %d segments are missing, by participant: %s"
        logger.warning(line, root, len(tally.missing), tally.missing_rows, tally.rows, by_participant)
    if tally.widened or tally.dropped or tally.cut:
        line = "%s: %d short segments widened, %d dropped, %d long ones cut"
        logger.info(line, root, tally.widened, tally.dropped, tally.cut)


def _check_videos(sources: Iterable[Source]) -> None:
    """Warns where segments of one video are in several splits."""
    splits: dict[str | None, set[str]] = {}
    for source in sources:
        splits.setdefault(source.group, set()).add(source.split)
    shared = sorted(str(video) for video, of_video in splits.items() if len(of_video) > 1)
    if shared:
        line = "EPIC-SOUNDS: expected each video in one split, got %d in several: %s"
        logger.warning(line, len(shared), first_few(shared))
