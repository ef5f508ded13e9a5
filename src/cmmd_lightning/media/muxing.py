"""Putting a picture and a sound together, one of them given as a file: what ``cmmd predict`` writes."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from typing import Any

import av
import torch
from av.container import OutputContainer
from torch import Tensor

from .container import MediaError, open_media, url, written_whole
from .fit import Fitter, orientation
from .sound import PcmFile, StreamSound, downmix, open_sound
from .stream import NOUN, Kind, frame_rate
from .timeline import TAIL, Decoded, MediaFile
from .write import CRF, Track, checked_sound, encoded, mux_tracks, open_output, overshoot, sound_track, video_track

_TICK = Fraction(1, 90000)  # seconds: the clock of a picture that is encoded frame by frame, each at its own time


def mux(
    path: str | os.PathLike[str],
    *,
    seconds: float,
    video_from: str | os.PathLike[str] | None = None,
    frames: Tensor | Iterable[Tensor] | None = None,
    fps: float | None = None,
    audio_from: str | os.PathLike[str] | None = None,
    sound: Tensor | None = None,
    sample_rate: int | None = None,
    crf: int = CRF,
) -> float:
    """Write one picture and one sound over the span [0, ``seconds``); each is a file's, or given as a tensor.

    A file's H.264 picture is copied packet by packet where it can be cut within one frame of the span; any other is
    encoded to H.264 at its own size and pixel aspect, each frame at its own time. A file's AAC sound in an mp4 is
    copied likewise, cut to the sample; any other is encoded to AAC at its own rate and channels (more than two are
    mixed to one).

    Args:
        path: The file to write, .mp4 or .mov.
        seconds: Length of the span from the files' zero of time.
        video_from: File whose picture to take; or
        frames: uint8 (T, 3, H, W) or an iterable of chunks, with ``fps``.
        fps: Frames per second of ``frames``.
        audio_from: File whose sound to take; or
        sound: float (N,) in [-1, 1], with ``sample_rate``.
        sample_rate: Of ``sound``, in Hz.
        crf: x264's constant rate factor where the picture is encoded.

    Returns:
        By how much (dB) the highest peak of the sound was limited, because it was above full scale; 0 for not at all.

    Raises:
        ValueError: Unless exactly one picture and one sound are given.
        MediaError: If a file is unreadable, truncated, lacks the stream, or ends before the span does.
    """
    if (video_from is None) == (frames is None) or (audio_from is None) == (sound is None):
        raise ValueError(
            f"{os.fspath(path)}: expected one picture and one sound, each from a file or given, got otherwise"
        )
    if not seconds > 0:
        raise ValueError(f"{os.fspath(path)}: expected a positive number of seconds, got {seconds!r}")
    with written_whole(path) as temporary, open_output(temporary) as container, ExitStack() as stack:
        if video_from is not None:
            picture = _file_picture(container, stack, video_from, seconds, crf)
        else:
            assert frames is not None
            picture = video_track(container, _first_frames(frames, _frames_within(seconds, fps or 0.0)), fps, crf)
        if audio_from is not None:
            track, over = _file_sound(container, stack, audio_from, seconds)
        else:
            assert sound is not None
            part = checked_sound(sound)[: round(seconds * (sample_rate or 0))]
            track, over = sound_track(container, part, sample_rate), overshoot(part)
        mux_tracks(container, [picture, track])
    return over


def _frames_within(seconds: float, fps: float) -> int:
    """Frames that begin before ``seconds`` (a hundredth of a frame is forgiven)."""
    return max(1, math.ceil(seconds * fps - 0.01))


def _first_frames(frames: Tensor | Iterable[Tensor], count: int) -> Iterator[Tensor]:
    for chunk in [frames] if isinstance(frames, Tensor) else frames:
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return


def _file_picture(
    container: OutputContainer, stack: ExitStack, path: str | os.PathLike[str], seconds: float, crf: int
) -> Track:
    media = stack.enter_context(MediaFile(path))
    _check_lasts(media, "video", seconds)
    rate, pixel_aspect = frame_rate(media.stream("video")), media.stream("video").sample_aspect_ratio
    count, last = _packets_to_copy(media, seconds)
    if count:
        return _copied(container, media, "video", count, max(seconds, last + 1 / float(rate)), last)
    fitter, kept = Fitter(None), _kept_times(media.decode("video"), seconds, max(1 / float(rate), 0.01))
    first = next(kept)
    if pixel_aspect and orientation(first[1])[0]:
        pixel_aspect = 1 / pixel_aspect
    pictures = ((round(time / _TICK), fitter(frame)) for time, frame in itertools.chain([first], kept))
    return encoded(container, pictures, _TICK, rate, crf, pixel_aspect, seconds)


def _kept_times(items: Iterator[Decoded], seconds: float, step: float) -> Iterator[tuple[float, Any]]:
    """Each picture that begins before ``seconds`` at its own time; the one on show at 0 from then on.

    Where none is, the first to come stands still, repeated every ``step`` seconds.
    """
    shown, begun = None, False
    for item in items:
        if item.time < _TICK / 2:
            shown = item
            continue
        if shown and not begun:
            yield 0.0, shown.frame
        elif not begun:
            count = int(item.time / step + 0.01) or int(item.time > seconds - 0.0005)
            still = (item.time - i * step for i in range(count, 0, -1))
            yield from ((max(0.0, time), item.frame) for time in itertools.takewhile(lambda t: t < seconds, still))
        begun = True
        if item.time > seconds - 0.0005:
            return
        yield item.time, item.frame
    if shown and not begun:
        yield 0.0, shown.frame


def _file_sound(
    container: OutputContainer, stack: ExitStack, path: str | os.PathLike[str], seconds: float
) -> tuple[Track, float]:
    """The track, and how far (dB) its highest peak was above full scale."""
    given = open_sound(path)
    stack.enter_context(given)
    _check_lasts(given, "audio", seconds)
    if isinstance(given, StreamSound) and _aac_can_be_copied(given.media):
        end = min(seconds, given.span().end)
        count = sum(packet.pts / given.rate < end for packet in given.media.packets("audio"))
        return _copied(container, given.media, "audio", count, end), 0.0
    blocks, missing = [], round(seconds * given.rate)
    mix = downmix(path) if given.channels > 2 else None
    for block in given.blocks(0):
        blocks.append(torch.from_numpy((mix(block)[None] if mix else block)[:, :missing]))
        missing -= block.shape[1]
        if missing <= 0:
            break
    whole = torch.cat(blocks, dim=1)
    return sound_track(container, whole, given.rate), overshoot(whole)


def _check_lasts(media: MediaFile | PcmFile | StreamSound, kind: Kind, seconds: float) -> None:
    end = media.span(kind).end
    if seconds > end + TAIL:
        raise MediaError(media.path, f"{NOUN[kind]} of at least {seconds:.3f} s", f"{end:.3f} s")


def _packets_to_copy(media: MediaFile, seconds: float) -> tuple[int, float]:
    """How many of the first video packets make the span when copied, and the time of the last of them to be shown.

    0 where copying would not give the span within one frame.

    The first n packets in decoding order can stand alone where they are also the first n to be shown.
    """
    stream = media.stream("video")
    rate, tick = float(frame_rate(stream)), stream.time_base
    if stream.codec_context.name != "h264" or media.span("video").start > 0.5 / rate:
        return 0, 0.0
    packets = [(p.pts, p.dts, p.is_discard, p.is_keyframe) for p in media.packets("video")]
    whole = packets and packets[0][3] and not any(p is None or d is None or discard for p, d, discard, _ in packets)
    if not whole:
        return 0, 0.0
    shown = [float(pts * tick) - media.zero for pts, *_ in packets]
    if min(shown) < -_TICK or len(set(shown)) < len(shown):
        return 0, 0.0
    wanted = sum(time < seconds - 0.01 / rate for time in shown)
    ends = [*sorted(shown)[1:], media.span("video").end]
    for count in (wanted, wanted + 1, wanted - 1):
        if not 0 < count <= len(shown):
            continue
        near = count == wanted or abs(ends[count - 1] - seconds) <= 1 / rate
        if near and max(shown[:count]) < min(shown[count:], default=math.inf):
            return count, max(shown[:count])
    return 0, 0.0


def _aac_can_be_copied(media: MediaFile) -> bool:
    """Plain AAC in an mp4 whose clock begins with the sound, its priming packets marked as such."""
    stream = media.stream("audio")
    plain = stream.codec_context.name == "aac" and stream.profile == "LC" and stream.codec_context.channels <= 2
    clock = "mp4" in media.formats and not media.zero and media.span("audio").start == 0
    return plain and clock and stream.time_base * stream.codec_context.sample_rate == 1


def _copied(
    container: OutputContainer, media: MediaFile, kind: Kind, count: int, seconds: float, last: float = math.inf
) -> Track:
    """Add a stream like the file's now; copy its first ``count`` packets.

    None lasts beyond ``seconds``; those that begin at ``last`` or later last until then.
    """
    stream = media.stream(kind)
    target = container.add_stream_from_template(stream)
    zero, end, still = (round(time / stream.time_base) for time in (media.zero, seconds, min(last, seconds)))

    def copy() -> Track:
        for packet in itertools.islice(media.packets(kind), count):
            packet.pts, packet.dts = packet.pts - zero, packet.dts - zero
            if packet.pts >= still or packet.pts + packet.duration > end:
                packet.duration = max(1, end - packet.pts)
            packet.stream = target
            yield float(packet.dts * packet.time_base), [packet]

    return copy()


def copy_delayed(path: str | os.PathLike[str], output: str | os.PathLike[str], seconds: float) -> None:
    """Copy a file packet by packet, its sound so many seconds later (negative: earlier, the rest being later then).

    Args:
        path: A file with a picture and a sound.
        output: The file to write, in the container of its suffix.
        seconds: To within a tick of the stream's clock.

    Raises:
        MediaError: If the file is unreadable, or its container cannot hold it so.
    """
    with MediaFile(path) as media:
        chosen = {media.stream(kind).index for kind in NOUN}
    late = {"audio": max(0.0, seconds)}
    with open_media(os.fspath(path)) as source, written_whole(output) as part, av.open(url(part), "w") as target:
        kept = [stream for stream in source.streams if stream.index in chosen or stream.type in ("audio", "subtitle")]
        try:
            tracks = {stream.index: target.add_stream_from_template(stream) for stream in kept}
        except ValueError as error:
            names = " and ".join(stream.codec_context.name for stream in kept)
            raise MediaError(output, f"a container that takes {names}", str(error)) from error
        for packet in source.demux(kept):
            if packet.dts is None:
                continue  # the end of a stream
            ticks = round(late.get(packet.stream.type, max(0.0, -seconds)) / packet.time_base)
            packet.pts, packet.dts = None if packet.pts is None else packet.pts + ticks, packet.dts + ticks
            packet.stream = tracks[packet.stream_index]
            target.mux(packet)
