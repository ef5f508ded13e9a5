"""What the media room shares: its error, the suffixes it knows, and files written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)
AUDIO_SUFFIXES = frozenset({".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav"})


class MediaError(ValueError):
    """A media file is not what was expected of it; the message is one line: file, expected, got.

    Args:
        path: The file.
        expected: What was expected of it.
        got: What came instead.

    Example:
        >>> str(MediaError("clip.mp4", "a video stream", "only audio (aac)"))
        'clip.mp4: expected a video stream, got only audio (aac)'
    """

    def __init__(self, path: str | os.PathLike[str], expected: str, got: str) -> None:
        line = " ".join(f"{os.fspath(path)}: expected {expected}, got {got}".split())
        super().__init__(line)
        self.path, self.expected, self.got = os.fspath(path), expected, got

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        """Pickled by its three parts, so that it crosses from worker processes."""
        return type(self), (self.path, self.expected, self.got)


def check_exists(path: str | os.PathLike[str]) -> None:
    """Raise MediaError unless ``path`` is a file with something in it."""
    if not os.path.exists(path):
        raise MediaError(path, "a media file", "no such file")
    if os.path.isdir(path):
        raise MediaError(path, "a media file", "a folder")
    if os.path.getsize(path) == 0:
        raise MediaError(path, "a media file", "an empty file (0 bytes)")


def find_media(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Media files named by, or anywhere below, the given paths.

    A file that is named is taken whatever its suffix; below a folder, files of a known suffix are (``VIDEO_SUFFIXES``,
    ``AUDIO_SUFFIXES``), hidden ones are not.

    Args:
        paths: One path or several, of files or folders.

    Returns:
        The files, each once, in the order of the paths given and sorted within each folder.

    Raises:
        MediaError: If a path does not exist.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if not path.exists():
            raise MediaError(path, "a media file or a folder", "no such file")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found.update(dict.fromkeys(file for file in inside if file == path or _is_media(file, path)))
    return list(found)


def _is_media(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.is_file() and not hidden and file.suffix.lower() in VIDEO_SUFFIXES | AUDIO_SUFFIXES


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end, or removed if the block raises.

    Missing parent folders are made. The temporary name is hidden, of this process, and keeps the suffix.

    Args:
        path: The file to write.

    Yields:
        The temporary path to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
