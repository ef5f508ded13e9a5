"""Two processes are one process with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_run import STEPS, main

pytestmark = pytest.mark.filterwarnings("ignore")


def losses_of(folder: Path, rank: int) -> dict[str, Any]:
    return json.loads((folder / f"losses-{rank}.json").read_text())


def test_two_processes_equal_one(clip_folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    main(clip_folder, one, 1)
    script = Path(__file__).parents[1] / "distributed_run.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script), str(clip_folder), str(two), "2"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]

    alone, ranks = losses_of(one, 0), [losses_of(two, rank) for rank in range(2)]
    assert [found["world"] for found in (alone, *ranks)] == [1, 2, 2]
    assert ranks[0]["train"] != ranks[1]["train"]  # each process has its own half
    for (step, expected), *parts in zip(alone["train"], *(rank["train"] for rank in ranks), strict=True):
        assert [part[0] for part in parts] == [step, step]
        assert sum(part[1] for part in parts) / 2 == pytest.approx(expected, abs=1e-5)
    assert len(alone["train"]) == STEPS
    for rank in ranks:
        assert [step for step, _ in rank["val"]] == [2, 4]
        assert rank["val"] == [[step, pytest.approx(loss, abs=1e-5)] for step, loss in alone["val"]]

    for rank in ranks:  # every number, of training and of validation
        assert rank["logged"] == pytest.approx(alone["logged"], abs=1e-5, nan_ok=True)
    assert {"train/audio_gap", "val/video", "val/audio_gap", "val/loss"} <= set(alone["logged"])

    states = [torch.load(folder / f"step={STEPS}.ckpt", weights_only=True) for folder in (one, two)]
    for name in ("state_dict", "current_model_state"):
        for key, expected in states[0][name].items():
            torch.testing.assert_close(states[1][name][key], expected, atol=1e-5, rtol=0, msg=f"{name} {key}")


def test_two_processes_prepare_each_file_once(clip_folder, tmp_path):
    script = Path(__file__).parents[1] / "prepare_run.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, str(script), str(clip_folder), str(cache), "2"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    written = [json.loads((tmp_path / f"written-{rank}.json").read_text()) for rank in range(2)]
    assert [len(names) for names in written] == [4, 4]
    assert sorted(written[0] + written[1]) == sorted(path.name for path in cache.rglob("*.safetensors"))
    entries = json.loads((cache / "doctor.json").read_text())
    assert len(entries) == 8
    assert all(finding["kind"] != "not_prepared" for entry in entries for finding in entry["findings"])
