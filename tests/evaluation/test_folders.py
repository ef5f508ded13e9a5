"""Folders of media to scores: known shifts, floors, ceilings, files that cannot be used."""

import json
import shutil
import statistics

import pytest
import torch

from cmmd_lightning.evaluation import Extractors, RoundTrip, evaluate_folders, score, summary_line
from cmmd_lightning.evaluation.loading import load_frames, load_sound
from cmmd_lightning.evaluation.measures import View
from cmmd_lightning.evaluation.observation import Observation
from cmmd_lightning.evaluation.pairs import pair_folders
from cmmd_lightning.media import MediaError, read_frames, read_sound, write_sound, write_video
from cmmd_lightning.metrics.extractors.statistics import MelStatistics, PixelStatistics
from cmmd_lightning.metrics.synchrony import Events

SAMPLES = 25600


def evaluate(task, generated, reference, **settings):
    return evaluate_folders(task, generated, reference, progress=False, command="test", **settings)


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


def test_unreadable_training_clips_are_listed_and_a_lone_one_is_no_bank(clips, delayed, tmp_path):
    made, training = delayed(0), tmp_path / "training"
    training.mkdir()
    for path in sorted(made.glob("*.wav"))[:2]:
        shutil.copy(path, training)
    write_video(training / "mute.mp4", torch.zeros(16, 3, 32, 32, dtype=torch.uint8), 10.0)
    (training / "text.mp4").write_text("no film")
    extractors = Extractors(audio=MelStatistics())
    report = evaluate("video_to_audio", made, clips, extractors=extractors, training=training)
    assert report["tasks"]["video_to_audio"]["memorisation[mel-statistics-v2]"]["n_training"] == 2
    errors = report["runs"]["video_to_audio"]["errors"]
    assert ["mute.mp4: expected an audio stream, got none" in errors[0], "text.mp4" in errors[1]] == [True, True]
    (training / "clip_00001.wav").unlink()
    report = evaluate("video_to_audio", made, clips, extractors=extractors, training=training)
    assert "memorisation[mel-statistics-v2]" not in report["tasks"]["video_to_audio"]
    assert "expected two training clips at least" in report["runs"]["video_to_audio"]["errors"][-1]
    assert report["tasks"]["video_to_audio"]["event_f1@100ms"]["n"] == 8


def test_a_sound_without_samples_is_named_itself(clips, delayed):
    made = delayed(0)
    write_sound(made / "clip_00001.wav", torch.zeros(0), 16000)
    errors = evaluate("video_to_audio", made, clips)["runs"]["video_to_audio"]["errors"]
    assert errors == [f"{made / 'clip_00001.wav'}: expected sound of some length, got 0 s"]


def test_references_without_a_picture_leave_out_what_compares_both_and_say_so(clips, delayed, caplog):
    made = delayed(0)
    caplog.set_level("INFO")
    report = evaluate("video_to_audio", made, made)
    metrics, run = report["tasks"]["video_to_audio"], report["runs"]["video_to_audio"]
    assert {name.partition("@")[0] for name in metrics} == {
        *("event_precision", "event_recall", "event_f1", "event_lag", "quiet_level", "clipped_samples")
    }
    assert metrics["event_f1@25ms"]["value"] == 1.0
    assert metrics["event_lag"]["value"] == 0.0
    assert run["clips_without_picture_and_sound"] == 8
    assert "8 of 8 clips have no picture beside the sound" in caplog.text
    assert evaluate("video_to_audio", made, clips)["runs"]["video_to_audio"]["clips_without_picture_and_sound"] == 0


def test_a_delay_shows_in_every_lag_with_its_sign(clips, delayed):
    runs = {late: evaluate("video_to_audio", delayed(late), clips) for late in (0, 80, -80)}
    rows = {late: run["runs"]["video_to_audio"]["clips"] for late, run in runs.items()}
    for late in (80, -80):
        for row, before in zip(rows[late], rows[0], strict=True):
            assert row["event_lag"] - before["event_lag"] == pytest.approx(late / 1000, abs=0.012)
        moved = [
            row["motion_loudness_lag"] - before["motion_loudness_lag"]
            for row, before in zip(rows[late], rows[0], strict=True)
        ]
        assert statistics.median(moved) == pytest.approx(late / 1000, abs=0.02)
        entry = runs[late]["tasks"]["video_to_audio"]["event_lag"]
        assert entry["median"] == pytest.approx(late / 1000, abs=0.012)
        assert entry["value"] == pytest.approx(0.08, abs=0.012)


def test_joint_falls_with_a_delay_and_takes_references_of_any_name_length_rate_and_size(clips, tmp_path):
    made, late, true = (tmp_path / name for name in ("made", "late", "true"))
    for i, path in enumerate(sorted(clips.glob("*.mp4"))):
        frames = read_frames(path, start=0.0, num_frames=16, fps=10.0)
        sound = read_sound(path, start=0.0, num_samples=SAMPLES, sample_rate=16000)
        write_video(made / path.name, frames, 10.0, sound, 16000)
        write_video(late / path.name, frames, 10.0, torch.roll(sound, 80 * 16), 16000)
        if i < 5:  # fewer references, of half the length
            sound = read_sound(path, start=0.0, num_samples=17640, sample_rate=22050)
            write_video(true / f"other_{i}.mkv", frames[:8].repeat(1, 1, 2, 1), 10.0, sound, 22050)
    extractors = Extractors(PixelStatistics(), MelStatistics())
    reports = [
        evaluate("joint", folder, true, video_events="impacts", extractors=extractors) for folder in (made, late)
    ]
    assert [report["runs"]["joint"]["errors"] for report in reports] == [[], []]
    metrics, delayed = (report["tasks"]["joint"] for report in reports)
    assert metrics["event_f1@25ms"]["n"] == 8
    assert metrics["event_f1@50ms"]["value"] > delayed["event_f1@50ms"]["value"] + 0.4
    assert delayed["event_lag"]["median"] - metrics["event_lag"]["median"] == pytest.approx(0.08, abs=0.02)
    for name in ("frechet_distance[pixel-statistics-v1]", "kernel_distance[mel-statistics-v2]"):
        assert (metrics[name]["n"], metrics[name]["n_reference"]) == (8, 5)


def test_with_an_identity_for_codec_and_vocoder_true_clips_reach_the_ceiling_exactly(clips):
    trip = RoundTrip(16000, 10.0, (64, 64), sound=lambda sound: sound, frames=lambda frames: frames)
    extractors = Extractors(PixelStatistics(), MelStatistics())
    for task in ("video_to_audio", "audio_to_video"):
        metrics = evaluate(task, clips, clips, round_trip=trip, extractors=extractors)["tasks"][task]
        assert {"motion_loudness_correlation", "motion_loudness_lag", "event_lag"} < metrics.keys()
        assert {name: entry["ceiling"] for name, entry in metrics.items()} == {
            name: entry["value"] for name, entry in metrics.items()
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
