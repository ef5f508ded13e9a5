"""Prediction from files to files: what is written, what is said of it, and what goes wrong in one line each."""

import copy
import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import Callback, Trainer

from cmmd_lightning import CMMD, ClipSpec, NetworkSpec
from cmmd_lightning.codecs.frames import PixelUnshuffleCodec
from cmmd_lightning.media import probe, read_frames, read_sound, write_sound, write_video
from cmmd_lightning.prediction.generation import _examples_at_once, decode_long_sound, generate
from cmmd_lightning.prediction.inputs import InputBatch, InputLoader, load_input
from cmmd_lightning.prediction.requests import GenerationSpec, PredictInput, plan_inputs
from cmmd_lightning.prediction.writer import PredictionWriter

CLIP = ClipSpec(num_frames=8, fps=10.0, height=32, width=32, n_fft=512, n_mels=32)
KEYS = {"source", "outputs", "task", "seed", "steps", "media_seconds", "work_seconds", "status", "guidance_scale"}
KEYS |= {"guidance_from"}
SHIFTED = {"guidance_scale": 2.5, "guidance_from": "shifted"}


@pytest.fixture(scope="module")
def model() -> CMMD:
    """A tiny model whose weights are random throughout, so that conditions matter."""
    torch.manual_seed(0)
    model = CMMD(clip=CLIP, network=NetworkSpec((16, 16), (16, 16), attention_levels=(), head_channels=16))
    with torch.no_grad():
        for values in model.network.parameters():
            values.add_(0.1 * torch.randn_like(values))
    model.mel.mean.fill_(0.5)
    return model.eval()


def clip_file(
    path: Path, seconds: float, seed: int = 0, *, fps: float = 25.0, size=(40, 48), sound: bool = True
) -> Path:
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (round(seconds * fps), 3, 4, 4), generator=rng, dtype=torch.uint8)
    frames = coarse.repeat_interleave(size[0] // 4, 2).repeat_interleave(size[1] // 4, 3)
    noise = 0.1 * torch.randn(round(seconds * 16000), generator=rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, fps, noise if sound else None, 16000)
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """Two clips of 1 s, one of 2.4 s, and the sound of one."""
    folder = tmp_path_factory.mktemp("media")
    for seed, (name, seconds) in enumerate({"a": 1.0, "b": 1.0, "long": 2.4}.items()):
        clip_file(folder / f"{name}.mp4", seconds, seed)
    write_sound(folder / "sound" / "w.wav", 0.1 * torch.randn(20000, generator=torch.Generator().manual_seed(9)), 16000)
    return folder


def predict(model: CMMD, spec: GenerationSpec, batch_size: int = 4, callbacks: tuple = ()) -> PredictionWriter:
    inputs = plan_inputs(spec)
    writer = PredictionWriter(spec, inputs, checkpoint="some.ckpt")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[writer, *callbacks], enable_checkpointing=False, **quiet)
    model.generation = spec
    trainer.predict(model, InputLoader(inputs, batch_size))
    return writer


def spec_for(task: str, inputs, output_dir: Path, **settings) -> GenerationSpec:
    inputs = [str(path) for path in inputs]
    return GenerationSpec(task, inputs, str(output_dir), **{"num_inference_steps": 2, **settings})


def manifest(folder: Path) -> list[dict]:
    return json.loads((folder / "manifest.json").read_text())


def packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(getattr(container.streams, kind)[0]) if p.size]


def streams(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.codec_context.name for stream in container.streams]


# ---- what is written


