import logging
from pathlib import Path

import pytest
from corpus_trees import first_batches, lay_out

from cmmd_lightning.data import of_split
from cmmd_lightning.data.sources.grid import Grid

SENTENCES = [
    f"{command}{colour}a{letter}{digit}n" for command in "bl" for colour in "gr" for letter in "fx" for digit in "2z"
]


def test_the_corpus_as_shipped(rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    talkers = ("s1", "s2", "s34")
    clips = [f"{talker}/{sentence}.mpg" for talker in talkers for sentence in SENTENCES]
    root = lay_out(tmp_path / "grid", clips, rendered)
    for name in ("s1/align/bgaf2n.align", "align/s2/bgaf2n.align"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("0 23750 sil\n")
    sources = Grid(val_fraction=0.25, test_fraction=0.1).sources(str(root), seed=2)
    assert [source.key for source in sources] == sorted(clips)
    assert caplog.text == ""
    for talker in talkers:
        own = {source.key: source.split for source in sources if source.key.startswith(f"{talker}/")}
        assert len(own) == 16
        assert "val" in own.values()
        assert list(own.values()).count("train") > 6
    # A sentence is not in the same split for every talker.
    assert len({tuple(s.split for s in sources if s.key.startswith(f"{t}/")) for t in talkers}) > 1
    assert {(source.label, source.class_index, source.period, source.group) for source in sources} == {(None,) * 4}


def test_one_talker_alone_has_the_same_splits(rendered: Path, tmp_path: Path) -> None:
    root = lay_out(tmp_path / "grid", [f"s{n}/{name}.mpg" for n in (1, 2) for name in SENTENCES], rendered)
    whole = {s.path: s.split for s in Grid(val_fraction=0.3).sources(str(root))}
    alone = {s.path: s.split for s in Grid(val_fraction=0.3).sources(str(root / "s1"))}
    assert alone == {path: split for path, split in whole.items() if "/s1/" in path}
    assert len(alone) == 16
    assert len(of_split(Grid(val_fraction=0.001).sources(str(root / "s1")), "val")) == 1


def test_second_encodings_and_other_files_are_one_line_each(
    rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"s1/video/{kind}/{name}.mpg" for kind in ("mpg_6000", "mpg_vcd") for name in SENTENCES]
    root = lay_out(tmp_path / "grid", [*names, "s1/readme.mpg", "other/bbaf2n.mpg"], rendered)
    sources = Grid().sources(str(root))
    assert {source.key for source in sources} == set(names[:16])
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert "got 2 others, left out: other/bbaf2n.mpg, s1/readme.mpg" in warnings[0]
    assert "16 clips are there in a second encoding" in warnings[1]


def test_the_flat_folder_keeps_its_splits(shared: Path) -> None:
    folder = shared / "data" / "grid_s1"
    if not folder.is_dir():
        pytest.skip("the GRID clips are not beside this checkout")
    sources = Grid(val_fraction=0.5).sources(str(folder))
    lines = [line.split("\t") for line in (folder / "index.tsv").read_text().splitlines()[1:]]
    assert {Path(source.path).stem: source.split for source in sources} == {line[0]: line[1] for line in lines}
    assert [len(of_split(sources, split)) for split in ("train", "val", "test")] == [900, 50, 0]


def test_errors_name_what_was_expected(tmp_path: Path, rendered: Path) -> None:
    with pytest.raises(ValueError, match=r"expected clips of GRID such as s1/bbaf2n.mpg, got none"):
        Grid().sources(str(tmp_path))
    with pytest.raises(ValueError, match="got nothing there"):
        Grid().sources(str(tmp_path / "absent"))
    lay_out(tmp_path, ["s35/bbaf2n.mpg"], rendered)
    with pytest.raises(ValueError, match="expected clips of GRID"):
        Grid().sources(str(tmp_path))


def test_grid_trains_without_labels(rendered: Path, tmp_path: Path) -> None:
    root = lay_out(tmp_path / "grid", [f"s1/{name}.mpg" for name in SENTENCES[:4]], rendered)
    _, batches = first_batches(root, source=Grid(val_fraction=0.2), batch_size=4)
    assert batches["train"]["label"].tolist() == [-1] * 4
