"""Checkpoint files are whole, whatever happens while they are written; what is torn is not gone on from."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_training import build_data, build_model, build_trainer
from torch.utils.data import DataLoader

from cmmd_lightning import StepCheckpoint
from cmmd_lightning.cli.resume_flags import find_checkpoint, stored_hyperparameters
from cmmd_lightning.cli.usage import UsageError
from cmmd_lightning.training.checkpoint_io import CheckpointError, fault_of, link, write_whole

pytestmark = pytest.mark.filterwarnings("ignore")

KILLS = 20


class Weights(LightningModule):
    """Some megabytes that follow the step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1_000_000))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1.0, momentum=0.9)


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own; where that may not be made, the shared memory's, or else a folder."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    else:
        yield folder


def settings_of(root: Path) -> Any:
    """The trainer's part of a config with a `StepCheckpoint`."""
    values = {"callbacks": [{"init_args": {"dirpath": None}}], "default_root_dir": str(root)}
    return type("Settings", (dict,), {"__getattr__": dict.get})(values)


def train(root: Path, steps: int, **changes: Any) -> Trainer:
    """Goes on where the last checkpoint is, writing one at every step."""
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "max_steps": steps,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": root,
            "callbacks": StepCheckpoint(every_n_train_steps=1),
            **changes,
        }
    )
    loader = DataLoader(torch.zeros(100_000, 1))
    trainer.fit(Weights(), loader, ckpt_path=find_checkpoint("last", "fit", settings_of(root)), weights_only=True)
    return trainer


def test_a_run_that_is_killed_while_it_writes_always_goes_on(other_file_system):
    """kill -9 at 20 random moments, on a file system that is not that of temporary files."""
    rng, before, inside = random.Random(0), 0, 0
    part = other_file_system / "cmmd.ckpt.part"
    for _ in range(KILLS):
        child = os.fork()
        if child == 0:
            try:
                train(other_file_system, 1_000_000)
            finally:
                os._exit(1)
        while not part.exists():
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        inside += part.exists()
        found = find_checkpoint("last", "fit", settings_of(other_file_system))
        if found is None:  # killed before the first was whole
            assert before == 0
            part.unlink()
            continue
        checkpoint = torch.load(found, weights_only=True)
        assert checkpoint["global_step"] >= before
        before = checkpoint["global_step"]
        part.unlink(missing_ok=True)
    assert inside >= KILLS // 5
    assert before > 0
    assert train(other_file_system, before + 2).global_step == before + 2


def test_a_full_disk_costs_one_line_that_says_what_is_kept(other_file_system):
    if not other_file_system.is_mount():
        pytest.skip("a file system of its own may not be made here")
    train(other_file_system, 2)
    (other_file_system / "filler").write_bytes(bytes(28_000_000))
    with pytest.raises(CheckpointError) as caught:
        train(other_file_system, 4)
    file = other_file_system / "cmmd.ckpt"
    assert str(caught.value) == (
        f"{file}: the checkpoint could not be written (No space left on device); "
        "the former one is kept, and --ckpt_path last goes on from it"
    )
    assert sorted(path.name for path in other_file_system.iterdir()) == ["cmmd.ckpt", "filler", "last.ckpt"]
    assert torch.load(file, weights_only=True)["global_step"] == 2
    (other_file_system / "filler").unlink()
    assert train(other_file_system, 4).global_step == 4


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_the_former_file_stays_until_the_new_one_is_whole(error, tmp_path, monkeypatch):
    file = tmp_path / "runs" / "cmmd.ckpt"
    write_whole({"global_step": 1}, file)
    seen: list[tuple[int, bool]] = []

    def fsync(_: int) -> None:
        seen.append((torch.load(file, weights_only=True)["global_step"], file.with_name("cmmd.ckpt.part").exists()))
        raise error

    monkeypatch.setattr("cmmd_lightning.training.checkpoint_io.os.fsync", fsync)
    with pytest.raises(CheckpointError if isinstance(error, OSError) else KeyboardInterrupt):
        write_whole({"global_step": 2}, file)
    assert seen == [(1, True)]
    assert torch.load(file, weights_only=True)["global_step"] == 1
    assert list(file.parent.iterdir()) == [file]


