"""Errors of the command line."""

import re

# Options of the data module that are its source's now, and the sources that have them.
_MOVED = {
    "annotations": "Aist, EpicSounds",
    "cameras": "Aist",
    "max_segment_seconds": "EpicSounds",
    "render_clips": "Folder",
    "render_scene": "Folder",
    "segments": "Segments",
    "short_segments": "EpicSounds",
    "test_fraction": "Folder, Grid, Segments",
    "val_fraction": "Folder, Aist, Grid, Segments",
}
_CLASSES = {"folder": "Folder", "aist": "Aist", "epic_sounds": "EpicSounds", "grid": "Grid"}


class UsageError(ValueError):
    """The command line asks for something that is not there."""


def with_successor(message: str) -> str:
    """Name what has taken the place of an option or a name that an error of the parser is about."""
    moved = re.search(rf"\bdata\.({'|'.join(_MOVED)})\b", message)
    if moved:
        flag = {"segments": "table"}.get(moved[1], moved[1])
        what = re.sub(r": (did you mean|cmmd \w+ has no such setting).*", "", message)
        return f"{what}: now --data.source.{flag}, of --data.source {_MOVED[moved[1]]}"
    short = re.search(rf"Expected a dot import path string: ({'|'.join(_CLASSES)})\b", message)
    return f"{message}; with settings of its own: --data.source {_CLASSES[short[1]]}" if short else message
