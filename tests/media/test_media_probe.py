"""What probing finds, and what bad files say: one line with the file, what was expected and what came."""

import pickle
import subprocess
import sys

import pytest
import soundfile
import torch
from media_clips import clicks, numbered_frames, write_as

from cmmd_lightning.media import (
    MediaError,
    MediaInfo,
    iter_frames,
    mux,
    probe,
    read_frames,
    read_sound,
    write_sound,
    write_video,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A 4 s clip whose bytes are spread evenly over its time."""
    path = tmp_path_factory.mktemp("media") / "whole.mp4"
    noise = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 255, (100, 3, 64, 64), dtype=torch.uint8, generator=noise)
    write_video(path, frames, 25.0, torch.randn(64000, generator=noise) * 0.1, 16000)
    return path


def cut(path, to, share):
    content = path.read_bytes()
    to.write_bytes(content[: int(len(content) * share)])
    return to


def test_facts(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, numbered_frames(25), 12.5, clicks(2.0, 16000, ()), 16000)
    assert probe(path) == MediaInfo(
        path=str(path),
        duration=2.0,
        video_duration=2.0,
        audio_duration=2.0,
        fps=12.5,
        height=64,
        width=64,
        sample_rate=16000,
        channels=1,
        video_codec="h264",
        audio_codec="aac",
        has_video=True,
        has_audio=True,
    )


def test_streams_of_different_length(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, numbered_frames(25), 25.0, torch.zeros(17600), 16000)
    info = probe(path)
    assert (info.duration, info.video_duration, info.audio_duration) == pytest.approx((1.0, 1.0, 1.1), abs=1e-3)
    assert info.problems == ("the picture ends at 1.000 s, the sound at 1.100 s",)
    write_video(path, numbered_frames(25), 25.0, torch.zeros(16400), 16000)
    assert probe(path).problems == ()


@pytest.mark.parametrize("suffix", ["mpg", "ts", "mkv"])
def test_lengths_that_no_header_states(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    video, audio = ("libx264", "flac") if suffix == "mkv" else ("mpeg1video", "mp2")
    write_as(path, (video, numbered_frames(310), range(310), 25), (audio, torch.zeros(44100 * 12), 44100, 0))
    info = probe(path, verify=True)
    assert info.video_duration == pytest.approx(12.4, abs=0.015)
    assert info.audio_duration == pytest.approx(12.0, abs=0.04)
    assert info.problems == (
        f"the picture ends at {info.video_duration:.3f} s, the sound at {info.audio_duration:.3f} s",
    )


def test_verify_passes_whole_files(whole):
    assert probe(whole, verify=True).problems == ()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_truncated_mp4(whole, tmp_path, share):
    path = cut(whole, tmp_path / "cut.mp4", share)
    info = probe(path)
    assert (info.video_duration, info.audio_duration) == (4.0, 4.0)
    assert "(truncated)" in info.problems[0]
    verified = probe(path, verify=True).problems
    assert all("\n" not in problem for problem in verified)
    assert any("truncated or corrupt" in problem for problem in verified)
    promise = r"cut.mp4: expected {} up to 4.000 s as the file states, got .* \(truncated or corrupt\)"
    broken = [problem.split()[1] for problem in verified[1:]]
    assert "sound" in broken if share == 0.99 else broken == ["picture", "sound"]
    if "picture" in broken:
        with pytest.raises(MediaError, match=promise.format("picture")):
            list(iter_frames(path, fps=10.0))
    with pytest.raises(MediaError, match=promise.format("sound")):
        read_sound(path, num_samples=64000, sample_rate=16000)
    with pytest.raises(MediaError, match="truncated or corrupt"):
        mux(tmp_path / "out.mp4", seconds=4.0, video_from=path, audio_from=path)
    assert not (tmp_path / "out.mp4").exists()
    if share > 0.5:  # what is there can be read
        assert torch.equal(
            read_frames(path, start=0.2, num_frames=5, fps=10.0), read_frames(whole, start=0.2, num_frames=5, fps=10.0)
        )


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("aiff", "PCM_16"), ("flac", "PCM_16")])
def test_truncated_sound_files(tmp_path, suffix, subtype):
    path = tmp_path / f"whole.{suffix}"
    soundfile.write(
        path, torch.randn(160000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1, 16000, subtype=subtype
    )
    short = cut(path, tmp_path / f"cut.{suffix}", 0.5)
    assert probe(short).duration == 10.0
    assert "truncated or corrupt" in probe(short, verify=True).problems[1]
    with pytest.raises(
        MediaError, match=f"cut.{suffix}: expected sound up to 10.000 s as the file states, got sound up to"
    ):
        read_sound(short, start=4.0, num_samples=32000, sample_rate=16000)
    assert torch.equal(*(read_sound(p, start=0.5, num_samples=16000, sample_rate=16000) for p in (path, short)))


def test_truncated_mkv(tmp_path):
    path = tmp_path / "whole.mkv"
    noise = torch.randint(0, 255, (100, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_as(path, ("libx264", noise, range(100), 25))
    short = cut(path, tmp_path / "cut.mkv", 0.5)
    assert "truncated or corrupt" in " ".join(probe(short, verify=True).problems)
    with pytest.raises(MediaError, match="truncated or corrupt"):
        read_frames(short, start=3.0, num_frames=10, fps=25.0)


BAD = {
    "text.mp4": b"This is no film.\n" * 40,
    "text.wav": b"This is no sound.\n" * 40,
    "empty.mp4": b"",
    "empty.wav": b"",
    "noise.mpg": bytes(range(256)) * 8,
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_media(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BAD[name])
    for act in (
        probe,
        lambda p: read_frames(p, num_frames=1, fps=10.0),
        lambda p: read_sound(p, num_samples=1, sample_rate=16000),
        lambda p: mux(tmp_path / "out.mp4", seconds=1.0, video_from=p, sound=torch.zeros(16000), sample_rate=16000),
    ):
        with pytest.raises(MediaError) as caught:
            act(path)
        line = str(caught.value)
        assert line.startswith(f"{path}: expected ")
        assert ", got " in line
        assert "\n" not in line
    assert not (tmp_path / "out.mp4").exists()


def test_an_mp4_without_its_index(tmp_path):
    path = tmp_path / "whole.mp4"
    write_as(path, ("libx264", numbered_frames(50), range(50), 25))  # the index comes last
    with pytest.raises(MediaError, match="not media, or whose index is missing"):
        probe(cut(path, tmp_path / "cut.mp4", 0.6))


def test_missing_files_folders_and_streams(tmp_path):
    with pytest.raises(MediaError, match=r"none.mp4: expected a media file, got no such file"):
        probe(tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="expected a media file, got a folder"):
        read_frames(tmp_path, num_frames=1, fps=10.0)
    write_video(tmp_path / "silent.mp4", numbered_frames(5), 10.0)
    write_sound(tmp_path / "sound.wav", torch.zeros(16000), 16000)
    with pytest.raises(MediaError, match=r"silent.mp4: expected an audio stream, got video \(h264\)"):
        read_sound(tmp_path / "silent.mp4", num_samples=10, sample_rate=16000)
    with pytest.raises(MediaError, match=r"sound.wav: expected a video stream, got audio \(pcm_s16le\)"):
        read_frames(tmp_path / "sound.wav", num_frames=1, fps=10.0)


def test_zero_length(tmp_path):
    soundfile.write(tmp_path / "none.wav", torch.zeros(0).numpy(), 16000)
    assert probe(tmp_path / "none.wav").problems == ("no picture", "no length: the sound lasts 0 s")
    with pytest.raises(MediaError, match=r"got sound that ends at 0.000 s"):
        read_sound(tmp_path / "none.wav", num_samples=1600, sample_rate=16000)


def test_errors_cross_processes():
    error = pickle.loads(pickle.dumps(MediaError("clip.mp4", "a video\nstream", "none")))
    assert (type(error), str(error)) == (MediaError, "clip.mp4: expected a video stream, got none")
    assert (error.path, error.expected, error.got) == ("clip.mp4", "a video\nstream", "none")


def test_ffmpeg_stays_silent(whole, tmp_path):
    """Nothing on stderr or stdout, also where FFmpeg itself would complain at length."""
    paths = [whole, cut(whole, tmp_path / "cut.mp4", 0.5), tmp_path / "text.mp4"]
    paths[2].write_text("This is no film.")
    code = """
import sys
from cmmd_lightning.media import MediaError, probe, read_frames, write_video
for path in sys.argv[2:]:
    try:
        probe(path, verify=True)
        write_video(sys.argv[1], read_frames(path, num_frames=3, fps=10.0), 10.0)
    except MediaError:
        pass
"""
    arguments = [sys.executable, "-c", code, str(tmp_path / "out.mp4"), *map(str, paths)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")
