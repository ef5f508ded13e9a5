"""Clips cut by copying packets: an edit list hides what lies before the cut, and begins inside a frame."""

from itertools import chain

import av
import pytest
from media_clips import clicks, lit, loudest, numbered_frames

from cmmd_lightning.media import MediaError, iter_frames, iter_sound, mux, probe, read_frames, read_sound, write_video

RATES = {"25": 25.0, "21.5": 21.5, "29.97": 30000 / 1001, "30": 30.0, "59.94": 60000 / 1001}
CUTS = [0.05 + 0.0637 * i for i in range(10)]
SECONDS = 3.0


def cut_packets(source, path, start: float, seconds: float | None = None) -> None:
    """Copy the packets from the key frame before ``start`` on, with times from there on, as ``ffmpeg -c copy`` does."""
    options = (
        {"avoid_negative_ts": "disabled"} if str(path).endswith(("mp4", "mov")) else {}
    )  # others have no edit lists
    with av.open(str(source)) as given, av.open(str(path), "w", options=options) as out:
        kept = {stream.index: out.add_stream_from_template(stream) for stream in given.streams}
        video = given.streams.video[0]
        keys = [p.pts * p.time_base for p in given.demux(video) if p.is_keyframe and p.pts is not None]
        begin = max(float(time) for time in keys if time <= start)
        given.seek(0)
        for packet in given.demux():
            if packet.dts is None or (seconds is not None and packet.dts * packet.time_base >= start + seconds):
                continue
            if packet.pts * packet.time_base < begin - (0.0 if packet.stream is video else 0.05):
                continue
            shift = round(start / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, kept[packet.stream.index]
            out.mux(packet)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """For each rate, a file whose flash and click come at its middle frame, and their time."""
    folder, made = tmp_path_factory.mktemp("cuts"), {}
    for name, fps in RATES.items():
        flash = int(SECONDS * fps / 2)
        made[name] = folder / f"{name}.mp4", flash / fps
        sound = clicks(SECONDS, 48000, (flash / fps,))
        write_video(made[name][0], numbered_frames(int(SECONDS * fps), (flash,)), fps, sound, 48000)
    return made


def flash_and_click(path, near: float) -> tuple[float, float]:
    """When the flash (to 1 ms) and the click come."""
    start = near - 0.06
    flash = lit(read_frames(path, start=start, num_frames=120, fps=1000.0)).index(True) / 1000
    return start + flash, start + loudest(read_sound(path, start=start, num_samples=5760, sample_rate=48000), 48000)


@pytest.mark.parametrize("seconds", [None, 1.9])
@pytest.mark.parametrize("rate", RATES)
def test_a_cut_is_read_and_in_sync(clips, tmp_path, rate, seconds):
    source, time = clips[rate]
    path = tmp_path / "cut.mp4"
    for start in CUTS:
        cut_packets(source, path, start, seconds)
        assert flash_and_click(path, time - start) == pytest.approx((time - start, time - start), abs=0.0015)
        assert not [problem for problem in probe(path, verify=True).problems if "truncated" in problem]
        for _ in iter_sound(path, sample_rate=16000):
            pass


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mov"])
def test_cuts_in_other_containers(clips, tmp_path, suffix):
    source, time = clips["25"]
    for start in (0.41, 0.755):
        path = tmp_path / f"{start}.{suffix}"
        cut_packets(source, path, start)
        flash, click = flash_and_click(path, time if suffix != "mov" else time - start)
        assert flash == pytest.approx(click, abs=0.0025)


def test_the_picture_of_a_cut_under_a_new_sound(clips, tmp_path):
    """What is written is in sync for everybody: the cut goes to the frame, nothing hidden is kept."""
    source, time = clips["25"]
    cut_packets(source, tmp_path / "cut.mp4", 0.755)
    sound = clicks(2.0, 48000, (time - 0.755,))
    mux(tmp_path / "out.mp4", seconds=1.6, video_from=tmp_path / "cut.mp4", sound=sound, sample_rate=48000)
    with av.open(str(tmp_path / "out.mp4")) as out:
        (flash,) = [frame.time for frame in out.decode(video=0) if frame.to_ndarray(format="gray")[60, 32] > 128]
    assert flash == pytest.approx(time - 0.755, abs=0.001)
    assert flash_and_click(tmp_path / "out.mp4", time - 0.755) == pytest.approx((flash, flash), abs=0.0015)


@pytest.mark.parametrize("share", [0.8, 0.9, 0.98])
def test_a_truncated_cut_is_still_caught(clips, tmp_path, share):
    source, _ = clips["25"]
    cut_packets(source, tmp_path / "cut.mp4", 0.755)
    with (
        av.open(str(tmp_path / "cut.mp4")) as given,
        av.open(
            str(tmp_path / "front.mp4"), "w", options={"movflags": "+faststart", "avoid_negative_ts": "disabled"}
        ) as out,
    ):
        kept = {stream.index: out.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = kept[packet.stream.index]
                out.mux(packet)
    content = (tmp_path / "front.mp4").read_bytes()
    (tmp_path / "short.mp4").write_bytes(content[: int(len(content) * share)])
    short = tmp_path / "short.mp4"
    assert any("(truncated" in problem for problem in probe(short, verify=True).problems)
    with pytest.raises(MediaError, match="truncated or corrupt"):
        list(chain(iter_frames(short, fps=25.0), iter_sound(short, sample_rate=16000)))
