import csv
import logging
from collections.abc import Iterable
from pathlib import Path

import pytest
from corpus_trees import first_batches, lay_out

from cmmd_lightning import AudioVideoDataModule, ClipSpec
from cmmd_lightning.data import of_split
from cmmd_lightning.data.sources.epic_sounds import FILES, EpicSounds

HEADER = "annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,start_sample,stop_sample"
CLASSES = "description,class,class_id"
CLIP_SPEC = ClipSpec(num_frames=16, fps=10.0, height=32, width=32, sample_rate=8000)
CLIP = CLIP_SPEC.duration


def clip_of(seconds: float) -> ClipSpec:
    return ClipSpec(num_frames=16, fps=16 / seconds)


def stamp(seconds: float) -> str:
    return f"{int(seconds // 3600):02d}:{int(seconds % 3600 // 60):02d}:{seconds % 60:06.3f}"


def row(number: int, start: float, stop: float, video: str = "P01_11", classes: str = ",rustle,4") -> str:
    where = f"{video}_{number},{video[:3]},{video},{stamp(start)},{stamp(stop)}"
    return f"{where},{round(start * 24000)},{round(stop * 24000)}{classes and ',paper' + classes}"


def annotate(folder: Path, rows: Iterable[str], split: str = "train", header: str = f"{HEADER},{CLASSES}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILES[split]).write_text("\n".join([header, *rows]) + "\n")  # type: ignore[index]
    return folder


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def kitchen(rendered: Path, tmp_path: Path) -> Path:
    return lay_out(tmp_path / "epic", ["P01/videos/P01_11.MP4"], rendered)


@pytest.fixture(scope="module")
def official(shared: Path) -> Path:
    folder = shared / "annotations" / "epic_sounds"
    if not (folder / FILES["val"]).is_file():
        pytest.skip("the EPIC-SOUNDS annotations are not beside this checkout")
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / FILES["val"]) as file:
        return list(csv.DictReader(file))


