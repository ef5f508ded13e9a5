"""The command line: what each command does, and what it says of bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import SMALL, SMALL_RUN, Done, cmmd

from cmmd_lightning import CMMD, __version__
from cmmd_lightning.media import probe, read_sound, write_sound, write_video
from cmmd_lightning.packaged import packaged_configs

pytestmark = pytest.mark.filterwarnings("ignore")

CHECKPOINT = "runs/quickstart/cmmd.ckpt"
COMMANDS = (
    "fit",
    "validate",
    "test",
    "predict",
    "prepare",
    "evaluate",
    "calibrate",
    "render",
    "describe",
    "export",
    "demo",
    "ablate",
    "compare",
    "sync",
)


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def manifest(folder: Path) -> list[dict]:
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder in which ``cmmd fit --config quickstart.yaml`` was run, two steps of it."""
    folder = tmp_path_factory.mktemp("home")
    done = cmmd("fit", "--config", "quickstart.yaml", *SMALL, cwd=folder)
    assert done.status == 0, done.err
    return folder


@pytest.fixture
def copy(home, tmp_path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(home, tmp_path / "copy"))


# ---- what there is


def test_help_lists_all_commands_and_configs(tmp_path):
    done = cmmd("--help", cwd=tmp_path)
    assert done.status == 0
    listed = [line.split()[0] for line in done.out.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)
    assert all(name in done.out for name in packaged_configs())


def test_without_a_command_the_help_is_shown_and_the_status_is_2(tmp_path):
    done = cmmd(cwd=tmp_path)
    assert (done.status, done.out) == (2, cmmd("-h", cwd=tmp_path).out)


def test_version(tmp_path):
    assert cmmd("--version", cwd=tmp_path).out == f"cmmd_lightning {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, tmp_path):
    done = cmmd(command, "--help", cwd=tmp_path)
    assert done.status == 0
    expected = {
        "predict": ("--generate.inputs", "--runtime", "--generate.ddim_eta", "--ckpt_path", "--trainer.devices"),
        "prepare": ("--shard", "--data.root"),
        "evaluate": ("--task", "--generated", "--reference"),
        "render": ("bounce", "--num_clips", "--seed"),
        "describe": ("--config",),
        "export": ("--ckpt_path", "--output_dir"),
        "demo": ("--ckpt_path", "--output_dir", "--open"),
        "calibrate": ("--real", "--fit", "--scenes", "--output_dir"),
        "test": ("--evaluation.guidance_scale", "--ckpt_path"),
        "ablate": ("--recipes", "--scenes", "--seeds", "--equal_compute"),
        "compare": ("--results", "--baseline"),
        "sync": ("--repair", "--linear_sync", "--max_lag"),
    }
    assert all(flag in done.out for flag in expected.get(command, ("--trainer.max_steps", "--model", "--data.root")))


