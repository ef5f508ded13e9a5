import csv
import logging
import string
from pathlib import Path

import pytest
from corpus_trees import first_batches, lay_out
from hypothesis import given
from hypothesis import strategies as st

from cmmd_lightning.data import Source, of_split
from cmmd_lightning.data.sources.aist import TEST_MUSIC, Aist
from cmmd_lightning.data.sources.aist_name import GENRES, AistName

NAMES = st.builds(
    AistName,
    genre=st.sampled_from(list(GENRES)),
    situation=st.text(string.ascii_uppercase, min_size=2, max_size=2),
    camera=st.one_of(st.just("cAll"), st.integers(1, 10).map("c{:02d}".format)),
    dancers=st.lists(st.integers(1, 40).map("d{:02d}".format), min_size=1, max_size=3).map(tuple),
    music=st.tuples(st.sampled_from(list(GENRES)), st.integers(0, 5)).map(lambda parts: f"m{parts[0]}{parts[1]}"),
    choreography=st.integers(1, 99).map("ch{:02d}".format),
)


@pytest.fixture(scope="module")
def lists(shared: Path) -> Path:
    folder = shared / "annotations" / "aist"
    if not folder.is_dir():
        pytest.skip("the AIST++ lists are not beside this checkout")
    return folder


def names_in(file: Path) -> list[str]:
    return file.read_text().split()


def videos(sequences: list[str], *cameras: str) -> list[str]:
    """Paths as the download script leaves them: all in one folder."""
    return [f"{sequence.replace('cAll', camera)}.mp4" for sequence in sequences for camera in cameras]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def musics(sources: list[Source]) -> set[str]:
    return {AistName.parse(Path(source.path).stem).music for source in sources}


def choreographies(sources: list[Source]) -> set[str]:
    return {AistName.parse(Path(source.path).stem).danced for source in sources}


@given(NAMES)
def test_names_round_trip(name: AistName) -> None:
    assert AistName.parse(str(name)) == name
    assert AistName.parse(name.sequence).sequence == name.sequence


@given(NAMES, st.integers(0, 40), st.sampled_from(["", "_", "x", "0", "C"]))
def test_names_that_are_not_quite_right_are_refused_or_say_something_else(name: AistName, at: int, put: str) -> None:
    text = str(name)
    changed = text[: at % len(text)] + put + text[at % len(text) + 1 :]
    try:
        said = str(AistName.parse(changed))
    except ValueError as error:
        said = str(error).removeprefix("expected an AIST name such as gBR_sBM_c01_d04_mBR0_ch01, got ").strip("'")
    assert said == changed


def test_group_names_hold_three_dancers() -> None:
    name = AistName.parse("gLO_sGR_c02_d13_d14_d15_mLO0_ch01")
    assert (name.dancers, name.camera, name.danced) == (("d13", "d14", "d15"), "c02", "gLO_sGR_ch01")
    assert name.sequence == "gLO_sGR_cAll_d13_d14_d15_mLO0_ch01"


@pytest.mark.parametrize("name", ["gXX_sBM_c01_d04_mBR0_ch01", "gBR_sBM_c01_d04_mBR6_ch01", "sSH_c01_v0", "a", ""])
def test_unknown_genres_music_and_forms_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected an AIST name such as"):
        AistName.parse(name)


