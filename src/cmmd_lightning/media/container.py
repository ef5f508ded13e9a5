"""What the media room shares: its error, which files are media, and files written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import av
import av.error


def _suffixes(text: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in text.split())


VIDEO_SUFFIXES = _suffixes(
    """
    264 265 3g2 3gp 3gpp amv asf avi dav dif divx dv dvr-ms f4v flv gif gxf h264 h265 hevc ismv ivf m1v m2p m2t
    m2ts m2v m4v mj2 mjpeg mjpg mk3d mkv mod mov mp4 mpe mpeg mpg mpv mts mxf nut nuv obu ogm ogv ogx qt rm rmvb
    tod trp ts ty viv vob vro webm wmv wtv y4m
    """
)
AUDIO_SUFFIXES = _suffixes(
    """
    3ga aa3 aac ac3 adts aif aifc aiff amr ape au awb bwf caf dts eac3 ec3 flac gsm m2a m4a m4b m4r mka mlp mp1
    mp2 mp3 mpa mpc oga ogg oma opus ra rf64 snd sph spx tak thd tta voc w64 wav wave weba wma wv
    """
)
# What lies beside clips and is never opened to see whether it is media; anything else is.
_OTHER_SUFFIXES = _suffixes(
    """
    7z align arrow ass avif bmp cfg ckpt csv db gz h5 hdf5 heic heif htm html idx ini ipynb jpeg jpg json jsonl
    lab lock log lrc mat md nfo npy npz onnx parquet part pdf pickle pkl png pt pth py rar rst safetensors sh
    sqlite srt ssa sub svg tar textgrid tfrecord tif tiff tmp toml tsv txt vtt webp xml xz yaml yml zip zst
    """
)
READABLE = "media that can be decoded"
_STILLS = ("image2", "_pipe", "tty")  # names of FFmpeg's formats of single pictures and of text


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
        super().__init__(line.encode("utf-8", "backslashreplace").decode())  # names that are not UTF-8 can be printed
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


def url(path: str | os.PathLike[str]) -> str:
    """The path as FFmpeg takes it: without this, what stands before a colon in a name would be a protocol."""
    return f"file:{os.fspath(path)}"


def sndfile_name(path: str | os.PathLike[str]) -> str | bytes:
    """The path as soundfile takes it: as bytes where it is not UTF-8."""
    name = os.fspath(path)
    return name if name.isascii() or os.name == "nt" else os.fsencode(name)


@contextmanager
def reported(path: str | os.PathLike[str], expected: str) -> Iterator[None]:
    """Turn FFmpeg's errors, few of which are OSError or ValueError, into MediaError about ``path``."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise MediaError(path, expected, error.strerror or type(error).__name__) from error


def find_media(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], skipped: list[Path] | None = None
) -> list[Path]:
    """Media files named by, or anywhere below, the given paths; links to folders are followed, each folder once.

    A file that is named is taken whatever it is; below a folder, hidden files are not, and others are by their suffix
    (``VIDEO_SUFFIXES``, ``AUDIO_SUFFIXES``), or, where it is an unknown one, if FFmpeg opens them.

    Args:
        paths: One path or several, of files or folders.
        skipped: Where to add the files in the folders that are no media, nor hidden.

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
        if not path.is_dir():
            found[path] = None
            continue
        for file in sorted(_files(path)):
            if is_video(file) or is_audio(file):
                found[file] = None
            elif skipped is not None:
                skipped.append(file)
    return list(found)


def _files(root: Path) -> Iterator[Path]:
    """The files below a folder, hidden ones left out; linked folders after all others, so that each keeps its place."""
    seen: set[tuple[int, int]] = set()
    pending = deque([root])
    while pending:
        for folder, names, files in os.walk(pending.popleft()):
            state = os.stat(folder)
            new = (state.st_dev, state.st_ino) not in seen
            seen.add((state.st_dev, state.st_ino))
            names[:] = [name for name in sorted(names) if new and not name.startswith(".")]
            pending.extend(Path(folder, name) for name in names if os.path.islink(os.path.join(folder, name)))
            yield from (Path(folder, name) for name in files if new and not name.startswith("."))


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a file should hold a picture: by its suffix, or where that is an unknown one, by its content."""
    return _kind(os.fspath(path)) == "video"


def is_audio(path: str | os.PathLike[str]) -> bool:
    """Whether a file should hold sound alone: by its suffix, or where that is an unknown one, by its content."""
    return _kind(os.fspath(path)) == "audio"


def _kind(path: str) -> str | None:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in VIDEO_SUFFIXES | AUDIO_SUFFIXES:
        return ("video" if suffix in VIDEO_SUFFIXES else "audio") if os.path.isfile(path) else None
    return None if suffix in _OTHER_SUFFIXES or not os.path.isfile(path) else _sniffed(path, os.path.getmtime(path))


@lru_cache(maxsize=100_000)
def _sniffed(path: str, changed: float) -> str | None:
    """The first stream's kind that FFmpeg finds in a file and decodes."""
    with suppress(av.error.FFmpegError, OSError, ValueError), av.open(url(path), metadata_errors="replace") as media:
        streams = [*media.streams.video, *media.streams.audio]
        if streams and not any(name in media.format.name for name in _STILLS):
            next(media.decode(streams[0]))
            return streams[0].type
    return None


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end, or removed if the block raises.

    Missing parent folders are made. The temporary name is hidden, of this process, short, and keeps the suffix.

    Args:
        path: The file to write.

    Yields:
        The temporary path to write to.

    Raises:
        MediaError: If FFmpeg cannot write it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    temporary = path.with_name(f".{digest}.{os.getpid()}.part{path.suffix if len(path.suffix) < 20 else ''}")
    try:
        with reported(path, "a file that can be written"):
            yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
