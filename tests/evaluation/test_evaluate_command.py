"""``cmmd evaluate`` as it is typed: one line for what is wrong, and the same numbers every time."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import cmmd
from safetensors.torch import save_file

COMMON = ("--task", "video_to_audio", "--examples", "0")


@pytest.fixture
def three(clips, tmp_path) -> Path:
    """A folder with three of the clips in ``true``."""
    (tmp_path / "true").mkdir()
    for path in sorted(clips.glob("clip_0000[0-2].*")):
        shutil.copy(path, tmp_path / "true")
    return tmp_path


def test_a_second_run_in_a_new_process_gives_the_same_numbers(three):
    line = ["evaluate", *COMMON, "--generated", "true", "--reference", "true", "--training", "true"]
    done = cmmd(*line, "--report", "first.json", cwd=three)
    assert done.status == 0, done.err
    command = Path(sys.executable).with_name("cmmd")
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([command, *line, "--report", "second.json"], cwd=three, check=True, env=environment)
    first, second = (json.loads((three / f"{name}.json").read_text()) for name in ("first", "second"))
    assert first["tasks"] == second["tasks"]
    assert first["runs"]["video_to_audio"]["clips"] == second["runs"]["video_to_audio"]["clips"]


def test_the_main_numbers_are_told_in_two_lines(three):
    done = cmmd("evaluate", *COMMON, "--generated", "true", "--reference", "true", cwd=three)
    told = [line for line in done.err.splitlines() if line]
    assert re.match(
        r"video_to_audio: event F1 within 100 ms [01]\.\d\d \[.*\] \(rough: few clips\), floor .*, n 3$", told[-3]
    )
    assert re.match(r"  event lag \d+ ms \(median [+-]\d+ ms\); frechet_distance\[mel-statistics-v2\] 0", told[-2])
    assert told[-1] == f"written: {Path('true/report.json')}, {Path('true/report.html')}, " + ", ".join(
        f"true/report.{kind}" for kind in ("csv", "md", "tex")
    )


@pytest.mark.parametrize(
    ("flag", "spec", "words"),
    [
        ("video_extractor", "resnet", "expected pixel-statistics or i3d:PATH_OR_HUB"),
        ("video_extractor", "i3d:none.pt", "none.pt"),
        ("video_extractor", "i3d:text.pt", "text.pt"),
        ("video_extractor", "i3d:text.safetensors", "text.safetensors"),
        ("audio_extractor", "vggish:other.safetensors", "VGGish"),
        ("audio_extractor", "clap:nowhere", "nowhere"),
        ("encoders", "torchscript:text.pt,text.pt", "text.pt"),
        ("encoders", "imagebind", "encoders must be"),
        ("classifier", "hf:empty", "empty"),
        ("classifier", "beats", "beats"),
        ("linear_sync", "text.safetensors", "text.safetensors: expected a fitted linear synchrony"),
        ("linear_sync", "other.safetensors", "other.safetensors: expected a fitted linear synchrony"),
        ("training", "nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_loaded_costs_one_line(three, flag, spec, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("text.pt", "text.safetensors"):
        (three / name).write_text("these are no weights, whatever the name says")
    save_file({"weight": torch.zeros(2)}, three / "other.safetensors")
    (three / "empty").mkdir()
    done = cmmd("evaluate", *COMMON, "--generated", "true", "--reference", "true", f"--{flag}", spec, cwd=three)
    assert (done.status, len(done.errors)) == (1, 1), done.err
    assert words in done.errors[0]
    assert "Traceback" not in done.err
    assert not (three / "true/report.json").exists()


def test_files_that_cannot_be_read_cost_a_line_each_and_the_status(clips, tmp_path):
    made = tmp_path / "made"
    shutil.copytree(clips, made)
    (made / "clip_00000.mp4").write_bytes(b"")
    (made / "clip_00001.mp4").write_text("a text")
    (made / "clip_00002.mp4").write_bytes((clips / "clip_00002.mp4").read_bytes()[:4000])
    line = ["evaluate", *COMMON, "--generated", "made", "--reference", clips, "--training", "made"]
    done = cmmd(*line, cwd=tmp_path)
    assert done.status == 1
    for i in range(3):
        assert len(done.lines_with(f"clip_0000{i}.mp4: expected")) == 2  # among the generated and the training clips
    report = json.loads((made / "report.json").read_text())
    assert report["tasks"]["video_to_audio"]["event_f1@100ms"]["n"] == 5
    assert report["tasks"]["video_to_audio"]["memorisation[mel-statistics-v2]"]["n_training"] == 5
    assert "Not scored: " in (made / "report.html").read_text()
