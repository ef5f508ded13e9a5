"""A given picture or sound with a new partner: copied where that is exact, over the span and no longer."""

from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
import torch
from media_clips import clicks, lit, loudest, numbered_frames, numbers, write_as

from cmmd_lightning.media import MediaError, iter_frames, mux, probe, read_frames, read_sound, write_sound, write_video


def packets(path, kind):
    """What a stream's packets hold."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(getattr(container.streams, kind)[0]) if packet.size]


def check(path, seconds, fps):
    """Exactly one picture and one sound, sound to the sample, picture within one frame of the span."""
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    info = probe(path, verify=True)
    assert (info.video_codec, info.audio_codec) == ("h264", "aac")
    assert info.audio_duration == pytest.approx(seconds, abs=2e-3)
    assert abs(info.video_duration - seconds) < 1 / fps + 1e-3
    assert all("ends at" in problem for problem in info.problems)
    return info


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """4 s at 25 fps, B-frames as x264 makes them; flash and click at 1.2 s."""
    path = tmp_path_factory.mktemp("mux") / "clip.mp4"
    write_video(path, numbered_frames(100, (30,)), 25.0, clicks(4.0, 16000, (1.2,)), 16000)
    return path


@pytest.mark.parametrize("seconds", [4.0, 3.97, 1.6, 1.0, 0.3, 0.04])
def test_picture_is_copied_under_a_new_sound(clip, tmp_path, seconds):
    path = tmp_path / "out.mp4"
    sound = clicks(5.0, 44100, (0.02, 1.2) if seconds > 1.2 else (0.02,))
    mux(path, seconds=seconds, video_from=clip, sound=sound, sample_rate=44100)
    check(path, seconds, 25)
    shown = numbers(torch.cat(list(iter_frames(path, fps=25.0))))
    assert shown == list(range(len(shown)))
    copied = packets(path, "video")
    if copied != packets(clip, "video")[: len(copied)]:  # no clean cut there: encoded again, and then to the frame
        assert len(shown) == round(seconds * 25)
    else:
        assert seconds in (4.0, 3.97) or len(copied) < 100
    if seconds > 1.3:
        assert lit(read_frames(path, start=1.2, num_frames=1, fps=25.0)) == [True]
        assert loudest(read_sound(path, start=0.5, num_samples=16000, sample_rate=16000), 16000) == pytest.approx(
            0.7, abs=1e-3
        )


def test_whole_file_is_copied_packet_by_packet(clip, tmp_path):
    path = tmp_path / "out.mp4"
    mux(path, seconds=4.0, video_from=clip, audio_from=clip)
    for kind in ("video", "audio"):
        assert packets(path, kind) == packets(clip, kind)
    for start in (0.0, 1.1):
        assert torch.equal(*(read_sound(p, start=start, num_samples=16000, sample_rate=16000) for p in (path, clip)))
        assert torch.equal(*(read_frames(p, start=start, num_frames=20, fps=25.0) for p in (path, clip)))


@pytest.mark.parametrize("seconds", [3.5, 1.6, 0.05])
def test_aac_is_copied_and_cut_to_the_sample(clip, tmp_path, seconds):
    path = tmp_path / "out.mp4"
    mux(path, seconds=seconds, frames=numbered_frames(100), fps=10.0, audio_from=clip)
    check(path, seconds, 10)
    copied = packets(path, "audio")
    assert copied == packets(clip, "audio")[: len(copied)]
    count = int(seconds * 16000)
    assert torch.equal(*(read_sound(p, num_samples=count, sample_rate=16000) for p in (path, clip)))
    assert numbers(read_frames(path, num_frames=1, start=seconds - 0.05, fps=10.0)) == [
        max(0, round(seconds * 10 - 0.51))
    ]


@pytest.mark.parametrize(
    ("suffix", "video", "audio", "rate"),
    [
        ("mpg", "mpeg1video", "mp2", 44100),
        ("ts", "libx264", "aac", 44100),
        ("mkv", "libx264", "flac", 16000),
        ("mp4", "mpeg4", "aac", 48000),
    ],
)
def test_other_pictures_are_encoded_at_their_size_and_rate(tmp_path, suffix, video, audio, rate):
    def wide(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)

    given, path = tmp_path / f"given.{suffix}", tmp_path / "out.mp4"
    write_as(
        given,
        (video, numbered_frames(75, (50,)), range(75), 25),
        (audio, clicks(3.0, rate, (2.0,)), rate, 0),
        prepare=wide,
    )
    mux(path, seconds=2.6, video_from=given, audio_from=given)
    info = check(path, 2.6, 25)
    assert (info.height, info.width, info.fps, info.sample_rate) == (64, 64, 25.0, rate)
    with av.open(str(path)) as out, av.open(str(given)) as source:  # MPEG-1 rounds it to one that it knows
        assert out.streams.video[0].sample_aspect_ratio == source.streams.video[0].sample_aspect_ratio != 1
    heard = loudest(read_sound(path, num_samples=16000 * 5 // 2, sample_rate=16000), 16000)
    assert lit(read_frames(path, start=heard, num_frames=1, fps=25.0)) == [True]
    original = loudest(read_sound(given, num_samples=16000 * 5 // 2, sample_rate=16000), 16000)
    assert heard == pytest.approx(original, abs=1e-3)


def test_a_picture_that_starts_late_keeps_its_time(tmp_path):
    given, path = tmp_path / "given.mp4", tmp_path / "out.mp4"
    write_as(given, ("libx264", numbered_frames(75), range(10, 85), 25), ("aac", torch.zeros(48000), 16000, 0))
    mux(path, seconds=3.0, video_from=given, sound=torch.zeros(48000), sample_rate=16000)
    check(path, 3.0, 25)
    assert numbers(read_frames(path, num_frames=13, fps=25.0)) == [0] * 11 + [1, 2]


def test_rotation_mark_survives_the_copy(tmp_path):
    given, path = tmp_path / "given.mp4", tmp_path / "out.mp4"
    frames = torch.randint(0, 255, (10, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_as(given, ("libx264", frames, range(10), 10), prepare=lambda stream: stream.set_display_rotation(90))
    mux(path, seconds=1.0, video_from=given, sound=torch.zeros(16000), sample_rate=16000)
    assert packets(path, "video") == packets(given, "video")
    assert torch.equal(*(read_frames(p, num_frames=10, fps=10.0) for p in (path, given)))
    assert probe(path).height == 64


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_sound_file_keeps_its_rate_and_channels(tmp_path, channels):
    given, path = tmp_path / "given.wav", tmp_path / "out.mp4"
    sound = np.zeros((44100, channels), np.float32)
    sound[22050, 0] = 0.9
    soundfile.write(given, sound, 44100)
    mux(path, seconds=0.8, frames=numbered_frames(8), fps=10.0, audio_from=given)
    info = check(path, 0.8, 10)
    assert (info.sample_rate, info.channels) == (44100, channels if channels < 3 else 1)
    assert loudest(read_sound(path, num_samples=35280, sample_rate=44100), 44100) == pytest.approx(0.5, abs=1e-4)


def test_frames_in_chunks_and_no_more_than_the_span(tmp_path):
    path = tmp_path / "out.mp4"
    mux(
        path,
        seconds=1.6,
        frames=iter(numbered_frames(50).split(7)),
        fps=10.0,
        sound=torch.zeros(80000),
        sample_rate=16000,
    )
    check(path, 1.6, 10)
    assert numbers(torch.cat(list(iter_frames(path, fps=10.0)))) == list(range(16))


def test_wrong_arguments(clip, tmp_path):
    path = tmp_path / "out.mp4"
    with pytest.raises(ValueError, match="expected one picture and one sound"):
        mux(path, seconds=1.0, video_from=clip)
    with pytest.raises(ValueError, match="expected one picture and one sound"):
        mux(path, seconds=1.0, video_from=clip, frames=numbered_frames(2), audio_from=clip)
    with pytest.raises(ValueError, match="expected a positive number of seconds, got 0"):
        mux(path, seconds=0, video_from=clip, audio_from=clip)
    with pytest.raises(ValueError, match="fps: expected a positive number, got None"):
        mux(path, seconds=1.0, frames=numbered_frames(2), audio_from=clip)
    with pytest.raises(MediaError, match=r"clip.mp4: expected picture of at least 4.500 s, got 4.000 s"):
        mux(path, seconds=4.5, video_from=clip, audio_from=clip)
    write_sound(tmp_path / "short.wav", torch.zeros(8000), 16000)
    with pytest.raises(MediaError, match=r"short.wav: expected sound of at least 1.000 s, got 0.500 s"):
        mux(path, seconds=1.0, video_from=clip, audio_from=tmp_path / "short.wav")
    assert not path.exists()
