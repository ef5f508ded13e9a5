"""Sizes, shapes, colours, rotation; sound at other rates and in other files."""

import math
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
import torch
from media_clips import numbered_frames, numbers, write_as

from cmmd_lightning.media import (
    MediaError,
    iter_frames,
    iter_sound,
    mux,
    probe,
    read_frames,
    read_sound,
    write_sound,
    write_video,
)

COLOURS = torch.tensor(
    [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 0],
        [0, 255, 255],
        [255, 0, 255],
        [255, 255, 255],
        [0, 0, 0],
        [128, 64, 32],
    ],
    dtype=torch.uint8,
)


def test_colours_survive(tmp_path):
    path = tmp_path / "colours.mp4"
    write_video(path, COLOURS[:, :, None, None].expand(-1, 3, 48, 48), 5.0)
    read = read_frames(path, num_frames=len(COLOURS), fps=5.0)
    assert (read.float() - COLOURS[:, :, None, None].float()).abs().max() <= 5


@pytest.mark.parametrize("height", [64, 720])
def test_colours_of_other_matrices(tmp_path, height):
    """BT.709, stated (small) or implied by the size (HD and nothing stated)."""
    rgb = torch.tensor([200.0, 60.0, 30.0])
    luma = rgb @ torch.tensor([0.2126, 0.7152, 0.0722])
    planes = [
        16 + 219 * luma / 255,
        128 + 224 * (rgb[2] - luma) / 1.8556 / 255,
        128 + 224 * (rgb[0] - luma) / 1.5748 / 255,
    ]
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv420p"
        if height == 64:
            stream.codec_context.colorspace = 1
        frame = av.VideoFrame(64, height, "yuv420p")
        for plane, value in zip(frame.planes, planes, strict=True):
            plane.update(np.full(plane.buffer_size, round(float(value)), np.uint8).tobytes())
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read = read_frames(path, num_frames=1, fps=10.0)[0].float().mean((1, 2))
    assert torch.allclose(read, rgb, atol=4)