def refused(done: Done, *words: str) -> None:
    """One line that says all the words, and the status of a command that was typed wrongly."""
    assert done.status == 2
    assert len(done.errors) == 1, done.err
    assert done.err.rstrip().splitlines()[-1] == done.errors[0]
    assert all(word in done.errors[0] for word in words), done.errors[0]
    assert "Traceback" not in done.err
    assert "usage:" not in done.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fitt --config quickstart.yaml", ("fitt", *COMMANDS)),
        ("fit --config quick.yaml", ("quick.yaml", "quickstart.yaml", "demo.yaml", "folder.yaml")),
        ("fit --config=quick.yaml", ("quick.yaml", "quickstart.yaml")),
        ("fit --config quickstart.yaml --trainer.max_steps many", ("trainer.max_steps", "whole number", "many")),
        ("fit --config quickstart.yaml --trainr.max_steps 3", ("--trainr.max_steps",)),
        ("fit --config quickstart.yaml --model.learning_rat 1", ("learning_rat",)),
        ("fit --config quickstart.yaml --model.clip.num_frames x", ("clip.num_frames", "whole number", "x")),
        (
            "fit --config quickstart.yaml --data.clip.num_frames 4",
            ("--data.clip.num_frames", "--model.clip.num_frames"),
        ),
        ("fit --config quickstart.yaml --ckpt_path none.ckpt", ("none.ckpt", "found none")),
        ("validate --config quickstart.yaml", ("runs/quickstart", "found none")),
        ("predict --generate.task joint", ("--ckpt_path",)),
        ("predict --ckpt_path none.ckpt --generate.task joint", ("none.ckpt", "found none")),
        ("predict --ckpt_path none.ckpt --generate.task dub", ("generate.task", "video_to_audio", "dub")),
        ("render bounce", ("output_dir",)),
        ("render bonce clips", ("bounce", "dance", "bonce")),
        ("evaluate --task video_to_audio", ("generated",)),
    ],
)
def test_a_mistyped_command_is_one_line(line, words, tmp_path):
    refused(cmmd(*line.split(), cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_do_not_fit_are_one_line(tmp_path):
    done = cmmd("fit", "--config", "quickstart.yaml", "--model.network.video_channels", "[16,16]", cwd=tmp_path)
    assert (done.status, len(done.errors)) == (1, 1)
    assert "multiple of 32" in done.errors[0]
    assert len(done.errors[0]) < 200


# ---- fit, validate, test


def test_fit_renders_prepares_trains_and_saves(home):
    assert sorted(path.name for path in (home / "runs/quickstart").iterdir()) == [
        "cache",
        "cmmd.ckpt",
        "data",
        "last.ckpt",
        "lightning_logs",
    ]
    assert [len(list((home / "runs/quickstart/data" / split).glob("*.mp4"))) for split in ("train", "val", "test")] == [
        4,
        2,
        2,
    ]
    checkpoint = torch.load(home / CHECKPOINT, weights_only=True)
    stored = checkpoint["hyper_parameters"]
    assert checkpoint["global_step"] == 2
    assert [stored["clip"][name] for name in ("num_frames", "height", "width")] == [8, 16, 16]
    assert list(stored["network"]["video_channels"]) == [16, 16]
    assert stored["learning_rate"] == 1e-3  # the config's


@pytest.mark.parametrize("command", ["validate", "test"])
def test_validate_and_test_print_the_losses(command, home):
    """Sizes come from the checkpoint, so no model flag is needed; the cache is that of the fit."""
    done = cmmd(command, "--config", "quickstart.yaml", *SMALL_RUN, "--ckpt_path", CHECKPOINT, cwd=home)
    assert done.status == 0, done.err
    stage = {"validate": "val", "test": "test"}[command]
    values = [line for line in done.out.splitlines() if f"{stage}/" in line]
    assert any(f"{stage}/loss" in line for line in values)
    assert any(f"{stage}/audio_gap" in line for line in values)
    assert done.lines_with("prepared 0 sources")
    # the config says which checkpoint is the last
    again = cmmd(command, "--config", "quickstart.yaml", *SMALL_RUN, cwd=home)
    assert [line for line in again.out.splitlines() if f"{stage}/" in line] == values


def test_resume_by_last_goes_on_and_takes_the_sizes_from_the_checkpoint(copy):
    flags = ["--config", "quickstart.yaml", *SMALL_RUN, "--trainer.max_steps", "3", "--ckpt_path", "last"]
    assert cmmd("fit", *flags, cwd=copy).status == 0
    assert step_of(copy / CHECKPOINT) == 3
    # said again, there is nothing left to do
    done = cmmd("fit", *flags, cwd=copy)
    assert done.status == 0
    assert step_of(copy / CHECKPOINT) == 3


@pytest.mark.parametrize(
    ("which", "flag", "value"),
    [
        (CHECKPOINT, "init_args.learning_rate", "5e-4"),
        (CHECKPOINT, "network.num_blocks", "2"),
        ("last", "clip.num_frames", "16"),
    ],
)
def test_a_flag_that_the_checkpoint_overrules_is_refused(home, which, flag, value):
    before = (home / CHECKPOINT).read_bytes()
    done = cmmd("fit", "--config", "quickstart.yaml", "--ckpt_path", which, f"--model.{flag}", value, cwd=home)
    refused(done, flag.removeprefix("init_args."), value, "was made with")
    assert (home / CHECKPOINT).read_bytes() == before


def test_a_flag_that_agrees_with_the_checkpoint_is_taken(home):
    agreeing = [
        *(
            "--model.compile",
            "off",
            "--model.init_args.learning_rate",
            "1e-3",
            "--model.clip",
            '{"num_frames": 8, "height": 16}',
        ),
        *(
            "--model.network.video_channels=[16,16]",
            "--model",
            "cmmd_lightning.CMMD",
            "--model.objective.form",
            "condition",
        ),
    ]
    done = cmmd("validate", "--config", "quickstart.yaml", *SMALL_RUN, *agreeing, cwd=home)
    assert done.status == 0, done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_saves_and_the_same_command_goes_on(number, copy, caplog):
    """In a group of processes, loader workers too, as `timeout`, a terminal and clusters signal it."""
    config = (
        (packaged_configs()["quickstart.yaml"]).read_text().replace("every_n_train_steps: 50", "every_n_train_steps: 1")
    )
    (copy / "mine.yaml").write_text(config)
    line = ["fit", "--config", "mine.yaml", *SMALL, "--data.num_workers", "2", "--trainer.max_steps"]
    program = "from cmmd_lightning.cli import main; main()"
    log, last = copy / "log", copy / "runs/quickstart/last.ckpt"
    began = last.stat().st_mtime_ns
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *line, "600"],  # far more steps than it gets to do
            cwd=copy,
            stdout=file,
            stderr=file,
            start_new_session=True,
            # it is ignored where a shell without job control put the tests into the background
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while last.stat().st_mtime_ns == began and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, number)
        assert process.wait() == 128 + number, log.read_text()
    *_, saved, end = log.read_text().splitlines()
    stopped = step_of(last)
    assert saved == f"step {stopped} is saved in runs/quickstart/last.ckpt; fit --ckpt_path last goes on from it"
    assert end == "cmmd: interrupted; what is done is kept"
    assert "Traceback" not in log.read_text()
    assert 2 < stopped < 600
    done = cmmd(*line, str(stopped + 2), "--data.num_workers", "0", cwd=copy)
    assert done.status == 0, done.err
    assert step_of(last) == stopped + 2
    assert "Restored all states from the checkpoint at runs/quickstart/last.ckpt" in caplog.text


