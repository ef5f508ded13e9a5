"""The index of a cache: what a start needs of every entry, in one SQLite file."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from cmmd_lightning.media.container import written_whole

_TABLES = """
CREATE TABLE IF NOT EXISTS headers
    (name TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, num_frames INTEGER, header TEXT);
CREATE INDEX IF NOT EXISTS files ON headers (name, size, mtime_ns, num_frames);
CREATE TABLE IF NOT EXISTS report (number INTEGER PRIMARY KEY, source TEXT, entry TEXT, findings TEXT);
CREATE TABLE IF NOT EXISTS state (fingerprint TEXT);
"""


class Entry(NamedTuple):
    """An entry's file, as it was when its header was read."""

    size: int
    mtime_ns: int
    num_frames: int


class Index:
    """Headers of entries, and the data report, as ``prepare`` left them.

    The file is written whole and never changed, so it is read without locks, on network file systems too, and a file
    that is damaged or of before the last entries costs time only: headers that are not in it are read from the entries.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getstate__(self) -> dict[str, Path]:
        """Only the path travels to another process."""
        return {"path": self.path}

    def reload(self) -> None:
        """Forget what was read, which other processes may have written anew."""
        for name in ("entries", "_file"):
            self.__dict__.pop(name, None)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The entries by name."""
        return {
            name: Entry(*rest) for name, *rest in self._rows("SELECT name, size, mtime_ns, num_frames FROM headers")
        }

    def headers(self, names: Iterable[str], part: str = "$") -> Iterator[tuple[str, str]]:
        """Give names and headers, or a part of these by its path in JSON, of those entries that are here."""
        query = "SELECT name, json_extract(header, ?) FROM headers WHERE name IN (SELECT value FROM json_each(?))"
        return self._rows(query, part, json.dumps(list(names)))

    def report(self, fingerprint: str | None = None) -> Iterator[tuple[str, str, str]]:
        """Give the rows of the data report (source, entry, findings), if it is of that fingerprint, or of any."""
        (found,) = next(self._rows("SELECT fingerprint FROM state"), (None,))
        if found is not None and fingerprint in (None, found):
            yield from self._rows("SELECT source, entry, findings FROM report ORDER BY number")

    def write(
        self, headers: Mapping[str, tuple[Entry, str]], fingerprint: str, report: Iterable[tuple[str, str, str]]
    ) -> None:
        """Add headers and replace the data report, in a new file that takes the place of the old one."""
        with written_whole(self.path) as temporary:
            with suppress(FileNotFoundError):
                shutil.copyfile(self.path, temporary)
            try:
                self._write(temporary, headers, fingerprint, report)
            except sqlite3.DatabaseError:  # the old one is damaged, or of a former layout
                temporary.unlink()
                self._write(temporary, headers, fingerprint, report)
        self.reload()

    @staticmethod
    def _write(
        path: Path, headers: Mapping[str, tuple[Entry, str]], fingerprint: str, report: Iterable[tuple[str, str, str]]
    ) -> None:
        # Nobody else knows this file: no locks, which not every network file system has, and no journal.
        with closing(sqlite3.connect(f"file:{quote(str(path))}?nolock=1", uri=True)) as file, file:
            file.execute("PRAGMA journal_mode = OFF")
            file.executescript(_TABLES)
            rows = ((name, *entry, text) for name, (entry, text) in headers.items())
            file.executemany("INSERT OR REPLACE INTO headers VALUES (?, ?, ?, ?, ?)", rows)
            file.execute("DELETE FROM report")
            file.executemany("INSERT INTO report (source, entry, findings) VALUES (?, ?, ?)", report)
            file.execute("DELETE FROM state")
            file.execute("INSERT INTO state VALUES (?)", (fingerprint,))

    @cached_property
    def _file(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(str(self.path))}?immutable=1", uri=True, check_same_thread=False)

    def _rows(self, query: str, *values: str) -> Iterator[tuple]:
        if self.path.exists():
            with suppress(sqlite3.DatabaseError):
                yield from self._file.execute(query, values)