def test_the_official_validation_file(
    official: Path, rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(official)
    videos = sorted({row["video_id"] for row in rows})
    root = lay_out(tmp_path / "EPIC-KITCHENS", [f"{v[:3]}/videos/{v}.MP4" for v in videos], rendered)
    with caplog.at_level(logging.INFO):
        sources = EpicSounds(annotations=str(official)).sources(str(root), clip_of(CLIP))
    assert warnings_in(caplog) == []
    assert (len(sources), len(videos)) == (8035, 137)
    assert {source.split for source in sources} == {"val"}
    assert "5138 short segments widened" in caplog.text
    by_key = {source.key: source for source in sources}
    for stated in rows:
        source = by_key[stated["annotation_id"]]
        first, last = int(stated["start_sample"]) / 24000, int(stated["stop_sample"]) / 24000
        assert source.stop is not None
        assert (source.label, source.class_index) == (stated["class"], int(stated["class_id"]))
        assert Path(source.path).stem == source.group == stated["video_id"]
        if last - first >= CLIP:
            assert (source.start, source.stop) == (first, last)
        else:
            assert source.stop - source.start == pytest.approx(CLIP)
            assert source.start <= first
            assert source.stop >= last - 1e-9
    assert {source.class_index for source in sources} == set(range(44))
    dropped = EpicSounds(annotations=str(official), short_segments="drop").sources(str(root), clip_of(CLIP))
    assert len(dropped) == 8035 - 5138
    single = EpicSounds(annotations={"test": str(official / FILES["val"])}).sources(str(root), clip_of(CLIP))
    assert {source.split for source in single} == {"test"}


def test_missing_videos_are_one_warning_by_participant(
    official: Path, rendered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(official)
    videos = sorted({row["video_id"] for row in rows})
    there = [video for video in videos if video[:3] not in ("P01", "P30")]
    root = lay_out(tmp_path / "epic", [f"{v[:3]}/videos/{v}.MP4" for v in there], rendered)
    sources = EpicSounds(annotations=str(official)).sources(str(root), clip_of(CLIP))
    left_out = sum(row["participant_id"] in ("P01", "P30") for row in rows)
    assert len(sources) == 8035 - left_out
    (warning,) = warnings_in(caplog)
    counts = {p: len([v for v in videos if v.startswith(p)]) for p in ("P01", "P30")}
    assert f"{sum(counts.values())} videos with {left_out} of 8035 segments are missing" in warning
    assert warning.endswith(f"by participant: P01 {counts['P01']}, P30 {counts['P30']}")


def test_layouts_and_suffixes_that_people_have(rendered: Path, tmp_path: Path) -> None:
    layouts = {
        "P01_11": "P01/videos/P01_11.MP4",
        "P01_101": "P01/videos/P01_101.mp4",
        "P02_12": "P02/P02_12.MP4",
        "P03_21": "P03_21.mp4",
        "P04_24": "videos/train/P04/p04_24.mkv",
    }
    root = lay_out(tmp_path / "epic", [*layouts.values(), "P01/rgb_frames/P05_01/P05_01.mp4"], rendered)
    rows = [row(0, 0.5, 3.5, video) for video in [*layouts, "P05_01"]]
    sources = EpicSounds(annotations=str(annotate(tmp_path / "csv", rows))).sources(str(root), clip_of(1.0))
    assert {source.group: Path(source.path).relative_to(root).as_posix() for source in sources} == layouts


def test_a_file_without_classes_or_samples_is_the_unlabelled_test(kitchen: Path) -> None:
    annotate(kitchen, [row(0, 0.5, 2.5)])
    annotate(kitchen, [row(1, 1.0, 3.0, classes="")], "test", HEADER)
    train, test = EpicSounds().sources(str(kitchen), clip_of(1.0))  # the annotations lie in the root itself
    assert (train.split, train.label, train.class_index) == ("train", "rustle", 4)
    assert (test.split, test.label, test.class_index, test.start, test.stop) == ("test", None, None, 1.0, 3.0)
    annotate(kitchen, [row(1, 1.0, 3.0, classes="").rsplit(",", 2)[0]], "test", HEADER.rsplit(",", 2)[0])
    assert of_split(EpicSounds().sources(str(kitchen), clip_of(1.0)), "test") == [test]


def test_short_segments_are_widened_around_their_middle_and_long_ones_cut(
    kitchen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotate(kitchen, [row(0, 10.0, 10.5), row(1, 0.1, 0.3), row(2, 20.0, 21.5), row(3, 30.0, 90.0)])
    annotate(kitchen, [row(4, 10.0, 10.5), row(5, 0.1, 0.3), row(6, 20.0, 21.5)], "val")
    with caplog.at_level(logging.INFO):
        sources = EpicSounds(max_segment_seconds=30.0).sources(str(kitchen), clip_of(1.0))
    spans = [(source.start, source.stop) for source in sources]
    # Training segments hold two clips, the others one; none begins before the video.
    train = [(9.25, 11.25), (0.0, 1.2), (19.75, 21.75), (30.0, 60.0)]
    assert spans == [pytest.approx(span) for span in [*train, (9.75, 10.75), (0.0, 1.0), (20.0, 21.5)]]
    assert "5 short segments widened, 0 dropped, 1 long ones cut" in caplog.text
    dropped = EpicSounds(short_segments="drop").sources(str(kitchen), clip_of(1.0))
    assert [source.key[-1] for source in dropped] == ["2", "3", "6"]
    # Never longer than the longest that is wanted.
    short = EpicSounds(max_segment_seconds=1.5).sources(str(kitchen), clip_of(1.0))
    assert max((source.stop or 0) - source.start for source in short) == pytest.approx(1.5)


def test_malformed_rows_are_named_by_line_and_left_out(kitchen: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = row(0, 0.5, 2.5)
    bad = {
        "expected 10 fields, got 3": "P01_11_1,P01,P01_11",
        "expected start_timestamp as HH:MM:SS.mmm, got '0.5'": good.replace("00:00:00.500", "0.5"),
        "expected stop_sample as a whole number from 0, got '-7'": good.replace("60000", "-7"),
        "expected start < stop, got 3 s and 2.5 s": row(1, 3.0, 2.5),
        "expected annotation_id and video_id, got an empty field": good.replace("P01_11_0", ""),
        "expected class_id as a whole number from 0, got 'four'": good.replace(",4", ",four"),
        "expected each annotation once, got P01_11_0 again": good,
    }
    file = annotate(kitchen, [good, *bad.values()]) / FILES["train"]
    assert len(EpicSounds().sources(str(kitchen), clip_of(1.0))) == 1
    warnings = warnings_in(caplog)
    assert warnings[:5] == [f"{file}:{line}: {message}; left out" for line, message in enumerate(list(bad)[:5], 3)]
    assert warnings[5:] == [f"{kitchen}: 7 malformed rows in all are left out"]
    caplog.clear()
    annotate(kitchen, [good, *list(bad.values())[5:]])
    EpicSounds().sources(str(kitchen), clip_of(1.0))
    assert [line.split(": ", 1)[1] for line in warnings_in(caplog)] == [f"{text}; left out" for text in list(bad)[5:]]


def test_samples_that_disagree_with_timestamps_are_believed_and_counted_once(
    kitchen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = row(0, 0.5, 2.5).replace("12000", "12200"), row(1, 0.5, 2.5).replace("12000", "12300")
    file = annotate(kitchen, [near, far, row(2, 0.5, 2.5).replace("60000", "48000")]) / FILES["train"]
    sources = EpicSounds().sources(str(kitchen), clip_of(0.5))
    assert [source.start for source in sources] == [12200 / 24000, 12300 / 24000, 0.5]
    (warning,) = warnings_in(caplog)
    assert "2 timestamps differ from their samples at 24000 Hz by more than 10 ms" in warning
    assert f"{file}:3 (start 00:00:00.500 and sample 12300), ..." in warning


def test_a_video_in_two_splits_is_told(kitchen: Path, caplog: pytest.LogCaptureFixture) -> None:
    annotate(kitchen, [row(0, 0.5, 2.5)])
    annotate(kitchen, [row(1, 0.5, 2.5)], "val")
    EpicSounds().sources(str(kitchen), clip_of(1.0))
    assert warnings_in(caplog) == ["EPIC-SOUNDS: expected each video in one split, got 1 in several: P01_11"]


def test_errors_name_what_was_expected(kitchen: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected EPIC_Sounds_train.csv or .* in this folder, got none"):
        EpicSounds().sources(str(kitchen), clip_of(1.0))
    annotate(kitchen, [row(0, 0.5, 2.5, "P09_01")])
    with pytest.raises(ValueError, match=r"such as P01/videos/P01_11.MP4, got none annotated"):
        EpicSounds().sources(str(kitchen), clip_of(1.0))
    with pytest.raises(ValueError, match=r"expected clip length <= longest segment, got 2.0, 1.0"):
        EpicSounds(max_segment_seconds=1.0).sources(str(kitchen), clip_of(2.0))
    with pytest.raises(ValueError, match="short_segments: expected widen or drop, got 'pad'"):
        EpicSounds(short_segments="pad").sources(str(kitchen), clip_of(1.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="annotations: expected paths by train, val, test, got dev"):
        EpicSounds(annotations={"dev": "x"}).sources(str(kitchen), clip_of(1.0))
    with pytest.raises(ValueError, match=r"absent.csv: expected a CSV file, got No such file"):
        EpicSounds(annotations={"val": str(tmp_path / "absent.csv")}).sources(str(kitchen), clip_of(1.0))
    annotate(kitchen, [], header="a,b")
    with pytest.raises(ValueError, match=r"train.csv:1: expected a header with annotation_id,.*, got a,b"):
        EpicSounds().sources(str(kitchen), clip_of(1.0))


def test_labels_reach_the_batches_and_negatives_come_from_other_videos(rendered: Path, tmp_path: Path) -> None:
    root = lay_out(tmp_path / "epic", [f"P01/videos/P01_{number}.MP4" for number in (11, 12)], rendered)
    rows = [row(n, 0.3 * n, 0.3 * n + 0.2, f"P01_{11 + n % 2}", f",class {n},{n}") for n in range(6)]
    annotate(root, rows)
    annotate(root, [row(9, 1.0, 2.0, classes=",water,5")], "val")
    data, batches = first_batches(
        root, source="epic_sounds", batch_size=16, negatives={"kinds": ("substitution",), "num_negatives": 1}
    )
    labels = [int((source.label or "").split()[-1]) for source in of_split(data.sources(), "train")]
    train = batches["train"]
    assert train["label"].tolist() == [labels[i] for i in train["source"].tolist()]
    assert batches["val"]["label"].tolist() == [5]
    assert train["video_latents"].shape[0] == 16


def test_a_widened_segment_past_the_end_of_the_video_is_for_prepare_to_find(kitchen: Path) -> None:
    annotate(kitchen, [row(0, 1.0, 2.0), row(1, 3.5, 3.7)])
    annotate(kitchen, [row(2, 3.5, 3.7)], "val")
    data = AudioVideoDataModule(root=str(kitchen), source="epic_sounds", clip=CLIP_SPEC, num_workers=0)
    report = data.prepare()
    # 0.4 s lie after the middle of the last two: enough of 3.2 s around it, not of 1.6 s.
    assert report.prepared == ["P01_11_0", "P01_11_1"]
    (failure,) = report.failed
    assert "expected at least 1.6 s of picture and sound" in failure.reason