@pytest.mark.parametrize("command", ["validate", "test"])
def test_sigterm_ends_an_evaluation_at_once(command, home, monkeypatch):
    steps = []

    def step(model, batch, batch_idx):
        steps.append(batch_idx)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CMMD, "validation_step" if command == "validate" else "test_step", step)
    done = cmmd(command, "--config", "quickstart.yaml", *SMALL_RUN, "--ckpt_path", "last", cwd=home)
    assert (done.status, steps) == (143, [0])
    assert done.err.splitlines()[-1] == "cmmd: interrupted; what is done is kept"


# ---- prepare, render, describe


def test_shards_of_prepare_make_the_cache_together(home, tmp_path):
    shutil.copytree(home / "runs/quickstart/data", tmp_path / "data")
    flags = ["--config", "quickstart.yaml", *SMALL, "--data.root", "data", "--data.cache_dir", "cache"]
    lines = [cmmd("prepare", *flags, "--shard", f"{i}/2", cwd=tmp_path) for i in (1, 2)]
    assert [done.status for done in lines] == [0, 0]
    assert all(done.lines_with("prepared 4 sources") and done.lines_with("reused 0") for done in lines)
    entries = {path.name for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert entries == {path.name for path in (home / "runs/quickstart/cache").rglob("*.safetensors")}
    whole = cmmd("prepare", *flags, cwd=tmp_path)
    assert whole.lines_with("prepared 0 sources")
    assert whole.lines_with("reused 8")
    assert whole.lines_with("round trip of 2 clips: frames ")
    assert cmmd("prepare", *flags, "--shard", "3/2", cwd=tmp_path).errors == [
        "cmmd: error: --shard 3/2: expected i/n with 1 <= i <= n, such as 3/16"
    ]


SMALL_CLIPS = ["--duration", "1", "--fps", "10", "--height", "16", "--width", "16", "--sample_rate", "8000"]


def test_render_writes_clips_with_sidecars_and_keeps_them(tmp_path):
    line = ["render", "dance", "clips", "--num_clips", "2", "--seed", "5", *SMALL_CLIPS, "--num_workers", "0"]
    assert cmmd(*line, cwd=tmp_path).status == 0
    files = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert files == [f"clip_0000{i}.{suffix}" for i in (0, 1) for suffix in ("json", "mp4")]
    sidecar = json.loads((tmp_path / "clips/clip_00000.json").read_text())
    assert (sidecar["scene"], sidecar["fps"], sidecar["seed"]) == ("dance", 10.0, 5)
    assert all(event.keys() >= {"time", "visible", "audible", "kind"} for event in sidecar["events"])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    again = cmmd(*line, "--num_clips", "3", cwd=tmp_path)
    assert again.status == 0
    assert again.lines_with("keeping 2 clips")
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in before.items())
    other = cmmd(*line, "--seed", "6", cwd=tmp_path)
    assert other.status == 1
    assert "choose another folder" in other.errors[0]


