"""Folders of media to scores: known shifts, floors, ceilings, files that cannot be used."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cmmd_lightning.evaluation import RoundTrip, evaluate_folders, score, summary_line
from cmmd_lightning.evaluation.measures import Events, View
from cmmd_lightning.evaluation.observe import Observation, load_frames, load_sound
from cmmd_lightning.evaluation.pairs import pair_folders
from cmmd_lightning.media import MediaError, read_frames, read_sound, write_sound, write_video

SAMPLES = 25600


def evaluate(task, generated, reference, **settings):
    return evaluate_folders(task, generated, reference, progress=False, command="test", **settings)


@pytest.fixture
def delayed(clips, tmp_path):
    """A function that writes the clips' sounds as wavs, rolled by some milliseconds."""

    def make(milliseconds: int) -> Path:
        folder = tmp_path / f"delayed_{milliseconds}"
        for path in sorted(clips.glob("*.mp4")):
            sound = read_sound(path, start=0.0, num_samples=SAMPLES, sample_rate=16000)
            write_sound(folder / f"{path.stem}.wav", torch.roll(sound, milliseconds * 16), 16000)
        return folder

    return make


def test_a_perfect_copy_scores_near_one_and_a_late_one_near_the_floor(clips, delayed):
    exact = evaluate("video_to_audio", delayed(0), clips)["tasks"]["video_to_audio"]
    late = evaluate("video_to_audio", delayed(250), clips)["tasks"]["video_to_audio"]
    assert exact["event_f1@25ms"]["value"] >= 0.95
    assert exact["event_f1@100ms"]["value"] >= 0.95
    assert exact["event_f1@100ms"]["floor"] < 0.7
    assert late["event_f1@100ms"]["value"] <= late["event_f1@100ms"]["floor"] + 0.1
    assert exact["event_f1@mean"]["value"] > late["event_f1@mean"]["value"] + 0.4


def test_a_small_delay_shows_at_the_small_tolerances_only(clips, delayed):
    metrics = evaluate("video_to_audio", delayed(70), clips)["tasks"]["video_to_audio"]
    assert metrics["event_f1@50ms"]["value"] <= 0.3
    assert metrics["event_f1@100ms"]["value"] >= 0.9
    curve = [metrics[f"event_f1@{t}ms"]["value"] for t in (25, 50, 100, 200)]
    assert curve == sorted(curve)
    assert metrics["event_f1@mean"]["value"] == pytest.approx(sum(curve) / 4)


def test_true_pictures_reach_the_ceiling_and_a_stranger_s_do_not(clips, tmp_path):
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    paths = sorted(clips.glob("*.mp4"))
    for path, other in zip(paths, paths[1:] + paths[:1], strict=True):
        shutil.copy(other, strangers / path.name)
    true = evaluate("audio_to_video", clips, clips)["tasks"]["audio_to_video"]["event_f1@100ms"]
    wrong = evaluate("audio_to_video", strangers, clips)["tasks"]["audio_to_video"]["event_f1@100ms"]
    assert true["value"] >= 0.9
    assert wrong["value"] <= true["floor"] + 0.2 < true["value"]


def test_joint_compares_the_generated_picture_with_its_own_sound(clips):
    report = evaluate("joint", clips, None, video_events="impacts")
    entry = report["tasks"]["joint"]["event_f1@100ms"]
    assert entry["value"] >= 0.9
    assert entry["floor"] < 0.7
    assert report["runs"]["joint"]["clips"][0]["reference"] is None


