"""Every name that a file system allows is read and written; every file that FFmpeg opens is found."""

import os
import re
import shutil
from pathlib import Path

import av.error
import pytest
import torch
from media_clips import clicks, numbered_frames, numbers, write_as

from cmmd_lightning.media import (
    MediaError,
    find_media,
    is_audio,
    is_video,
    mux,
    probe,
    read_frames,
    read_sound,
    write_sound,
    write_video,
)
from cmmd_lightning.media.container import written_whole

NAMES = {
    "colon": b"2024-01-01T12:30:05",
    "protocol": b"http:a: b",
    "pipe": b"concat:a|b",
    "dash": b"-1pRmoJIGQc_000010",
    "long": b"L" * 251,
    "long han": "\u6f22".encode() * 83,
    "latin-1": b"caf\xe9",
    "control": b"\x01\x7f\x1b[31m",
    "newline": b"two\nlines",
    "percent": b"100%d%03d",
    "star": b"a*b?[c]{d}",
    "quote": b'it\'s "it" \\ #1',
    "spaces": b"  lead and trail ",
    "dots": b"a..b...",
    "emoji": "\U0001f941\u0301".encode(),
}


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path, monkeypatch, name, relative):
    monkeypatch.chdir(tmp_path)
    stem = os.fsdecode(NAMES[name])
    folder = Path() if relative else tmp_path / stem[:100]
    clip, sound, out = (
        folder / f"{stem[:limit]}{suffix}" for limit, suffix in ((251, ".mp4"), (251, ".wav"), (9, ".mov"))
    )
    tone = clicks(1.0, 16000, (0.5,))
    write_video(clip, numbered_frames(10), 10.0, tone, 16000)
    write_sound(sound, tone, 16000)
    mux(out, seconds=1.0, video_from=clip, audio_from=sound)
    assert sorted(find_media(folder)) == sorted([clip, sound, out])
    for file in (clip, out):
        assert probe(file, verify=True).problems == ()
        assert numbers(read_frames(file, num_frames=10, fps=10.0)) == list(range(10))
    for file in (clip, sound, out):
        assert read_sound(file, num_samples=16000, sample_rate=16000).abs().argmax() == pytest.approx(8000, abs=1)
    assert len(os.listdir(folder)) == 3


@pytest.mark.parametrize("name", NAMES)
def test_what_is_wrong_with_a_file_is_said_in_a_line_that_can_be_printed(tmp_path, name):
    path = tmp_path / (os.fsdecode(NAMES[name]) + ".mp4")
    path.write_bytes(b"nothing")
    with pytest.raises(MediaError, match="expected a media file") as caught:
        probe(path)
    line = str(caught.value).encode("utf-8").decode()
    assert "\n" not in line
    assert caught.value.path == str(path)


def test_errors_of_ffmpeg_are_errors_of_ours(tmp_path, monkeypatch):
    """Most of FFmpeg's errors are neither OSError nor ValueError, which is what callers look out for."""
    error = av.error.ProtocolNotFoundError(-1330794744, "Protocol not found")
    assert not isinstance(error, (OSError, ValueError))
    said = r"clip.mp4: expected a file that can be written, got Protocol not found"
    with pytest.raises(MediaError, match=said), written_whole(tmp_path / "clip.mp4"):
        raise error
    write_video(tmp_path / "clip.mp4", numbered_frames(10), 10.0, torch.zeros(16000), 16000)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("cmmd_lightning.media.timeline.decoded_frames", fail)
    for read in (
        lambda: read_frames(tmp_path / "clip.mp4", num_frames=1, fps=10.0),
        lambda: read_sound(tmp_path / "clip.mp4", num_samples=10, sample_rate=16000),
        lambda: probe(tmp_path / "clip.mp4"),
    ):
        with pytest.raises(MediaError, match=r"clip.mp4: expected .*, got"):
            read()


SUFFIXES = re.findall(
    r"\w+", "3g2 asf avi f4v flv gif m2ts m2v mkv mov mp4 mpeg mpg mts mxf nut ogv qt ts vob webm wmv y4m dav mk3d"
)
SOUNDS = re.findall(r"\w+", "aac ac3 aif aiff amr au caf flac m4a mka mp2 mp3 oga ogg opus w64 wav wma wv")