def test_video_to_audio_keeps_the_picture_and_says_what_it_did(model, media, tmp_path):
    writer = predict(model, spec_for("video_to_audio", [media / "a.mp4", media / "long.mp4"], tmp_path, seed=3))
    assert writer.failed == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.mp4",
        "a.wav",
        "long.mp4",
        "long.wav",
        "manifest.json",
    ]
    for name, seconds in {"a": 1.0, "long": 2.4}.items():
        made, source = tmp_path / f"{name}.mp4", media / f"{name}.mp4"
        assert sorted(streams(made)) == ["aac", "h264"]
        info = probe(made, verify=True)
        assert info.problems == ()
        assert (info.fps, info.height, info.width, info.sample_rate) == (25.0, 40, 48, 16000)
        assert info.video_duration == pytest.approx(seconds, abs=0.04)
        assert info.audio_duration == pytest.approx(seconds, abs=0.001)
        given = packets(source, "video")
        assert packets(made, "video") == given[: len(packets(made, "video"))]
        assert len(packets(made, "video")) >= round(seconds * 25) - 1
        sound, rate = soundfile.read(tmp_path / f"{name}.wav")
        assert (len(sound), rate) == (round(seconds * 16000), 16000)
        # the mp4 has the sound of the wav
        heard = read_sound(made, num_samples=len(sound), sample_rate=16000).numpy()
        assert np.corrcoef(heard, sound)[0, 1] > 0.8
    first, second = manifest(tmp_path)
    assert first.keys() >= KEYS
    assert first["source"] == str(media / "a.mp4")
    assert first["outputs"] == [str(tmp_path / "a.mp4"), str(tmp_path / "a.wav")]
    assert [first[key] for key in ("task", "seed", "steps", "status")] == ["video_to_audio", 3, 2, "ok"]
    assert (first["media_seconds"], second["media_seconds"]) == (1.0, 2.4)
    assert first["work_seconds"] > 0
    assert first["checkpoint"] == "some.ckpt"
    assert first["clipped_samples"] == 0
    assert first["limited_db"] == 0
    assert first["condition_error"] == pytest.approx(0.86, abs=0.05)  # of a network with random weights


def test_the_plan_is_shown_before_the_work_and_limited_peaks_are_told(model, media, tmp_path, caplog, monkeypatch):
    def loud(model, mel, num_samples):
        said.append([record.getMessage() for record in caplog.records])
        return 2 * torch.sin(torch.arange(num_samples) * 0.3).expand(len(mel), -1)

    said: list[list[str]] = []
    monkeypatch.setattr("cmmd_lightning.prediction.generation.decode_long_sound", loud)
    spec = spec_for("video_to_audio", [media / "a.mp4", media / "b.mp4"], tmp_path, num_samples=2)
    with caplog.at_level(logging.INFO, logger="cmmd_lightning"):
        predict(model, spec)
    line = f"{tmp_path}: video_to_audio, 2 of 2 inputs to do, 8 files to write, 2 steps each"
    assert [line in lines for lines in said] == [True] * len(said)
    assert said
    first, second = manifest(tmp_path)
    assert [first["limited_db"], second["limited_db"]] == pytest.approx([6.02, 6.02], abs=0.01)
    assert first["clipped_samples"] > 1000


def test_short_names_of_tasks_and_a_bfloat16_model(model, media, tmp_path):
    half = copy.deepcopy(model).bfloat16()
    assert predict(half, spec_for("v2a", [media / "a.mp4"], tmp_path / "v")).failed == []
    assert predict(half, spec_for("a2v", [media / "a.mp4"], tmp_path / "a")).failed == []
    made = [manifest(tmp_path / folder)[0]["task"] for folder in "va"]
    assert made == ["video_to_audio", "audio_to_video"]
    assert probe(tmp_path / "a" / "a.mp4", verify=True).problems == ()


def test_audio_to_video_makes_whole_frames_and_keeps_the_sound(model, media, tmp_path):
    writer = predict(model, spec_for("audio_to_video", [media / "sound", media / "b.mp4"], tmp_path))
    assert writer.failed == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.mp4", "manifest.json", "w.mp4"]
    info = probe(tmp_path / "w.mp4", verify=True)
    assert sorted(streams(tmp_path / "w.mp4")) == ["aac", "h264"]
    # 20000 samples are 1.25 s: twelve frames of 0.1 s
    assert manifest(tmp_path)[0]["media_seconds"] == 1.2
    assert (info.fps, info.height, info.width, info.problems) == (10.0, 32, 32, ())
    assert info.video_duration == pytest.approx(1.2, abs=1e-6)
    assert info.audio_duration == pytest.approx(1.2, abs=0.001)
    given = read_sound(media / "sound" / "w.wav", num_samples=19200, sample_rate=16000)
    heard = read_sound(tmp_path / "w.mp4", num_samples=19200, sample_rate=16000)
    assert np.corrcoef(given, heard)[0, 1] > 0.95
    # sound that is AAC in mp4 already is copied
    assert packets(tmp_path / "b.mp4", "audio") == packets(media / "b.mp4", "audio")


