"""Content hashes of files, remembered so that a file is read once for as long as it does not change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path

# A file changed less than this many seconds ago is hashed but not remembered: a further change could keep size and
# time stamp.
_SETTLED_SECONDS = 2.0


class ContentHashes:
    """Hashes of file contents, with an index of those already known.

    The index is a text file with one JSON line per hash, which any number of processes append to, each line in one
    write; a line that is damaged or out of date is passed over, at the price of hashing that file again.

    Args:
        index: The index file; it and its folder are made when the first hash is remembered.
    """

    def __init__(self, index: str | Path) -> None:
        self.index = Path(index)

    def reload(self) -> None:
        """Forget what was read of the index, which other processes may have added to."""
        self.__dict__.pop("_known", None)

    @cached_property
    def _known(self) -> dict[str | tuple[str, int, int], str]:
        """Hashes by path, size and time stamp, and the last one by path."""
        known: dict[str | tuple[str, int, int], str] = {}
        for line in self.index.read_text(errors="replace").splitlines() if self.index.exists() else ():
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                known[entry["path"], entry["size"], entry["mtime_ns"]] = known[entry["path"]] = entry["hash"]
        return known

    def known(self, path: str | Path) -> str | None:
        """Find the hash of the content of ``path`` if it is on record, without reading the file.

        Of a file that is gone, the last one is: what was prepared of it can be used without it.

        Raises:
            OSError: If there is no such file and never was.
        """
        try:
            return self._known.get(_place(path))
        except OSError:
            if os.path.abspath(path) in self._known:
                return self._known[os.path.abspath(path)]
            raise

    def of(self, path: str | Path) -> str:
        """Hash (hex) of the content of ``path``.

        Raises:
            OSError: If the file cannot be read.
        """
        known = self.known(path)
        if known is not None:
            return known
        place = _place(path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        if time.time() - place[2] / 1e9 > _SETTLED_SECONDS:
            self._append(json.dumps({"path": place[0], "size": place[1], "mtime_ns": place[2], "hash": digest}))
            self._known[place] = self._known[place[0]] = digest
        return digest

    def _append(self, line: str) -> None:
        self.index.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.index, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # The line break in front ends a line that a killed writer left unfinished.
            os.write(descriptor, f"\n{line}\n".encode())
        finally:
            os.close(descriptor)


def _place(path: str | Path) -> tuple[str, int, int]:
    """What a file is known by: its full path, size and time stamp."""
    full = os.path.abspath(path)
    status = os.stat(full)
    return full, status.st_size, status.st_mtime_ns
