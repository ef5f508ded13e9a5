"""Media built from seeds, each with a right value: mutations, cuts, clocks, layouts, names, orientations.

``make hostile`` builds 5,000; every test run some 200 (HOSTILE_CASES says how many). A case that fails is named by its
kind and seed: ``pytest tests/hostile -k "cut and 17"``.
"""

import os
import random
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from media_clips import (
    MATRICES,
    clicks,
    coloured_sides,
    cut_packets,
    lit,
    loudest,
    numbered_frames,
    numbers,
    sides,
    turn,
    write_as,
    write_layout,
)

from cmmd_lightning.media import (
    MediaError,
    find_media,
    iter_frames,
    iter_sound,
    mux,
    probe,
    read_frames,
    read_sound,
    write_sound,
    write_video,
)

CASES = int(os.environ.get("HOSTILE_CASES", "200"))
SHARES = {"mutation": 0.5, "cut": 0.14, "clock": 0.1, "layout": 0.14, "name": 0.06, "orientation": 0.06}
RATES = [
    Fraction(10),
    Fraction(25, 2),
    Fraction(43, 2),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(50),
]
RATES.append(Fraction(60000, 1001))
SILENT = torch.zeros(16000)


def seeds(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("seed", range(max(1, round(CASES * SHARES[kind]))))


# ---- mutations: what comes is a line that names the file, or as many frames and samples as were asked for

BASES = {
    "mp4": ("libx264", "aac"),
    "mkv": ("libx264", "flac"),
    "ts": ("libx264", "aac"),
    "avi": ("mpeg4", "libmp3lame"),
    "mpg": ("mpeg1video", "mp2"),
    "flv": ("libx264", "aac"),
    "webm": ("libvpx", "libopus"),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A clip of 0.8 s in each container, and sound files: their bytes and their frames."""
    folder, made = tmp_path_factory.mktemp("originals"), {}
    sound = clicks(0.8, 44100, (0.4,))
    for suffix, (video, audio) in BASES.items():
        rate = 48000 if suffix == "webm" else 44100
        path = folder / f"clip.{suffix}"
        tone = clicks(0.8, rate, (0.4,))
        write_as(path, (video, numbered_frames(20, (10,)), range(20), 25), (audio, tone, rate, 0))
        made[suffix] = path.read_bytes(), torch.cat(list(iter_frames(path, fps=25.0)))
    for suffix in ("wav", "flac"):
        write_sound(folder / f"sound.{suffix}", sound, 44100)
        made[suffix] = (folder / f"sound.{suffix}").read_bytes(), None
    return made


def mutated(content: bytes, draw: random.Random) -> tuple[bytes, bool]:
    """The bytes with some changed, removed, doubled, or without their end; and whether only the end is missing."""
    data = bytearray(content)
    how = draw.choice(["bits", "bits", "header", "zeros", "remove", "double", "cut"])
    at = draw.randrange(len(data))
    size = draw.randint(1, 2 ** draw.randint(1, 10))
    if how == "cut":
        del data[at:]
    elif how == "remove":
        del data[at : at + size]
    elif how == "double":
        data[at:at] = data[at : at + size]
    elif how == "zeros":
        data[at : at + size] = bytes(len(data[at : at + size]))
    else:
        for _ in range(draw.randint(1, 40)):
            data[draw.randrange(min(len(data), 400) if how == "header" else len(data))] = draw.randrange(256)
    return bytes(data), how == "cut"


@seeds("mutation")
def test_mutation(originals, tmp_path, seed):
    draw = random.Random(f"mutation {seed}")
    suffix = draw.choice(sorted(originals))
    content, frames = originals[suffix]
    data, is_cut = mutated(content, draw)
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(data)
    info = attempt(path, lambda: probe(path, verify=True))
    assert info is None or all("\n" not in line for line in info.problems)
    read = attempt(path, lambda: read_frames(path, num_frames=8, fps=25.0, size=(64, 64)))
    sound = attempt(path, lambda: read_sound(path, num_samples=6400, sample_rate=16000))
    assert read is None or (read.shape, read.dtype) == ((8, 3, 64, 64), torch.uint8)
    assert sound is None or (sound.shape == (6400,) and bool(torch.isfinite(sound).all()))
    if frames is None:
        assert read is None
    elif is_cut and read is not None:  # what is there comes at its time, none too early
        assert all(number <= whole for number, whole in zip(numbers(read), numbers(frames[:8]), strict=True))
    if draw.random() < 0.3:
        out = tmp_path / "out.mp4"
        attempt(path, lambda: mux(out, seconds=0.5, video_from=path, sound=SILENT, sample_rate=16000))
        assert not out.exists() or abs(probe(out, verify=True).audio_duration - 0.5) < 0.002


def attempt(path, act):
    """What an act gives; None where it ends with one line that names the file."""
    try:
        return act()
    except MediaError as error:
        line = str(error)
        assert line.startswith(f"{path.parent}{os.sep}")
        assert ": expected " in line
        assert "\n" not in line
    return None


# ---- cuts by packet copy: flash and click to the millisecond, nothing refused


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A clip of 3 s for each rate, and when it flashes and clicks."""
    folder, made = tmp_path_factory.mktemp("whole"), {}
    for rate in RATES:
        flash = round(float(rate) * 1.5)
        time = float(flash / rate)
        path = folder / f"{float(rate):.2f}.mp4"
        write_video(path, numbered_frames(round(3 * rate), (flash,)), float(rate), clicks(3.0, 48000, (time,)), 48000)
        made[rate] = path, time
    return made


@seeds("cut")
def test_cut(whole, tmp_path, seed):
    draw = random.Random(f"cut {seed}")
    source, time = whole[draw.choice(RATES)]
    start = draw.uniform(0.01, 1.4)
    path = tmp_path / f"cut.{draw.choice(['mp4', 'mov'])}"
    cut_packets(source, path, start, draw.choice([None, draw.uniform(1.7, 2.5)]))
    near = max(0.0, time - start - 0.06)
    flash = near + lit(read_frames(path, start=near, num_frames=100, fps=1000.0)).index(True) / 1000
    click = near + loudest(read_sound(path, start=near, num_samples=4800, sample_rate=48000), 48000)
    assert (flash, click) == pytest.approx((time - start, time - start), abs=0.0015)
    assert not [problem for problem in probe(path, verify=True).problems if "truncated" in problem]


# ---- clocks: every frame stands from its time to the next one's, read and written


@seeds("clock")
def test_clock(tmp_path, seed):
    draw = random.Random(f"clock {seed}")
    suffix, codec = draw.choice([("mp4", "libx264"), ("mkv", "libx264"), ("ts", "libx264"), ("mov", "mpeg4")])
    step = draw.choice([20, 40, 100, 500])  # milliseconds
    steps = [draw.choice([1, 1, 1, 2, draw.randint(1, 12)]) for _ in range(12)]
    times = [step * sum(steps[:i]) for i in range(len(steps))]
    path, out = tmp_path / f"clip.{suffix}", tmp_path / "out.mp4"
    write_as(path, (codec, numbered_frames(len(times)), times, 1000), prepare=without_b_frames)
    fps = draw.choice([10.0, 25.0, 30.0])
    for at, number in enumerate(numbers(torch.cat(list(iter_frames(path, fps=fps))))):
        due = sum(time / 1000 <= at / fps + 0.001 for time in times) - 1
        soon = sum(time / 1000 <= (at + 0.5) / fps + 0.001 for time in times) - 1
        assert due <= number <= soon or times[due] / 1000 > at / fps - 0.001
    seconds = times[-1] / 1000 - draw.choice([0.005, 0.01])
    mux(out, seconds=seconds, video_from=path, sound=torch.zeros(960000), sample_rate=16000)
    with av.open(str(out)) as container:
        kept = [frame.time for frame in container.decode(video=0)]
    assert kept == pytest.approx([time / 1000 for time in times[:-1]], abs=0.001)


def without_b_frames(stream):
    stream.codec_context.max_b_frames = 0


# ---- layouts: as loud as the same sound in one channel

LAYOUTS = {
    "mono": 1,
    "stereo": 2,
    "3.0": 3,
    "quad": 4,
    "4.0": 4,
    "5.0": 5,
    "5.1": 6,
    "5.1(side)": 6,
    "6.1": 7,
    "7.1": 8,
}


@seeds("layout")
def test_layout(tmp_path, seed):
    draw = random.Random(f"layout {seed}")
    layout = draw.choice(sorted(LAYOUTS))
    count, rate = LAYOUTS[layout], draw.choice([16000, 44100, 48000])
    low = 3 if ".1" in layout else None
    k = np.arange(rate // 4) / rate
    burst = np.zeros(rate, np.float32)
    burst[rate // 2 : rate // 2 + len(k)] = 0.6 * np.sin(2 * np.pi * draw.uniform(300, 3000) * k) * np.exp(-k / 0.03)
    channels = [np.zeros_like(burst) for _ in range(count)]
    for channel in draw.sample([i for i in range(count) if i != low], draw.randint(1, count - (low is not None))):
        sign = draw.choice([1, 1, -1])
        channels[channel] = sign * np.roll(burst, draw.choice([0, 0, draw.randint(1, rate // 1000)]))
    if low is not None and draw.random() < 0.5:
        channels[low] = np.clip(0.3 * np.random.default_rng(seed).standard_normal(rate), -1, 1).astype(np.float32)
    path = tmp_path / f"sound.{draw.choice(['wav', 'flac'])}"
    write_layout(path, channels, layout, rate)
    read = read_sound(path, num_samples=rate, sample_rate=rate).double()
    wanted = np.square(burst, dtype=np.float64).sum()
    assert 10 * np.log10(float(read.square().sum()) / wanted) == pytest.approx(0.0, abs=0.5)


# ---- names: any bytes but / and NUL, up to 255


@seeds("name")
def test_name(tmp_path, monkeypatch, seed):
    draw = random.Random(f"name {seed}")
    monkeypatch.chdir(tmp_path)
    bytes_ = draw.choice([bytes(range(1, 256)), bytes(range(32, 127)), b":|%d~-*?", "\u6f22\u5b57\U0001f941".encode()])
    stem = bytes(draw.choice(bytes_.replace(b"/", b"")) for _ in range(draw.randint(1, 251))).lstrip(b".") or b"x"
    path = os.path.join(os.curdir if draw.random() < 0.5 else str(tmp_path), os.fsdecode(stem + b".mp4"))
    path = os.path.basename(path) if draw.random() < 0.5 else path
    write_video(path, numbered_frames(5), 10.0, clicks(0.5, 16000, (0.2,)), 16000)
    assert [os.fsencode(found.name) for found in find_media(tmp_path)] == [stem + b".mp4"]
    assert numbers(read_frames(path, num_frames=5, fps=10.0)) == [0, 1, 2, 3, 4]
    assert loudest(torch.cat(list(iter_sound(path, sample_rate=16000))), 16000) == pytest.approx(0.2, abs=0.001)
    mux(path, seconds=0.5, video_from=path, audio_from=path)
    assert probe(path, verify=True).problems == ()
    os.truncate(path, 40)
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert str(caught.value).encode()


# ---- orientations of the display matrix


@seeds("orientation")
def test_orientation(tmp_path, seed):
    draw = random.Random(f"orientation {seed}")
    matrix, left, top = MATRICES[draw.choice(sorted(MATRICES))]
    width, height = draw.choice([64, 96, 160]), draw.choice([64, 96, 128])
    path, out = tmp_path / f"clip.{draw.choice(['mp4', 'mov'])}", tmp_path / "out.mp4"
    codec = draw.choice(["libx264", "mpeg4"])
    write_as(path, (codec, coloured_sides(width, height).expand(5, 3, height, width), range(5), 10))
    turn(path, matrix, width, height)
    mux(out, seconds=0.4, video_from=path, sound=SILENT, sample_rate=16000)
    for file in (path, out):
        picture = read_frames(file, num_frames=1, fps=1.0)[0]
        assert picture.shape[1:] == ((height, width) if matrix[0] else (width, height))
        assert sides(picture) == (left, top)
