"""Picture and sound are where their times say, whatever the file's rates, start, edit lists and codec delay."""

import random
from itertools import pairwise

import pytest
import torch
from media_clips import clicks, lit, loudest, numbered_frames, numbers, write_as

from cmmd_lightning.media import iter_frames, iter_sound, probe, read_frames, read_sound, write_video

RATES = (10.0, 12.5, 25.0, 29.97, 30.0)
CLICK = 0.002  # seconds


def on_show(time: float, times: list[float], forgiven: float) -> set[int]:
    """Numbers of the frames that may stand at a time, by brute force; two where rounding decides."""
    return {max((i for i, t in enumerate(times) if t <= time + forgiven + e), default=0) for e in (-2e-6, 2e-6)}


@pytest.mark.parametrize("sample_rate", [16000, 44100])
@pytest.mark.parametrize("fps", RATES)
def test_click_and_flash(tmp_path, fps, sample_rate):
    count = int(4 * fps)
    flash = int(2.3 * fps)
    time = flash / fps
    path = tmp_path / "clip.mp4"
    write_video(path, numbered_frames(count, (flash,)), fps, clicks(4.0, sample_rate, (time,)), sample_rate)
    draw = random.Random(f"{fps} {sample_rate}")
    for read_fps in RATES:
        for lead in (0, 3, 8, 16):
            # Start so that frame `lead` falls on the flash, up to a little less than half a frame beside it.
            half = 0.5 / max(fps, read_fps)
            start = time - lead / read_fps + draw.uniform(-0.9 * half, 0.9 * half)
            frames = read_frames(path, start=start, num_frames=lead + 4, fps=read_fps)
            source = [i / fps for i in range(count)]
            wanted = [on_show(start + i / read_fps, source, half) for i in range(lead + 4)]
            assert all(n in may for n, may in zip(numbers(frames), wanted, strict=True))
            assert lit(frames)[lead]
        for read_rate in (16000, 44100):
            for start in (0.0, draw.uniform(0, 1), draw.uniform(1, 2), time - 0.01, time):
                sound = read_sound(path, start=start, num_samples=int(1.2 * read_rate), sample_rate=read_rate)
                if start + 1.2 > time + CLICK:
                    assert abs(start + loudest(sound, read_rate) - time) < CLICK
                else:
                    assert sound.abs().max() < 0.05


def test_no_drift_over_half_a_minute(tmp_path):
    fps, count = 29.97, 900
    flashes = tuple(range(150, count, 150))
    path = tmp_path / "long.mp4"
    write_video(path, numbered_frames(count, flashes), fps, clicks(30.1, 44100, tuple(f / fps for f in flashes)), 44100)
    for flash in flashes:
        start = flash / fps - 0.25
        assert lit(read_frames(path, start=start, num_frames=26, fps=100.0)).index(True) == 25
        assert abs(loudest(read_sound(path, start=start, num_samples=8000, sample_rate=16000), 16000) - 0.25) < 0.0002
    lamps = torch.cat([torch.tensor(lit(chunk)) for chunk in iter_frames(path, fps=fps)])
    assert tuple(lamps.nonzero().flatten().tolist()) == flashes


CONTAINERS = [
    ("mov", "libx264", "aac", 44100),
    ("mp4", "libx264", "libmp3lame", 44100),
    ("mkv", "libx264", "aac", 48000),
    ("mkv", "libx264", "flac", 16000),
    ("webm", "libvpx", "libopus", 48000),
    ("ts", "libx264", "aac", 44100),
    ("mpg", "mpeg1video", "mp2", 44100),
    ("mpg", "mpeg2video", "mp2", 48000),
    ("flv", "libx264", "aac", 44100),
]


@pytest.mark.parametrize(("suffix", "video", "audio", "rate"), CONTAINERS)
def test_seeking_equals_reading_through(tmp_path, suffix, video, audio, rate):
    path = tmp_path / f"clip.{suffix}"
    noise = torch.randn(rate * 6, generator=torch.Generator().manual_seed(0)) * 0.1
    write_as(path, (video, numbered_frames(150), range(150), 25), (audio, noise, rate, 0))
    frames = torch.cat(list(iter_frames(path, fps=20.0, chunk=7)))
    sound = torch.cat(list(iter_sound(path, sample_rate=16000, chunk=10_000)))
    shown = numbers(frames)
    assert (shown[0], shown[-1] >= 147) == (0, True)
    assert set(after - before for before, after in pairwise(shown)) == {1, 2}
    for start in (0.05, 0.95, 2.1, 3.35, 4.75):
        part = read_frames(path, start=start, num_frames=16, fps=20.0)
        assert torch.equal(part, frames[round(start * 20) :][:16])
        part = read_sound(path, start=start, num_samples=16000, sample_rate=16000)
        if suffix in ("mp4", "mov"):
            assert (part - sound[round(start * 16000) :][:16000]).abs().max() < 1e-4
        else:  # times in whole milliseconds, or in 1/90000 s
            assert abs(lag(part, sound) / 16000 - start) < 0.0011