def test_frames_written_are_the_frames_of_the_python_api(model, media, tmp_path):
    predict(model, spec_for("audio_to_video", [media / "sound" / "w.wav"], tmp_path, seed=5))
    sound = read_sound(media / "sound" / "w.wav", num_samples=19200, sample_rate=16000)
    expected = model.audio_to_video(sound[None], names=["w"], num_inference_steps=2, seed=5)[0]
    frames = read_frames(tmp_path / "w.mp4", num_frames=12, fps=10.0).float().div(127.5).sub(1.0)
    grey = torch.tensor([0.299, 0.587, 0.114])  # H.264 keeps the brightness of noise, but not its colour
    both = torch.stack([(grey @ frames.flatten(2)).flatten(), torch.einsum("c,cthw->thw", grey, expected).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8


def test_sound_written_is_the_sound_of_the_python_api(model, media, tmp_path):
    predict(model, spec_for("video_to_audio", [media / "long.mp4"], tmp_path, seed=5, guidance_scale=2.0))
    frames = read_frames(media / "long.mp4", num_frames=24, fps=10.0, size=(32, 32)).float().div(127.5).sub(1.0)
    frames = frames.transpose(0, 1)[None]
    expected = model.video_to_audio(frames, names=["long"], num_inference_steps=2, seed=5, guidance_scale=2.0)[0]
    sound, _ = soundfile.read(tmp_path / "long.wav", dtype="float32")
    assert np.abs(sound - expected.clamp(-1, 1).numpy()).max() < 1e-4  # 16 bits
    assert np.abs(sound).max() > 0.05


def test_joint_takes_no_inputs_and_each_sample_is_its_own(model, tmp_path):
    writer = predict(model, spec_for("joint", [], tmp_path / "four", num_samples=4), batch_size=3)
    predict(model, spec_for("joint", [], tmp_path / "one"))
    assert writer.failed == []
    entries = manifest(tmp_path / "four")
    assert [entry["source"] for entry in entries] == [None] * 4
    stems = [f"sample_{i}" for i in range(4)]
    assert [[Path(path).name for path in entry["outputs"]] for entry in entries] == [
        [f"{stem}.mp4", f"{stem}.wav"] for stem in stems
    ]
    assert entries[0]["media_seconds"] == 0.8
    sounds = [soundfile.read(tmp_path / "four" / f"{stem}.wav")[0] for stem in stems]
    assert all(len(sound) == 12800 for sound in sounds)
    assert all(np.abs(sounds[i] - sounds[j]).max() > 0.01 for i in range(4) for j in range(i))
    info = probe(tmp_path / "four" / "sample_3.mp4", verify=True)
    assert (info.video_duration, info.problems) == (0.8, ())
    # a lone sample is the first of several
    assert [Path(path).name for path in manifest(tmp_path / "one")[0]["outputs"]] == ["sample.mp4", "sample.wav"]
    assert np.abs(soundfile.read(tmp_path / "one" / "sample.wav")[0] - sounds[0]).max() < 1e-4


def test_several_samples_of_an_input_differ_and_the_first_is_the_lone_one(model, media, tmp_path):
    predict(model, spec_for("video_to_audio", [media / "a.mp4"], tmp_path / "two", num_samples=2))
    predict(model, spec_for("video_to_audio", [media / "a.mp4"], tmp_path / "one"))
    (entry,) = manifest(tmp_path / "two")
    assert [Path(path).name for path in entry["outputs"]] == ["a_0.mp4", "a_0.wav", "a_1.mp4", "a_1.wav"]
    assert entry["media_seconds"] == 1.0
    lone, first, second = (soundfile.read(tmp_path / name)[0] for name in ("one/a.wav", "two/a_0.wav", "two/a_1.wav"))
    assert np.abs(lone - first).max() < 1e-4
    assert np.abs(first - second).max() > 0.01


# ---- what it follows from


def results(model: CMMD, spec: GenerationSpec, batch_size: int) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        made = [one for batch in InputLoader(plan_inputs(spec), batch_size) for one in generate(model, batch, spec)]
    return {sample.stem: sample.sound for one in made for sample in one.samples}


@pytest.mark.parametrize("settings", [{}, {"guidance_scale": 2.5, "ddim_eta": 0.5, "num_samples": 2}, SHIFTED])
def test_a_batch_and_single_runs_agree(model, media, tmp_path, settings):
    inputs = [media / "a.mp4", media / "b.mp4", media / "long.mp4"]
    together = results(model, spec_for("video_to_audio", inputs, tmp_path, **settings), batch_size=8)
    for path in inputs:
        alone = results(model, spec_for("video_to_audio", [path], tmp_path, **settings), batch_size=1)
        for stem, sound in alone.items():
            assert (together[stem] - sound).abs().max() < 1e-5


def test_one_seed_gives_the_same_bytes_another_seed_another_sound(model, media, tmp_path):
    for folder, seed in {"x": 1, "y": 1, "z": 2}.items():
        predict(model, spec_for("video_to_audio", [media / "a.mp4"], tmp_path / folder, seed=seed))
    x, y, z = ((tmp_path / folder / "a.wav").read_bytes() for folder in "xyz")
    assert x == y
    assert len(x) == len(z)
    assert x != z


def test_on_a_gpu_equal_lengths_go_through_the_network_together(model, media, tmp_path, monkeypatch):
    calls = []
    sample = CMMD.sample
    monkeypatch.setattr(
        CMMD, "sample", lambda self, *args, **kw: calls.append(kw["names"]) or sample(self, *args, **kw)
    )
    inputs = [media / "a.mp4", media / "b.mp4", media / "long.mp4"]
    alone = results(model, spec_for("video_to_audio", inputs, tmp_path), batch_size=4)
    assert calls == [["a"], ["b"], ["long"]]
    calls.clear()
    monkeypatch.setattr("cmmd_lightning.prediction.generation._examples_at_once", lambda model, frames, most: 2)
    together = results(model, spec_for("video_to_audio", inputs, tmp_path), batch_size=4)
    assert calls == [["a", "b"], ["long"]]
    for stem, sound in together.items():
        assert torch.corrcoef(torch.stack([sound, alone[stem]]))[0, 1] > 0.99
    calls.clear()
    several = results(model, spec_for("video_to_audio", inputs[:1], tmp_path, num_samples=3), batch_size=4)
    assert calls == [["a", "a/1"], ["a/2"]]
    assert sorted(several) == ["a_0", "a_1", "a_2"]


def test_windows_count_towards_what_goes_at_once():
    gpu = SimpleNamespace(device=torch.device("cuda"), clip=CLIP)
    # windows of 8 frames begin every 4: 8 frames are 1 window, 24 are 5, 80 are 19
    assert [_examples_at_once(gpu, frames, 16) for frames in (8, 9, 24, 80)] == [16, 8, 3, 1]
    assert _examples_at_once(SimpleNamespace(device=torch.device("cpu"), clip=CLIP), 8, 16) == 1


def test_long_pictures_are_read_in_chunks_to_the_same_effect(model, media, tmp_path, monkeypatch):
    spec = spec_for("video_to_audio", [media / "long.mp4"], tmp_path)
    held = results(model, spec, batch_size=1)["long"]
    monkeypatch.setattr("cmmd_lightning.prediction.inputs._HELD_BYTES", 0)
    assert load_input(plan_inputs(spec)[0], spec.task, CLIP).frames is None
    assert torch.equal(results(model, spec, batch_size=1)["long"], held)


def test_pieces_of_a_long_sound_fade_into_each_other(model, monkeypatch):
    """With a stand-in vocoder that is the same everywhere, the pieces must add up to what one piece gives."""

    def decode(mel, num_samples):
        return mel[:, 0].repeat_interleave(CLIP.hop_length, dim=1)[:, :num_samples]

    monkeypatch.setattr(model, "decode_sound", decode)
    mel = torch.randn(2, 32, 203)
    whole = decode(mel, 202 * 200 + 57)
    for seconds in (0.25, 0.5, 1.0, 10.0):
        pieces = decode_long_sound(model, mel, 202 * 200 + 57, piece_seconds=seconds)
        torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=0)


# ---- what is refused before any work


def test_two_inputs_of_one_stem_are_refused(media, tmp_path):
    other = clip_file(tmp_path / "sub" / "a.mp4", 1.0)
    with pytest.raises(ValueError, match="one input for the name 'a'") as caught:
        plan_inputs(spec_for("video_to_audio", [media / "a.mp4", other], tmp_path / "out"))
    assert str(media / "a.mp4") in str(caught.value)
    assert str(other) in str(caught.value)
    assert not (tmp_path / "out").exists()
    # the same file twice is one input
    assert len(plan_inputs(spec_for("video_to_audio", [media / "a.mp4", media, media / "a.mp4"], tmp_path))) == 3


@pytest.mark.parametrize("through_link", [False, True])
def test_writing_over_an_input_is_refused(tmp_path, through_link):
    source = clip_file(tmp_path / "in" / "a.mp4", 1.0)
    before = source.read_bytes()
    out = tmp_path / "in"
    if through_link:
        out = tmp_path / "link"
        out.symlink_to(tmp_path / "in")
    with pytest.raises(ValueError, match="no input is overwritten") as caught:
        plan_inputs(spec_for("video_to_audio", [source], out))
    assert str(source) in str(caught.value)
    assert str(out / "a.mp4") in str(caught.value)
    assert source.read_bytes() == before
    # also where a sample of one input has the name of another
    clip_file(tmp_path / "in" / "a_1.mp4", 1.0)
    with pytest.raises(ValueError, match=r"over the input .*a_1\.mp4"):
        plan_inputs(spec_for("video_to_audio", [source, tmp_path / "in" / "a_1.mp4"], tmp_path / "in", num_samples=2))


@pytest.mark.parametrize(
    ("task", "inputs", "settings", "line"),
    [
        ("joint", ["a.mp4"], {}, "expected none for the task joint, got a.mp4"),
        ("video_to_audio", [], {}, "expected media files or folders for the task video_to_audio, got none"),
        (
            "audio_to_audio",
            ["a.mp4"],
            {},
            "expected one of video_to_audio, audio_to_video, joint, got 'audio_to_audio'",
        ),
        ("joint", [], {"num_samples": 0}, "num_samples: expected at least 1, got 0"),
        ("joint", [], {"num_inference_steps": 0}, "num_inference_steps: expected at least 1, got 0"),
        ("joint", [], {"ddim_eta": 1.5}, "ddim_eta: expected 0 to 1, got 1.5"),
    ],
)
def test_senseless_settings_are_refused(tmp_path, task, inputs, settings, line):
    with pytest.raises(ValueError, match=line):
        plan_inputs(spec_for(task, inputs, tmp_path, **settings))


def test_folders_are_searched_for_what_the_task_needs(media, tmp_path):
    shutil.copytree(media, tmp_path / "in")
    clip_file(tmp_path / "in" / "out" / "a.mp4", 1.0)  # what an earlier run wrote inside the folder
    (tmp_path / "in" / "notes.txt").write_text("no media")
    found = {
        task: [
            Path(item.source).name for item in plan_inputs(spec_for(task, [tmp_path / "in"], tmp_path / "in" / "out"))
        ]
        for task in ("video_to_audio", "audio_to_video")
    }
    assert found["video_to_audio"] == ["a.mp4", "b.mp4", "long.mp4"]
    assert found["audio_to_video"] == ["a.mp4", "b.mp4", "long.mp4", "w.wav"]


# ---- bad input


def bad_files(folder: Path, media: Path) -> dict[str, str]:
    """Bad files by name, with what must be said of them."""
    (folder / "text.mp4").write_text("this is not a film\n" * 50)
    (folder / "zero.mp4").touch()
    whole = (media / "long.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    write_sound(folder / "mute.wav", torch.zeros(32000), 16000)
    clip_file(folder / "short.mp4", 0.6)
    (folder / "empty").mkdir()
    return {
        "text.mp4": "not media",
        "zero.mp4": "0 bytes",
        "cut.mp4": "truncated",
        "mute.wav": "expected a video stream, got only sound",
        "short.mp4": "expected 0.8 s of picture or more (8 frames at 10 fps, the model's clip), got 0.600 s",
        "missing.mp4": "no such file",
        "empty": "a folder without any",
    }


def test_bad_inputs_cost_one_line_each_and_the_rest_is_done(model, media, tmp_path, caplog):
    expected = bad_files(tmp_path, media)
    names = [*expected, "good"]
    inputs = [tmp_path / name if name != "good" else media / "a.mp4" for name in names]
    with caplog.at_level(logging.ERROR):
        writer = predict(model, spec_for("video_to_audio", inputs, tmp_path / "out"))
    entries = manifest(tmp_path / "out")
    assert [entry["source"] for entry in entries] == [str(path) for path in inputs]
    for name, entry in zip(names, entries, strict=True):
        if name == "good":
            assert entry["status"] == "ok"
            continue
        assert expected[name] in entry["status"]
        assert entry["status"].startswith(str(tmp_path / name))
        assert "\n" not in entry["status"]
        assert (entry["outputs"], entry["media_seconds"]) == ([], 0.0)
    statuses = [entry["status"] for entry in entries[:-1]]
    assert writer.failed == statuses
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == statuses
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "a.wav", "manifest.json"]


def test_a_film_without_sound_cannot_give_pictures(model, tmp_path):
    silent = clip_file(tmp_path / "silent.mp4", 1.0, sound=False)
    writer = predict(model, spec_for("audio_to_video", [silent], tmp_path / "out"))
    assert writer.failed == [f"{silent}: expected an audio stream, got only picture (h264)"]


def test_a_model_that_gives_nan_is_reported_not_written(model, media, tmp_path, monkeypatch):
    monkeypatch.setattr(CMMD, "decode_sound", lambda self, mel, n: torch.full((len(mel), n), torch.nan))
    monkeypatch.setattr(PixelUnshuffleCodec, "reconstruct", lambda self, x: torch.full((len(x), 3, 32, 32), torch.nan))
    for task, path in {"video_to_audio": media / "a.mp4", "audio_to_video": media / "b.mp4"}.items():
        writer = predict(model, spec_for(task, [path], tmp_path / task))
        assert len(writer.failed) == 1
        assert "NaN" in writer.failed[0]
        assert writer.failed[0].startswith(str(path))
        assert [path.name for path in (tmp_path / task).iterdir()] == ["manifest.json"]


def test_running_out_of_memory_costs_its_group_only(model, media, tmp_path, monkeypatch):
    sample = CMMD.sample

    def failing(self, *args, **settings):
        if settings["names"] == ["long"]:
            raise torch.OutOfMemoryError("out of memory:\n tried to allocate 7 GiB")
        return sample(self, *args, **settings)

    monkeypatch.setattr(CMMD, "sample", failing)
    writer = predict(model, spec_for("video_to_audio", [media / "long.mp4", media / "a.mp4"], tmp_path))
    assert writer.failed == [f"{media / 'long.mp4'}: out of memory: tried to allocate 7 GiB"]
    assert [entry["status"] == "ok" for entry in manifest(tmp_path)] == [False, True]


# ---- stopping and going on


class StopBefore(Callback):
    """Ctrl-C before the n-th batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == self.batch:
            raise KeyboardInterrupt


def changed(folder: Path, before: dict[str, int]) -> list[str]:
    return sorted(path.name for path in folder.glob("*.wav") if before.get(path.name) != path.stat().st_mtime_ns)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_interrupted_run_keeps_what_is_done_and_the_next_one_goes_on(model, media, tmp_path, caplog):
    import signal

    spec = spec_for("video_to_audio", [media / "a.mp4", media / "b.mp4", media / "long.mp4"], tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        predict(model, spec, batch_size=1, callbacks=(StopBefore(2),))
    signal.signal(signal.SIGINT, handler)
    assert caught.value.code
    assert [entry["status"] for entry in manifest(tmp_path)] == ["ok", "ok"]
    before = times(tmp_path)
    with caplog.at_level(logging.INFO):
        writer = predict(model, spec, batch_size=1)
    assert writer.failed == []
    assert changed(tmp_path, before) == ["long.wav"]
    assert [Path(entry["source"]).name for entry in manifest(tmp_path)] == ["a.mp4", "b.mp4", "long.mp4"]
    assert [entry["status"] for entry in manifest(tmp_path)] == ["ok"] * 3
    assert any("reused 2 of 3" in record.getMessage() for record in caplog.records)


def test_only_what_would_come_out_the_same_is_reused(model, media, tmp_path):
    sources = [shutil.copy(media / f"{name}.mp4", tmp_path / f"{name}.mp4") for name in ("a", "b")]
    out = tmp_path / "out"
    spec = spec_for("video_to_audio", sources, out)
    predict(model, spec)
    before = times(out)
    predict(model, spec)
    assert changed(out, before) == []
    (out / "a.wav").unlink()
    predict(model, spec)
    assert changed(out, before) == ["a.wav"]
    before = times(out)
    os.utime(sources[1], ns=(1, 1))  # touched
    predict(model, spec)
    assert changed(out, before) == ["b.wav"]
    before = times(out)
    with pytest.raises(ValueError, match=r"a run with seed 0 \(now 1\)"):
        predict(model, spec_for("video_to_audio", sources, out, seed=1))
    assert changed(out, before) == []
    predict(model, spec_for("video_to_audio", sources, out, seed=1, overwrite=True))
    assert changed(out, before) == ["a.wav", "b.wav"]
    before = times(out)
    with torch.no_grad():
        model.mel.mean.add_(0.01)  # another model
        predict(model, spec_for("video_to_audio", sources, out, seed=1, overwrite=True))
        model.mel.mean.sub_(0.01)
    assert changed(out, before) == ["a.wav", "b.wav"]
    assert len(manifest(out)) == 2


def test_other_inputs_of_an_earlier_run_stay_in_the_manifest(model, media, tmp_path):
    for name in ("a", "missing", "b"):
        predict(model, spec_for("video_to_audio", [media / f"{name}.mp4"], tmp_path))
    assert [Path(entry["source"]).name for entry in manifest(tmp_path)] == ["a.mp4", "b.mp4"]
    (tmp_path / "manifest.json").write_text("[{]")
    predict(model, spec_for("video_to_audio", [media / "b.mp4"], tmp_path))
    assert [Path(entry["source"]).name for entry in manifest(tmp_path)] == ["b.mp4"]


# ---- several processes


def test_each_process_takes_its_share_and_at_least_an_empty_batch(monkeypatch, media):
    loader = InputLoader(plan_inputs(spec_for("video_to_audio", [media], "out")), batch_size=1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        assert len(loader) == 1
        shares.append([item.stem for batch in loader for item in batch.inputs])
    assert shares == [["a"], ["b"], ["long"], []]


def test_a_model_without_settings_says_so(model):
    model.generation = None
    with pytest.raises(ValueError, match=r"set CMMD\.generation"):
        model.predict_step(InputBatch([PredictInput("a.mp4", "a")]), 0)


# ---- real files


def test_real_files_of_every_kind_play(model, shared, tmp_path):
    samples = sorted((shared / "data" / "media_samples").iterdir())
    originals = [
        samples[0],
        *(path for path in samples if path.suffix == ".mp4"),
        next((shared / "data").rglob("val/*.mp4")),
    ]
    writer = predict(model, spec_for("video_to_audio", originals, tmp_path / "v2a", num_inference_steps=1))
    write_sound(tmp_path / "speech.wav", read_sound(originals[0], num_samples=33000, sample_rate=22050), 22050)
    sounds = [tmp_path / "speech.wav", originals[1]]
    pictures = predict(model, spec_for("audio_to_video", sounds, tmp_path / "a2v", num_inference_steps=1))
    assert writer.failed + pictures.failed == []
    for folder, sources in {"v2a": originals, "a2v": sounds}.items():
        for entry, source in zip(manifest(tmp_path / folder), sources, strict=True):
            info, given = probe(entry["outputs"][0], verify=True), probe(source)
            assert info.problems == ()
            assert sorted(streams(entry["outputs"][0])) == ["aac", "h264"]
            frame = 1 / (given.fps if folder == "v2a" else CLIP.fps)
            assert info.video_duration == pytest.approx(entry["media_seconds"], abs=frame)
            assert info.audio_duration == pytest.approx(entry["media_seconds"], abs=frame)
            whole = given.video_duration if folder == "v2a" else given.audio_duration
            assert 0 <= whole - entry["media_seconds"] + 0.001 < 1 / CLIP.fps + 0.001
            if folder == "v2a":
                assert (info.height, info.width, info.fps) == (given.height, given.width, pytest.approx(given.fps))
