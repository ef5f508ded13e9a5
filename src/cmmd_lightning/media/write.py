"""Writing media files: H.264 + AAC video files, and sound files; each written whole or not at all."""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from operator import itemgetter
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from av.container import OutputContainer
from av.packet import Packet
from av.video.reformatter import Colorspace, VideoReformatter
from torch import Tensor
from torchaudio.functional import resample

from .container import sndfile_name, url, written_whole

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_FRAME = 1024
X264_EXACT = {"x264-params": "mbtree=0"}  # mbtree encodes small pictures differently at each run
CRF = 16  # x264's constant rate factor: visually near lossless
_CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv", ".m4a")
_BT601 = 6  # AVCOL_*_SMPTE170M: what players assume of small pictures
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG

Track = Iterator[tuple[float, list[Packet]]]  # packets with the time (s) at which their content starts


def write_video(
    path: str | os.PathLike[str],
    frames: Tensor | Iterable[Tensor] | None,
    fps: float | None = None,
    sound: Tensor | None = None,
    sample_rate: int | None = None,
    *,
    crf: int = CRF,
) -> None:
    """Write pictures as H.264 (yuv420p) and sound as AAC; both start at 0, frame ``i`` is shown from ``i / fps`` on.

    The same frames and sound give the same file, byte for byte, on any number of cores. Odd heights and widths, which
    yuv420p cannot hold, are padded to even by repeating the last row or column.

    Args:
        path: The file to write: .mp4 (or .m4v, .mov, .mkv; .m4a for sound alone). Missing folders are made.
        frames: uint8 (T, 3, H, W), RGB; or an iterable of such chunks, which are encoded as they come; or None.
        fps: Frames per second; needed with ``frames``.
        sound: float (N,) in [-1, 1], mono; or None.
        sample_rate: Of the sound, in Hz; needed with ``sound``. Where AAC does not know the rate, the sound is
            resampled to the next higher one that it does.
        crf: x264's constant rate factor; lower is better and larger.

    Raises:
        ValueError: If neither frames nor sound are given, or they are not of the stated kind.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> frames = torch.zeros(10, 3, 32, 32, dtype=torch.uint8)
        >>> write_video(f"{folder}/clip.mp4", frames, 10.0, torch.zeros(16000), 16000)
        >>> os.listdir(folder)
        ['clip.mp4']
    """
    if frames is None and sound is None:
        raise ValueError(f"{os.fspath(path)}: expected frames or sound to write, got neither")
    with written_whole(path) as temporary, open_output(temporary) as container:
        tracks = []
        if frames is not None:
            tracks.append(video_track(container, frames, fps, crf))
        if sound is not None:
            tracks.append(sound_track(container, checked_sound(sound), sample_rate))
        mux_tracks(container, tracks)


def write_sound(path: str | os.PathLike[str], sound: Tensor, sample_rate: int) -> None:
    """Write mono sound as 16-bit PCM: .wav, or .flac.

    Args:
        path: The file to write. Missing folders are made.
        sound: float (N,); values beyond [-1, 1] are clipped.
        sample_rate: In Hz.

    Raises:
        ValueError: If the suffix is another, or ``sound`` is not of the stated kind.
    """
    if Path(path).suffix.lower() not in (".wav", ".flac"):
        raise ValueError(f"{os.fspath(path)}: expected the suffix .wav or .flac, got {Path(path).suffix!r}")
    samples = checked_sound(sound).clamp(-1.0, 1.0).numpy()
    with written_whole(path) as temporary:
        rate, kind = _positive("sample_rate", sample_rate), Path(path).suffix[1:]
        soundfile.write(sndfile_name(temporary), samples, rate, subtype="PCM_16", format=kind)


def open_output(path: Path) -> OutputContainer:
    """An output container of the kind that the suffix says; mp4 has its index in front, for streaming."""
    if path.suffix.lower() not in _CONTAINERS:
        raise ValueError(f"{path}: expected one of the suffixes {', '.join(_CONTAINERS)}, got {path.suffix!r}")
    return av.open(url(path), "w", options={} if path.suffix.lower() == ".mkv" else {"movflags": "+faststart"})


def mux_tracks(container: OutputContainer, tracks: Iterable[Track]) -> None:
    """Write the packets of several tracks in the order of their times."""
    for _, packets in heapq.merge(*tracks, key=itemgetter(0)):
        container.mux(packets)


def video_track(
    container: OutputContainer, frames: Tensor | Iterable[Tensor], fps: float | None, crf: int = CRF
) -> Track:
    """Add an H.264 stream now, of frames at a constant rate; encode them as the returned track is drawn."""
    rate = Fraction(_positive("fps", fps)).limit_denominator(1001)

    def pictures() -> Iterator[tuple[int, Tensor]]:
        numbers, size = itertools.count(), None
        for chunk in [frames] if isinstance(frames, Tensor) else frames:
            for picture in _checked(chunk, size):
                size = tuple(picture.shape[1:])
                yield next(numbers), picture

    return encoded(container, pictures(), 1 / rate, rate, crf)