def halves(height: int, width: int) -> torch.Tensor:
    """Left half red, right half blue, with a green band over the top quarter; 3 frames."""
    picture = torch.zeros(3, height, width, dtype=torch.uint8)
    picture[0, :, : width // 2] = 220
    picture[2, :, width // 2 :] = 220
    picture[:, : height // 4] = torch.tensor([0, 220, 0], dtype=torch.uint8)[:, None, None]
    return picture.expand(3, 3, height, width)


def colour_at(picture: torch.Tensor, y: float, x: float) -> str:
    """Name of the colour at relative coordinates."""
    pixel = picture[:, int(y * picture.shape[1]), int(x * picture.shape[2])].float()
    return "black" if pixel.max() < 60 else "rgb"[int(pixel.argmax())]


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (100, 30), (256, 256)])
def test_crop_keeps_the_centre(tmp_path, size):
    path = tmp_path / "wide.mp4"
    write_video(path, halves(96, 192), 10.0)
    picture = read_frames(path, num_frames=1, fps=10.0, size=size)[0]
    assert picture.shape == (3, *size)
    assert colour_at(picture, 0.6, 0.3) == "r"
    assert colour_at(picture, 0.6, 0.7) == "b"
    # The border of the colours stays in the middle, the band on top keeps its share.
    red = picture[0].float() > picture[2].float()
    assert abs(red[-1].float().mean() - 0.5) < 0.04
    green = (picture[1, :, 2] > 110).float().mean()
    assert abs(green - 0.25) < 0.04


def test_letterbox_keeps_everything(tmp_path):
    path = tmp_path / "wide.mp4"
    write_video(path, halves(96, 192), 10.0)
    picture = read_frames(path, num_frames=1, fps=10.0, size=(80, 80), fit="letterbox")[0]
    assert picture.shape == (3, 80, 80)
    assert picture[:, :19].max() == 0
    assert picture[:, 61:].max() == 0
    assert [colour_at(picture, 0.3, 0.05), colour_at(picture, 0.6, 0.05), colour_at(picture, 0.6, 0.95)] == [
        "g",
        "r",
        "b",
    ]
    tall = read_frames(path, num_frames=1, fps=10.0, size=(41, 100), fit="letterbox")[0]
    assert (tall[:, :, :9].max(), tall[:, :, 91:].max()) == (0, 0)


@pytest.mark.parametrize(
    ("degrees", "shape", "green"), [(90, (192, 96), "left"), (-90, (192, 96), "right"), (180, (96, 192), "bottom")]
)
def test_rotation_mark_is_followed(tmp_path, degrees, shape, green):
    """A mark of +90 degrees turns the picture counterclockwise: its top comes to lie left."""
    path = tmp_path / "phone.mp4"
    write_as(
        path, ("libx264", halves(96, 192), range(3), 10), prepare=lambda stream: stream.set_display_rotation(degrees)
    )
    picture = read_frames(path, num_frames=1, fps=10.0)[0]
    assert picture.shape[1:] == shape
    where = {"left": (0.5, 0.1), "right": (0.5, 0.9), "bottom": (0.9, 0.5)}
    assert colour_at(picture, *where[green]) == "g"
    info = probe(path)
    assert (info.height, info.width) == shape
    assert read_frames(path, num_frames=1, fps=10.0, size=(40, 20))[0].shape == (3, 40, 20)


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


def sides(picture: torch.Tensor) -> tuple[str, str]:
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


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])  # copied when written; encoded when written
@pytest.mark.parametrize("name", MATRICES)
def test_all_orientations(tmp_path, name, codec):
    """A display matrix has eight orientations; they are read, and hold in what is written."""
    (a, b, c, d), left, top = MATRICES[name]
    picture = torch.full((3, 64, 96), 40, dtype=torch.uint8)
    picture[:, :, :12] = torch.tensor([220, 20, 20])[:, None, None]
    picture[:, :12] = torch.tensor([20, 220, 20])[:, None, None]
    path, out = tmp_path / "given.mp4", tmp_path / "out.mp4"
    write_as(path, (codec, picture.expand(10, 3, 64, 96), range(10), 10), prepare=low_aspect)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    moved = 96 * (a < 0) + 64 * (c < 0), 96 * (b < 0) + 64 * (d < 0)
    entries = (a << 16, b << 16, 0, c << 16, d << 16, 0, moved[0] << 16, moved[1] << 16, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", *entries)
    path.write_bytes(data)
    mux(out, seconds=1.0, video_from=path, sound=torch.zeros(16000), sample_rate=16000)
    for file in (path, out):
        read = read_frames(file, num_frames=1, fps=1.0)[0]
        assert sides(read) == (left, top)
        assert read.shape[1:] == (probe(file).height, probe(file).width) == ((64, 96) if a else (96, 64))
        whole = (64, 128) if a else (128, 64)
        assert sides(read_frames(file, num_frames=1, fps=1.0, size=whole)[0]) == (left, top)
    boxed = [read_frames(file, num_frames=1, fps=1.0, size=(48, 48), fit="letterbox") for file in (path, out)]
    assert (boxed[0].float() - boxed[1].float()).abs().mean() < 3


def low_aspect(stream):
    stream.codec_context.sample_aspect_ratio = Fraction(4, 3)


def test_a_picture_that_changes_its_size(tmp_path):
    """As screen and browser recorders write it: all pictures come in the first one's size."""
    path = tmp_path / "grows.ts"
    parts = []
    for size in (64, 96):
        write_as(tmp_path / "part.ts", ("mpeg2video", halves(size, size).repeat(4, 1, 1, 1), range(12), 25))
        parts.append((tmp_path / "part.ts").read_bytes())
    path.write_bytes(b"".join(parts))
    with av.open(str(path)) as container:
        assert {frame.height for frame in container.decode(video=0)} == {64, 96}
    shown = torch.cat(list(iter_frames(path, fps=25.0)))
    assert shown.shape[1:] == (3, 64, 64)
    assert {colour_at(picture, 0.8, 0.2) for picture in shown} == {"r"}


def test_pixel_aspect_is_respected(tmp_path):
    """96 x 192 pixels, each half as wide as high, are a square picture: nothing is cropped."""

    def narrow(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(1, 2)

    path = tmp_path / "narrow.mp4"
    write_as(path, ("libx264", halves(96, 192), range(3), 10), prepare=narrow)
    picture = read_frames(path, num_frames=1, fps=10.0, size=(64, 64))[0]
    box = read_frames(path, num_frames=1, fps=10.0, size=(64, 64), fit="letterbox")[0]
    assert torch.equal(picture, box)
    assert colour_at(picture, 0.1, 0.02) == "g"
    assert colour_at(picture, 0.9, 0.02) == "r"
    assert read_frames(path, num_frames=1, fps=10.0).shape == (1, 3, 96, 192)


def test_area_averaging(tmp_path):
    """A fine checkerboard shrinks to grey, not to moire."""
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8).expand(2, 3, 64, 64)
    path = tmp_path / "board.mp4"
    write_video(path, board, 10.0, crf=1)
    small = read_frames(path, num_frames=1, fps=10.0, size=(16, 16)).float()
    assert (small - 127.5).abs().max() < 12


def test_last_frame_and_spans_beyond_the_end(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, numbered_frames(20), 10.0)
    assert numbers(read_frames(path, start=1.5, num_frames=5, fps=10.0)) == [15, 16, 17, 18, 19]
    assert numbers(read_frames(path, start=2.04, num_frames=1, fps=10.0)) == [19]
    with pytest.raises(
        MediaError, match=r"clip.mp4: expected picture from 1.500 to 2.600 s, got picture that ends at 2.000 s"
    ):
        read_frames(path, start=1.5, num_frames=11, fps=10.0)
    with pytest.raises(MediaError, match="starts at 0 s or later"):
        read_frames(path, start=-0.5, num_frames=1, fps=10.0)
    assert [len(chunk) for chunk in iter_frames(path, fps=12.5, chunk=8)] == [8, 8, 8, 1]


def sine(times: np.ndarray) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * 440 * times) + 0.2 * np.sin(2 * np.pi * 1234.5 * times + 1)


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 24000, 44100])
@pytest.mark.parametrize("source_rate", [8000, 11025, 16000, 44100, 44101, 48000, 96000])
def test_resampling_in_closed_form(tmp_path, source_rate, sample_rate):
    path = tmp_path / "tone.wav"
    soundfile.write(path, sine(np.arange(3 * source_rate) / source_rate), source_rate, subtype="FLOAT")
    start = 0.7654321
    read = read_sound(path, start=start, num_samples=sample_rate, sample_rate=sample_rate).numpy()
    times = (round(start * sample_rate) + np.arange(sample_rate)) / sample_rate
    assert np.abs(read - sine(times)).max() < (0.05 if source_rate == 44101 else 0.002)  # half a source sample


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("aiff", "PCM_16")],
)
def test_sound_files(tmp_path, suffix, subtype):
    path = tmp_path / f"tone.{suffix}"
    left = sine(np.arange(32000) / 16000)
    soundfile.write(path, np.stack([left, 0.5 * left], axis=1), 16000, subtype=subtype)
    read = torch.cat(list(iter_sound(path, sample_rate=16000, chunk=5000)))
    assert np.abs(read.numpy() - 0.75 * left).max() < 1e-4
    info = probe(path, verify=True)
    assert (info.duration, info.channels, info.sample_rate, info.problems) == (2.0, 2, 16000, ("no picture",))


