"""One list of measures on every road, files that share no clock, sidecars that are none, measures of one's own."""

import json
import shutil
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from command_line import cmmd

from cmmd_lightning import ClipSpec
from cmmd_lightning.evaluation import Senses, evaluate_folders, summary_line
from cmmd_lightning.evaluation.generated import EvaluationSpec, GeneratedClips
from cmmd_lightning.evaluation.scoring import score
from cmmd_lightning.media import read_frames, read_sound, write_sound
from cmmd_lightning.metrics import EventAgreement, Measure
from cmmd_lightning.studies.ablation.summary import clip_scores
from cmmd_lightning.studies.calibration.calibrate import _compare

CLIP = ClipSpec(num_frames=16, fps=10.0, height=64, width=64, sample_rate=16000, n_fft=1024, hop_length=200, n_mels=64)


class MeanLight(Measure):
    """A measure from outside of the package."""

    names, unit, higher_is_better = ("mean_light",), "8-bit steps", False
    reference = estimate = "mean_light"

    def features(self, media):
        return {} if media.frames is None else {"mean_light": float(media.frames.float().mean())}

    def score(self, estimate, reference):
        return [abs(estimate - reference)]


def evaluate(task, generated, reference, **settings):
    return evaluate_folders(task, generated, reference, progress=False, command="test", **settings)


def remuxed(source, path, options=None):
    """The same packets in another container."""
    with av.open(str(source)) as given, av.open(str(path), "w", options=options or {}) as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)


def test_evaluate_test_calibrate_and_ablate_give_the_same_numbers(clips):
    paths = sorted(clips.glob("*.mp4"))
    senses = Senses("turns")
    frames = [read_frames(path, num_frames=16, fps=10.0) for path in paths]
    sounds = [read_sound(path, num_samples=25600, sample_rate=16000) for path in paths]
    by_files = evaluate("joint", clips, None, video_events="turns")["tasks"]["joint"]

    model = SimpleNamespace(
        clip=CLIP,
        device=torch.device("cpu"),
        sample=lambda task, video, mel, count, *, names, **settings: (
            torch.stack([frames[int(name)].transpose(0, 1).float() / 127.5 - 1 for name in names]),
            torch.stack([sounds[int(name)][None] for name in names]),
        ),
        decode_latents=lambda latents: latents,
        decode_sound=lambda mel, count: mel[:, 0],
    )
    generated = GeneratedClips(model, EvaluationSpec(("joint",), video_events="turns"))
    for i in range(len(paths)):
        generated.add([i], *model.sample("joint", None, None, 16, names=[str(i)]))
    by_model = generated.report(command="test")["tasks"]["joint"]

    observed = [
        (senses.see(picture, 10.0), senses.hear(sound, 16000)) for picture, sound in zip(frames, sounds, strict=True)
    ]
    by_calibrate = [_compare(senses, seen, heard) for seen, heard in observed]
    by_ablate = clip_scores(
        [seen["video_events"].times for seen, _ in observed], [heard["onsets"].times for _, heard in observed]
    )
    public = EventAgreement()
    public.update([heard["onsets"] for _, heard in observed], [seen["video_events"] for seen, _ in observed])
    for at in ("25ms", "50ms", "100ms", "200ms", "mean"):
        name, value = f"event_f1@{at}", by_files[f"event_f1@{at}"]["value"]
        assert by_model[name]["value"] == pytest.approx(value, abs=1e-12)
        assert np.mean([scores[name] for scores in by_calibrate]) == pytest.approx(value, abs=1e-12)
        assert by_ablate[f"F1@{at}"].mean() == pytest.approx(value, abs=1e-12)
        assert float(public.compute()[name]) == pytest.approx(value, abs=1e-6)
    for name in ("event_lag", "motion_loudness_lag", "motion_loudness_correlation"):
        assert by_model[name]["value"] == pytest.approx(by_files[name]["value"], abs=1e-9)
        found = np.array([np.nan if scores[name] is None else scores[name] for scores in by_calibrate])
        assert senses.of(name).middle(found) == pytest.approx(by_files[name]["value"], abs=1e-9)


@pytest.mark.parametrize(("suffix", "options"), [("ts", None), ("mkv", None), ("mp4", {"use_editlist": "0"})])
@pytest.mark.parametrize("task", ["video_to_audio", "audio_to_video"])
def test_a_remux_is_in_time_with_what_it_was_made_of(clips, tmp_path, task, suffix, options):
    for path in sorted(clips.glob("*.mp4"))[:3]:
        remuxed(path, tmp_path / f"{path.stem}.{suffix}", options)
    report = evaluate(task, tmp_path, clips)
    rows = report["runs"][task]["clips"]
    direct = {row["stem"]: row for row in evaluate(task, clips, clips)["runs"][task]["clips"]}
    assert [row["clock"] for row in rows] == ["picture"] * 3
    for row in rows:
        assert row["event_lag"] == pytest.approx(direct[row["stem"]]["event_lag"], abs=0.005)
        assert row["event_f1@50ms"] == direct[row["stem"]]["event_f1@50ms"]