def encoded(
    container: OutputContainer,
    pictures: Iterator[tuple[int, Tensor]],
    time_base: Fraction,
    rate: Fraction,
    crf: int,
    pixel_aspect: Fraction | None = None,
    seconds: float = 0.0,
) -> Track:
    """Add an H.264 stream now; encode the pictures, each with its own time, as the returned track is drawn.

    Args:
        container: Where to.
        pictures: Rising times, in units of ``time_base``, with uint8 (3, H, W).
        time_base: Seconds.
        rate: About how many come in a second.
        crf: x264's constant rate factor.
        pixel_aspect: Width of a pixel over its height; None for 1.
        seconds: When the last picture ends; it lasts for 1 / ``rate`` at least.
    """
    first = next(pictures, None)
    if first is None:
        raise ValueError("frames: expected at least one frame, got none")
    height, width = first[1].shape[1:]
    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "fast", **X264_EXACT})
    stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    context = stream.codec_context
    context.time_base = time_base
    context.sample_aspect_ratio = pixel_aspect or Fraction(1)
    context.gop_size = max(12, round(rate))  # a key frame a second: cheap to seek
    context.colorspace = context.color_primaries = context.color_trc = _BT601
    context.color_range = _LIMITED_RANGE
    context.thread_count = 1 if height * width < 500_000 else 4  # fixed: x264's output depends on it

    def encode() -> Track:
        reformatter, end = VideoReformatter(), round(seconds / time_base)
        lasts: dict[int, int] = {}
        current: tuple[int, Tensor] | None = first
        while current is not None:
            (time, picture), current = current, next(pictures, None)
            rgb = av.VideoFrame.from_ndarray(_even(picture.permute(1, 2, 0).numpy()), format="rgb24")
            frame = reformatter.reformat(
                rgb, format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=_LIMITED_RANGE, threads=1
            )
            frame.pts, frame.time_base = time, time_base
            lasts[time] = (current[0] if current else max(end, time + round(1 / rate / time_base))) - time
            yield float(time * time_base), [_lasting(packet, lasts) for packet in stream.encode(frame)]
        yield float((time + 1) * time_base), [_lasting(packet, lasts) for packet in stream.encode(None)]

    return encode()


def sound_track(container: OutputContainer, sound: Tensor, sample_rate: int | None) -> Track:
    """Add an AAC stream now, of sound (N,) or (2, N); encode it as the returned track is drawn."""
    rate = int(_positive("sample_rate", sample_rate))
    samples = torch.atleast_2d(sound)
    if not samples.shape[1]:
        raise ValueError("sound: expected at least one sample, got none")
    if rate not in AAC_RATES:
        known = next((known for known in AAC_RATES if known > rate), AAC_RATES[-1])
        samples, rate = resample(samples, rate, known), known
    layout = ("mono", "stereo")[len(samples) - 1]
    stream = container.add_stream("aac", rate=rate, layout=layout, options={"aac_coder": "fast"})
    stream.bit_rate = min(6 * rate, 160_000) * len(samples)
    array = samples.clamp(-1.0, 1.0).numpy()

    def encode() -> Track:
        for start in range(0, array.shape[1], AAC_FRAME):
            block = np.ascontiguousarray(array[:, start : start + AAC_FRAME])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            yield start / rate, stream.encode(frame)
        yield array.shape[1] / rate, stream.encode(None)

    return encode()


def _lasting(packet: Packet, lasts: dict[int, int]) -> Packet:
    """The packet, with how long its picture lasts: encoders leave it open, or guess it from the rate."""
    packet.duration = lasts.pop(packet.pts or 0)
    return packet


def _checked(chunk: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
    if chunk.dtype != torch.uint8 or chunk.ndim != 4 or chunk.shape[1] != 3:
        raise ValueError(f"frames: expected uint8 (T, 3, H, W), got {chunk.dtype} {tuple(chunk.shape)}")
    if size is not None and tuple(chunk.shape[2:]) != size:
        raise ValueError(f"frames: expected every chunk to be {size[0]} x {size[1]}, got {tuple(chunk.shape)}")
    return chunk.detach().cpu()


def _even(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) with an odd height or width padded to even by its last row or column."""
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(picture)


def checked_sound(sound: Tensor) -> Tensor:
    """The sound as float32 (N,) on the CPU; ValueError if it is none."""
    if sound.ndim != 1 or not sound.is_floating_point():
        raise ValueError(f"sound: expected float (N,), got {sound.dtype} {tuple(sound.shape)}")
    if not torch.isfinite(sound).all():
        raise ValueError("sound: expected finite samples, got NaN or infinity")
    return sound.detach().cpu().float()


def _positive(name: str, value: float | None) -> float:
    if value is None or not value > 0:
        raise ValueError(f"{name}: expected a positive number, got {value!r}")
    return value