def test_describe_is_the_cost_card(tmp_path):
    done = cmmd("describe", "--config", "quickstart.yaml", *SMALL, cwd=tmp_path)
    assert done.status == 0
    card = {line[:34].strip(): line[35:] for line in done.err.splitlines() if "   " in line}
    assert card["clip"] == "8 frames 16x16 at 10 fps, 0.8 s, 8000 Hz"
    assert card["latents; Mel"] == "48x8x4x4; 16x64"
    assert {"network parameters", "forward, one clip", "training memory, batch 16", "cache, an hour of media"} <= set(
        card
    )
    assert not (tmp_path / "runs").exists()


# ---- predict


def predict(home: Path, task: str, output: Path, *inputs: object, **settings: object) -> Done:
    flags = [item for name, value in settings.items() for item in (f"--generate.{name}", value)]
    given = ["--generate.inputs", *inputs] if inputs else []
    return cmmd(
        *("predict", "--ckpt_path", CHECKPOINT, "--generate.task", task, *given, "--generate.output_dir", output),
        *("--generate.num_inference_steps", 2, "--data.num_workers", 0, *flags),
        cwd=home,
    )


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """Two films of 1 s and a sound."""
    folder = tmp_path_factory.mktemp("media")
    rng = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        frames = torch.randint(0, 256, (25, 3, 6, 8), generator=rng, dtype=torch.uint8)
        frames = frames.repeat_interleave(8, 2).repeat_interleave(8, 3)
        write_video(folder / f"{name}.mp4", frames, 25.0, 0.1 * torch.randn(16000, generator=rng), 16000)
    write_sound(folder / "sounds" / "w.wav", 0.1 * torch.randn(20000, generator=rng), 16000)
    return folder


def test_predict_all_three_tasks_without_a_config(home, media, tmp_path):
    heard = predict(
        home, "video_to_audio", tmp_path / "v2a", media / "a.mp4", media / "b.mp4", guidance_scale=2, seed=1
    )
    seen = predict(home, "audio_to_video", tmp_path / "a2v", media / "sounds")
    both = predict(home, "joint", tmp_path / "joint", num_samples=2, ddim_eta=0.5)
    assert [done.status for done in (heard, seen, both)] == [0, 0, 0], heard.err + seen.err + both.err
    files = {folder.name: sorted(path.name for path in folder.iterdir()) for folder in tmp_path.iterdir()}
    assert files == {
        "v2a": ["a.mp4", "a.wav", "b.mp4", "b.wav", "manifest.json"],
        "a2v": ["manifest.json", "w.mp4"],
        "joint": ["manifest.json", "sample_0.mp4", "sample_0.wav", "sample_1.mp4", "sample_1.wav"],
    }
    assert heard.lines_with("2 of 2 inputs done, 0 failed")
    (first, second) = manifest(tmp_path / "v2a")
    assert [first[name] for name in ("task", "seed", "steps", "guidance_scale", "status")] == [
        "video_to_audio",
        1,
        2,
        2.0,
        "ok",
    ]
    assert second["source"] == str(media / "b.mp4")
    info = probe(tmp_path / "v2a" / "a.mp4", verify=True)
    assert (info.height, info.width, info.fps, info.sample_rate, info.problems) == (48, 64, 25.0, 8000, ())
    assert probe(tmp_path / "joint" / "sample_1.mp4", verify=True).video_duration == pytest.approx(0.8)
    assert not (home / "lightning_logs").exists()


