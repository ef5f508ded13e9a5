"""What a run shows of itself: a bar that counts right, and lines where there is no terminal."""

import io
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from tiny_training import build_data, build_model, build_trainer

from cmmd_lightning.training.progress import RunProgress

pytestmark = pytest.mark.filterwarnings("ignore")


class Clock(Callback):
    """So many seconds go by in each training batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr("cmmd_lightning.training.progress.time", SimpleNamespace(monotonic=lambda: self.now))

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += self.seconds


class Terminal(io.StringIO):
    """Standard output of somebody who looks at it."""

    def isatty(self) -> bool:
        return True


def run(
    folder: Path, clips: Path, bar: RunProgress, *callbacks: Callback, resume: Any = None, **changes: Any
) -> Trainer:
    settings = {"enable_progress_bar": True, "max_steps": 8, "val_check_interval": 100, **changes}
    trainer = build_trainer(folder, *callbacks, bar, **settings)
    trainer.fit(build_model(), datamodule=build_data(clips, batch_size=2), ckpt_path=resume, weights_only=True)


@pytest.fixture
def lines(caplog):
    """The lines of the log."""
    caplog.set_level(logging.INFO, "cmmd_lightning.training.progress")
    name = "cmmd_lightning.training.progress"
    return lambda: [one.getMessage() for one in caplog.records if one.name == name]


def test_without_a_terminal_there_is_a_line_every_so_often(clip_folder, tmp_path, monkeypatch, lines):
    run(tmp_path, clip_folder, RunProgress(), Clock(monkeypatch, 12.0), max_steps=40)
    told, *rest = lines()
    assert told == "the first steps on this machine: step 4, 12 s a step, about 7 min left"
    assert [line.split(" (")[0] for line in rest] == [f"step {step} of 40" for step in range(4, 41, 3)]
    assert rest[1].startswith("step 7 of 40 (18%), train/loss ")
    assert rest[1].endswith(", 12 s a step, about 7 min left")
    assert rest[-1].endswith(", 12 s a step")


def test_speed_and_time_left_are_of_this_run_after_a_resume(clip_folder, tmp_path, monkeypatch, lines):
    run(tmp_path, clip_folder, RunProgress(), max_steps=4)
    run(tmp_path, clip_folder, RunProgress(), Clock(monkeypatch, 2.5), max_steps=40, resume=tmp_path / "step=4.ckpt")
    told, line, *_ = lines()
    assert told == "the first steps on this machine: step 9, 2.5 s a step, about 78 s left"
    assert line.startswith("step 17 of 40 (42%), train/loss ")
    assert line.endswith(", 2.5 s a step, about 58 s left")


def test_a_short_run_is_not_told_ahead(clip_folder, tmp_path, monkeypatch, lines):
    run(tmp_path, clip_folder, RunProgress(), Clock(monkeypatch, 5.0))
    assert [line.split(",")[0] for line in lines()] == ["step 7 of 8 (88%)"]


def test_the_bar_counts_on_after_a_resume(clip_folder, tmp_path, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    run(tmp_path, clip_folder, RunProgress(), max_steps=4)
    bar = RunProgress()
    run(tmp_path, clip_folder, bar, resume=tmp_path / "step=4.ckpt")
    counted = bar.train_progress_bar
    assert (counted.initial, counted.n, counted.total) == (4, 8, 8)
    shown = screen.getvalue().splitlines()[-1]
    assert "8/8" in shown
    assert "train/loss=" in shown
    assert "Epoch" not in screen.getvalue()


def test_the_loss_is_read_only_when_it_is_shown(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    read: list[int] = []

    class Noting(RunProgress):
        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            read.append(trainer.global_step)
            return super().get_metrics(trainer, pl_module)

    run(tmp_path, clip_folder, Noting(refresh_seconds=1.0), Clock(monkeypatch, 0.4))
    assert read == [4, 7, 8]  # a second after the first step, a second later, and at the end


@pytest.mark.parametrize("what", ["validate", "test"])
def test_long_evaluations_tell_their_batches(what, clip_folder, tmp_path, monkeypatch, lines):
    trainer = build_trainer(tmp_path, RunProgress(line_seconds=0.0), enable_progress_bar=True)
    data = build_data(clip_folder, batch_size=1)
    if what == "test":
        data.setup("validate")
        monkeypatch.setattr(data, "setup", lambda stage: None)
        monkeypatch.setattr(data, "test_dataloader", data.val_dataloader)
        monkeypatch.setattr("cmmd_lightning.training.module.CMMD.on_test_epoch_end", lambda self: None)
    getattr(trainer, what)(build_model(), datamodule=data, verbose=False)
    name = {"validate": "validation", "test": "test"}[what]
    assert lines() == [f"{name}: batch 2 of 2"]
