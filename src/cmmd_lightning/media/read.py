"""Reading pictures and sound by time.

Times are seconds from the file's zero, which picture and sound share (see :mod:`cmmd_lightning.media.timeline`).
Frame ``i`` of a span is the one on show at ``start + i / fps``, the last that begins by then; half of a frame, the
source's or the wanted one, whichever is shorter, is forgiven, so that rates that differ give the nearest frame. Sample
``n`` of the sound is its value at ``start + n / sample_rate``, with ``start`` rounded to the grid of samples that
begins at zero, so that overlapping spans agree. Up to 0.05 s beyond a stream's end are filled, with its last frame or
with silence; more is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from .container import READABLE, MediaError, reported
from .fit import Fitter
from .sound import PcmFile, StreamSound, is_pcm, resampled
from .stream import NOUN, Kind, frame_rate
from .timeline import TAIL, Decoded, MediaFile

_ROUNDING = 1e-6  # seconds


def read_frames(
    path: str | os.PathLike[str],
    *,
    start: float = 0.0,
    num_frames: int,
    fps: float,
    size: tuple[int, int] | None = None,
    fit: Literal["crop", "letterbox"] = "crop",
) -> Tensor:
    """Pictures at given times: frame ``i`` is the source frame on show at ``start + i / fps``.

    Args:
        path: A media file with a video stream.
        start: Seconds from the file's zero.
        num_frames: Frames to read, T.
        fps: Frames per second to read at, whatever the source's rate.
        size: (height, width) in pixels; None keeps the source's.
        fit: How a picture of another shape is brought to ``size``: centre ``crop``, or ``letterbox`` with black bars.

    Returns:
        uint8 (T, 3, H, W), RGB.

    Raises:
        MediaError: If the file is unreadable, truncated, has no video stream, or ends before the span does.

    Example:
        >>> import tempfile
        >>> from cmmd_lightning.media import write_video
        >>> path = f"{tempfile.mkdtemp()}/clip.mp4"
        >>> write_video(path, torch.arange(25, dtype=torch.uint8)[:, None, None, None].expand(25, 3, 32, 32) * 10, 25.0)
        >>> read_frames(path, start=0.2, num_frames=4, fps=10.0).shape
        torch.Size([4, 3, 32, 32])
    """
    return torch.cat(list(iter_frames(path, start=start, num_frames=num_frames, fps=fps, size=size, fit=fit)))


def iter_frames(
    path: str | os.PathLike[str],
    *,
    fps: float,
    size: tuple[int, int] | None = None,
    fit: Literal["crop", "letterbox"] = "crop",
    start: float = 0.0,
    num_frames: int | None = None,
    chunk: int = 64,
) -> Iterator[Tensor]:
    """Like :func:`read_frames`, in chunks of at most ``chunk`` frames: memory does not grow with the file.

    Args:
        path: A media file with a video stream.
        fps: Frames per second to read at.
        size: (height, width) in pixels; None keeps the source's.
        fit: ``crop`` or ``letterbox``.
        start: Seconds from the file's zero.
        num_frames: Frames to read; None reads to the end of the video stream.
        chunk: Frames in a chunk.

    Yields:
        uint8 (at most ``chunk``, 3, H, W), RGB.

    Raises:
        MediaError: As :func:`read_frames`.
    """
    _check(path, start, num_frames, fps)
    with reported(path, READABLE), MediaFile(path) as media:
        end = media.span("video").end
        count = int((end - start) * fps + 0.01) if num_frames is None else num_frames
        if count < 1 or start + (count - 1) / fps > end + TAIL:
            raise _beyond(media, "video", start, start + max(count, 1) / fps)
        stream = media.stream("video")
        fitter = Fitter(size, fit, stream.sample_aspect_ratio)
        pictures: list[Tensor] = []
        early = 0.5 / max(fps, float(frame_rate(stream)))
        for item in _on_show(media.decode("video", start), (start + i / fps + early for i in range(count))):
            pictures.append(fitter(item.frame))
            if len(pictures) == chunk:
                yield torch.stack(pictures)
                pictures = []
        if pictures:
            yield torch.stack(pictures)


def _on_show(frames: Iterator[Decoded], times: Iterable[float]) -> Iterator[Decoded]:
    """For each of the rising times, the last frame that begins by then; the first one stands for all before it."""
    shown, after = next(frames), next(frames, None)
    for time in times:
        while after is not None and after.time <= time + _ROUNDING:
            shown, after = after, next(frames, None)
        yield shown


def read_sound(path: str | os.PathLike[str], *, start: float = 0.0, num_samples: int, sample_rate: int) -> Tensor:
    """Sound of exactly a span: sample ``n`` is heard at ``start + n / sample_rate``.

    Args:
        path: A media file with an audio stream, or a sound file.
        start: Seconds from the file's zero.
        num_samples: Samples to read, N.
        sample_rate: Samples per second (Hz) to read at, whatever the source's rate.

    Returns:
        float32 (N,): the mean of the source's channels.

    Raises:
        MediaError: If the file is unreadable, truncated, has no audio stream, or ends before the span does.

    Example:
        >>> import tempfile
        >>> from cmmd_lightning.media import write_sound
        >>> path = f"{tempfile.mkdtemp()}/ramp.wav"
        >>> write_sound(path, torch.linspace(0, 1, 8000), 8000)
        >>> [round(x, 2) for x in read_sound(path, start=0.5, num_samples=3, sample_rate=8000).tolist()]
        [0.5, 0.5, 0.5]
    """
    blocks = iter_sound(path, start=start, num_samples=num_samples, sample_rate=sample_rate)
    return torch.cat(list(blocks))


def iter_sound(
    path: str | os.PathLike[str],
    *,
    sample_rate: int,
    start: float = 0.0,
    num_samples: int | None = None,
    chunk: int = 1 << 19,
) -> Iterator[Tensor]:
    """Like :func:`read_sound`, in chunks of at most ``chunk`` samples: memory does not grow with the file.

    Args:
        path: A media file with an audio stream, or a sound file.
        sample_rate: Samples per second (Hz) to read at.
        start: Seconds from the file's zero.
        num_samples: Samples to read; None reads to the end of the audio stream.
        chunk: Samples in a chunk.

    Yields:
        float32 (at most ``chunk``,), mono.

    Raises:
        MediaError: As :func:`read_sound`.
    """
    _check(path, start, num_samples, sample_rate)
    media: PcmFile | MediaFile = PcmFile(path) if is_pcm(path) else MediaFile(path)
    with reported(path, READABLE), media:
        sound = media if isinstance(media, PcmFile) else StreamSound(media)
        end = media.span("audio").end
        first = round(start * sample_rate)
        count = round(end * sample_rate) - first if num_samples is None else num_samples
        if count < 1 or (first + count) / sample_rate > end + TAIL:
            raise _beyond(media, "audio", start, start + max(count, 1) / sample_rate)
        yield from resampled(sound, first, count, sample_rate, chunk)


def _check(path: str | os.PathLike[str], start: float, count: int | None, rate: float) -> None:
    if not rate > 0:
        raise ValueError(f"{os.fspath(path)}: expected a positive rate to read at, got {rate!r}")
    if not start >= 0:
        raise MediaError(path, "a span that starts at 0 s or later", f"start {start!r} s")
    if count is not None and count < 1:
        raise ValueError(f"{os.fspath(path)}: expected at least one frame or sample to read, got {count}")


def _beyond(media: MediaFile | PcmFile, kind: Kind, start: float, stop: float) -> MediaError:
    got = f"{NOUN[kind]} that ends at {media.span(kind).end:.3f} s"
    return MediaError(media.path, f"{NOUN[kind]} from {start:.3f} to {stop:.3f} s", got)
