"""What is written is what was given: lengths, sizes, whole files or none."""

import os

import av
import pytest
import soundfile
import torch
from media_clips import clicks, lit, loudest, numbered_frames, numbers

from cmmd_lightning.media import find_media, iter_frames, probe, read_frames, read_sound, write_sound, write_video


@pytest.mark.parametrize(("fps", "count"), [(10.0, 16), (12.5, 25), (29.97, 31), (30000 / 1001, 30), (60.0, 1)])
@pytest.mark.parametrize("sample_rate", [8000, 16000, 24000, 44100, 48000])
def test_lengths_are_exact(tmp_path, fps, count, sample_rate):
    path = tmp_path / "clip.mp4"
    samples = round(count / fps * sample_rate)
    write_video(path, numbered_frames(count), fps, torch.zeros(samples), sample_rate)
    info = probe(path, verify=True)
    assert (info.video_codec, info.audio_codec, info.sample_rate, info.channels) == ("h264", "aac", sample_rate, 1)
    assert info.video_duration == pytest.approx(count / fps, abs=1e-3)
    assert info.audio_duration == pytest.approx(samples / sample_rate, abs=1e-3)
    assert (info.fps, info.problems) == (pytest.approx(fps, rel=1e-6), ())
    assert numbers(torch.cat(list(iter_frames(path, fps=fps)))) == list(range(count))
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert container.streams.video[0].frames == count


def test_one_stream_alone(tmp_path):
    write_video(tmp_path / "silent.mp4", numbered_frames(5), 10.0)
    write_video(tmp_path / "sound.m4a", None, sound=clicks(1.0, 16000, (0.4,)), sample_rate=16000)
    silent, sound = probe(tmp_path / "silent.mp4"), probe(tmp_path / "sound.m4a")
    assert (silent.has_video, silent.has_audio, silent.problems) == (True, False, ("no sound",))
    assert (sound.has_video, sound.has_audio, sound.problems) == (False, True, ("no picture",))
    assert loudest(read_sound(tmp_path / "sound.m4a", num_samples=16000, sample_rate=16000), 16000) == pytest.approx(
        0.4, abs=1e-4
    )


def test_chunks_equal_the_whole(tmp_path):
    frames, sound = numbered_frames(40, (7,)), clicks(4.0, 16000, (0.7,))
    write_video(tmp_path / "whole.mp4", frames, 10.0, sound, 16000)
    write_video(tmp_path / "again.mp4", frames, 10.0, sound, 16000)
    write_video(tmp_path / "chunks.mp4", iter(frames.split(9)), 10.0, sound, 16000)
    contents = {(tmp_path / f"{name}.mp4").read_bytes() for name in ("whole", "again", "chunks")}
    assert len(contents) == 1
    assert lit(read_frames(tmp_path / "whole.mp4", num_frames=40, fps=10.0)).index(True) == 7


@pytest.mark.parametrize(("height", "width"), [(33, 32), (32, 47), (35, 51)])
def test_odd_sizes_are_padded_by_their_edge(tmp_path, height, width):
    rows = torch.linspace(30, 220, height).to(torch.uint8)[None, None, :, None].expand(3, 3, height, width)
    write_video(tmp_path / "odd.mp4", rows, 10.0)
    read = read_frames(tmp_path / "odd.mp4", num_frames=3, fps=10.0)
    assert read.shape[2:] == (height + height % 2, width + width % 2)
    assert (read[:, :, :height, :width].float() - rows.float()).abs().max() < 8
    assert (read[:, :, -1].float() - rows[:, :, -1, :1].float()).abs().max() < 8


def test_rates_that_aac_lacks(tmp_path):
    write_video(tmp_path / "clip.mp4", None, sound=clicks(1.0, 20000, (0.5,)), sample_rate=20000)
    assert probe(tmp_path / "clip.mp4").sample_rate == 22050
    read = read_sound(tmp_path / "clip.mp4", num_samples=20000, sample_rate=20000)
    assert loudest(read, 20000) == pytest.approx(0.5, abs=1e-4)


def test_an_error_leaves_nothing_and_destroys_nothing(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"what was there before")

    def failing():
        yield numbered_frames(5)
        raise RuntimeError("no more frames")

    with pytest.raises(RuntimeError, match="no more frames"):
        write_video(path, failing(), 10.0)
    assert path.read_bytes() == b"what was there before"
    assert os.listdir(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sound_files(tmp_path, suffix):
    path = tmp_path / "new" / f"tone.{suffix}"
    sound = torch.tensor([0.0, 0.5, -0.5, 2.0, -2.0])
    write_sound(path, sound, 22050)
    samples, rate = soundfile.read(path)
    assert (rate, soundfile.info(path).subtype) == (22050, "PCM_16")
    assert samples == pytest.approx([0.0, 0.5, -0.5, 1.0, -1.0], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None, None, None), "expected frames or sound to write, got neither"),
        ((torch.zeros(2, 3, 8, 8), 10.0, None, None), r"frames: expected uint8 \(T, 3, H, W\), got torch.float32"),
        ((torch.zeros(0, 3, 8, 8, dtype=torch.uint8), 10.0, None, None), "frames: expected at least one frame"),
        ((numbered_frames(2), None, None, None), "fps: expected a positive number, got None"),
        ((numbered_frames(2), 10.0, torch.zeros(10), None), "sample_rate: expected a positive number, got None"),
        ((None, None, torch.zeros(2, 10), 16000), r"sound: expected float \(N,\), got torch.float32 \(2, 10\)"),
        ((None, None, torch.tensor([0.0, float("nan")]), 16000), "sound: expected finite samples"),
        (
            ([numbered_frames(2), numbered_frames(2)[:, :, :32]], 10.0, None, None),
            "frames: expected every chunk to be 64 x 64",
        ),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "clip.mp4", *arguments)
    assert os.listdir(tmp_path) == []


def test_unknown_suffixes(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of the suffixes .mp4"):
        write_video(tmp_path / "clip.gif", numbered_frames(2), 10.0)
    with pytest.raises(ValueError, match=r"expected the suffix .wav or .flac, got '.mp3'"):
        write_sound(tmp_path / "clip.mp3", torch.zeros(10), 16000)


def test_find_media(tmp_path):
    names = ["b/two.MP4", "b/one.wav", "a.mkv", "b/.hidden.mp4", ".folder/x.mp4", "notes.txt", "b/deep/three.mpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_media(tmp_path)]
    assert found == ["a.mkv", "b/deep/three.mpg", "b/one.wav", "b/two.MP4"]
    chosen = find_media([tmp_path / "notes.txt", tmp_path / "b", tmp_path / "b/one.wav"])
    assert [path.name for path in chosen] == ["notes.txt", "three.mpg", "one.wav", "two.MP4"]
    with pytest.raises(ValueError, match="missing: expected a media file or a folder, got no such file"):
        find_media(tmp_path / "missing")