def test_the_same_video_at_another_rate_scores_1(clips, tmp_path):
    for path in sorted(clips.glob("*.mp4")):
        (tmp_path / "slow").mkdir(exist_ok=True)
        with av.open(str(tmp_path / "slow" / path.name), "w") as out:
            stream = out.add_stream("libx264", rate=5, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for frame in read_frames(path, num_frames=8, fps=5.0):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).numpy(), format="rgb24")))
            out.mux(stream.encode())
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in clips.glob("*.mp4"):
        shutil.copy(path, plain)  # without sidecars: the true video's own events count
    metrics = evaluate("audio_to_video", tmp_path / "slow", plain, video_events="turns")["tasks"]["audio_to_video"]
    assert metrics["event_f1@50ms"]["value"] > 0.95


@pytest.mark.parametrize(
    "content", ['["a caption"]', '{"caption": "a dog", "fps": 25}', "{broken", '{"events": "none"}']
)
def test_other_json_files_beside_clips_are_no_sidecars(clips, delayed, tmp_path, content):
    true = tmp_path / "true"
    true.mkdir()
    for path in clips.glob("*.mp4"):
        shutil.copy(path, true)
        (true / f"{path.stem}.json").write_text(content)
    report = evaluate("video_to_audio", delayed(0), true)
    assert report["runs"]["video_to_audio"]["errors"] == []
    assert {row["source"] for row in report["runs"]["video_to_audio"]["clips"]} == {"onsets"}
    assert report["tasks"]["video_to_audio"]["event_f1@25ms"]["value"] == 1.0


def test_names_without_a_partner_are_told_on_the_screen(clips, delayed, caplog):
    made = delayed(0)
    (made / "clip_00003.wav").rename(made / "stranger.wav")
    evaluate("video_to_audio", made, clips)
    assert "1 generated files have no partner: stranger.wav" in caplog.text
    assert "1 reference files have no partner: clip_00003.mp4" in caplog.text


@pytest.mark.parametrize(("name", "reason"), [(None, "an empty folder"), ("notes.txt", "only .txt")])
def test_a_folder_without_media_is_refused_and_nothing_written(clips, tmp_path, name, reason):
    made = tmp_path / "made"
    made.mkdir()
    if name:
        (made / name).write_text("hello")
    before = sorted(made.iterdir())
    done = cmmd("evaluate", "--task", "video_to_audio", "--generated", made, "--reference", clips, cwd=tmp_path)
    assert done.status != 0
    assert f"expected media files, got {reason}" in " ".join(done.err.split())
    assert sorted(made.iterdir()) == before


def test_a_measure_of_ones_own_runs_beside_the_others_and_some_are_left_out(clips):
    metrics = evaluate("audio_to_video", clips, clips, measures=[MeanLight()], without=["flicker_ratio", "EventLag"])[
        "tasks"
    ]["audio_to_video"]
    entry = metrics["mean_light"]
    assert (entry["value"], entry["unit"], entry["n"], entry["cannot_tell"]) == (0.0, "8-bit steps", 8, False)
    assert entry["floor"] > 1.0
    assert not metrics.keys() & {"flicker_ratio", "event_lag"}
    assert metrics["colour_drift_ratio"]["value"] == 1.0


def test_truth_no_better_than_chance_cannot_tell_and_few_clips_are_rough(clips, tmp_path):
    noise = torch.Generator().manual_seed(0)
    for path in sorted(clips.glob("*.mp4"))[:4]:
        write_sound(tmp_path / f"{path.stem}.wav", 0.3 * torch.randn(25600, generator=noise), 16000)
    report = evaluate("video_to_audio", tmp_path, tmp_path)["tasks"]["video_to_audio"]
    assert report["quiet_level"]["value"] == 0.0
    assert report["event_f1@100ms"]["rough"]
    same = score([])[0]
    assert same["event_f1@100ms"]["value"] is None
    entry = {"value": 0.22, "ci95": [0.1, 0.3], "floor": 0.21, "ceiling": None, "n": 24, "cannot_tell": True}
    assert "cannot tell" in summary_line("joint", {"event_f1@100ms": entry})
    assert "cmmd calibrate" in summary_line("joint", {"event_f1@100ms": entry})


def test_pitch_and_quiet_tell_true_sound_from_another_clips(clips, tmp_path):
    sidecars = [json.loads(path.read_text()) for path in sorted(clips.glob("*.json"))]
    assert all("pitch_hz" in event for sidecar in sidecars for event in sidecar["events"])
    metrics = evaluate("video_to_audio", clips, clips)["tasks"]["video_to_audio"]
    assert metrics["pitch_within_semitone"]["value"] > 0.9
    assert metrics["pitch_within_semitone"]["floor"] < 0.4
    for path in sorted(clips.glob("*.mp4")):
        sound = read_sound(path, num_samples=25600, sample_rate=16000)
        hiss = 0.03 * torch.randn(25600, generator=torch.Generator().manual_seed(1))
        write_sound(tmp_path / f"{path.stem}.wav", (sound + hiss).clamp(-1, 1), 16000)
    noisy = evaluate("video_to_audio", tmp_path, clips)["tasks"]["video_to_audio"]
    assert noisy["quiet_level"]["value"] > 6.0 > metrics["quiet_level"]["value"] == 0.0
