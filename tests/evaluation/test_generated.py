"""What a test generates, observed in memory: truth, strangers, order, silence, and the report it leaves."""

import json
import logging

import pytest
import torch
from tiny_training import NETWORK

from cmmd_lightning import CMMD, ClipSpec
from cmmd_lightning.evaluation.generated import EvaluationSpec, GeneratedClips, logged_values, save_report
from cmmd_lightning.media import read_frames, read_sound

CLIP = ClipSpec(num_frames=16, fps=10.0, height=64, width=64, sample_rate=16000, n_fft=1024, hop_length=200, n_mels=64)
TASKS = ("video_to_audio", "audio_to_video", "joint")


@pytest.fixture(scope="module")
def model() -> CMMD:
    return CMMD(clip=CLIP, network=NETWORK).eval()


@pytest.fixture(scope="module")
def true(model, clips):
    """Latents and log-Mel of the rendered clips."""
    paths = sorted(clips.glob("*.mp4"))
    frames = [read_frames(path, start=0.0, num_frames=16, fps=10.0, size=(64, 64)) for path in paths]
    sounds = [read_sound(path, start=0.0, num_samples=25600, sample_rate=16000) for path in paths]
    pictures = torch.stack(frames).transpose(1, 2).float() / 127.5 - 1
    return model.encode_frames(pictures), model.encode_sound(torch.stack(sounds))


def sampler_of(made, calls=None):
    """A sampler that returns, for the clip of a number, what is given for it."""

    def sample(task, video, mel, num_frames, *, names, **settings):
        if calls is not None:
            calls.append((task, video is None, mel is None, num_frames, names, settings))
        rows = [int(name) for name in names]
        return made[0][rows], made[1][rows]

    return sample


def run(model, made, true, *tasks, batches=((0, 1, 2, 3, 4, 5, 6, 7),)):
    """The report of a model that makes of each clip what is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "sample", sampler_of(made))
        found = GeneratedClips(model, EvaluationSpec(tasks or TASKS, seed=5))
        for batch in batches:
            found.add(list(batch), true[0][list(batch)], true[1][list(batch)])
        return found.report(command="test")


def rolled(pair, by=1):
    return tuple(part.roll(by, 0) for part in pair)


@pytest.fixture(scope="module")
def exact(model, true):
    """The report where the truth was generated."""
    return run(model, true, true)


@pytest.fixture(scope="module")
def wrong(model, true):
    """The report where each clip's neighbour was generated."""
    return run(model, rolled(true), true)


def test_the_truth_reaches_the_ceiling_in_every_measure(exact):
    assert list(exact["tasks"]) == list(TASKS)
    for task, metrics in exact["tasks"].items():
        for name, entry in metrics.items():
            assert entry["value"] == entry["ceiling"], (task, name)
            assert entry["n"] == 8
        modalities = {"video_to_audio": ("mel-statistics-v2",), "audio_to_video": ("pixel-statistics-v1",)}
        names = modalities.get(task, ("mel-statistics-v2", "pixel-statistics-v1"))
        distances = [f"frechet_distance[{name}]" for name in names]
        assert [name for name in metrics if name.startswith("frechet")] == distances[::-1]
        for name in distances:
            assert metrics[name]["value"] == pytest.approx(0.0, abs=1e-6)
            assert metrics[name]["floor"] > 1.0
        if task != "joint":
            assert metrics["event_f1@25ms"]["value"] == 1.0
            assert metrics["event_lag"]["value"] == 0.0
            assert metrics["event_f1@mean"]["floor"] < 0.6


def test_a_stranger_s_falls_to_the_floor(wrong):
    for task in ("video_to_audio", "audio_to_video"):
        entry = wrong["tasks"][task]["event_f1@mean"]
        assert entry["value"] < entry["floor"] + 0.1
        assert entry["value"] < 0.6
        assert entry["ceiling"] == 1.0
    # a given picture beside the sound of another clip
    v2a, joint = (wrong["tasks"][task]["motion_loudness_correlation"] for task in ("video_to_audio", "joint"))
    assert v2a["value"] < v2a["ceiling"] - 0.1
    assert joint["value"] == pytest.approx(joint["ceiling"])  # both of the same stranger


