import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from corpus_trees import first_batches, lay_out
from data_fixtures import Prepared

from cmmd_lightning.data import NEGATIVE_KINDS, ClipDataset, NegativeSpec
from cmmd_lightning.data.sources.segments import Segments


def table(folder: Path, *lines: str) -> str:
    file = folder / "segments.csv"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


@pytest.fixture
def media(rendered: Path, tmp_path: Path) -> Path:
    return lay_out(tmp_path / "media", ["a.mp4", "b.mp4", "train/c.mp4", "val/d.mp4", "deep/val/e.mp4"], rendered)


def test_every_column_is_read(media: Path, tmp_path: Path) -> None:
    file = table(
        tmp_path,
        "label, path ,start,stop,split,period",
        "walk,a.mp4,0.5,2.25,train,0.5",
        "",
        'run,"a.mp4",2.25,,test,',
        ",b.mp4,,,val,",
    )
    sources = Segments(file).sources(str(media))
    assert [(s.key, s.split, s.start, s.stop, s.label, s.class_index, s.period, s.group) for s in sources] == [
        ("a.mp4@0.5-2.25", "train", 0.5, 2.25, "walk", 1, 0.5, "a.mp4"),
        ("a.mp4@2.25-end", "test", 2.25, None, "run", 0, None, "a.mp4"),
        ("b.mp4", "val", 0.0, None, None, None, None, "b.mp4"),
    ]
    assert sources[0].path == str(media / "a.mp4")


def test_only_the_path_is_needed_and_the_sidecar_states_the_period(media: Path, tmp_path: Path) -> None:
    (media / "b.json").write_text(json.dumps({"period": 0.75}))
    names = ["a.mp4", "b.mp4", "train/c.mp4", "val/d.mp4", "deep/val/e.mp4"]
    sources = {s.key: s for s in Segments(table(tmp_path, "path", *names), val_fraction=0.0).sources(str(media))}
    assert {key: s.split for key, s in sources.items()} == {
        "a.mp4": "train",
        "b.mp4": "train",
        "deep/val/e.mp4": "train",  # only a folder at the head of the path is a split
        "train/c.mp4": "train",
        "val/d.mp4": "val",
    }
    assert [sources[name].period for name in names] == [None, 0.75, None, None, None]


def test_the_segments_of_a_file_stay_in_one_split(rendered: Path, tmp_path: Path) -> None:
    names = [f"{number:02d}.mp4" for number in range(40)]
    media = lay_out(tmp_path / "media", names, rendered)
    file = table(tmp_path, "path,start,stop", *(f"{name},{i},{i + 1}" for name in names for i in range(3)))
    sources = Segments(file, val_fraction=0.3, test_fraction=0.2).sources(str(media), seed=5)
    splits: dict[str, set[str]] = {}
    for source in sources:
        splits.setdefault(source.path, set()).add(source.split)
    assert len(sources) == 120
    assert {len(of_file) for of_file in splits.values()} == {1}
    assert {split for (split,) in splits.values()} == {"train", "val", "test"}
    assert Segments(file, val_fraction=0.3, test_fraction=0.2).sources(str(media), seed=6) != sources


def test_missing_files_are_one_warning(media: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = [f"gone_{number}.mp4,{start},," for number in range(5) for start in (0, 1)]
    file = table(tmp_path, "path,start,stop,colour", "a.mp4,,,red", *gone)
    assert [source.key for source in Segments(file).sources(str(media))] == ["a.mp4"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "columns other than path,start,stop,split,label,period are ignored: colour" in warnings[0]
    assert "5 files with 10 of 11 segments are missing" in warnings[1]
    assert warnings[1].endswith("gone_2.mp4, ...")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["start,stop", "0,1"], "segments.csv:1: expected a header with path, got start,stop"),
        ([""], "segments.csv:1: expected a header with path, got nothing"),
        (["path,start", "a.mp4,x"], "segments.csv:2: expected start in seconds, got 'x'"),
        (["path,stop", "a.mp4,1", "b.mp4,inf"], "segments.csv:3: expected stop in seconds, got 'inf'"),
        (["path,start,stop", "a.mp4,2,1"], r"segments.csv:2: expected 0 <= start < stop in seconds, got 2.0 and 1.0"),
        (["path,start", "a.mp4,-1"], r"segments.csv:2: expected 0 <= start < stop in seconds, got -1.0 and None"),
        (["path,period", "a.mp4,-1"], r"segments.csv:2: expected a positive period in seconds, got -1.0"),
        (["path,split", "a.mp4,dev"], "segments.csv:2: expected a split of train, val, test or none, got 'dev'"),
        (["path,start", "a.mp4"], "segments.csv:2: expected 2 fields, got 1"),
        (
            ["path", "/media/a.mp4"],
            "segments.csv:2: expected a path relative to the folder of media, got '/media/a.mp4'",
        ),
        (["path", "../a.mp4"], r"segments.csv:2: expected a path relative .*, got '../a.mp4'"),
        (["path,start", '"",1'], "segments.csv:2: expected a path relative to the folder of media, got ''"),
        (["path", "a.mp4", "a.mp4"], r"csv:3: expected each segment once, got a.mp4 of .*segments.csv:2 again"),
        (["path", "gone.mp4"], "segments.csv: expected segments of files below .*media, got none"),
        (["path"], "segments.csv: expected segments of files below .*media, got none"),
    ],
)
def test_errors_name_file_line_expected_and_got(media: Path, tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segments(table(tmp_path, *lines)).sources(str(media))


def test_segments_reach_the_batches_with_their_labels(media: Path, tmp_path: Path) -> None:
    file = table(
        tmp_path,
        "path,start,stop,split,label",
        "a.mp4,0,1.5,train,walk",
        "a.mp4,1.5,3.5,train,run",
        "b.mp4,0,2,train,",
        "val/d.mp4,1,3,val,walk",
    )
    data, batches = first_batches(media, source=Segments(file), batch_size=32)
    labels = {"a.mp4@0-1.5": 1, "a.mp4@1.5-3.5": 0, "b.mp4@0-2": -1}
    keys = [source.key for source in data.sources() if source.split == "train"]
    train = batches["train"]
    assert train["label"].tolist() == [labels[keys[i]] for i in train["source"].tolist()]
    assert set(train["label"].tolist()) == {-1, 0, 1}
    assert batches["val"]["label"].tolist() == [1]
    assert batches["val"]["start"].tolist() == [1.0]


def test_no_wrong_partner_comes_from_the_same_group(prepared: Prepared) -> None:
    sources = [source for source in prepared.sources if source.split == "train"]
    spec = NegativeSpec(kinds=("substitution",))

    def kinds(groups: list[str | None]) -> set[str]:
        grouped = [replace(s, group=g, class_index=7) for s, g in zip(sources, groups, strict=True)]
        dataset = ClipDataset(grouped, prepared.cache, negatives=spec)
        items = [dataset[0, index] for index in range(40)]
        assert all(torch.equal(item["label"], torch.tensor(7)) for item in items)
        return {NEGATIVE_KINDS[int(item["video_negative_kinds"][0])] for item in items}

    assert kinds([None] * 5) == {"substitution"}
    assert kinds(list("abcde")) == {"substitution"}
    assert kinds(["a"] * 5) == {"shift"}  # where there is no other group
