"""The benchmarks run at a tiny size, and their numbers are plausible."""

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NOT_ON_THE_IMAGE = ("av", "soundfile", "diffusers", "jsonargparse", "scipy", "transformers", "safetensors", "PIL")
PEER = """
import blobfile, torch
from mpi4py import MPI

def model_and_diffusion_defaults():
    return {}

class Diffusion:
    def conditional_p_sample_loop_progressive_scale(self, network, shapes, use_fp16, model_kwargs, device, class_scale):
        yield network(torch.zeros(shapes["video"]), torch.zeros(shapes["audio"]), None)

    def multimodal_training_losses(self, network, batch, t):
        return {"loss": sum(x.square().mean() for x in network(batch["video"], batch["audio"], t))}

class Network(torch.nn.Linear):
    def forward(self, video, audio, t):
        return super().forward(video), super().forward(audio[..., :64])

def create_model_and_diffusion(video_size, audio_size, num_head_channels, resblock_updown):
    assert video_size == [16, 3, 64, 64] and audio_size == [1, 25600]
    return Network(64, 64), Diffusion()
"""
TINY = """
model:
  init_args:
    clip: {num_frames: 4, height: 32, width: 32, n_fft: 512, n_mels: 16}
    network: {video_channels: [16, 16], audio_channels: [16, 16], attention_levels: [], head_channels: 16}
    objective: {contrastive_weight: 0.1, contrastive_share: 0.25}
"""


def gpu(out: Path, *flags: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--quick", "--out", str(out), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(out.read_text()), done.stdout


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict[str, Any]:
    """Of all quick stages, and of one that fails."""
    stages = "matmul,train_none,train_tiny,sample_tiny,codec,syncs_tiny"
    return gpu(tmp_path_factory.mktemp("gpu") / "gpu.json", "--stages", stages)[0]


def rows(report: dict[str, Any], stage: str) -> list[dict[str, Any]]:
    return [row for row in report["rows"] if row["stage"] == stage]


def test_a_stage_that_fails_says_so_in_a_line_and_the_others_run(report):
    assert report["failures"] == {"train_none": "KeyError: 'none'"}
    found = {row["stage"] for row in report["rows"]}
    assert found == {"matmul", "train_tiny", "sample_tiny", "codec", "syncs_tiny"}


def test_a_stage_that_takes_too_long_is_stopped(tmp_path):
    report, said = gpu(tmp_path / "gpu.json", "--stages", "matmul,codec", "--minutes", "0")
    assert report["failures"] == {"matmul": "stopped after 1 s", "codec": "stopped after 1 s"}
    assert report["peak_tflops"] is None
    assert "codec                stopped after 1 s" in said


def test_flops_of_a_step_are_those_counted(report):
    steps = rows(report, "train_tiny")
    assert [(row["batch"], row["term"]) for row in steps] == [(2, True), (2, False), (4, True), (4, False)]
    for row in steps:
        assert row["flops_counted"] == pytest.approx(row["flops"], rel=0.02)
    assert steps[2]["flops"] == steps[3]["flops"] * 5 / 4  # one negative for each of a quarter


def test_rates_follow_from_times(report):
    assert report["peak_tflops"] == max(row["tflops"] for row in rows(report, "matmul")) > 0
    for row in rows(report, "train_tiny"):
        assert row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["clips_per_s"] == pytest.approx(row["batch"] / row["seconds"])
        assert row["share"] == pytest.approx(row["flops"] / row["seconds"] / 1e12 / report["peak_tflops"])
        assert 0 < row["share"] < 1
    assert [row["task"] for row in rows(report, "sample_tiny")] == ["joint", "video_to_audio", "audio_to_video"]
    assert {row["way"] for row in rows(report, "codec") if row["frames_per_s"] > 0} == {"encode", "decode"}


def test_no_step_waits(report):
    assert [(row["of"], row["waits"]) for row in rows(report, "syncs_tiny")] == [
        ("training step", 0),
        ("sampling step", 0),
    ]


def test_it_runs_where_little_is_installed():
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({NOT_ON_THE_IMAGE}));"
        "sys.argv[1:] = ['--stage', 'sample_tiny', '--device', 'cpu', '--quick'];"
        f"runpy.run_path({str(BENCHMARKS / 'gpu.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


@pytest.fixture
def side_by_side(monkeypatch):
    """The script as a module; what it does to the import system is undone."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", sys.modules)
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("side_by_side", BENCHMARKS / "side_by_side.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("mm_diffusion", "mpi4py", "blobfile"):
            del sys.modules[name]


def test_side_by_side_gives_ratios_of_its_medians(side_by_side, tmp_path, monkeypatch):
    package = tmp_path / "peer" / "mm_diffusion"
    package.mkdir(parents=True)
    for name, text in {"__init__": "", "multimodal_unet": "", "multimodal_script_util": PEER}.items():
        (package / f"{name}.py").write_text(text)
    config, out = tmp_path / "tiny.yaml", tmp_path / "out.json"
    config.write_text(TINY)
    monkeypatch.setattr(side_by_side, "available", lambda: float("inf"))
    counts = {"repeats": 3, "heavy_repeats": 2, "clip_repeats": 1}
    side_by_side.run(Namespace(peer=tmp_path / "peer", config=str(config), out=str(out), **counts))
    report = json.loads(out.read_text())
    assert report["parameters"]["peer"] == 64 * 65
    assert report["machine"]["threads"] == torch.get_num_threads()
    stages = report["stages"]
    step = stages["denoising step"]
    assert step["ours"]["repeats"] == 3
    assert stages["forward and backward"]["peer"]["repeats"] == 2
    assert step["ratio_range"][0] <= step["ratio"] <= step["ratio_range"][1]
    for task, stage, evaluations in (
        ("joint", "denoising step", 20),
        ("video_to_audio", "guided conditional step", 1000),
    ):
        clip = stages[f"whole clip, {task}"]
        assert clip["ours"]["evaluations"] == 50
        assert clip["peer"]["seconds"] == pytest.approx(evaluations * stages[stage]["peer"]["seconds"], abs=0.1)
        assert "not run" in clip["peer"]["how"]


def test_memory_counts_the_weights_once(side_by_side):
    assert side_by_side.summary([3.0, 1.0, 2.0], 2**30, 2**28) == {
        **{"seconds": 2.0, "fastest": 1.0, "slowest": 3.0, "repeats": 3, "peak_gib": 2.0},
    }


def test_side_by_side_says_what_a_peer_is(side_by_side, tmp_path):
    with pytest.raises(SystemExit, match="expected a checkout of MM-Diffusion"):
        side_by_side.peer_steps(tmp_path)
