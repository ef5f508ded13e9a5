"""An opened media file on its own clock: which streams, when each plays, and decoding from a time on.

**Zero of time.** Every time in this room counts from the start of the file: the earliest of the chosen streams'
starts as they are presented, that is after edit lists and codec delay (AAC's priming samples are not part of the
sound, where the container marks them). A stream that starts later is silent, or stands still on its first frame,
until it does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import av
import av.error

from .container import MediaError, check_exists, url
from .stream import NOUN, Kind, choose, decoded_frames, frame_rate, packet_end, set_threads, timed_packets

TAIL = 0.05  # seconds that a stream may end before the span asked of it: muxed streams seldom end together

# Formats read from their start only (no times to seek by; after a seek, MPEG program streams are a frame off where
# several frames share a packet), and formats that do not state the length of each stream.
_SEQUENTIAL = frozenset({"mpeg", "mp3", "aac", "h264", "hevc", "mpegvideo", "m4v", "ac3", "eac3"})
_HEADERLESS = _SEQUENTIAL | {"mpegts", "matroska", "ogg", "flv"}
_MP3_PADDING = 0.1  # seconds that a LAME header may take off the last packets
_NEAR_START = 1.0  # seconds within which decoding from the start is cheaper than seeking
_STEPS_BACK = (0.5, 4.0, math.inf)  # seconds before the time wanted from which to decode; inf: from the file's start


@dataclass(frozen=True)
class Span:
    """When a stream plays, in seconds from the file's zero: from ``start`` to ``end``."""

    start: float
    end: float


@dataclass(frozen=True)
class Decoded:
    """One decoded picture or block of sound, shown or heard from ``time`` to ``end`` (seconds from the file's zero)."""

    time: float
    end: float
    frame: Any


