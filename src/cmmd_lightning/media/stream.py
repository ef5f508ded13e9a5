"""One stream of an opened container, as FFmpeg has it: its choice, its threads, its packets, its rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal

import av.error
from av.stream import Disposition

Kind = Literal["video", "audio"]
_EVEN = 0.05  # relative difference between the average rate and FFmpeg's guess up to which the average is meant
NOUN: dict[Kind, str] = {"video": "picture", "audio": "sound"}


def choose(container: Any, kind: Kind) -> int | None:
    """Index of the first stream of a kind that is marked as default, else of the first; cover art is not video."""
    known = [s for s in getattr(container.streams, kind) if s.codec_context is not None]
    streams = [s for s in known if not s.disposition & Disposition.attached_pic]
    default = [s for s in streams if s.disposition & Disposition.default]
    return next((s.index for s in default + streams), None)


def set_threads(stream: Any) -> None:
    """Frame threads pay for large pictures only; small ones decode faster without."""
    if stream.codec_context.is_open:
        return
    if stream.type == "video" and stream.width * stream.height >= 640 * 480:
        stream.thread_type = "AUTO"
    else:
        stream.codec_context.thread_count = 1


def decoded_frames(container: Any, stream: Any, lenient: bool) -> Iterator[Any]:
    """Decoded frames; after a seek (``lenient``), packets that do not decode are passed over until one does."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if not lenient:
                raise
            continue
        lenient = lenient and not frames
        yield from frames


def timed_packets(container: Any, stream: Any) -> Iterator[Any]:
    """A stream's packets; the first ones, whose decoding times Matroska does not tell, get evenly spaced ones."""
    packets = container.demux(stream)
    untimed = []
    for packet in packets:
        untimed.append(packet)
        if packet.dts is not None or packet.pts is None:
            break
    for i, packet in enumerate(untimed):
        if packet.dts is None and packet.pts is not None and untimed[-1].dts is not None:
            packet.dts = untimed[-1].dts - (len(untimed) - 1 - i) * max(1, packet.duration or 0)
        yield packet
    yield from packets


def packet_end(packet: Any) -> float:
    """When a packet's content ends on the container's clock; -inf where it does not say when it begins."""
    if packet.pts is None:
        return -math.inf
    open_ended = not packet.duration and packet.stream.type == "video"
    lasts = 1 / frame_rate(packet.stream) if open_ended else (packet.duration or 0) * packet.time_base
    return float(packet.pts * packet.time_base + lasts)


def frame_rate(stream: Any) -> Fraction:
    """Frames per second of a video stream: the average, or where frames come unevenly, the grid that they lie on."""
    average, guessed = stream.average_rate, stream.guessed_rate or Fraction(25)
    return average if average and abs(average / guessed - 1) < _EVEN else guessed
