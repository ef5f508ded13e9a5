"""Clips for the media tests: every frame shows its own number, one frame flashes, and the sound clicks."""

from __future__ import annotations

import heapq
import struct
from fractions import Fraction
from operator import itemgetter

import av
import numpy as np
import torch
from torch import Tensor

SIZE = 64
BITS = 12
CELL = 16  # pixels; 4 x 3 cells hold the bits, the bottom row of cells is the lamp


def numbered_frames(count: int, flashes: tuple[int, ...] = ()) -> Tensor:
    """uint8 (count, 3, 64, 64): frame i shows i in black and white cells; its bottom row is lit where it flashes."""
    bits = (torch.arange(count)[:, None] >> torch.arange(BITS)) & 1
    cells = torch.cat([bits.reshape(count, 3, 4), torch.zeros(count, 1, 4, dtype=bits.dtype)], dim=1)
    for frame in flashes:
        cells[frame, 3] = 1
    picture = (cells * 219 + 16).to(torch.uint8).repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    return picture[:, None].expand(count, 3, SIZE, SIZE).contiguous()


def numbers(frames: Tensor) -> list[int]:
    """The number that each frame shows."""
    cells = frames.float().mean(1).unflatten(1, (4, CELL)).unflatten(3, (4, CELL)).mean((2, 4))
    bits = (cells[:, :3].flatten(1) > 128).long()
    return (bits << torch.arange(BITS)).sum(1).tolist()


def lit(frames: Tensor) -> list[bool]:
    """Whether each frame flashes."""
    return (frames[:, :, 3 * CELL + 4 : -4].float().mean((1, 2, 3)) > 128).tolist()


def clicks(seconds: float, sample_rate: int, times: tuple[float, ...]) -> Tensor:
    """Silence with a one-sample click at each time."""
    sound = torch.zeros(round(seconds * sample_rate))
    for time in times:
        sound[round(time * sample_rate)] = 0.9
    return sound


def loudest(sound: Tensor, sample_rate: int) -> float:
    """Seconds from the start of the loudest sample."""
    return sound.abs().argmax().item() / sample_rate


def write_as(path, video=None, audio=None, *, options=None, container_options=None, prepare=None):
    """Write a file with PyAV alone, in any codec and container, with times given to each frame.

    video: (codec, frames, times in units of 1/fps, fps); audio: (codec, sound, sample_rate, start in samples).
    """
    with av.open(str(path), "w", options=options or {}, container_options=container_options or {}) as container:
        tracks = []
        if video:
            tracks.append(_video(container, prepare, *video))
        if audio:
            tracks.append(_audio(container, *audio))
        for _, packets in heapq.merge(*tracks, key=itemgetter(0)):
            container.mux(packets)