class MediaFile:
    """An opened media file; a context manager.

    Of several video or audio streams, the first marked as default is chosen, else the first; cover art is not video.

    Args:
        path: The file.

    Raises:
        MediaError: If there is no such file, or it is not media.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._edited: set[Kind] = set()
        self._container = self._open()
        self._fresh = True
        try:
            self._indices = {kind: choose(self._container, kind) for kind in NOUN}
            self.formats = set(self._container.format.name.split(","))
            duration = self._container.duration
            self.promised = None if duration is None else duration / av.time_base
            absolute = self._measure()
            if self.has("video") and self._one_cut(self.stream("video")):
                self._edited.add("video")
                self._fresh = False
        except BaseException:
            self._container.close()
            raise
        self._keep_promise(absolute)
        self.zero = min((span.start for span in absolute.values()), default=0.0)
        self.spans = {kind: Span(span.start - self.zero, span.end - self.zero) for kind, span in absolute.items()}

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._container.close()

    @property
    def streams(self) -> list[Any]:
        """Every stream in the container, chosen or not."""
        return list(self._container.streams)

    def stream(self, kind: Kind) -> Any:
        """The chosen stream of a kind.

        Raises:
            MediaError: If the file has none.
        """
        index = self._indices[kind]
        if index is None:
            held = ", ".join(
                f"{s.type} ({s.codec_context.name})" for s in self.streams if s.type in NOUN and s.codec_context
            )
            raise MediaError(self.path, f"{'a video' if kind == 'video' else 'an audio'} stream", held or "neither")
        return self._container.streams[index]

    def has(self, kind: Kind) -> bool:
        """Whether there is a stream of that kind."""
        return self._indices[kind] is not None

    def packets(self, kind: Kind) -> Iterator[Any]:
        """The stream's packets from the start of the file, in decoding order, decoding times filled in at their begin.

        Raises:
            MediaError: If the file has no such stream, or ends before its header says that it does.
        """
        self._rewind(kind)
        stream, reached, error = self.stream(kind), 0.0, None
        try:
            for packet in timed_packets(self._container, stream):
                if packet.is_corrupt:
                    raise av.error.EOFError(0, "a packet is cut short")
                if packet.dts is not None or packet.pts is not None:
                    reached = max(reached, packet_end(packet) - self.zero)
                    yield packet
        except av.error.FFmpegError as caught:
            error = caught
        self._check_kept(stream, reached, error)

    def decode(self, kind: Kind, start: float = 0.0) -> Iterator[Decoded]:
        """Decoded frames in order of time, the first at or before ``start`` if the stream has one there.

        Args:
            kind: Which stream.
            start: Seconds from the file's zero.

        Raises:
            MediaError: If the file has no such stream, does not decode, or ends before its header says that it does.
        """
        for back in _STEPS_BACK:
            at = start - back
            from_start = at < self.span(kind).start + _NEAR_START or bool(self.formats & _SEQUENTIAL)
            frames = self._decode_from(kind, None if from_start else at)
            try:
                first = next(frames)
            except MediaError:
                if from_start:
                    raise
                continue
            if from_start or first.time <= start:
                yield first
                yield from frames
                return

    def span(self, kind: Kind) -> Span:
        """When the stream of that kind plays; MediaError if the file has none."""
        self.stream(kind)
        return self.spans[kind]

    def _decode_from(self, kind: Kind, seek: float | None) -> Iterator[Decoded]:
        """At least one frame, from the file's start or from near ``seek``; the end must be where the header says."""
        self._rewind(kind)
        stream = self.stream(kind)
        set_threads(stream)
        before: Decoded | None = None
        reached: float | None = None
        error: Exception | None = None
        try:
            if seek is not None:
                self._container.seek(int((seek + self.zero) / stream.time_base), stream=stream)
            for frame in decoded_frames(self._container, stream, lenient=seek is not None):
                item = self._timed(stream, frame, before)
                reached = max(reached or 0.0, item.end)
                if kind in self._edited and before is not None and item.time >= self.spans[kind].end:
                    break
                if before is None or item.time >= before.time:
                    before = item
                    yield item
        except av.error.FFmpegError as caught:
            error = caught
        self._check_kept(stream, reached, error)

    def _check_kept(self, stream: Any, reached: float | None, error: Exception | None) -> None:
        """Raise MediaError if reading ended with an error, with nothing, or before the file says that it should."""
        end = self.spans[stream.type].end
        if error is not None or reached is None or reached < end - self._forgiven(stream):
            noun = NOUN[stream.type]
            got = f"{noun} up to {reached:.3f} s" if reached else "nothing"
            wanted = f"{noun} up to {end:.3f} s as the file states"
            raise MediaError(self.path, wanted, f"{got} (truncated or corrupt)") from error

    def _timed(self, stream: Any, frame: Any, before: Decoded | None) -> Decoded:
        if stream.type == "audio":
            length = frame.samples / frame.sample_rate
        elif frame.duration:
            length = float(frame.duration * frame.time_base)
        else:
            length = float(1 / frame_rate(stream))
        if frame.pts is None:
            time = before.end if before else self.spans[stream.type].start
        else:
            time = float(frame.pts * frame.time_base) - self.zero
        return Decoded(time, time + length, frame)

    def missing_bytes(self, streams: list[Any]) -> int:
        """How far the index of an mp4's streams points beyond the end of the file."""
        ends = [entry.pos + entry.size for stream in streams for entry in stream.index_entries]
        return max(0, max(ends, default=0) - os.path.getsize(self.path)) if "mp4" in self.formats else 0

    def _forgiven(self, stream: Any) -> float:
        """Seconds by which decoding may fall short: the frame that an edit list cuts through, else some packets."""
        if "mp4" not in self.formats:
            return 0.25
        if stream.type == "audio":
            return 0.005
        return (0.5 if self.missing_bytes([stream]) else 1.5) / float(frame_rate(stream))

    def _one_cut(self, stream: Any) -> bool:
        """Whether an mp4's edit list hides pictures before one cut and no others.

        FFmpeg leaves out the frame that the cut goes through, and moves those after it to the cut (up to one frame
        early). Without its ``advanced_editlist`` the times are right, and the hidden frames come with times below 0,
        but a list of several edits is not understood: all packets must move alike.
        """
        if "mp4" not in self.formats or not any(entry.is_discard for entry in stream.index_entries):
            return False
        plain = self._open({"advanced_editlist": "0"})
        with plain:
            times = {entry.pos: entry.timestamp for entry in plain.streams[stream.index].index_entries}
        return len({entry.timestamp - times.get(entry.pos, 0) for entry in stream.index_entries}) == 1

    def _open(self, options: dict[str, str] | None = None) -> Any:
        check_exists(self.path)
        got = f"{os.path.getsize(self.path)} bytes that are not media, or whose index is missing"
        try:
            container = av.open(url(self.path), metadata_errors="replace", options=options or {})
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(self.path, "a media file", f"{got} ({error.strerror})") from error
        if not len(container.streams):
            container.close()
            raise MediaError(self.path, "a media file", got)
        return container

    def _rewind(self, kind: Kind) -> None:
        """To the start, by opening the file again unless nothing was read yet: seeking there is inexact."""
        if not self._fresh or kind in self._edited:
            self._container.close()
            self._container = self._open({"advanced_editlist": "0"} if kind in self._edited else None)
        self._fresh = False

    def _measure(self) -> dict[Kind, Span]:
        """When the chosen streams play on the container's clock: by the header where it states it, else by packets."""
        spans: dict[Kind, Span] = {}
        for kind in filter(self.has, NOUN):
            stream = self.stream(kind)
            start = float((stream.start_time or 0) * stream.time_base)
            stated = start + float((stream.duration or 0) * stream.time_base)
            if self.formats & _HEADERLESS or not stream.duration:
                end = self._last_packet_end(kind, start)
                trimmed = "mp3" in self.formats and 0 < end - stated < _MP3_PADDING
                spans[kind] = Span(start, stated if trimmed else end)
            else:
                spans[kind] = Span(start, stated)
        return spans

    def _keep_promise(self, spans: dict[Kind, Span]) -> None:
        """Where only the file as a whole states its length (mkv, flv), hold its longest streams to it."""
        states_length = self.promised is not None and bool(self.formats & {"matroska", "flv"})
        if not states_length or not spans or len(spans) < len(self.streams):
            return
        last = max(span.end for span in spans.values())
        missing = (self.promised or 0.0) - last
        if missing > 0.5:
            for kind, span in spans.items():
                if span.end > last - 0.5:
                    spans[kind] = Span(span.start, span.end + missing)

    def _last_packet_end(self, kind: Kind, start: float) -> float:
        """End of the stream's last packet: looked for near the end of the file, else by reading all of it."""
        near_end = (self.promised or 0.0) - 5.0
        places = [None] if near_end < 10.0 or self.formats & _SEQUENTIAL else [start + near_end, None]
        last = start
        for place in places:
            self._rewind(kind)
            stream = self.stream(kind)
            try:
                if place is not None:
                    self._container.seek(int(place / stream.time_base), stream=stream)
                for packet in self._container.demux(stream):
                    last = max(last, packet_end(packet))
            except av.error.FFmpegError:
                pass  # what a damaged file has is what was read so far
            if last > start:
                break
        return last