def test_suffixes(tmp_path):
    for suffix in (*SUFFIXES, *SOUNDS):
        (tmp_path / f"{suffix}.{suffix.upper()}").touch()
    (tmp_path / "notes.txt").write_text("notes")
    skipped = []
    assert {path.stem for path in find_media(tmp_path, skipped)} == {*SUFFIXES, *SOUNDS}
    assert [path.name for path in skipped] == ["notes.txt"]
    assert {path.stem for path in tmp_path.iterdir() if is_video(path)} == set(SUFFIXES)
    assert {path.stem for path in tmp_path.iterdir() if is_audio(path)} == set(SOUNDS)


def test_unknown_suffixes_are_looked_into(tmp_path):
    write_video(tmp_path / "clip.mp4", numbered_frames(10), 10.0)
    write_sound(tmp_path / "sound.wav", clicks(1.0, 16000, (0.5,)), 16000)
    for name, source in {"a.xyz": "clip.mp4", "b": "clip.mp4", "c.s1": "sound.wav"}.items():
        shutil.copy(tmp_path / source, tmp_path / name)
    others = {
        "README": b"read me\n" * 99,
        "w.bin": bytes(range(256)) * 64,
        "x.json": b"{}",
        "y.PNG": b"\x89PNG",
        "z": b"",
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "broken.mp4").symlink_to(tmp_path / "nowhere.mp4")
    skipped = []
    found = find_media(tmp_path, skipped)
    assert [path.name for path in found] == ["a.xyz", "b", "c.s1", "clip.mp4", "sound.wav"]
    assert {path.name for path in skipped} == {*others, "broken.mp4"}
    assert [path.name for path in found if is_video(path)] == ["a.xyz", "b", "clip.mp4"]


def test_linked_folders_are_entered_once(tmp_path):
    for name in ("data/b/one.mp4", "data/.hidden/two.mp4", "elsewhere/deep/three.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "data"
    (root / "a").symlink_to(root / "b", target_is_directory=True)
    (root / "b" / "loop").symlink_to(root, target_is_directory=True)
    (root / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert [path.relative_to(root).as_posix() for path in find_media(root)] == ["b/one.mp4", "c/deep/three.mp4"]
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert [path.name for path in find_media(tmp_path / "link")] == ["one.mp4", "three.mp4"]


OLD = [
    ("mts", "libx264", "ac3"),
    ("m2ts", "libx264", "aac"),
    ("vob", "mpeg2video", "ac3"),
    ("asf", "msmpeg4v3", "wmav2"),
    ("3g2", "mpeg4", "aac"),
    ("f4v", "libx264", "aac"),
    ("nut", "mpeg4", "flac"),
    ("ogv", "libvpx", "flac"),
    ("wma", None, "wmav2"),
    ("oga", None, "flac"),
    ("mka", None, "libopus"),
    ("caf", None, "pcm_s16le"),
    ("w64", None, "pcm_s16le"),
    ("au", None, "pcm_s16be"),
]


@pytest.mark.parametrize(("suffix", "video", "audio"), OLD)
def test_files_of_cameras_and_old_computers(tmp_path, suffix, video, audio):
    path = tmp_path / f"clip.{suffix}"
    write_as(
        path,
        (video, numbered_frames(50), range(50), 25) if video else None,
        (audio, clicks(2.0, 48000, (1.0,)), 48000, 0) if audio else None,
    )
    assert find_media(tmp_path) == [path]
    assert is_video(path) == bool(video)
    if video:
        shown = numbers(read_frames(path, num_frames=25, fps=25.0, start=0.4))
        assert (shown[0], shown[-1]) == (pytest.approx(10, abs=2), shown[0] + 24)
    if audio:
        heard = read_sound(path, num_samples=24000, sample_rate=16000).abs().argmax() / 16000
        assert heard == pytest.approx(1.0, abs=0.065)  # ts and vob begin with the encoder's delay