def test_the_tempo_is_in_the_number_of_the_music(lists: Path) -> None:
    with open(lists / "music_bpm.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 60
    for row in rows:
        name = AistName.parse(f"g{row['music_id'][1:3]}_sBM_c01_d01_{row['music_id']}_ch01")
        assert (name.bpm, GENRES[name.genre]) == (int(row["bpm"]), row["genre"])


def test_the_lists_of_aist_give_its_splits(
    lists: Path, rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, test, ignored = (
        names_in(lists / f"{name}.txt") for name in ("crossmodal_train", "crossmodal_test", "ignore_list")
    )
    root = lay_out(tmp_path / "aist", videos([*train, *test], "c01", "c02"), rendered)
    sources = Aist(annotations=str(lists)).sources(str(root))
    assert len(set(train) & set(ignored)) == 28
    by_split = {split: of_split(sources, split) for split in ("train", "val", "test")}
    assert len(by_split["train"]) + len(by_split["val"]) == 980 - 28
    assert 25 <= len(by_split["val"]) <= 75
    assert {source.group for source in by_split["test"]} == set(test)
    assert {source.group for source in [*by_split["train"], *by_split["val"]]} == set(train) - set(ignored)
    assert {Path(source.path).stem.split("_")[2] for source in sources} == {"c01"}
    for split in ("train", "val"):
        assert not musics(by_split[split]) & musics(by_split["test"])
        assert not choreographies(by_split[split]) & choreographies(by_split["test"])
    assert musics(by_split["test"]) == TEST_MUSIC
    assert warnings_in(caplog) == []
    house = next(source for source in sources if source.group == "gHO_sBM_cAll_d20_mHO5_ch02")
    assert (house.label, house.class_index, house.period) == ("House", 5, 60 / 135)
    # The same dances are held out whichever cameras are asked for.
    everything = Aist(annotations=str(lists), cameras="all").sources(str(root))
    assert len(everything) == 2 * len(sources)
    assert {s.group: s.split for s in everything} == {s.group: s.split for s in sources}
    assert [s.key for s in everything] == sorted(s.key for s in everything)
    other = Aist(annotations=str(lists)).sources(str(root), seed=1)
    assert {s.group for s in of_split(other, "val")} != {s.group for s in by_split["val"]}


def test_a_validation_list_and_paths_of_single_lists(rendered: Path, tmp_path: Path) -> None:
    dances = {
        "train": ["gBR_sBM_cAll_d04_mBR1_ch03", "gBR_sFM_cAll_d04_mBR1_ch02"],
        "val": ["gBR_sBM_cAll_d04_mBR0_ch01"],
        "test": ["gBR_sBM_cAll_d04_mBR0_ch02"],
    }
    root = lay_out(tmp_path / "aist", videos([name for names in dances.values() for name in names], "c01"), rendered)
    official = tmp_path / "annotations"
    (official / "splits").mkdir(parents=True)
    for split, names in dances.items():
        (official / "splits" / f"crossmodal_{split}.txt").write_text("\n".join(names) + " \n\n")
    (official / "ignore_list.txt").write_text("gBR_sFM_cAll_d04_mBR1_ch02")
    by_folder = Aist(annotations=str(official)).sources(str(root))
    assert {s.group: s.split for s in by_folder} == {
        "gBR_sBM_cAll_d04_mBR1_ch03": "train",
        "gBR_sBM_cAll_d04_mBR0_ch01": "val",
        "gBR_sBM_cAll_d04_mBR0_ch02": "test",
    }
    paths = {split: str(official / "splits" / f"crossmodal_{split}.txt") for split in dances}
    assert Aist(annotations={**paths, "ignore": str(official / "ignore_list.txt")}).sources(str(root)) == by_folder
    assert len(Aist(annotations=paths).sources(str(root))) == 4


def test_seven_hundred_missing_videos_are_one_warning(
    lists: Path, rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, test = (names_in(lists / f"crossmodal_{name}.txt") for name in ("train", "test"))
    paths = {"train": str(lists / "crossmodal_train.txt"), "test": str(lists / "crossmodal_test.txt")}
    root = lay_out(tmp_path / "aist", videos([*sorted(train)[700:], *test], "c03"), rendered)
    sources = Aist(annotations=paths, cameras=["c03"]).sources(str(root))
    assert len(sources) == 300
    (warning,) = warnings_in(caplog)
    assert "expected 1000 dances by cameras c03, 700 videos are missing: " in warning
    first = sorted(train)[0].replace("cAll", "c03")
    assert f"missing: {first}, " in warning
    assert warning.endswith(", ...")
    caplog.clear()
    assert len(Aist(annotations=paths, cameras="all").sources(str(root))) == 300
    (warning,) = warnings_in(caplog)
    assert "700 videos are missing" in warning


def test_without_lists_the_test_music_gives_splits_that_agree_with_the_lists(
    lists: Path, rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, test = (names_in(lists / f"crossmodal_{name}.txt") for name in ("train", "test"))
    dropped = ["gBR_sBM_cAll_d04_mBR0_ch03", "gBR_sBM_cAll_d04_mBR3_ch02", "gLO_sGR_cAll_d13_d14_d15_mLO0_ch01"]
    tested = ["gBR_sBM_cAll_d04_mBR0_ch01", "gBR_sFM_cAll_d04_mBR0_ch01", "gLO_sGR_cAll_d13_d14_d15_mLO2_ch01"]
    root = lay_out(tmp_path / "aist", videos([*train, *test, *dropped, *tested], "c01"), rendered)
    with caplog.at_level(logging.INFO):
        sources = Aist(val_fraction=0.1).sources(str(root))
    assert "3 dances share music or choreography across the splits" in caplog.text
    by_split = {split: of_split(sources, split) for split in ("train", "val", "test")}
    assert {s.group for s in [*by_split["train"], *by_split["val"]]} == set(train)
    assert {s.group for s in by_split["test"]} == {*test, *tested}
    assert len(by_split["val"]) > 50
    assert not musics(by_split["train"]) & musics(by_split["test"])
    assert not choreographies(by_split["train"]) & choreographies(by_split["test"])
    assert warnings_in(caplog) == []
    only_ignore = Aist(annotations={"ignore": str(lists / "ignore_list.txt")}).sources(str(root))
    assert len(only_ignore) == len(sources) - 28


def test_other_files_and_second_copies_are_counted_in_one_line_each(
    rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["gBR_sBM_c01_d04_mBR1_ch03.mp4", "gBR_sBM_c01_d05_mBR1_ch03.mp4"]
    root = lay_out(tmp_path, [f"{size}/{name}" for size in ("10M", "2M") for name in names], rendered)
    lay_out(tmp_path, ["10M/sSH_c01_v0.mp4", "10M/sBT_c01_d21_d31_v5.mp4", "holiday.mp4", "party.MOV"], rendered)
    with caplog.at_level(logging.INFO):
        sources = Aist(val_fraction=0.0).sources(str(root))
    assert [source.key for source in sources] == [f"10M/{name}" for name in names]
    assert "2 showcase, cypher and battle videos are left out" in caplog.text
    warnings = warnings_in(caplog)
    assert len(warnings) == 2
    assert "got 2 others, left out: holiday.mp4, party.MOV" in warnings[0]
    assert f"2 videos are there twice, the first by path is used: {names[0]}, {names[1]}" in warnings[1]


def test_lists_that_overlap_are_refused_with_the_names(rendered: Path, tmp_path: Path) -> None:
    train = ["gBR_sBM_cAll_d04_mBR0_ch02", "gPO_sBM_cAll_d10_mPO0_ch02"]
    test = ["gBR_sBM_cAll_d05_mBR0_ch02", "gPO_sBM_cAll_d10_mPO1_ch02", "gLO_sBM_cAll_d13_mLO2_ch02"]
    root = lay_out(tmp_path / "aist", videos([*train, *test], "c01"), rendered)
    paths = {"train": str(tmp_path / "train.txt"), "test": str(tmp_path / "test.txt")}
    Path(paths["train"]).write_text("\n".join(train))
    Path(paths["test"]).write_text("\n".join(test))
    shared = r"got in both music mBR0; choreography gBR_sBM_ch02, gPO_sBM_ch02$"
    with pytest.raises(ValueError, match=f"disjoint in music and choreography, {shared}"):
        Aist(annotations=paths).sources(str(root))
    Path(paths["test"]).write_text("\n".join([*test, train[0]]))
    with pytest.raises(ValueError, match="gBR_sBM_cAll_d04_mBR0_ch02: expected in one list, got train and test"):
        Aist(annotations=paths).sources(str(root))


def test_errors_name_what_was_expected(rendered: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected AIST videos such as gBR_sBM_c01_d04_mBR0_ch01.mp4, got none"):
        Aist().sources(str(tmp_path / "empty"))
    root = str(lay_out(tmp_path / "aist", ["gBR_sBM_c01_d04_mBR1_ch03.mp4"], rendered))
    with pytest.raises(ValueError, match="expected videos of cameras c09 in some split, got none"):
        Aist(cameras="c09").sources(root)
    with pytest.raises(ValueError, match="cameras: expected 'all', or some of c01 to c10, got front"):
        Aist(cameras="front").sources(root)
    with pytest.raises(ValueError, match=r"expected crossmodal_train.txt and crossmodal_test.txt in this folder"):
        Aist(annotations=str(tmp_path / "empty")).sources(root)
    with pytest.raises(ValueError, match=r"annotations: expected train and test, .* got train"):
        Aist(annotations={"train": "x"}).sources(root)
    with pytest.raises(ValueError, match=r"absent.txt: expected a list of AIST names, got No such file"):
        Aist(annotations={"ignore": str(tmp_path / "absent.txt")}).sources(root)
    (tmp_path / "bad.txt").write_text("gBR_sBM_cAll_d04_mBR1_ch03\nnonsense\n")
    with pytest.raises(ValueError, match=r"bad.txt:2: expected an AIST name such as .*, got 'nonsense'"):
        Aist(annotations={"ignore": str(tmp_path / "bad.txt")}).sources(root)


def test_labels_periods_and_groups_reach_the_batches(
    rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dances = [f"gWA_sFM_cAll_d25_mWA{music}_ch0{music}" for music in range(1, 6)] + ["gKR_sFM_cAll_d28_mKR0_ch01"]
    root = lay_out(tmp_path / "aist", [*videos(dances, "c01"), *videos(dances[:1], "c02")], rendered)
    missing = ["gWA_sBM_c02_d25_mWA1_ch03.mp4", "gWA_sBM_c02_d25_mWA0_ch02.mp4"]
    lay_out(root, missing, rendered)
    data, batches = first_batches(root, source=Aist(val_fraction=0.2), batch_size=32)
    assert len([line for line in warnings_in(caplog) if "2 videos are missing" in line]) == 1
    labels = {GENRES["WA"]: 6, GENRES["KR"]: 7}
    for split, batch in batches.items():
        of_batch = of_split(data.sources(), split)
        assert batch["label"].tolist() == [labels[of_batch[i].label or ""] for i in batch["source"].tolist()]
        assert str(batch["label"].dtype) == "torch.int64"
    assert {source.period for source in data.sources()} == {60 / bpm for bpm in (80, 90, 100, 110, 120, 130)}
