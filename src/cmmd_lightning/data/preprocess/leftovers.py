"""Files written whole, and what writers that were killed left of theirs."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from cmmd_lightning.media.container import written_whole

# Temporary files of other machines that are older belong to a writer that was killed.
_STALE_SECONDS = 3600.0


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; of names that are not UTF-8, their bytes are spelled out."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def remove_leftovers(folder: Path) -> None:
    """Remove those below a folder; names end in ``.MACHINE.PROCESS``."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if _abandoned(path.name) or time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def machine() -> str:
    """This machine, or the container in it: processes of equal names have different numbers."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return "".join(c if c.isalnum() or c == "-" else "-" for c in f"{socket.gethostname()}-{space}")


def _abandoned(name: str) -> bool:
    """Whether a temporary file is of a process of this machine that is no more."""
    place, _, number = name.rpartition(".")
    if not place.endswith(f".{machine()}") or not number.isdecimal():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False
