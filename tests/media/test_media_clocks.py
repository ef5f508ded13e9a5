"""A picture stands from its own time to the next one's, whatever rate it is read at, and keeps it when written."""

import random
from fractions import Fraction

import av
import pytest
import torch
from media_clips import numbered_frames, numbers, write_as

from cmmd_lightning.media import iter_frames, mux, probe

DRAW = random.Random(0)
CLOCKS = {  # milliseconds at which a frame begins, and the rate that the file states
    "stills": ([0, 1000, 2200, 3000, 3960], 25),
    "gap": ([i * 40 for i in range(100) if not 50 <= i < 63], 25),
    "1 fps": ([0, 1000, 2000, 3000], 1),
    "2 fps": ([i * 500 for i in range(8)], 2),
    "browser": ([i * 40 + DRAW.randint(-4, 4) * (i > 0) for i in range(100)], 1000),
}
FILES = [
    ("mp4", "libx264"),
    ("mkv", "libx264"),
    ("ts", "libx264"),
    ("flv", "libx264"),
    ("webm", "libvpx"),
    ("mov", "mpeg4"),
]


def unordered(stream):
    stream.codec_context.max_b_frames = 0


def truth(path) -> list[float]:
    """Seconds from the first frame at which each begins, by PyAV alone."""
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    return [time - times[0] for time in times]


def write_clock(path, codec, clock) -> list[float]:
    """The clip of a clock; its frames' times as the file keeps them."""
    times, stated = CLOCKS[clock]

    def clocked(stream):
        unordered(stream)
        stream.codec_context.framerate = Fraction(stated)
        stream.codec_context.time_base = Fraction(1, 1000)

    write_as(path, (codec, numbered_frames(len(times)), times, 1000), prepare=clocked)
    return truth(path)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(("suffix", "codec"), FILES)
def test_read_and_written_at_their_times(tmp_path, suffix, codec, clock):
    given, written = tmp_path / f"given.{suffix}", tmp_path / "written.mp4"
    times = write_clock(given, codec, clock)
    for fps in (10.0, 25.0, 100.0):
        shown = numbers(torch.cat(list(iter_frames(given, fps=fps))))
        for at, number in enumerate(shown):
            due = sum(time <= at / fps + 1e-6 for time in times) - 1
            soon = sum(time <= (at + 0.5) / fps + 1e-6 for time in times) - 1
            assert due <= number <= soon
    seconds = round(times[-1] - 0.1, 2)
    mux(written, seconds=seconds, video_from=given, sound=torch.zeros(64000), sample_rate=16000)
    kept = truth(written)
    assert kept == pytest.approx([time for time in times if time < seconds - 0.001], abs=0.001)
    assert numbers(torch.cat(list(iter_frames(written, fps=100.0))))[-1] == len(kept) - 1
    assert probe(written).video_duration == pytest.approx(seconds, abs=1 / probe(given).fps + 0.001)


@pytest.mark.parametrize("rate", [1, 2, 5, 8, 12, 15, 25, 30, 60])
@pytest.mark.parametrize("fps", [10.0, 20.0, 30.0, 100.0])
def test_low_rates_are_not_read_early(tmp_path, rate, fps):
    """A jump at 2 s comes at most half of a frame, the source's or the wanted one, early."""
    path = tmp_path / "low.mp4"
    write_as(path, ("libx264", numbered_frames(3 * rate), range(3 * rate), rate))
    shown = numbers(torch.cat(list(iter_frames(path, fps=fps))))
    jump = next(i for i, number in enumerate(shown) if number >= 2 * rate) / fps
    assert -0.5 / max(fps, rate) - 1e-6 <= jump - 2.0 < 1 / fps


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("ts", "libx264"), ("flv", "libx264")])
def test_h264_is_copied_from_other_containers(tmp_path, suffix, codec):
    given, written = tmp_path / f"given.{suffix}", tmp_path / "written.mp4"
    write_as(given, (codec, numbered_frames(60), range(60), 25))
    mux(written, seconds=probe(given).video_duration, video_from=given, sound=torch.zeros(64000), sample_rate=16000)
    sizes = []
    for path in (given, written):
        with av.open(str(path)) as container:
            sizes.append([frame.to_ndarray().tobytes() for frame in container.decode(video=0)])
    assert sizes[0] == sizes[1]
    assert truth(written) == pytest.approx(truth(given), abs=0.001)


def test_a_gif_keeps_its_times(tmp_path):
    given, written = tmp_path / "given.gif", tmp_path / "written.mp4"
    with av.open(str(given), "w") as container:
        stream = container.add_stream("gif", rate=100)
        stream.width = stream.height = 64
        stream.pix_fmt, stream.codec_context.time_base = "rgb8", Fraction(1, 100)
        for number, time in enumerate((0, 100, 220, 300)):
            picture = numbered_frames(4)[number].permute(1, 2, 0).numpy()
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="rgb8")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert numbers(torch.cat(list(iter_frames(given, fps=10.0, num_frames=30)))) == [0] * 10 + [1] * 12 + [2] * 8
    mux(written, seconds=3.0, video_from=given, sound=torch.zeros(64000), sample_rate=16000)
    assert truth(written) == pytest.approx([0.0, 1.0, 2.2], abs=1e-4)
    assert probe(written).video_duration == pytest.approx(3.0, abs=1e-3)
