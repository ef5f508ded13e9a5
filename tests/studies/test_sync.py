"""The lag of sound against picture, its verdict, and the repair: against offsets that are known."""

import json

import av
import numpy as np
import pytest
import torch
from command_line import cmmd

from cmmd_lightning.evaluation.loading import load_sound, picture_start
from cmmd_lightning.media import write_sound, write_video
from cmmd_lightning.media.muxing import copy_delayed
from cmmd_lightning.metrics.functional.evidence import best_lag, event_evidence, lag_interval, series_evidence
from cmmd_lightning.metrics.functional.lag import sound_lag
from cmmd_lightning.procedural import render
from cmmd_lightning.studies.sync import judge, repair

OFFSETS = (0.0, -0.3, 0.2, -0.11, 0.3, 0.0, -0.17, 0.15, 0.06)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Clips whose sounds are late by the offsets, in two containers, beside what cannot be measured."""
    folder = tmp_path_factory.mktemp("sync")
    paths = render("bounce", folder / "true", len(OFFSETS), 5, duration=4.0, fps=25.0, progress=False, num_workers=0)
    for number, (path, offset) in enumerate(zip(paths, OFFSETS, strict=True)):
        (folder / "clips").mkdir(exist_ok=True)
        name = path.with_suffix(".mkv").name if number % 4 == 3 else path.name
        copy_delayed(path, folder / "clips" / name, offset)
    write_sound(folder / "clips" / "sound.wav", torch.zeros(16000), 16000)
    (folder / "clips" / "torn.mp4").write_bytes(paths[0].read_bytes()[:3000])
    return folder


def test_lags_are_found_named_and_mended(home):
    done = cmmd("sync", "clips", "--repair", "mended", "--output_dir", "out", cwd=home)
    assert done.status == 1  # two files could not be measured
    assert len(done.lines_with("sound.wav: expected a picture and a sound, got a sound alone")) == 1
    assert len(done.lines_with("torn.mp4: expected")) == 1
    found = json.loads((home / "out/sync.json").read_text())
    clips = sorted(found["clips"], key=lambda clip: clip["path"].rpartition("_")[2])
    assert len(clips) == len(OFFSETS)
    known = [(clip, offset) for clip, offset in zip(clips, OFFSETS, strict=True) if clip["verdict"] != "cannot tell"]
    assert len(known) >= len(OFFSETS) - 1
    for clip, offset in known:
        assert clip["lag"] == pytest.approx(offset, abs=0.01)
        assert clip["low"] <= clip["lag"] <= clip["high"]
        assert clip["verdict"] == ("in sync" if -0.045 < offset < 0.125 else "out of sync")
    assert {f"sync{suffix}" for suffix in (".json", ".csv", ".md", ".tex", ".html", ".png")} == {
        path.name for path in (home / "out").iterdir()
    }
    mended = {path.name for path in (home / "mended").iterdir()}
    assert mended == {clip["path"].rpartition("/")[2] for clip in clips if clip["verdict"] == "out of sync"}

    for path in (home / "true").glob("*.mp4"):  # what is mended fits into a folder that is in sync
        if path.name not in mended and path.with_suffix(".mkv").name not in mended:
            copy_delayed(path, home / "mended" / path.name, 0.0)
    again = cmmd("sync", "mended", "--output_dir", "again", cwd=home)
    assert again.status == 0, again.err
    lags = {clip["path"]: clip["lag"] for clip in json.loads((home / "again/sync.json").read_text())["clips"]}
    assert {path: lag for path, lag in lags.items() if abs(lag) > 0.01} == {}


def packets(path, kind):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


@pytest.mark.parametrize("seconds", [0.25, -0.25, 0.0])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_nothing_is_encoded_anew(home, tmp_path, seconds, suffix):
    source = next((home / "true").glob("*.mp4"))
    copy_delayed(source, tmp_path / f"copy{suffix}", seconds)
    for kind in ("video", "audio"):
        assert packets(tmp_path / f"copy{suffix}", kind) == packets(source, kind)
    before, after = (
        load_sound(path, 3.0, start=(picture_start(path) or 0.0) + shift)
        for path, shift in ((source, 0.0), (tmp_path / f"copy{suffix}", seconds))
    )
    assert sound_lag(before, after, 16000) == pytest.approx(0.0, abs=0.002)


def test_a_container_that_does_not_take_it_is_named(home, tmp_path):
    source = next((home / "true").glob("*.mp4"))
    with pytest.raises(ValueError, match=r"copy\.wav: expected a container that takes h264 and aac, got"):
        copy_delayed(source, tmp_path / "copy.wav", 0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_is_not_written_over_itself(home):
    source = next((home / "clips").glob("*_00001.mp4"))
    whole = source.read_bytes()
    own = event_evidence([1.0, 2.0, 2.7], [1.3, 2.3, 3.0], 0.5)
    found = judge(str(source), own, [event_evidence([1.0, 2.0, 2.7], [0.1], 0.5)] * 21)
    assert found.verdict == "out of sync"
    written, errors = repair([found], home / "clips", home / "clips")
    assert written == []
    assert errors == [f"{source}: expected another folder for the repaired clip, got its own"]
    assert source.read_bytes() == whole


def test_too_few_clips_and_noise_tell_nothing(tmp_path):
    noise = torch.Generator().manual_seed(0)
    for number in range(9):
        frames = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8, generator=noise)
        sound = 0.1 * torch.randn(48000, generator=noise)
        write_video(tmp_path / "noise" / f"{number}.mp4", frames, 10.0, sound, 16000)
    (tmp_path / "few").mkdir()
    for number in range(3):
        (tmp_path / "few" / f"{number}.mp4").write_bytes((tmp_path / "noise" / f"{number}.mp4").read_bytes())
    for folder in ("noise", "few"):
        done = cmmd("sync", folder, "--measure", "envelope", "--output_dir", f"out_{folder}", cwd=tmp_path)
        assert done.status == 0, done.err
        clips = json.loads((tmp_path / f"out_{folder}/sync.json").read_text())["clips"]
        told = [clip for clip in clips if clip["verdict"] != "cannot tell"]
        assert len(told) <= (1 if folder == "noise" else 0)
        assert all(clip["reason"] for clip in clips if clip["verdict"] == "cannot tell")
    assert all("eight" in clip["reason"] or "8 clips" in clip["reason"] for clip in clips if clip["lag"] is not None)


def test_a_steady_beat_is_ambiguous():
    beat = [0.2 + 0.4 * i for i in range(10)]
    found = judge(
        "clip", event_evidence(beat, [time + 0.2 for time in beat], 0.5), [event_evidence(beat, [9.0], 0.5)] * 21
    )
    assert found.verdict == "cannot tell"
    assert "not certain" in found.reason


def test_series_have_the_lag_of_the_second():
    rng = np.random.default_rng(0)
    first = rng.standard_normal((500, 3))
    evidence = series_evidence(first, np.roll(first, 7, axis=0) + rng.standard_normal((500, 3)), 0.5, 50.0, np.ones(3))
    lag = best_lag(evidence)
    assert lag.seconds == pytest.approx(0.14, abs=0.005)
    assert 0.5 < lag.strength < 0.9
    low, high = lag_interval(evidence)
    assert 0.12 < low <= high < 0.16
    assert np.isnan(best_lag(series_evidence(np.ones((50, 1)), first[:50, :1], 0.5, 50.0)).seconds)


def test_what_is_missing_is_said_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for words, said in (
        (["sync"], "clips"),
        (["sync", "empty"], "empty: expected clips with a picture and a sound, got no media files"),
        (["sync", "empty", "--measure", "linear"], "--linear_sync FILE"),
        (["sync", "nowhere"], "nowhere"),
    ):
        done = cmmd(*words, cwd=tmp_path)
        assert done.status != 0
        (error,) = done.errors
        assert said in error
