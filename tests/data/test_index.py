"""The index: what a start needs, computed once, read once, without the media."""

import errno
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from data_fixtures import CLIP, Prepared, write_clip

from cmmd_lightning import AudioVideoDataModule
from cmmd_lightning.data import Cache, Folder, Source, of_split
from cmmd_lightning.data.inspect import written
from cmmd_lightning.data.inspect.written import keep_report, kept_report
from cmmd_lightning.data.preprocess import cache as cache_module
from cmmd_lightning.training import datamodule as datamodule_module

Run = Callable[..., Prepared]


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts codecs and caches built, reports made, and headers read by entry."""
    calls: Counter[str] = Counter()

    def spy(module: object, name: str, label: Callable[..., str]) -> None:
        real = getattr(module, name)

        def counted(*args: object, **settings: object) -> object:
            calls[label(*args)] += 1
            return real(*args, **settings)

        monkeypatch.setattr(module, name, counted)

    spy(datamodule_module, "build_frame_codec", lambda *_: "codec")
    spy(datamodule_module, "Cache", lambda *_: "cache")
    spy(written, "inspect_sources", lambda *_: "report")
    spy(cache_module, "safe_open", lambda path, *_: f"header {Path(path).stem}")
    return calls


def data_of(folder: Path, cache_dir: Path) -> AudioVideoDataModule:
    data = AudioVideoDataModule(str(folder), str(cache_dir), clip=CLIP, num_workers=0, batch_size=2)
    data.prepare_data()
    data.setup("fit")
    return data


def test_a_start_does_everything_once_and_the_next_one_reads_no_header(
    prepared: Prepared, tmp_path: Path, spied: Counter[str]
) -> None:
    first = data_of(prepared.folder, tmp_path)
    assert (spied["codec"], spied["cache"], spied["report"]) == (1, 1, 1)
    headers = {name: count for name, count in spied.items() if name.startswith("header")}
    assert (len(headers), set(headers.values())) == (7, {1})
    spied.clear()
    second = data_of(prepared.folder, tmp_path)
    assert spied == {"codec": 1, "cache": 1}
    assert second.datasets["train"].keys == first.datasets["train"].keys
    assert second.statistics == first.statistics


def test_training_does_not_need_the_media(media_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(media_folder, tmp_path / "media")
    for path in (tmp_path / "media").rglob("*.mp4"):
        os.utime(path, ns=(10**18, 10**18))  # settled: content hashes are put on record
    before = data_of(tmp_path / "media", tmp_path / "cache")
    shutil.rmtree(tmp_path / "media")
    after = data_of(tmp_path / "media", tmp_path / "cache")
    assert after.datasets["train"].keys == before.datasets["train"].keys
    assert after.datasets["val"].sources == before.datasets["val"].sources
    line = f"{tmp_path / 'media'}: no such folder; what was prepared of it is used: 5 train, 2 val, 0 test"
    assert line in caplog.messages
    with pytest.raises(ValueError, match="expected a folder of media files, got nothing there"):
        data_of(tmp_path / "media", tmp_path / "another_cache")


def test_the_report_is_made_anew_when_something_changes(prepared: Prepared, spied: Counter[str]) -> None:
    def cache() -> Cache:
        return Cache(str(prepared.cache.cache_dir), CLIP, prepared.codec, prepared.mel)

    assert keep_report(prepared.sources, cache()) == prepared.report.inspections == kept_report(cache())
    assert spied["report"] == 0
    keep_report(prepared.sources, cache(), exclude=("silent",))
    keep_report(prepared.sources[1:], cache())
    assert spied["report"] == 2
    keep_report(prepared.sources, cache())


def test_a_damaged_index_or_entry_costs_time_only(prepare_into: Run, tmp_path: Path) -> None:
    made = prepare_into(tmp_path)
    index = tmp_path / "index.sqlite"
    with sqlite3.connect(index) as file:
        assert file.execute("SELECT count(*) FROM headers").fetchone() == (7,)
    for damaged in (b"", b"nonsense", index.read_bytes()[:5000]):
        index.write_bytes(damaged)
        again = prepare_into(tmp_path)
        assert (again.report.prepared, again.report.inspections) == ([], made.report.inspections)
    entry = made.cache.path(made.report.inspections[0].entry)
    entry.write_bytes(entry.read_bytes()[:-1])
    assert prepare_into(tmp_path).report.prepared == [made.report.inspections[0].source.key]
    assert json.loads((tmp_path / "doctor.json").read_text())[0]["findings"] == []


def test_an_index_of_the_former_layout_is_written_anew(prepare_into: Run, tmp_path: Path) -> None:
    made = prepare_into(tmp_path)
    index = tmp_path / "index.sqlite"
    with sqlite3.connect(index) as file:
        rows = file.execute("SELECT name, size, mtime_ns, num_frames, header FROM headers").fetchall()
        file.execute("DROP TABLE headers")
        file.execute("CREATE TABLE headers (name TEXT PRIMARY KEY, header TEXT)")
        file.execute("CREATE TABLE entries (name TEXT PRIMARY KEY, size, mtime_ns, num_frames)")
        file.executemany("INSERT INTO headers VALUES (?, ?)", [(name, header) for name, *_, header in rows])
        file.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", [row[:4] for row in rows])
        file.execute("UPDATE state SET fingerprint = 'of the former version'")
    assert prepare_into(tmp_path).report.inspections == made.report.inspections
    with sqlite3.connect(index) as file:
        assert file.execute("SELECT * FROM headers ORDER BY name").fetchall() == sorted(rows)
        assert file.execute("SELECT count(*) FROM sqlite_master WHERE name = 'entries'").fetchone() == (0,)


@pytest.mark.parametrize(
    ("clips_per_source", "val", "test"),
    [(1, 2, 2), (2, 4, 4), (None, 5, 5), ({"val": 2}, 4, 2), ({"val": 1, "test": None}, 2, 5), ({}, 2, 2)],
)
def test_clips_per_source_are_one_number_or_one_by_split(
    prepared: Prepared, clips_per_source: int | dict[str, int | None] | None, val: int, test: int
) -> None:
    sources = [replace(source, split="test") for source in of_split(prepared.sources, "val")]  # of 20 and 30 frames
    for split, count in (("val", val), ("test", test)):
        data = AudioVideoDataModule(
            str(prepared.folder),
            str(prepared.cache.cache_dir),
            clip=CLIP,
            num_workers=0,
            source=[*prepared.sources, *(replace(one, key=f"test/{one.key}") for one in sources)],
            clips_per_source=clips_per_source,
            exclude=(),
        )
        data.setup({"val": "validate", "test": "test"}[split])
        assert len(data.datasets[split]) == count


@pytest.mark.parametrize("wrong", [0, -1, {"val": 0}, {"train": 1}])
def test_wrong_clips_per_source_are_named(wrong: int | dict[str, int | None]) -> None:
    with pytest.raises(ValueError, match=r"clips_per_source: expected a number from 1 or null.*, got "):
        AudioVideoDataModule(clips_per_source=wrong)


def test_a_cache_that_was_removed_is_made_again_by_the_same_data_module(prepared: Prepared, tmp_path: Path) -> None:
    data = data_of(prepared.folder, tmp_path)
    shutil.rmtree(tmp_path / "entries")
    assert sorted(data.prepare().prepared) == sorted(source.key for source in prepared.sources)


def test_shares_are_of_files_not_of_segments(prepare_into: Run, tmp_path: Path) -> None:
    paths = [write_clip(tmp_path / f"{name}.mp4", 2.0, number) for number, name in enumerate("abc")]
    sources = [
        Source(str(path), f"{path.stem}{start}", "train", start, start + 0.8) for path in paths for start in (0.0, 1.0)
    ]
    shares = [prepare_into(tmp_path / "cache", sources, shard=(index, 2)).report.prepared for index in (1, 2)]
    assert shares == [["a0.0", "a1.0", "c0.0", "c1.0"], ["b0.0", "b1.0"]]


def test_shares_take_the_gpus_in_turn(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []

    def record(*_: object, device: str, **__: object) -> object:
        devices.append(device)
        return prepared.report

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(
        datamodule_module, "prepare", lambda *_, device, **__: devices.append(device) or prepared.report
    )
    data = AudioVideoDataModule(str(prepared.folder), clip=CLIP, source=Folder())
    for index in (1, 2, 3):
        data.prepare((index, 3))
    assert devices == ["cuda:0", "cuda:1", "cuda:0"]


def test_a_full_disk_is_told_in_one_line(prepare_into: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Cache, "finish", full)
    with pytest.raises(
        ValueError, match="expected room for 7 entries, got No space left on device; what is done is kept"
    ):
        prepare_into(tmp_path)
    monkeypatch.undo()
    assert len(prepare_into(tmp_path).report.prepared) == 7


def test_little_shared_memory_is_told(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_of(prepared.folder, prepared.cache.cache_dir)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=64_000_000))
    data.train_dataloader()
    assert "--data.num_workers" not in caplog.text
    data.num_workers = 1
    data.train_dataloader()
    assert "/dev/shm: 64 MB are free" in caplog.text
    assert "--data.num_workers 0" in caplog.text
