"""The data report: what it finds in files that are wrong in known ways, what it does about it, and what stays of it."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from data_fixtures import CLIP, Prepared, entry_bytes, moving_frames, write_clip

from cmmd_lightning import AudioVideoDataModule
from cmmd_lightning.data import Cache, Folder, Source
from cmmd_lightning.data.inspect.report import DEFAULT_EXCLUDE, Inspection, inspect_sources
from cmmd_lightning.data.inspect.written import summary, to_table
from cmmd_lightning.data.preprocess.facts import Measurement, picture_vectors, sound_vectors
from cmmd_lightning.media import read_frames, read_sound, write_sound, write_video

Run = Callable[..., Prepared]
NOISE = 0.2 * torch.randn(64000, generator=torch.Generator().manual_seed(5))


def kinds(inspections: list[Inspection]) -> dict[str, list[tuple[str, str]]]:
    """Kind and first word of the action of every finding, by the source's key."""
    return {d.source.key: [(f.kind, f.action.split(":")[0]) for f in d.findings] for d in inspections}


def black_then_white(count: int, black: int) -> torch.Tensor:
    frames = moving_frames(count, 3)
    frames[:black] = 0
    return frames


def write_uneven(path: Path) -> None:
    """A Matroska file with pictures at 0, 40, 80 ms ... in its first second, every 200 ms after it."""
    times = [*range(0, 1000, 40), *range(1000, 3000, 200)]
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=16000, layout="mono")
        video.width = video.height = 32
        video.pix_fmt, video.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        for time, picture in zip(times, moving_frames(len(times), 8), strict=True):
            frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).numpy(), format="rgb24")
            frame.pts, frame.time_base = time, video.codec_context.time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for start in range(0, 48000, 1024):
            block = av.AudioFrame.from_ndarray(NOISE[None, start : start + 1024].numpy(), format="fltp", layout="mono")
            block.sample_rate, block.pts = 16000, start
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are wrong, each in its own way, beside two that are not."""
    folder = tmp_path_factory.mktemp("clinic")
    train, val = folder / "train", folder / "val"
    for split, number in ((train, 1), (val, 2)):
        write_clip(split / f"good_{number}.mp4", 2.0, number)
    still = moving_frames(1, 4).expand(50, -1, -1, -1)
    write_video(train / "black.mp4", torch.zeros(50, 3, 32, 32, dtype=torch.uint8), 25.0, NOISE[:32000], 16000)
    write_video(train / "frozen.mp4", still, 25.0, NOISE[:32000], 16000)
    write_video(train / "hiss.mp4", moving_frames(50, 6), 25.0, 1e-4 * NOISE[:32000], 16000)
    write_video(train / "mute.mp4", moving_frames(50, 7), 25.0, None, None)
    write_video(train / "slow.mp4", moving_frames(12, 9), 5.0, NOISE[:38400], 16000)
    write_video(train / "unequal.mp4", moving_frames(75, 10), 25.0, NOISE[:32000], 16000)
    dark = black_then_white(175, 130)
    write_video(train / "dark_start.mp4", dark, 25.0, 0.2 * torch.randn(112000), 16000)
    write_uneven(train / "uneven.mkv")
    write_clip(train / "short.mp4", 0.6, 11)
    write_sound(folder / "sound.wav", NOISE[:32000], 16000)
    shutil.copy(folder / "sound.wav", train / "blind.mp4")
    whole = (train / "good_1.mp4").read_bytes()
    (train / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (train / "text.mp4").write_text("no video")
    write_clip(train / "twin_a.mp4", 2.0, 12)
    shutil.copy(train / "twin_a.mp4", train / "twin_b.mp4")
    shutil.copy(val / "good_2.mp4", train / "leak.mp4")
    pictures = read_frames(val / "good_2.mp4", num_frames=50, fps=25.0, size=(40, 40))
    sound = read_sound(val / "good_2.mp4", num_samples=44100, sample_rate=22050)
    write_video(train / "leak_again.mp4", pictures, 25.0, sound, 22050)
    for path in folder.rglob("*.m*"):
        os.utime(path, ns=(10**18, 10**18))  # settled: content hashes are put on record
    return folder


EXPECTED = {
    "train/black.mp4": [("black", "excluded"), ("frozen", "excluded")],
    "train/blind.mp4": [("no_picture", "excluded")],
    "train/dark_start.mp4": [("partly_black", "kept"), ("partly_frozen", "kept")],
    "train/frozen.mp4": [("frozen", "excluded")],
    "train/good_1.mp4": [],
    "train/hiss.mp4": [("silent", "excluded")],
    "train/leak.mp4": [("duplicate_across_splits", "excluded")],
    "train/leak_again.mp4": [("duplicate_across_splits", "excluded"), ("duplicate", "kept")],
    "train/mute.mp4": [("no_sound", "excluded")],
    "train/short.mp4": [("short", "excluded")],
    "train/slow.mp4": [("low_frame_rate", "kept")],
    "train/text.mp4": [("unreadable", "excluded")],
    "train/truncated.mp4": [("truncated", "excluded")],
    "train/twin_a.mp4": [],
    "train/twin_b.mp4": [("duplicate", "kept")],
    "train/unequal.mp4": [("different_end", "kept")],
    "train/uneven.mkv": [("different_end", "kept"), ("variable_frame_rate", "kept")],
    "val/good_2.mp4": [("duplicate_across_splits", "kept")],
}


def test_what_is_wrong_is_found_and_nothing_else(clinic: Path, prepare_into: Run, tmp_path: Path) -> None:
    sources = Folder().sources(str(clinic))
    made = prepare_into(tmp_path, sources)
    assert kinds(made.report.inspections) == EXPECTED
    assert [d.kept for d in made.report.inspections] == [all(a != "excluded" for _, a in f) for f in EXPECTED.values()]
    stored = json.loads((tmp_path / "doctor.json").read_text())
    assert [entry["key"] for entry in stored] == sorted(EXPECTED)
    by_key = {entry["key"]: entry for entry in stored}
    assert by_key["train/leak_again.mp4"]["findings"][0] == {
        "kind": "duplicate_across_splits",
        "detail": "the same picture and sound, encoded anew, as val/good_2.mp4 of val",
        "action": "excluded",
    }
    assert by_key["train/short.mp4"] == {
        "path": str(clinic / "train/short.mp4"),
        "key": "train/short.mp4",
        "split": "train",
        "start": 0.0,
        "stop": None,
        "findings": [
            {
                "kind": "short",
                "detail": "expected at least 0.8 s of picture and sound (8 frames at 10 fps), got 0.600 s",
                "action": "excluded",
            }
        ],
    }
    table = (tmp_path / "doctor.md").read_text()
    assert table == to_table(made.report.inspections)
    assert "| frozen | 2 | 2 |" in table
    assert "| train/slow.mp4 | train | low_frame_rate | 5 pictures per second, expected at least 10 | kept: " in table
    assert summary(made.report.inspections).startswith("data report: 8 of 18 sources kept; 1 unreadable (excluded), ")


def test_findings_survive_resuming_and_shards_byte_for_byte(
    clinic: Path, prepare_into: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = Folder().sources(str(clinic))
    whole = prepare_into(tmp_path / "whole", sources)
    first = (tmp_path / "whole" / "doctor.json").read_bytes()
    again = prepare_into(tmp_path / "whole", sources)
    assert (tmp_path / "whole" / "doctor.json").read_bytes() == first
    assert (again.report.prepared, again.report.failed) == ([], whole.report.failed)
    pending = {}
    for index in (1, 2, 3):
        shard = prepare_into(tmp_path / "parts", sources, shard=(index, 3), num_workers=index - 1)
        found = kinds(shard.report.inspections)
        pending[index] = sum(("not_prepared", "excluded") in of_source for of_source in found.values())
    assert pending == {1: 12, 2: 6, 3: 0}
    assert (tmp_path / "parts" / "doctor.json").read_bytes() == first
    assert entry_bytes(tmp_path / "parts") == entry_bytes(tmp_path / "whole")


def test_flags_decide_and_the_datasets_follow(clinic: Path, prepare_into: Run, tmp_path: Path) -> None:
    sources = Folder().sources(str(clinic))
    made = prepare_into(tmp_path, sources)
    always = {key for key, found in EXPECTED.items() if found and found[0][0] in ("no_picture", "no_sound", "short")}
    always |= {"train/text.mp4", "train/truncated.mp4"}
    assert {d.source.key for d in inspect_sources(sources, made.cache, exclude=()) if not d.kept} == always
    with pytest.raises(ValueError, match=r"exclude: expected kinds of missing, .*, got odd"):
        inspect_sources(sources, made.cache, exclude=("odd",))  # type: ignore[arg-type]

    def keys(exclude: tuple[str, ...], split: str) -> list[str]:
        data = AudioVideoDataModule(
            str(clinic),
            str(tmp_path),
            clip=CLIP,
            num_workers=0,
            exclude=exclude,  # type: ignore[arg-type]
        )
        data.setup("fit")
        return [source.key for source in data.datasets[split].sources]

    by_default = [key for key, found in EXPECTED.items() if all(action == "kept" for _, action in found)]
    assert keys(DEFAULT_EXCLUDE, "train") == [key for key in by_default if key.startswith("train")]
    assert keys(("duplicate", "low_frame_rate"), "train") == sorted(
        {key for key in EXPECTED if key.startswith("train")}
        - always
        - {"train/twin_b.mp4", "train/slow.mp4", "train/leak_again.mp4"}
    )
    assert keys(DEFAULT_EXCLUDE, "val") == ["val/good_2.mp4"]
    lonely = AudioVideoDataModule(str(clinic), str(tmp_path), clip=CLIP, num_workers=0)
    lonely._sources = [s for s in sources if s.key in ("train/frozen.mp4", "val/good_2.mp4")]
    with pytest.raises(
        ValueError, match=r"expected sources to train on, got none that the data report keeps; see .*doctor.md"
    ):
        lonely.setup("fit")


def test_a_split_of_nothing_but_duplicates_is_not_emptied(clinic: Path, prepare_into: Run, tmp_path: Path) -> None:
    sources = [
        s for s in Folder().sources(str(clinic)) if s.key in ("train/leak.mp4", "val/good_2.mp4", "train/hiss.mp4")
    ]
    made = prepare_into(tmp_path, sources)
    assert kinds(made.report.inspections) == {
        "train/hiss.mp4": [("silent", "excluded")],
        "train/leak.mp4": [("duplicate_across_splits", "kept")],
        "val/good_2.mp4": [("duplicate_across_splits", "kept")],
    }


def test_test_comes_before_validation_and_that_before_training(clinic: Path, prepare_into: Run, tmp_path: Path) -> None:
    path = str(clinic / "train" / "twin_a.mp4")
    other = str(clinic / "train" / "good_1.mp4")
    copies = [Source(path, f"{split}/a", split) for split in ("train", "val", "test")]  # type: ignore[arg-type]
    others = [Source(other, f"{split}/b", split, start=start) for split, start in (("train", 0.0), ("val", 0.1))]  # type: ignore[arg-type]
    made = prepare_into(tmp_path, copies + others)
    assert [d.source.key for d in made.report.inspections if d.kept] == ["test/a", "train/b", "val/b"]


def test_header_flaws_count_where_they_touch_the_stretch(clinic: Path, prepare_into: Run, tmp_path: Path) -> None:
    whole = Source(str(clinic / "train" / "unequal.mp4"), "whole", "train")
    made = prepare_into(tmp_path, [whole, replace(whole, key="head", start=0.0, stop=1.0)])
    assert kinds(made.report.inspections) == {"head": [], "whole": [("different_end", "kept")]}


def test_missing_files_and_forgotten_failures(prepare_into: Run, tmp_path: Path) -> None:
    absent = Source(str(tmp_path / "absent.mp4"), "absent", "train")
    made = prepare_into(tmp_path / "cache", [absent])
    assert kinds(made.report.inspections) == {"absent": [("missing", "excluded")]}
    assert kinds(inspect_sources([absent], made.cache, contents={absent.path: None})) == {
        "absent": [("not_prepared", "excluded")]
    }


def test_measurement_follows_its_definitions(prepared: Prepared) -> None:
    """Against hand-made signals: level of a sine, runs in seconds, means by stretch."""
    measurement = Measurement(CLIP, prepared.mel, 30)
    frames = torch.full((30, 3, 32, 32), 100, dtype=torch.uint8)
    frames[10:14] = 20  # four black pictures, 0.4 s; the longest still run is that of the last sixteen
    measurement.add_frames(frames[:7])
    measurement.add_frames(frames[7:])
    time = torch.arange(24000) / 8000
    sound = torch.where((time >= 1) & (time < 1.7), 0.0, 0.5 * torch.sin(2 * np.pi * 400 * time))
    passed = torch.cat(list(measurement.listen(iter(sound.split(777)))))
    assert torch.equal(passed, sound)
    mel = prepared.mel(sound[None])[0]
    for piece in mel.split(11, dim=1):
        measurement.add_mel(piece)
    facts = measurement.facts((), 25.0)
    assert (facts.black, facts.still, facts.silence) == (0.4, 1.6, 0.7)
    assert facts.level == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.05)
    picture, levels = picture_vectors(facts), sound_vectors(facts)
    assert (picture.shape, levels.shape) == ((15, 36), (30, 12))
    np.testing.assert_allclose(picture[:, 0], [100.0] * 5 + [20.0] * 2 + [100.0] * 8, atol=0.6)
    expected = (mel.T[8 * 3 : 8 * 4] - (np.log(64) - 7)).clamp_min(0).numpy()
    expected = torch.nn.functional.adaptive_avg_pool1d(torch.from_numpy(expected)[None], 12)[0].mean(0)
    np.testing.assert_allclose(levels[3], expected, atol=0.05)


def test_other_clips_of_the_same_talker_are_no_duplicates(shared: Path, prepare_into: Run, tmp_path: Path) -> None:
    paths = sorted((shared / "data" / "grid_s1" / "val").glob("*.mp4"))[:20]
    made = prepare_into(tmp_path, [Source(str(path), path.name, "val") for path in paths])
    assert kinds(made.report.inspections) == {path.name: [] for path in paths}


def test_no_room_on_the_disk_is_one_line_before_anything_is_done(
    prepared: Prepared,
    prepare_into: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        report = prepare_into(tmp_path / "fits").report
    assert report.estimate is not None
    assert report.estimate.media_seconds == pytest.approx(report.media_seconds, abs=0.1)
    sizes = [len(content) for content in entry_bytes(tmp_path / "fits").values()]
    assert report.estimate.cache_bytes == pytest.approx(sum(sizes), rel=0.01)
    assert any("to prepare: 7 sources, about 0.00 h of media (7 probed), " in line for line in caplog.messages)
    monkeypatch.setattr("cmmd_lightning.data.inspect.estimate._free_bytes", lambda folder: 1000)
    with pytest.raises(ValueError, match=r"expected 0.00\d+ GB of free disk space for 7 sources, .* got 1e-06 GB"):
        prepare_into(tmp_path / "full")
    assert entry_bytes(tmp_path / "full") == {}


def test_the_cache_of_before_is_read(prepared: Prepared) -> None:
    """What setup sees is what prepare said."""
    cache = Cache(str(prepared.cache.cache_dir), CLIP, prepared.codec, prepared.mel)
    assert inspect_sources(prepared.sources, cache) == prepared.report.inspections