def test_a_report_has_the_agreed_form(clips, delayed):
    trip = RoundTrip(16000, 10.0, (64, 64), sound=lambda sound: sound, frames=lambda frames: frames)
    report = evaluate("video_to_audio", delayed(0), clips, round_trip=trip, seed=3)
    assert report["provenance"].keys() == {"command", "version", "seed", "machine"}
    assert (report["provenance"]["command"], report["provenance"]["seed"]) == ("test", 3)
    metrics = report["tasks"]["video_to_audio"]
    names = [f"event_{kind}@{t}ms" for kind in ("precision", "recall", "f1") for t in (25, 50, 100, 200)]
    beside = ["event_f1@mean", "event_lag", "motion_loudness_correlation", "motion_loudness_lag"]
    assert set(metrics) >= {*names, *beside}
    for entry in metrics.values():
        assert entry.keys() >= {"value", "ci95", "floor", "ceiling", "n"}
        assert entry["ci95"][0] <= entry["value"] <= entry["ci95"][1]
        assert entry["n"] == 8
    assert (
        metrics["event_f1@100ms"]["ceiling"] == metrics["event_f1@100ms"]["value"]
    )  # the generated sound is the true one
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert "floor 0." in summary_line("video_to_audio", metrics)


def test_without_a_round_trip_the_ceiling_is_null_and_with_a_deaf_one_it_is_low(clips, delayed):
    made = delayed(0)
    assert evaluate("video_to_audio", made, clips)["tasks"]["video_to_audio"]["event_f1@100ms"]["ceiling"] is None
    trip = RoundTrip(16000, 10.0, (64, 64), sound=torch.zeros_like, frames=lambda frames: frames * 0)
    assert (
        evaluate("video_to_audio", made, clips, round_trip=trip)["tasks"]["video_to_audio"]["event_f1@100ms"]["ceiling"]
        == 0
    )
    assert (
        evaluate("audio_to_video", clips, clips, round_trip=trip)["tasks"]["audio_to_video"]["event_f1@100ms"][
            "ceiling"
        ]
        == 0
    )


def test_numbers_are_the_same_on_a_second_run(clips, delayed):
    made = delayed(40)
    assert evaluate("video_to_audio", made, clips, seed=5) == evaluate("video_to_audio", made, clips, seed=5)


def test_unreadable_and_unpaired_files_are_listed_and_the_rest_is_scored(clips, delayed):
    made = delayed(0)
    (made / "clip_00001.wav").write_text("no sound in here")
    (made / "clip_00002.wav").write_bytes(b"")
    (made / "stranger.wav").write_bytes((made / "clip_00000.wav").read_bytes())
    (made / "clip_00003.wav").unlink()
    write_video(made / "clip_00004.mp4", torch.zeros(16, 3, 32, 32, dtype=torch.uint8), 10.0)  # silent, beside the wav
    report = evaluate("video_to_audio", made, clips)
    run = report["runs"]["video_to_audio"]
    assert report["tasks"]["video_to_audio"]["event_f1@100ms"]["n"] == 4
    assert run["unpaired"] == {"generated": ["stranger.wav"], "reference": ["clip_00003.mp4"]}
    assert len(run["errors"]) == 3
    for name, line in zip(("clip_00001.wav", "clip_00002.wav", "clip_00004.mp4"), run["errors"], strict=True):
        assert name in line
        assert "\n" not in line


def test_nothing_to_score_gives_null_values_and_no_exception(clips, tmp_path):
    made = tmp_path / "empty"
    made.mkdir()
    report = evaluate("video_to_audio", made, clips)
    entry = report["tasks"]["video_to_audio"]["event_f1@100ms"]
    assert (entry["value"], entry["ci95"], entry["floor"], entry["n"]) == (None, None, None, 0)
    assert (
        summary_line("video_to_audio", report["tasks"]["video_to_audio"]) == "video_to_audio: no clips could be scored"
    )


