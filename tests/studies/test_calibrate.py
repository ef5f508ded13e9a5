"""The measures measured: known answers of the analysis, and the whole road on a few clips."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import cmmd

from cmmd_lightning.media import write_video
from cmmd_lightning.procedural.rendering import render
from cmmd_lightning.studies.calibration import calibrate
from cmmd_lightning.studies.calibration.analysis import TRUE, analyse, auroc, worse_way
from cmmd_lightning.studies.calibration.calibrate import calibrate_all, calibrate_set, procedural_set, real_set
from cmmd_lightning.studies.calibration.report import calibration_lines, fault_table, write_calibration

OFFSETS = (0.05, 0.1, 0.2)


def row(index, score, period=None):
    """A clip whose scores are a function of how late the sound is, in seconds; swapped partners score 0."""
    faults = {f"offset {late * sign * 1000:+g} ms": late * sign for late in OFFSETS for sign in (1, -1)}
    scores = {TRUE: {"measure": score(0.0)}, **{name: {"measure": score(late)} for name, late in faults.items()}}
    scores["swapped partner"] = {"measure": 0.0}
    return {"index": index, "name": str(index), "period": period, "duration": 4.0, "scores": scores}


def analysis(rows):
    return analyse(rows, OFFSETS, resamples=50)["measures"]["measure"]


def test_auroc_counts_pairs_and_half_of_ties():
    rng = np.random.default_rng(0)
    true, faulty = rng.integers(0, 5, 40).astype(float), rng.integers(0, 4, 30).astype(float)
    by_hand = np.mean([(a > b) + 0.5 * (a == b) for a in true for b in faulty])
    assert auroc(true, faulty) == pytest.approx(by_hand, abs=1e-12)
    assert auroc(np.ones(3), np.zeros(3)) == 1.0
    assert auroc(np.ones(3), np.ones(2)) == 0.5


def test_a_perfect_measure_resolves_all_and_a_deaf_one_nothing():
    perfect = analysis([row(i, lambda late, i=i: -abs(late) - 0.001 * i) for i in range(10)])
    assert (perfect["resolves"], perfect["monotonicity"]) == (0.05, pytest.approx(1.0))
    assert worse_way(perfect["auroc"], 0.1) == 1.0
    deaf = analysis([row(i, lambda late: 0.7) for i in range(10)])
    assert (deaf["resolves"], deaf["monotonicity"]) == (None, 0.0)
    assert set(deaf["auroc"].values()) == {0.5, 1.0}  # all offsets; swapped partners score 0


def test_a_measure_that_is_deaf_one_way_does_not_resolve():
    one_way = analysis([row(i, lambda late: min(0.0, -late)) for i in range(6)])
    assert one_way["auroc"]["offset +100 ms"] == 1.0
    assert worse_way(one_way["auroc"], 0.1) == 0.5
    assert one_way["resolves"] is None


def test_what_is_resolved_must_stay_resolved():
    """At 0.2 s the clip comes into step again, so that 0.05 and 0.1 s do not count as resolved."""
    periodic = [row(i, lambda late: np.cos(2 * np.pi * late / 0.2), period=0.2) for i in range(6)]
    found = analysis(periodic)
    assert found["auroc"]["offset +50 ms"] == 1.0
    assert found["resolves"] is None
    assert found["monotonicity"] == pytest.approx(1.0)  # below half of the period it falls all the way
    whole = analysis([replaced | {"period": None} for replaced in periodic])
    assert whole["monotonicity"] < 0.5


def test_a_clip_of_another_frame_rate_lacks_a_fault_and_counts_in_the_others():
    """A clip of 15 frames per second has no change to 15 fps, so that the first row does not stand for all."""
    rows = [row(i, lambda late, i=i: -abs(late) - 0.001 * i) for i in range(6)]
    for one in rows[:3]:
        one["scores"]["15 fps"] = {"measure": -1.0}
    for order in (rows, rows[::-1]):
        found = analysis(order)
        assert found["auroc"]["15 fps"] == 1.0
        assert found["mean"]["15 fps"] == -1.0
        assert found["auroc"]["offset +50 ms"] == 1.0


def test_intervals_are_those_of_clips_drawn_anew():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(40, 2))
    rows = [row(i, lambda late, i=i: float(noise[i, int(late != 0)] - 2 * abs(late) / 0.2)) for i in range(40)]
    found = analysis(rows)
    low, high = found["ci95"]["offset +100 ms"]
    assert low < found["auroc"]["offset +100 ms"] < high
    assert 0.05 < high - low < 0.4


def test_of_a_lag_the_size_counts_and_a_missing_one_is_worst():
    def scores(late):
        return {"x_lag": late}

    rows = []
    for i in range(4):
        made = row(i, lambda late: late)
        made["scores"] = {name: scores(values["measure"]) for name, values in made["scores"].items()}
        made["scores"]["swapped partner"] = {"x_lag": None}
        made["scores"][TRUE] = {"x_lag": 0.01}
        rows.append(made)
    found = analyse(rows, OFFSETS, resamples=10)["measures"]["x_lag"]
    assert (found["true"], found["bias"]) == (pytest.approx(0.01), pytest.approx(0.01))
    assert found["auroc"]["offset -50 ms"] == found["auroc"]["swapped partner"] == 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("calibrate")


@pytest.fixture(scope="module")
def bounce(folder):
    """Ten clips at four offsets."""
    clips = replace(procedural_set("bounce", 10, 0), offsets=(0.05, 0.1, 0.2, 0.3))
    rows, errors = calibrate_set(clips, folder, progress=False)
    assert errors == []
    return clips, rows


def test_own_measures_tell_50_ms_on_bounce(bounce):
    clips, rows = bounce
    found = analyse(rows, clips.offsets, resamples=10)["measures"]
    for measure in ("event_f1@mean", "event_lag"):
        assert worse_way(found[measure]["auroc"], 0.1) >= 0.95
        assert worse_way(found[measure]["auroc"], 0.05) >= 0.85
        assert found[measure]["auroc"]["swapped partner"] >= 0.95
        assert min(found[measure]["auroc"][f"8 fps, offset {way}100 ms"] for way in "+-") >= 0.9
    assert worse_way(found["event_f1@200ms"]["auroc"], 0.05) < 0.8  # one tolerance sees nothing below it
    for harmless in ("sound noise 20 dB", "sound 20 dB softer", "H.264 crf 23 and AAC"):
        assert found["event_f1@mean"]["auroc"][harmless] == pytest.approx(0.5, abs=0.1)


def test_a_stopped_call_goes_on_with_what_it_has(bounce, folder, caplog):
    clips, rows = bounce
    store = next(folder.glob(f"rows-bounce-{clips.key()}.jsonl"))
    lines = store.read_text().splitlines()
    store.write_text("\n".join(lines[:7]) + "\n" + lines[7][:100])  # killed while it wrote
    with caplog.at_level("INFO"):
        again, _ = calibrate_set(clips, folder, progress=False)
    assert "keeping 7 clips" in caplog.text
    assert again == rows
    assert clips.key() != replace(clips, seed=1).key()


def test_librosa_is_compiled_before_there_are_workers(folder, monkeypatch):
    """Workers that compile it at once mix up numba's cache, and every later run crashes."""
    known = []
    monkeypatch.delitem(sys.modules, "librosa.onset", raising=False)
    monkeypatch.setattr(calibrate, "_pool", lambda *args: known.append("librosa.onset" in sys.modules) or [])
    calibrate.calibrate_set(procedural_set("bounce", 2, 7), folder / "none scored yet")
    assert known == [True]