def test_the_floor_is_the_mean_over_all_strangers(model, true):
    few, batch = tuple(part[:3] for part in true), [(0, 1, 2)]
    floor = run(model, few, few, "video_to_audio", batches=batch)
    others = [run(model, rolled(few, by), few, "video_to_audio", batches=batch) for by in (1, 2)]
    for name in ("event_f1@mean", "event_f1@100ms", "event_lag", "motion_loudness_correlation"):
        values = [report["tasks"]["video_to_audio"][name]["value"] for report in others]
        assert sum(values) / 2 == pytest.approx(floor["tasks"]["video_to_audio"][name]["floor"])


def test_clips_come_in_any_order_and_batch_and_some_twice(model, true, wrong):
    parts = run(model, rolled(true), true, batches=[(7, 3), (0, 5, 1), (3,), (6, 2, 4)])
    assert parts == wrong
    assert [row["stem"] for row in parts["runs"]["joint"]["clips"]] == list("01234567")


def test_what_the_sampler_is_asked_for(model, true, monkeypatch):
    calls: list = []
    monkeypatch.setattr(model, "sample", sampler_of(true, calls))
    spec = EvaluationSpec(("audio_to_video", "video_to_audio"), 7, 1.5, 0.25, seed=3, guidance_from="shifted")
    GeneratedClips(model, spec).add([4, 2], true[0][[4, 2]], true[1][[4, 2]])
    settings = {"num_inference_steps": 7, "guidance_scale": 1.5, "ddim_eta": 0.25, "seed": 3}
    settings["guidance_from"] = "shifted"
    # one by one on a CPU; the condition and nothing else is handed in
    assert calls == [
        ("audio_to_video", True, False, 16, ["4"], settings),
        ("video_to_audio", False, True, 16, ["4"], settings),
        ("audio_to_video", True, False, 16, ["2"], settings),
        ("video_to_audio", False, True, 16, ["2"], settings),
    ]


def test_on_an_accelerator_a_batch_is_sampled_together(model, true, wrong):
    class OnAccelerator:
        device = torch.device("cuda")
        calls: list = []  # noqa: RUF012
        sample = staticmethod(sampler_of(rolled(true), calls))

        def __getattr__(self, name):
            return getattr(model, name)

    found = GeneratedClips(OnAccelerator(), EvaluationSpec(("video_to_audio",), seed=5))
    found.add([0, 1, 2], *(part[:3] for part in true))
    assert [call[4] for call in OnAccelerator.calls] == [["0", "1", "2"]]
    rows = found.report()["runs"]["video_to_audio"]["clips"]
    assert rows == wrong["runs"]["video_to_audio"]["clips"][:3]


def test_the_report_has_the_form_of_all_reports(wrong, tmp_path, caplog):
    (tmp_path / "test_report.json").write_text("of an older test, cut off")
    with caplog.at_level(logging.INFO, "cmmd_lightning"):
        save_report(wrong, tmp_path)
    kept = json.loads((tmp_path / "test_report.json").read_text())
    assert kept == json.loads(json.dumps(wrong))
    assert set(kept["provenance"]) == {"command", "version", "seed", "machine"}
    assert kept["provenance"]["seed"] == 5
    for task in TASKS:
        entry = kept["tasks"][task]["event_f1@100ms"]
        assert entry["ci95"][0] <= entry["value"] <= entry["ci95"][1]
        assert all(0 <= entry[key] <= 1 for key in ("value", "floor", "floor_random", "ceiling"))
        assert kept["runs"][task]["sampling"]["num_inference_steps"] == 25
        assert kept["runs"][task]["sampling"]["guidance_from"] == "dropped"
        assert kept["runs"][task]["detectors"]["video"] == "turns"
    page = (tmp_path / "test_report.html").read_text()
    assert "video_to_audio" in page
    assert "frechet_distance[pixel-statistics-v1]" in page
    assert caplog.messages[
        -1
    ] == f"written: {tmp_path / 'test_report.json'}, {tmp_path / 'test_report.html'}, " + ", ".join(
        f"{tmp_path}/test_report.{kind}" for kind in ("csv", "md", "tex")
    )
    value = kept["tasks"]["joint"]["event_lag"]["value"]
    assert any("event_lag " in line and f"value {value:.3f}" in line for line in caplog.messages)