def test_only_the_span_that_was_generated_counts(clips, tmp_path):
    for path in sorted(clips.glob("*.mp4")):
        sound = read_sound(path, start=0.0, num_samples=SAMPLES // 2, sample_rate=16000)
        write_sound(tmp_path / f"{path.stem}.wav", sound, 16000)
    report = evaluate("video_to_audio", tmp_path, clips)
    rows = report["runs"]["video_to_audio"]["clips"]
    assert all(row["duration"] == 0.8 for row in rows)
    assert all(time < 0.8 for row in rows for time in row["reference_events"])
    assert report["tasks"]["video_to_audio"]["event_f1@100ms"]["value"] >= 0.9


def test_without_sidecars_the_same_detector_gives_the_reference(clips, delayed, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in clips.glob("*.mp4"):
        shutil.copy(path, bare)
    report = evaluate("video_to_audio", delayed(0), bare)
    detectors = report["runs"]["video_to_audio"]["detectors"]
    assert (detectors["sound"], detectors["video"], detectors["reference"]) == ("onsets", "turns", ["onsets"])
    assert report["tasks"]["video_to_audio"]["event_f1@50ms"]["value"] >= 0.95


def test_any_rate_and_size_will_do(clips, tmp_path):
    for path in sorted(clips.glob("*.mp4"))[:4]:
        frames = read_frames(path, start=0.0, num_frames=20, fps=12.5, size=(200, 200))
        sound = read_sound(path, start=0.0, num_samples=70560, sample_rate=44100)
        write_video(tmp_path / f"{path.stem}.mkv", frames, 12.5, sound, 44100)
    for task in ("video_to_audio", "audio_to_video"):
        assert evaluate(task, tmp_path, clips)["tasks"][task]["event_f1@100ms"]["value"] >= 0.8
    frames, fps = load_frames(tmp_path / "clip_00000.mkv", 1.0)
    assert (tuple(frames.shape), fps) == ((12, 3, 200, 200), 12.5)
    assert load_sound(tmp_path / "clip_00000.mkv", 0.5).shape == (8000,)


def test_several_samples_of_one_reference_are_paired_with_it(clips, delayed):
    made = delayed(0)
    for path in list(made.glob("*.wav")):
        shutil.copy(path, made / f"{path.stem}_1.wav")
        path.rename(made / f"{path.stem}_0.wav")
    pairing = pair_folders(made, clips)
    assert len(pairing.pairs) == 16
    assert pairing.unpaired_reference == []
    assert {pair.reference.stem for pair in pairing.pairs if pair.stem.endswith("_1")} == {
        p.stem for p in clips.glob("*.mp4")
    }


def test_one_name_in_two_places_is_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clip.wav").touch()
    pairing = pair_folders(tmp_path, tmp_path)
    assert pairing.pairs == []
    assert all("'clip'" in line for line in pairing.errors)


@pytest.mark.parametrize(
    ("task", "settings", "error"),
    [
        ("speech", {}, "task must be"),
        ("joint", {"video_events": "blinks"}, "video_events"),
        ("video_to_audio", {}, "references"),
    ],
)
def test_bad_arguments_raise(tmp_path, task, settings, error):
    with pytest.raises(ValueError, match=error):
        evaluate(task, tmp_path, None, **settings)


def test_a_missing_folder_raises(tmp_path):
    with pytest.raises(MediaError, match="nowhere"):
        evaluate("video_to_audio", tmp_path, tmp_path / "nowhere")


def test_a_broken_sidecar_is_one_error_line(clips, delayed, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(clips, bad)
    (bad / "clip_00002.json").write_text('{"events": [{"when": 1}]}')
    run = evaluate("video_to_audio", delayed(0), bad)["runs"]["video_to_audio"]
    assert len(run["clips"]) == 7
    assert [line for line in run["errors"] if "clip_00002.json" in line and "sidecar" in line] == run["errors"]


def test_scores_of_event_lists_have_closed_forms():
    def seen(name, reference, estimate):
        view = View({"events": Events(reference, 4.0)}, {"events": Events(estimate, 4.0)})
        return Observation(name, 4.0, "sidecar", view)

    metrics, rows = score([seen("a", [1.0, 2.0], [1.0]), seen("b", [3.0], [3.0, 3.9])])
    assert metrics["event_recall@100ms"]["value"] == pytest.approx(0.75)
    assert metrics["event_precision@100ms"]["value"] == pytest.approx(0.75)
    assert metrics["event_f1@100ms"]["value"] == pytest.approx(2 / 3)
    assert metrics["event_f1@100ms"]["floor"] == 0.0  # two clips: each against the other, nothing in common
    assert [row["event_f1@25ms"] for row in rows] == pytest.approx([2 / 3, 2 / 3])
    single, _ = score([seen("a", [1.0], [1.0])])
    assert single["event_f1@100ms"]["floor"] is None