def test_the_files_have_all_sets_measures_and_reasons(bounce, tmp_path):
    clips, rows = bounce
    found = analyse(rows, clips.offsets, resamples=10) | {"video_events": "impacts"}
    source = {"command": "test", "version": "0", "seed": 0, "machine": "m"}
    result = {"provenance": source, "sets": {"bounce": found}, "errors": ["x.mp4: broken"]}
    assert [path.name for path in write_calibration(result, tmp_path)] == [
        f"calibration.{suffix}" for suffix in ("json", "png", "md", "html", "csv", "tex")
    ]
    assert json.loads((tmp_path / "calibration.json").read_text()) == json.loads(json.dumps(result))
    table = (tmp_path / "calibration.md").read_text()
    heads, (first, *_), _ = fault_table(found)
    assert heads[:5] == ["measure", "50 ms", "100 ms", "200 ms", "300 ms"]
    assert "| " + " | ".join(first) + " |" in table
    assert "x.mp4: broken" in table
    page = (tmp_path / "calibration.html").read_text()
    assert page.count("<table>") == 3
    assert all(measure in page for measure in found["measures"])
    assert "src=" in page
    assert 'src="http' not in page
    assert any(line.startswith("bounce: event_lag: AUROC 1.00 at 100 ms") for line in calibration_lines(result))