def test_ctrl_c_inside_of_torch_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    class Interrupted:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole({"model": Interrupted()}, tmp_path / "cmmd.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_every_callback_and_a_requeued_job_write_so(clip_folder, tmp_path, monkeypatch):
    """One `StepCheckpoint` makes the trainer write whole: Lightning's own callbacks too."""
    written: list[str] = []

    def note(checkpoint: Any, path: Any) -> None:
        written.append(Path(path).name)

    monkeypatch.setattr("cmmd_lightning.training.checkpoint_io.write_whole", note)
    keeper = StepCheckpoint(every_n_train_steps=100)
    monkeypatch.setattr(keeper, "_link_checkpoint", lambda *_: None)
    best = ModelCheckpoint(tmp_path, "best", monitor="val/loss")
    trainer = build_trainer(tmp_path, keeper, best, every=2, max_steps=3)
    trainer.fit(build_model(), datamodule=build_data(clip_folder))
    trainer.save_checkpoint(trainer._checkpoint_connector.hpc_save_path(str(tmp_path)))
    assert written == ["step=2.ckpt", "best.ckpt", "cmmd.ckpt", "hpc_ckpt_1.ckpt"]


def test_the_second_name_has_the_former_file_until_it_is_moved(tmp_path):
    file, last = tmp_path / "cmmd.ckpt", tmp_path / "last.ckpt"
    for step in (1, 2):
        write_whole({"global_step": step}, file)
        if step == 2:
            assert torch.load(last, weights_only=True)["global_step"] == 1
        link(file, last)
        assert torch.load(last, weights_only=True)["global_step"] == step
    assert file.samefile(last)
    assert file.stat().st_nlink == 2  # not a second copy


@pytest.mark.parametrize("missing", [("link",), ("link", "symlink")])
def test_file_systems_without_links(missing, tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    for name in missing:
        monkeypatch.setattr(os, name, refuse)
    for step in (1, 2):
        write_whole({"global_step": step}, tmp_path / "cmmd.ckpt")
        link(tmp_path / "cmmd.ckpt", tmp_path / "last.ckpt")
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step
    assert (tmp_path / "last.ckpt").is_symlink() == (len(missing) == 1)


# ---- torn files


def tear(path: Path, how: str) -> None:
    """Damages a file, in a file of its own."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    torn = {"cut": data[:middle], "empty": b"", "holes": bytes(len(data)), "flipped": data}[how]
    if how == "flipped":
        data[middle] ^= 1
    path.unlink()
    path.write_bytes(torn)


@pytest.mark.parametrize("how", ["cut", "empty", "holes", "flipped"])
def test_a_torn_file_is_named_and_the_former_one_gone_on_from(how, tmp_path, caplog):
    train(tmp_path, 3)
    tear(tmp_path / "last.ckpt", how)
    os.utime(tmp_path / "last.ckpt", (2e9, 2e9))
    assert fault_of(tmp_path / "last.ckpt") is not None
    assert fault_of(tmp_path / "cmmd.ckpt") is None
    with caplog.at_level("WARNING", "cmmd_lightning"):
        assert train(tmp_path, 5).global_step == 5
    assert f"left out, {tmp_path / 'cmmd.ckpt'} is gone on from instead" in caplog.text
    tear(tmp_path / "last.ckpt", how)
    with pytest.raises(UsageError, match=r"last.ckpt: expected a checkpoint of cmmd_lightning, got another file"):
        stored_hyperparameters(str(tmp_path / "last.ckpt"))


def test_where_nothing_is_whole_the_run_does_not_start_anew_in_silence(tmp_path):
    train(tmp_path, 1)
    for name in ("cmmd", "last"):
        tear(tmp_path / f"{name}.ckpt", "cut")
    with pytest.raises(UsageError, match="nothing is there to go on from: to start anew, remove it or add --ckpt_path"):
        find_checkpoint("last", "fit", settings_of(tmp_path))


def test_weights_alone_are_nothing_to_go_on_from(tmp_path):
    write_whole({"state_dict": {}}, tmp_path / "exported.ckpt")
    assert find_checkpoint("last", "fit", settings_of(tmp_path)) is None


@pytest.mark.parametrize("content", [b"text", {"_class_path": "os.system"}, [1, 2]])
def test_what_is_no_checkpoint_of_ours_is_one_line(content, tmp_path):
    file = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        torch.save({"hyper_parameters": {}}, file, _use_new_zipfile_serialization=False)  # torch: "mmap can only ..."
    else:
        torch.save(content, file)
    with pytest.raises(UsageError) as caught:
        stored_hyperparameters(str(file))
    assert str(caught.value).startswith(f"{file}: expected a checkpoint of cmmd_lightning, got another file (")
    assert "mmap" not in str(caught.value)
