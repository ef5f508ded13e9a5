"""A table of segments: which stretches of which files, with their splits, labels and periods."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.sources.source import (
    SPLITS,
    DataSource,
    Source,
    Split,
    counts_by_split,
    first_few,
    hashed_splits,
    media_folder,
    stated_period,
)

logger = logging.getLogger(__name__)

COLUMNS = ("path", "start", "stop", "split", "label", "period")


@dataclass(frozen=True)
class TableRow:
    """One row of a CSV file: where it stands and what it says.

    Args:
        place: ``FILE:LINE``, for messages.
        values: Its fields by column, without surrounding space; empty where a field is.
    """

    place: str
    values: Mapping[str, str]

    def seconds(self, column: str, default: float | None = None) -> float | None:
        """A field as a number of seconds, ``default`` where it is empty or not there.

        Raises:
            ValueError: If it is not a finite number.
        """
        text = self.values.get(column, "")
        if not text:
            return default
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{self.place}: expected {column} in seconds, got {text!r}")
        return number


def read_table(path: str | Path, required: tuple[str, ...], malformed: list[str] | None = None) -> Iterator[TableRow]:
    """The rows of a CSV file with a header; empty lines are passed over.

    Args:
        path: The file.
        required: Columns that it must have.
        malformed: Where to put messages about rows of more or fewer fields than the header, which are then passed
            over; None raises them.

    Yields:
        Its rows.

    Raises:
        ValueError: If the file cannot be read, lacks a column, or has a malformed row.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if not set(required) <= set(header):
                got = ",".join(header) or "nothing"
                raise ValueError(f"{path}:1: expected a header with {','.join(required)}, got {got}")
            for fields in reader:
                if not fields:
                    continue
                place = f"{path}:{reader.line_num}"
                if len(fields) != len(header):
                    message = f"{place}: expected {len(header)} fields, got {len(fields)}"
                    if malformed is None:
                        raise ValueError(message)
                    malformed.append(message)
                    continue
                yield TableRow(place, dict(zip(header, map(str.strip, fields), strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a CSV file, got {getattr(error, 'strerror', None) or error}") from error


class Segments(DataSource):
    """The stretches of media that a CSV file lists, as sources.

    Its header names the columns, in any order: ``path`` (relative to ``root``), and if wanted ``start`` and ``stop``
    (seconds; empty is the beginning and the end of the file), ``split`` (``train``, ``val``, ``test``), ``label``
    (name of a class) and ``period`` (seconds; empty is the sidecar's, if any). Where no split is stated, a folder
    ``train``, ``val`` or ``test`` at the head of the path gives it, else a seeded hash of the path, so that the
    segments of a file stay together. Classes are numbered in the order of their names, over the whole file.

    Segments of files that are missing are left out, which is reported in one warning.

    Args:
        table: The CSV file.
        val_fraction: Share of the files for validation, of those whose split nothing states.
        test_fraction: Share of those for testing.
    """

    def __init__(self, table: str, val_fraction: float = 0.05, test_fraction: float = 0.0) -> None:
        self.table, self.val_fraction, self.test_fraction = table, val_fraction, test_fraction

    def sources(self, root: str, clip: ClipSpec = ClipSpec(), seed: int = 0) -> list[Source]:
        """Find the stretches; keys are paths, with ``@START-STOP`` where a stretch is given.

        Raises:
            ValueError: If ``root`` is not a folder, a row is malformed or stated twice, or no file is there; the
                message names file and line.
        """
        segments = self.table
        folder = media_folder(root)
        rows = list(read_table(segments, ("path",)))
        unknown = sorted({column for row in rows[:1] for column in row.values} - set(COLUMNS))
        if unknown:
            logger.warning("%s: columns other than %s are ignored: %s", segments, ",".join(COLUMNS), ", ".join(unknown))
        splits = _splits(rows, self.val_fraction, self.test_fraction, seed)
        classes = sorted({row.values["label"] for row in rows if row.values.get("label")})
        sources: dict[str, tuple[Source, str]] = {}
        missing: list[str] = []
        for row, split in zip(rows, splits, strict=True):
            source = _source(row, folder, split, classes)
            if source.key in sources:
                raise ValueError(
                    f"{row.place}: expected each segment once, got {source.key} of {sources[source.key][1]} again"
                )
            sources[source.key] = (source, row.place)
            if not Path(source.path).is_file():
                missing.append(source.key)
        kept = [source for key, (source, _) in sorted(sources.items()) if key not in set(missing)]
        if missing:
            files = sorted({sources[key][0].path for key in missing})
            counts = f"{len(files)} files with {len(missing)} of {len(rows)} segments"
            logger.warning("%s: %s are missing below %s: %s", segments, counts, root, first_few(files))
        if not kept:
            raise ValueError(f"{segments}: expected segments of files below {root}, got none")
        logger.info("%s: %s", segments, counts_by_split(kept))
        return kept


def _source(row: TableRow, root: Path, split: Split, classes: list[str]) -> Source:
    name = _path(row)
    path = root / name
    start, stop = row.seconds("start", 0.0) or 0.0, row.seconds("stop")
    period = row.seconds("period") or stated_period(path)
    label = row.values.get("label") or None
    span = "" if start == 0 and stop is None else f"@{start:g}-{'end' if stop is None else f'{stop:g}'}"
    try:
        return Source(
            path=str(path),
            key=f"{name}{span}",
            split=split,
            start=start,
            stop=stop,
            label=label,
            period=period,
            class_index=None if label is None else classes.index(label),
            group=name,
        )
    except ValueError as error:
        raise ValueError(f"{row.place}: {str(error).removeprefix(f'{path}: ')}") from error


def _path(row: TableRow) -> str:
    """Path of a row relative to the root, with forward slashes."""
    name = row.values["path"].replace("\\", "/")
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{row.place}: expected a path relative to the folder of media, got {name!r}")
    return name


def _splits(rows: list[TableRow], val_fraction: float, test_fraction: float, seed: int) -> list[Split]:
    """The split of each row: stated, by folder, or by hash of the path."""
    stated: list[Split | None] = []
    for row in rows:
        text = row.values.get("split", "") or _path(row).split("/")[0]
        found = next((split for split in SPLITS if split == text), None)
        if found is None and row.values.get("split"):
            raise ValueError(f"{row.place}: expected a split of {', '.join(SPLITS)} or none, got {text!r}")
        stated.append(found)
    open_paths = [_path(row) for row, split in zip(rows, stated, strict=True) if split is None]
    hashed = hashed_splits(open_paths, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    return [split or hashed[_path(row)] for row, split in zip(rows, stated, strict=True)]
