import json
import logging
import os
from pathlib import Path

import pytest
from corpus_trees import first_batches, lay_out

from cmmd_lightning import AudioVideoDataModule
from cmmd_lightning.cli.lightning_cli import CMMDCLI
from cmmd_lightning.data import ClipSpec, DataSource, Folder, Grid, Source, of_split
from cmmd_lightning.data.sources.source import hashed_splits
from cmmd_lightning.packaged import packaged_configs


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_subfolders_give_the_splits_and_only_video_files_count(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.mp4", "train/deep/b.MOV", "val/a.mp4", "test/c.mpg", "train/a.json.txt", "train/n.wav")
    (tmp_path / "other").mkdir()
    touch(tmp_path, "other/d.mp4")
    sources = Folder().sources(str(tmp_path))
    assert [(source.key, source.split) for source in sources] == [
        ("test/c.mpg", "test"),
        ("train/a.mp4", "train"),
        ("train/deep/b.MOV", "train"),
        ("val/a.mp4", "val"),
    ]
    assert sources[1] == Source(path=str(tmp_path / "train/a.mp4"), key="train/a.mp4", split="train")


def test_split_by_hash_is_stated_seeded_and_does_not_move_when_files_are_added(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, *(f"{number:03d}.mp4" for number in range(300)))
    with caplog.at_level(logging.INFO):
        before = {s.key: s.split for s in Folder(val_fraction=0.2, test_fraction=0.1).sources(str(tmp_path), seed=3)}
    assert "seed 3" in caplog.text
    assert "val 0.2" in caplog.text
    counts = [list(before.values()).count(split) for split in ("train", "val", "test")]
    assert sum(counts) == 300
    assert abs(counts[1] - 60) < 25
    assert abs(counts[2] - 30) < 20
    touch(tmp_path, *(f"{number:03d}.mp4" for number in range(300, 400)))
    after = {s.key: s.split for s in Folder(val_fraction=0.2, test_fraction=0.1).sources(str(tmp_path), seed=3)}
    assert {key: after[key] for key in before} == before
    other = {s.key: s.split for s in Folder(val_fraction=0.2, test_fraction=0.1).sources(str(tmp_path), seed=4)}
    assert other != after


def test_a_small_folder_still_gets_a_validation_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    for seed in range(20):
        sources = Folder(val_fraction=0.01).sources(str(tmp_path), seed=seed)
        assert (len(of_split(sources, "train")), len(of_split(sources, "val"))) == (2, 1)
    assert len(of_split(Folder(val_fraction=0.0).sources(str(tmp_path)), "train")) == 3


def test_the_sidecar_states_the_period(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    (tmp_path / "a.json").write_text(json.dumps({"period": 0.5, "events": []}))
    (tmp_path / "b.json").write_text(json.dumps({"period": None}))
    (tmp_path / "c.json").write_text("{broken")
    sources = Folder(val_fraction=0.0).sources(str(tmp_path))
    assert [source.period for source in sources] == [0.5, None, None, None]


def test_errors_name_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a folder of media files, got nothing there"):
        Folder().sources(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"expected video files \(.*\.mp4.*\), got none"):
        Folder().sources(str(tmp_path))
    with pytest.raises(ValueError, match="sum below 1"):
        Folder(val_fraction=0.6, test_fraction=0.4).sources(str(tmp_path))
    with pytest.raises(ValueError, match="expected a split of train, val, test, got 'dev'"):
        Source("a.mp4", "a", "dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 <= start < stop"):
        Source("a.mp4", "a", "train", start=2.0, stop=1.0)
    with pytest.raises(ValueError, match="positive period"):
        Source("a.mp4", "a", "train", period=0.0)


def test_a_source_checks_its_class_index_and_splits_their_fractions() -> None:
    with pytest.raises(ValueError, match=r"a.mp4: expected a class index from 0, got -1"):
        Source("a.mp4", "a", "train", class_index=-1)
    with pytest.raises(ValueError, match=r"fractions >= 0 with a sum below 1, got val -0.1 and test 0"):
        hashed_splits(["a"], val_fraction=-0.1, test_fraction=0)


def test_hashed_splits_are_of_names_alone() -> None:
    names = [f"name {number}" for number in range(1000)]
    splits = hashed_splits(names, val_fraction=0.2, test_fraction=0.1, seed=3)
    assert hashed_splits(reversed(names), val_fraction=0.2, test_fraction=0.1, seed=3) == splits
    some = hashed_splits(names[:100], val_fraction=0.2, test_fraction=0.1, seed=3)
    assert some == {name: splits[name] for name in names[:100]}
    counts = [list(splits.values()).count(split) for split in ("train", "val", "test")]
    assert sum(counts) == 1000
    # Four standard deviations of a binomial count.
    assert abs(counts[1] - 200) < 51
    assert abs(counts[2] - 100) < 38
    assert hashed_splits(["only"], val_fraction=1e-9) == {"only": "train"}
    assert hashed_splits([], val_fraction=0.5) == {}


class Corpus(DataSource):
    """A source of somebody's own."""

    def __init__(self, folder: str = "raw", split: str = "train") -> None:
        self.folder, self.split = folder, split

    def sources(self, root: str, clip: ClipSpec | None = None, seed: int = 0) -> list[Source]:
        return [Source(str(path), path.name, self.split) for path in sorted(Path(root, self.folder).glob("*.mp4"))]  # type: ignore[arg-type]


def test_a_source_of_ones_own_is_given_by_its_class_path(rendered: Path, tmp_path: Path) -> None:
    lay_out(tmp_path, ["films/a.mp4", "films/b.mp4"], rendered)
    flags = ["--data.source", f"{__name__}.Corpus", "--data.source.folder", "films", "--data.root", str(tmp_path)]
    config = ["--config", str(packaged_configs()["quickstart.yaml"])]
    data = CMMDCLI([*config, *flags], command="prepare", run=False).datamodule
    assert [(source.key, source.split) for source in data.sources()] == [("a.mp4", "train"), ("b.mp4", "train")]
    short = CMMDCLI([*config, "--data.source", "grid"], command="prepare", run=False).datamodule
    assert isinstance(short.source, Grid)


def test_python_hands_over_a_source_or_a_list(rendered: Path, tmp_path: Path) -> None:
    lay_out(tmp_path, ["films/a.mp4", "films/b.mp4"], rendered)
    own = Corpus("films").sources(str(tmp_path))
    for source in (own, Corpus("films")):
        _, batches = first_batches(tmp_path, source=source, batch_size=2)
        assert set(batches["train"]["source"].tolist()) <= {0, 1}
    with pytest.raises(
        ValueError, match=r"source: expected folder, aist, epic_sounds, grid, a DataSource .*got 'films'"
    ):
        AudioVideoDataModule(source="films")  # type: ignore[arg-type]


def test_names_that_are_not_utf8_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.mp4", os.fsdecode(b"caf\xe9.mp4"))
    assert [source.key for source in Folder().sources(str(tmp_path))] == ["a.mp4"]
    assert f"{tmp_path}/caf\\xe9.mp4: expected a name in UTF-8, got other bytes; left out, rename it" in caplog.messages