@pytest.mark.parametrize(
    ("suffix", "codec", "tolerance"),
    [
        ("mp3", "libmp3lame", 0.03),
        ("m4a", "aac", 0.03),
        ("opus", "libopus", 0.05),
        ("mov", "pcm_s24le", 1e-5),
        ("mkv", "pcm_f32le", 1e-5),
    ],
)
def test_coded_sound_is_where_it_was(tmp_path, suffix, codec, tolerance):
    """Stereo through other codecs: the mean of both channels, no delay, and the source's length."""
    path = tmp_path / f"tone.{suffix}"
    rate = 48000
    tone = torch.from_numpy(sine(np.arange(2 * rate) / rate)).float()
    right = 0.5 if "pcm" in codec else 1.0  # coders of unlike channels add noise of their own
    write_as(path, audio=(codec, torch.stack([tone, right * tone]), rate, 0))
    for start in (0.0, 1.3):
        read = read_sound(path, start=start, num_samples=8000, sample_rate=16000).numpy()
        times = start + np.arange(8000) / 16000
        wanted = (1 + right) / 2 * sine(times)
        assert np.abs(read - wanted)[1600:-400].max() < tolerance
    assert probe(path).audio_duration == pytest.approx(2.0, abs=0.025)


def test_pieces_of_sound_agree(tmp_path):
    path = tmp_path / "noise.wav"
    write_sound(path, torch.randn(44100 * 3, generator=torch.Generator().manual_seed(1)) * 0.1, 44100)
    whole = read_sound(path, num_samples=48000, sample_rate=16000)
    chunks = list(iter_sound(path, sample_rate=16000, chunk=1000))
    assert [len(chunk) for chunk in chunks] == [1000] * 48
    assert torch.allclose(torch.cat(chunks), whole, atol=1e-6)
    for start in (0.00001, 0.5, 1.23456, 2.9):
        part = read_sound(path, start=start, num_samples=1600, sample_rate=16000)
        assert torch.allclose(part, whole[round(start * 16000) :][:1600], atol=1e-6)


def test_spans_of_sound_beyond_the_end(tmp_path):
    path = tmp_path / "clip.wav"
    write_sound(path, torch.full((16000,), 0.5), 16000)
    read = read_sound(path, start=0.5, num_samples=8700, sample_rate=16000)
    assert (read[:8000] - 0.5).abs().max() < 1e-4
    assert read[8000:].abs().max() == 0
    with pytest.raises(
        MediaError, match=r"clip.wav: expected sound from 0.500 to 1.500 s, got sound that ends at 1.000 s"
    ):
        read_sound(path, start=0.5, num_samples=16000, sample_rate=16000)


def test_gaps_in_the_sound_are_silent(tmp_path):
    """Sound that pauses in its file's times: what follows stays at its time."""
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for start in (0, 8000, 24000):
            frame = av.AudioFrame.from_ndarray(np.full((1, 8000), 8192, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read = read_sound(path, num_samples=32000, sample_rate=16000)
    expected = torch.cat([torch.full((16000,), 0.25), torch.zeros(8000), torch.full((8000,), 0.25)])
    assert torch.equal(read, expected)
    assert math.isclose(probe(path).duration, 2.0)