def test_periodic_clips_are_said_to_be_so(bounce, tmp_path):
    clips, rows = bounce
    found = analyse([r | {"period": 0.5} for r in rows], clips.offsets, resamples=5)
    found |= {"linear_sync": "9 clips of dance", "video_events": "turns"}
    write_calibration({"provenance": {}, "sets": {"dance": found}, "errors": []}, tmp_path)
    table = (tmp_path / "calibration.md").read_text()
    assert "Periodic, every 500 to 500 ms" in table
    assert "fitted on 9 clips of dance" in table


def test_real_clips_from_the_command_line(tmp_path, monkeypatch):
    real, others = tmp_path / "real", tmp_path / "others"
    render("bounce", real, 4, 5, duration=3.0, num_workers=0, progress=False)
    render("bounce", others, 21, 6, duration=3.2, num_workers=0, progress=False)
    (real / "broken.mp4").write_bytes(b"nothing")
    write_video(real / "silent.mp4", torch.zeros(75, 3, 32, 32, dtype=torch.uint8), 25.0)
    monkeypatch.setattr(calibrate, "REAL_OFFSETS", (0.1, 0.5))
    out = tmp_path / "out"
    arguments = ["calibrate", "--scenes", "none", "--real", str(real), "--fit", str(others)]
    done = cmmd(*arguments, "--video_events", "impacts", "--output_dir", str(out), cwd=tmp_path)
    assert done.status == 1  # two files could not be used; the rest is there
    assert len(done.lines_with("broken.mp4")) == len(done.lines_with("silent.mp4")) == 1
    found = json.loads((out / "calibration.json").read_text())
    assert found["sets"]["real"]["num_clips"] == 4
    assert found["sets"]["real"]["linear_sync"] == "21 clips of others"
    assert worse_way(found["sets"]["real"]["measures"]["event_lag"]["auroc"], 0.1) == 1.0
    assert "linear_sync" in found["sets"]["real"]["measures"]
    assert (out / "linear_sync-real.safetensors").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scenes", "none"], "expected scenes or a folder"),
        (["--fit", "x"], "expected --real with --fit"),
        (["--scenes", "none", "--real", "nowhere"], "nowhere"),
    ],
)
def test_calls_that_make_no_sense_are_refused(flags, message, tmp_path):
    done = cmmd("calibrate", *flags, "--output_dir", tmp_path / "out", cwd=tmp_path)
    assert done.status != 0
    assert len(done.errors) == 1
    assert message in done.errors[0]


def test_nothing_readable_is_one_line(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="two clips at least"):
        calibrate_all(tmp_path / "out", scenes=(), real=str(tmp_path), progress=False)
    with pytest.raises(ValueError, match="got 1"):
        real_set(str(tmp_path / "a.mp4"), "turns")