def bad_inputs(folder: Path, media: Path) -> dict[str, str]:
    """Bad films by name, with what must be said of each."""
    folder.mkdir()
    (folder / "text.mp4").write_text("this is not a film\n" * 50)
    (folder / "zero.mp4").touch()
    whole = (media / "a.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    frames = torch.zeros(25, 3, 48, 64, dtype=torch.uint8)
    write_video(folder / "silent.mp4", frames, 25.0, None, 16000)
    write_video(folder / "short.mp4", frames[:10], 25.0, torch.zeros(6400), 16000)
    return {
        "text.mp4": "not media",
        "zero.mp4": "0 bytes",
        "cut.mp4": "truncated",
        "silent.mp4": "picture",
        "short.mp4": "0.4",
    }


def test_bad_inputs_cost_predict_one_line_each(home, media, tmp_path):
    expected = bad_inputs(tmp_path / "bad", media)
    shutil.copy(media / "sounds" / "w.wav", tmp_path / "bad" / "good.wav")
    done = predict(home, "audio_to_video", tmp_path / "out", tmp_path / "bad", tmp_path / "missing.mp4")
    assert done.status == 1
    assert "Traceback" not in done.err
    for name, words in {**{f"bad/{name}": words for name, words in expected.items()}, "missing.mp4": "no such"}.items():
        lines = done.lines_with(str(tmp_path / name))
        assert len(lines) == 1, done.err
        assert words in lines[0]
    assert done.lines_with("1 of 7 inputs done, 6 failed")
    assert probe(tmp_path / "out" / "good.mp4", verify=True).problems == ()
    assert sum(entry["status"] == "ok" for entry in manifest(tmp_path / "out")) == 1


def test_a_film_without_picture_cannot_give_sound(home, media, tmp_path):
    done = predict(home, "video_to_audio", tmp_path / "out", media / "sounds" / "w.wav", media / "a.mp4")
    assert done.status == 1
    assert len(done.lines_with("w.wav: expected a video stream")) == 1
    assert (tmp_path / "out" / "a.wav").exists()


def test_a_file_that_is_no_checkpoint_is_one_line(home, media, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "cut.ckpt").write_bytes((home / CHECKPOINT).read_bytes()[:20000])
    for name in ("other", "text", "cut"):
        done = cmmd("predict", "--ckpt_path", tmp_path / f"{name}.ckpt", "--generate.task", "joint", cwd=tmp_path)
        refused(done, f"{name}.ckpt", "expected a checkpoint of cmmd_lightning")


def test_predict_refuses_senseless_requests(home, media, tmp_path):
    for task, inputs, words in (
        ("joint", [media / "a.mp4"], "expected none for the task joint"),
        ("video_to_audio", [], "expected media files or folders"),
        (
            "video_to_audio",
            [media / "a.mp4", shutil.copy(media / "b.mp4", tmp_path / "a.mp4")],
            "one input for the name",
        ),
    ):
        done = predict(home, task, tmp_path / "out", *inputs)
        assert (done.status, len(done.errors)) == (1, 1), done.err
        assert words in done.errors[0]
        assert not (tmp_path / "out").exists()


# ---- bad files in the data


def test_bad_files_in_the_data_are_left_out(media, tmp_path):
    expected = bad_inputs(tmp_path / "films", media)
    for name in ("a", "b"):
        shutil.copy(media / f"{name}.mp4", tmp_path / "films" / f"good_{name}.mp4")
    line = ["--config", "quickstart.yaml", *SMALL, "--data.root", "films", "--data.source.val_fraction", "0.0"]
    done = cmmd("prepare", *line, cwd=tmp_path)
    assert done.status == 1
    assert done.lines_with("prepared 2 sources")
    assert "Traceback" not in done.err
    for name, words in expected.items():
        lines = done.lines_with(f"films/{name}")
        assert len(lines) == 1, done.err
        assert words in lines[0]
    # training goes on with the rest, and says so
    fitted = cmmd("fit", *line, cwd=tmp_path)
    assert fitted.status == 0, fitted.err
    assert fitted.lines_with("5 files were left out")
    assert step_of(tmp_path / CHECKPOINT) == 2


def test_data_of_which_nothing_can_be_used_are_one_line(media, tmp_path):
    bad_inputs(tmp_path / "films", media)
    for root, words in {"films": "films", "nowhere": "expected a folder of media files", ".": "expected"}.items():
        line = ["fit", "--config", "quickstart.yaml", *SMALL, "--data.root", root, "--data.source.render_scene", "null"]
        if root == ".":
            shutil.rmtree(tmp_path / "films")
        done = cmmd(*line, cwd=tmp_path)
        assert (done.status, len(done.errors)) == (1, 1), done.err
        assert words in done.errors[0]
        assert "Traceback" not in done.err


# ---- evaluate


def test_evaluate_writes_the_report(tmp_path):
    render = ["render", "bounce", "true", "--num_clips", "3", *SMALL_CLIPS, "--duration", "2", "--num_workers", "0"]
    assert cmmd(*render, cwd=tmp_path).status == 0
    # generated: the true sounds, with another container and rate, and one file that is none
    (tmp_path / "made").mkdir()
    for path in sorted((tmp_path / "true").glob("*.mp4")):
        write_sound(
            tmp_path / "made" / f"{path.stem}.wav", read_sound(path, num_samples=32000, sample_rate=16000), 16000
        )
    line = ["evaluate", "--task", "video_to_audio", "--generated", "made", "--reference", "true"]
    done = cmmd(*line, "--report", "out/report.json", cwd=tmp_path)
    assert done.status == 0, done.err
    assert done.lines_with("event F1 within 100 ms")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert set(report) >= {"provenance", "tasks"}
    assert set(report["provenance"]) >= {"command", "version", "seed", "machine"}
    assert report["provenance"]["version"] == __version__
    score = report["tasks"]["video_to_audio"]["event_f1@100ms"]
    assert set(score) >= {"value", "ci95", "floor", "ceiling", "n"}
    assert score["n"] == 3
    assert score["value"] > 0.8
    assert score["ci95"][0] <= score["value"] <= score["ci95"][1]
    assert score["ceiling"] is None
    assert (tmp_path / "out/report.html").stat().st_size > 1000
    # a second task joins the report; a damaged file costs a line and the status
    shutil.copytree(tmp_path / "true", tmp_path / "seen")
    (tmp_path / "seen/clip_00001.mp4").write_text("no film")
    line[2] = "audio_to_video"
    line[4] = "seen"
    done = cmmd(*line, "--report", "out/report.json", cwd=tmp_path)
    assert done.status == 1
    assert len(done.lines_with("clip_00001.mp4")) == 1
    tasks = json.loads((tmp_path / "out/report.json").read_text())["tasks"]
    assert {task: tasks[task]["event_f1@100ms"]["n"] for task in tasks} == {"video_to_audio": 3, "audio_to_video": 2}


def test_evaluate_with_a_checkpoint_gives_the_ceiling(home, tmp_path):
    true = home / "runs/quickstart/data/test"
    line = ["evaluate", "--task", "video_to_audio", "--generated", true, "--reference", true, "--ckpt_path", CHECKPOINT]
    assert cmmd(*line, "--report", tmp_path / "report.json", cwd=home).status == 0
    score = json.loads((tmp_path / "report.json").read_text())["tasks"]["video_to_audio"]["event_f1@100ms"]
    assert 0.0 <= score["ceiling"] <= 1.0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluate --task video_to_audio --generated nowhere --reference nowhere", "nowhere"),
        ("evaluate --task video_to_audio --generated .", "expected a folder of references"),
        ("evaluate --task joint --generated . --ckpt_path none.ckpt", "none.ckpt"),
    ],
)
def test_evaluate_refuses_what_is_not_there(line, words, tmp_path):
    write_sound(tmp_path / "clip.wav", torch.zeros(16000), 16000)
    done = cmmd(*line.split(), cwd=tmp_path)
    assert (done.status, len(done.errors)) == (1, 1), done.err
    assert words in done.errors[0]


def test_the_installed_command_gives_the_status_to_the_shell(tmp_path):
    command = Path(sys.executable).with_name("cmmd")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([command, "fitt"], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cmmd: error: fitt: expected a command of fit, ")
    assert done.stderr.count("\n") == 1