def lag(part: torch.Tensor, whole: torch.Tensor) -> int:
    """Sample of ``whole`` at which ``part`` fits best."""
    size = len(part) + len(whole)
    product = torch.fft.rfft(whole, size) * torch.fft.rfft(part, size).conj()
    return int(torch.fft.irfft(product, size).argmax())


@pytest.mark.parametrize(("suffix", "video", "audio", "rate"), CONTAINERS)
@pytest.mark.parametrize("late", ["picture", "sound"])
def test_streams_that_start_apart_stay_together(tmp_path, suffix, video, audio, rate, late):
    """The flash comes with the click; what starts later is padded with its first frame or with silence."""
    path = tmp_path / f"clip.{suffix}"
    delay = 15  # frames, 0.6 s
    picture, sound = (delay, 0) if late == "picture" else (0, delay)
    flash = 75
    click = (flash + picture - sound) / 25
    write_as(
        path,
        (video, numbered_frames(150, (flash,)), range(picture, 150 + picture), 25),
        (audio, clicks(6.0, rate, (click,)), rate, round(sound / 25 * rate)),
    )
    heard = torch.cat(list(iter_sound(path, sample_rate=48000)))
    time = loudest(heard, 48000)
    # Containers that cannot mark the encoder's delay (ts, mpg, flv) begin with it: zero is then up to 60 ms earlier.
    assert -CLICK < time - (flash + picture) / 25 < 0.061
    if suffix in ("mp4", "mov", "mkv", "webm"):
        assert time - (flash + picture) / 25 < CLICK
    assert lit(read_frames(path, start=time, num_frames=1, fps=25.0)) == [True]
    assert lit(read_frames(path, start=time - 0.0225, num_frames=2, fps=1 / 0.045)) == [False, False]
    if late == "picture":
        assert set(numbers(read_frames(path, start=0.0, num_frames=14, fps=25.0))) == {0}
        assert probe(path).problems[0].startswith("the picture starts at 0.6")
    else:
        assert heard[: int(0.55 * 48000)].abs().max() == 0


def test_edit_list_hides_what_lies_before_it(tmp_path):
    """An mp4 cut without encoding, as phones and ``ffmpeg -ss -c copy`` do: it starts inside a group of pictures."""
    path = tmp_path / "cut.mp4"
    write_as(
        path,
        ("libx264", numbered_frames(100, (60,)), range(-13, 87), 25),
        ("aac", clicks(4.0, 16000, (60 / 25,)), 16000, round(-13 / 25 * 16000)),
    )
    assert probe(path).video_duration == pytest.approx(87 / 25, abs=0.002)
    assert numbers(read_frames(path, start=0.0, num_frames=87, fps=25.0)) == list(range(13, 100))
    assert numbers(read_frames(path, start=2.0, num_frames=5, fps=25.0)) == [63, 64, 65, 66, 67]
    for start in (0.0, 0.33, 1.5):
        sound = read_sound(path, start=start, num_samples=31000, sample_rate=16000)
        assert start + loudest(sound, 16000) == pytest.approx(47 / 25, abs=0.001)


def test_variable_frame_rate(tmp_path):
    """Frames at irregular times: the one on show is taken, not the i-th, and none before it comes."""
    path = tmp_path / "vfr.mp4"
    times = [0, 100, 120, 500, 520, 540, 1000, 1900, 2000, 2060]  # milliseconds: a grid of 50 fps
    write_as(path, ("libx264", numbered_frames(10), times, 1000))
    for start in (0.0, 0.3, 1.21):
        read = numbers(read_frames(path, start=start, num_frames=17, fps=20.0))
        wanted = [on_show(start + i * 0.05, [t / 1000 for t in times], 0.01) for i in range(17)]
        assert all(n in may for n, may in zip(read, wanted, strict=True))
    assert any(problem.startswith("variable frame rate") for problem in probe(path).problems)
