"""What a media file holds, and what is wrong with it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .container import READABLE, MediaError, reported
from .fit import orientation
from .sound import PcmFile, is_pcm
from .stream import NOUN, Kind, frame_rate
from .timeline import MediaFile, Span

_UNEVEN = 0.1  # relative difference between frame intervals from which a rate is called variable
_FRAME = 0.04  # seconds: a frame where the rate is not known


@dataclass(frozen=True)
class MediaInfo:
    """What one media file holds. Times are seconds from the file's zero; what a file lacks is None.

    Attributes:
        path: The file.
        duration: Seconds that every stream present covers: the earliest of their ends.
        video_duration: End of the picture.
        audio_duration: End of the sound.
        fps: Average frames per second.
        height: Pixels, as :func:`read_frames` gives them: after rotation.
        width: Pixels, likewise.
        sample_rate: Samples per second, Hz.
        channels: Of the sound.
        video_codec: FFmpeg's name of it.
        audio_codec: FFmpeg's, or libsndfile's, name of it.
        has_video: Whether there is a picture.
        has_audio: Whether there is sound.
        problems: What is wrong or unusual, one line each.
    """

    path: str
    duration: float
    video_duration: float | None = None
    audio_duration: float | None = None
    fps: float | None = None
    height: int | None = None
    width: int | None = None
    sample_rate: int | None = None
    channels: int | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    has_video: bool = False
    has_audio: bool = False
    problems: tuple[str, ...] = ()


def probe(path: str | os.PathLike[str], *, verify: bool = False) -> MediaInfo:
    """Read a file's headers and first picture, or (``verify``) decode all of it.

    Args:
        path: The file.
        verify: Decode everything, and list among the problems where a stream is truncated or damaged.

    Returns:
        What the file holds, and its problems: no picture, no sound, streams that start or end more than a frame apart,
        no length, a variable frame rate, and what ``verify`` found.

    Raises:
        MediaError: If the file is no media, or its first picture does not decode.

    Example:
        >>> import tempfile, torch
        >>> from cmmd_lightning.media import write_sound
        >>> path = f"{tempfile.mkdtemp()}/silence.wav"
        >>> write_sound(path, torch.zeros(8000), 16000)
        >>> info = probe(path)
        >>> info.duration, info.sample_rate, info.has_video, info.problems
        (0.5, 16000, False, ('no picture',))
    """
    return _probe_pcm(path, verify) if is_pcm(path) else _probe_streams(path, verify)


def _probe_pcm(path: str | os.PathLike[str], verify: bool) -> MediaInfo:
    with PcmFile(path) as sound:
        end = sound.span().end
        problems = ["no picture"] + ([] if end else ["no length: the sound lasts 0 s"])
        if verify:
            problems += _damage(_exhausted(sound.blocks(0)))
        return MediaInfo(
            path=sound.path,
            duration=end,
            audio_duration=end,
            sample_rate=sound.rate,
            channels=sound.channels,
            audio_codec=sound.file.subtype.lower(),
            has_audio=True,
            problems=tuple(problems),
        )


def _probe_streams(path: str | os.PathLike[str], verify: bool) -> MediaInfo:
    with reported(path, READABLE), MediaFile(path) as media:
        if not media.spans:
            raise MediaError(path, "picture or sound", f"only {', '.join(stream.type for stream in media.streams)}")
        facts: dict[str, Any] = {}
        if media.has("video"):
            facts |= _video_facts(media)
        if media.has("audio"):
            context = media.stream("audio").codec_context
            facts |= {
                "audio_duration": media.span("audio").end,
                "sample_rate": context.sample_rate,
                "channels": context.channels,
                "audio_codec": context.name,
            }
        problems = _header_problems(media.spans, facts.get("fps")) + _missing_bytes(media)
        intervals = _index_intervals(media) if media.has("video") else []
        if verify:
            for kind in media.spans:
                problems += _damage(_decoded(media, kind, intervals))
        if intervals and max(intervals) - min(intervals) > _UNEVEN * max(intervals):
            problems.append(f"variable frame rate: {min(intervals):.3f} to {max(intervals):.3f} s between frames")
        return MediaInfo(
            path=media.path,
            duration=min(span.end for span in media.spans.values()),
            has_video=media.has("video"),
            has_audio=media.has("audio"),
            problems=tuple(problems),
            **facts,
        )


def _video_facts(media: MediaFile) -> dict[str, Any]:
    frame = next(media.decode("video")).frame
    size = (frame.height, frame.width)[:: -1 if orientation(frame)[0] else 1]
    return {
        "video_duration": media.span("video").end,
        "fps": float(frame_rate(media.stream("video"))),
        "height": size[0],
        "width": size[1],
        "video_codec": media.stream("video").codec_context.name,
    }


def _header_problems(spans: dict[Kind, Span], fps: float | None) -> list[str]:
    problems = [f"no {NOUN[kind]}" for kind in NOUN if kind not in spans]
    problems += [f"no length: the {NOUN[kind]} lasts 0 s" for kind, span in spans.items() if span.end <= span.start]
    if len(spans) == 2:
        frame = 1 / fps if fps else _FRAME
        for verb, (picture, sound) in {
            "starts": (spans["video"].start, spans["audio"].start),
            "ends": (spans["video"].end, spans["audio"].end),
        }.items():
            if abs(picture - sound) > frame + 1e-3:
                problems.append(f"the picture {verb} at {picture:.3f} s, the sound at {sound:.3f} s")
    return problems


def _missing_bytes(media: MediaFile) -> list[str]:
    """A line if an mp4's index points beyond the end of the file."""
    have, missing = os.path.getsize(media.path), media.missing_bytes(media.streams)
    return [f"expected {have + missing} bytes as its index says, got {have} (truncated)"] if missing else []


def _index_intervals(media: MediaFile) -> list[float]:
    """Seconds between frames by an mp4's index (empty for other files), the last, often open, left out."""
    if "mp4" not in media.formats:
        return []
    stream = media.stream("video")
    times = [float(entry.timestamp * stream.time_base) for entry in stream.index_entries]
    return [after - before for before, after in itertools.pairwise(times[:-1])]


def _decoded(media: MediaFile, kind: Kind, intervals: list[float]) -> Iterator[str]:
    """Decode a stream to its end; yields a line if frames were damaged, fills in the intervals between pictures."""
    intervals_known, before = bool(intervals), None
    damaged = total = 0
    for item in media.decode(kind):
        total += 1
        damaged += bool(item.frame.is_corrupt)
        if kind == "video" and before is not None and not intervals_known:
            intervals.append(item.time - before)
        before = item.time
    if damaged:
        yield f"{damaged} of {total} decoded {'frames' if kind == 'video' else 'blocks of sound'} are damaged"


def _exhausted(blocks: Iterator[Any]) -> Iterator[str]:
    for _ in blocks:
        pass
    yield from ()


def _damage(check: Iterator[str]) -> list[str]:
    """Lines that a check yields, or the error that it ends with, as problems."""
    try:
        return list(check)
    except MediaError as error:
        return [f"expected {error.expected}, got {error.got}"]