def test_every_measure_is_logged_with_floor_and_ceiling(wrong):
    values = logged_values(wrong)
    for task in TASKS:
        for name, entry in wrong["tasks"][task].items():
            assert values.pop(f"test/{task}/{name}") == entry["value"]
            for other in ("floor", "ceiling"):  # what does not depend on the pairing has no floor, and logs none
                assert values.pop(f"test/{task}/{name}/{other}", None) == entry[other]
            assert entry["floor"] is not None or name == "clipped_samples"
    assert values == {}


def test_clips_without_events_have_scores_that_are_not_logged(model, true, caplog):
    still = true[0][:, :, :1].expand_as(true[0])
    silent = torch.full_like(true[1], float(model.mel.normalize(torch.tensor(-9.0))))
    report = run(model, (still, silent), (still, silent), "video_to_audio", "audio_to_video", batches=[(0, 1, 2)])
    values = logged_values(report)
    assert not [name for name in values if "/event_" in name]
    assert "test/video_to_audio/frechet_distance[mel-statistics-v2]" in values
    assert "test/audio_to_video: no events in the 3 clips, event scores are not logged" in caplog.messages
    assert report["tasks"]["video_to_audio"]["event_f1@100ms"]["value"] == 1.0  # nothing to be found, nothing found
    assert report["runs"]["video_to_audio"]["clips_without_events"] == 3


def test_a_clip_that_came_out_as_nan_is_named_and_left_out(model, true, caplog):
    made = true[0].clone(), true[1].clone()
    made[1][2] = float("nan")
    report = run(model, made, true, batches=[(0, 1, 2, 3)])
    line = "clip 2: expected finite sound from the model, got NaN or infinity"
    assert [report["runs"][task]["errors"] for task in TASKS] == [[line], [], [line]]
    assert [report["tasks"][task]["event_f1@100ms"]["n"] for task in TASKS] == [3, 4, 3]
    logged_values(report)
    assert [message for message in caplog.messages if "clip 2" in message] == [
        f"test/video_to_audio: {line}",
        f"test/joint: {line}",
    ]


def test_no_clips_are_a_report_without_values(model, true, tmp_path):
    report = run(model, true, true, batches=())
    assert logged_values(report) == {}
    save_report(report, tmp_path)
    assert json.loads((tmp_path / "test_report.json").read_text())["tasks"]["joint"]["event_f1@100ms"]["value"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("dub",)}, "tasks: expected some of video_to_audio, audio_to_video, joint, got dub"),
        ({"tasks": ()}, "got none"),
        ({"guidance_from": "noise"}, "guidance_from: expected dropped or shifted, got noise"),
        ({"num_inference_steps": 0}, "num_inference_steps: expected at least 1, got 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluationSpec(**settings)


def test_a_task_named_twice_is_done_once():
    assert EvaluationSpec(["joint", "video_to_audio", "joint"]).tasks == ("joint", "video_to_audio")


def test_the_detector_of_pictures_can_be_chosen(model, true, monkeypatch):
    monkeypatch.setattr(model, "sample", sampler_of(true))
    found = GeneratedClips(model, EvaluationSpec(("audio_to_video",), video_events="impacts"))
    found.add([0, 1], true[0][:2], true[1][:2])
    run = found.report()["runs"]["audio_to_video"]
    assert (run["detectors"]["video"], run["detectors"]["reference"]) == ("impacts", ["impacts"])
