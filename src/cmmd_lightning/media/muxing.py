"""Putting a picture and a sound together, one of them given as a file: what ``cmmd predict`` writes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice

import torch
from av.container import OutputContainer
from torch import Tensor

from .container import MediaError, written_whole
from .read import iter_frames
from .sound import PcmFile, Sound, StreamSound, is_pcm
from .stream import NOUN, Kind, frame_rate
from .timeline import TAIL, MediaFile
from .write import CRF, Track, checked_sound, mux_tracks, open_output, sound_track, video_track


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
) -> None:
    """Write one picture and one sound over the span [0, ``seconds``); each is a file's, or given as a tensor.

    A file's H.264 picture in an mp4 or mov is copied packet by packet where it can be cut within one frame of the span;
    any other is encoded to H.264 at its own size, rate and pixel aspect. A file's AAC sound in an mp4 is copied
    likewise, cut to the sample; any other is encoded to AAC at its own rate and channels (more than two are mixed to
    one).

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
            tracks = [_file_picture(container, stack, video_from, seconds, crf)]
        else:
            assert frames is not None
            tracks = [video_track(container, _first_frames(frames, _frames_within(seconds, fps or 0.0)), fps, crf)]
        if audio_from is not None:
            tracks.append(_file_sound(container, stack, audio_from, seconds))
        else:
            assert sound is not None
            part = checked_sound(sound)[: round(seconds * (sample_rate or 0))]
            tracks.append(sound_track(container, part, sample_rate))
        mux_tracks(container, tracks)


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
    stream = media.stream("video")
    if count := _packets_to_copy(media, seconds):
        return _copied(container, media, "video", count, math.inf)
    rate = float(frame_rate(stream))
    count = _frames_within(min(seconds, media.span("video").end), rate)
    chunks = iter_frames(path, fps=rate, num_frames=count, chunk=16)
    return video_track(container, chunks, rate, crf, stream.sample_aspect_ratio)


def _file_sound(container: OutputContainer, stack: ExitStack, path: str | os.PathLike[str], seconds: float) -> Track:
    media: PcmFile | MediaFile = PcmFile(path) if is_pcm(path) else MediaFile(path)
    stack.enter_context(media)
    _check_lasts(media, "audio", seconds)
    if isinstance(media, MediaFile) and _aac_can_be_copied(media):
        rate = media.stream("audio").codec_context.sample_rate
        end = min(seconds, media.span("audio").end)
        count = sum(packet.pts / rate < end for packet in media.packets("audio"))
        return _copied(container, media, "audio", count, round(end * rate))
    given: Sound = media if isinstance(media, PcmFile) else StreamSound(media)
    blocks, missing = [], round(seconds * given.rate)
    for block in given.blocks(0):
        blocks.append(torch.from_numpy(block[:, :missing]))
        missing -= block.shape[1]
        if missing <= 0:
            break
    whole = torch.cat(blocks, dim=1)
    return sound_track(container, whole if len(whole) <= 2 else whole.mean(dim=0), given.rate)


def _check_lasts(media: MediaFile | PcmFile, kind: Kind, seconds: float) -> None:
    end = media.span(kind).end
    if seconds > end + TAIL:
        raise MediaError(media.path, f"{NOUN[kind]} of at least {seconds:.3f} s", f"{end:.3f} s")


def _packets_to_copy(media: MediaFile, seconds: float) -> int:
    """How many of the first video packets make the span when copied; 0 if copying would not give it within one frame.

    The first n packets in decoding order can stand alone where they are also the first n to be shown.
    """
    stream = media.stream("video")
    rate = float(frame_rate(stream))
    late = media.zero or media.span("video").start > 0.5 / rate
    if late or stream.codec_context.name != "h264" or "mp4" not in media.formats:
        return 0
    packets = [(packet.pts, packet.dts, packet.is_discard) for packet in media.packets("video")]
    if any(pts is None or dts is None or discard for pts, dts, discard in packets):
        return 0
    shown = [float(pts * stream.time_base) for pts, _, _ in packets]
    wanted = sum(time < seconds - 0.01 / rate for time in shown)
    ends = [*sorted(shown)[1:], media.span("video").end]
    for count in (wanted, wanted + 1, wanted - 1):
        if not 0 < count <= len(shown):
            continue
        near = count == wanted or abs(ends[count - 1] - seconds) <= 1 / rate
        if near and max(shown[:count]) < min(shown[count:], default=math.inf):
            return count
    return 0


def _aac_can_be_copied(media: MediaFile) -> bool:
    """Plain AAC in an mp4 whose clock begins with the sound, its priming packets marked as such."""
    stream = media.stream("audio")
    plain = stream.codec_context.name == "aac" and stream.profile == "LC" and stream.codec_context.channels <= 2
    clock = "mp4" in media.formats and not media.zero and media.span("audio").start == 0
    return plain and clock and stream.time_base * stream.codec_context.sample_rate == 1


def _copied(container: OutputContainer, media: MediaFile, kind: Kind, count: int, end: float) -> Track:
    """Add a stream like the file's now; copy its first ``count`` packets, cut at ``end`` (in its time base)."""
    target = container.add_stream_from_template(media.stream(kind))

    def copy() -> Track:
        for packet in islice(media.packets(kind), count):
            time = float(packet.dts * packet.time_base)
            packet.duration = int(min(packet.duration, end - packet.pts))
            packet.stream = target
            yield time, [packet]

    return copy()