def _video(container, prepare, codec, frames, times, fps):
    quick = {"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx" else {}
    stream = container.add_stream(codec, rate=Fraction(fps), options=quick)
    stream.width, stream.height, stream.pix_fmt = frames.shape[3], frames.shape[2], "yuv420p"
    stream.codec_context.bit_rate = 4_000_000
    if prepare:
        prepare(stream)
    base = 1 / Fraction(fps)

    def encode():
        for picture, time in zip(frames.permute(0, 2, 3, 1).numpy(), times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
                format="yuv420p", threads=1
            )
            frame.pts, frame.time_base = time, base
            yield float(time * base), stream.encode(frame)
        yield 1e9, stream.encode(None)

    return encode()


def _audio(container, codec, sound, sample_rate, start):
    sound = torch.atleast_2d(sound)
    layout = {1: "mono", 2: "stereo"}[len(sound)]
    stream = container.add_stream(codec, rate=sample_rate, layout=layout)
    if codec != "flac" and "pcm" not in codec:
        stream.bit_rate = 128_000
    resampler = av.AudioResampler(format=stream.codec_context.format.name, layout=layout, rate=sample_rate)

    def encode():
        for at in range(0, sound.shape[1], 1024):
            block = np.ascontiguousarray(sound[:, at : at + 1024].numpy())
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = sample_rate, at + start, Fraction(1, sample_rate)
            for converted in resampler.resample(frame):
                yield (at + start) / sample_rate, stream.encode(converted)
        yield 1e9, stream.encode(None)

    return encode()


def cut_packets(source, path, start: float, seconds: float | None = None) -> None:
    """Copy the packets from the key frame before ``start`` on, with times from there on, as ``ffmpeg -c copy`` does."""
    options = (
        {"avoid_negative_ts": "disabled"} if str(path).endswith(("mp4", "mov")) else {}
    )  # others have no edit lists
    with av.open(str(source)) as given, av.open(str(path), "w", options=options) as out:
        kept = {stream.index: out.add_stream_from_template(stream) for stream in given.streams}
        video = given.streams.video[0]
        keys = [p.pts * p.time_base for p in given.demux(video) if p.is_keyframe and p.pts is not None]
        begin = max(time for time in keys if time <= start)
        given.seek(0)
        for packet in given.demux():
            if packet.dts is None or (seconds is not None and packet.dts * packet.time_base >= start + seconds):
                continue
            if packet.pts * packet.time_base < begin - (0 if packet.stream is video else Fraction(1, 20)):
                continue
            shift = round(start / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, kept[packet.stream.index]
            out.mux(packet)


def write_layout(path, channels, layout, rate=48000):
    """A wav or flac whose header names the channels' places."""
    sound = np.clip(np.stack(channels), -1, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac" if path.suffix == ".flac" else "pcm_s16le", rate=rate, layout=layout)
        block = np.ascontiguousarray((sound * 32767).astype(np.int16).T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


MATRICES = {  # (a, b, c, d): (x, y) goes to (a x + c y, b x + d y); then where the left and the top side come to lie
    "plain": ((1, 0, 0, 1), "left", "top"),
    "mirrored": ((-1, 0, 0, 1), "right", "top"),
    "upside down": ((1, 0, 0, -1), "left", "bottom"),
    "half turn": ((-1, 0, 0, -1), "right", "bottom"),
    "clockwise": ((0, 1, -1, 0), "top", "right"),
    "counterclockwise": ((0, -1, 1, 0), "bottom", "left"),
    "diagonal": ((0, 1, 1, 0), "top", "left"),
    "other diagonal": ((0, -1, -1, 0), "bottom", "right"),
}


def turn(path, matrix: tuple[int, int, int, int], width: int, height: int) -> None:
    """Write a display matrix into an mp4's track header."""
    a, b, c, d = matrix
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    x, y = width * (a < 0) + height * (c < 0), width * (b < 0) + height * (d < 0)
    entries = (a << 16, b << 16, 0, c << 16, d << 16, 0, x << 16, y << 16, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", *entries)
    path.write_bytes(data)


def coloured_sides(width: int, height: int) -> Tensor:
    """uint8 (3, height, width), grey, its left side red and its top green."""
    picture = torch.full((3, height, width), 40, dtype=torch.uint8)
    picture[:, :, :12] = torch.tensor([220, 20, 20])[:, None, None]
    picture[:, :12] = torch.tensor([20, 220, 20])[:, None, None]
    return picture


def sides(picture: Tensor) -> tuple[str, str]:
    """Where the red and the green side of a picture are."""
    picture = picture.float()
    strips = {
        "left": picture[:, 16:-16, :6],
        "right": picture[:, 16:-16, -6:],
        "top": picture[:, :6, 16:-16],
        "bottom": picture[:, -6:, 16:-16],
    }
    means = {side: strip.mean((1, 2)) for side, strip in strips.items()}
    red = max(means, key=lambda side: float(means[side][0] - means[side][1]))
    return red, max(means, key=lambda side: float(means[side][1] - means[side][0]))
