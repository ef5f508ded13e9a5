"""A run that is stopped and resumed is the run that was not stopped: to the last bit."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Callback
from tiny_training import Losses, build_data, build_model, build_trainer

from cmmd_lightning import CMMD
from cmmd_lightning.cli.resume_flags import find_checkpoint
from cmmd_lightning.training.checkpoint import StepCheckpoint, mend_progress
from cmmd_lightning.training.checkpoint_io import write_whole
from cmmd_lightning.training.ema import EMA, decay_at
from cmmd_lightning.training.watch import Watch

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 8


class Stop(Callback):
    """Interrupts at the ``nth`` call (from 0) of a hook."""

    def __init__(self, hook: str, nth: int, what: Callable[[], None]) -> None:
        self.left, self.what = nth, what
        setattr(self, hook, self.strike)

    def strike(self, *_: Any) -> None:
        self.left -= 1
        if self.left == -1:
            self.what()


def ctrl_c() -> None:
    raise KeyboardInterrupt


def full_disk() -> None:
    raise OSError("no space left on device")


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def differences(got: Any, expected: Any, where: str = "") -> list[str]:
    """Where two nests of tensors and plain values differ."""
    if isinstance(expected, torch.Tensor):
        return [] if torch.equal(got, expected) else [where]
    if isinstance(expected, dict):
        assert set(got) == set(expected), where
        return [line for key in expected for line in differences(got[key], expected[key], f"{where}/{key}")]
    if isinstance(expected, list | tuple):
        assert len(got) == len(expected), where
        return [
            line
            for i, pair in enumerate(zip(got, expected, strict=True))
            for line in differences(*pair, f"{where}/{i}")
        ]
    return [] if got == expected else [f"{where}: {got} for {expected}"]


COUNTS = ("epoch_loop.state_dict", "epoch_loop.batch_progress")
STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")


def run(folder: Path, clips: Path, *callbacks: Callback, resume: Path | None = None, **settings: Any) -> Losses:
    """Trains; other weights at the start, so that what a checkpoint lacks shows."""
    losses = Losses()
    model = build_model(weights_seed=0 if resume is None else 5)
    workers = settings.pop("num_workers", 1)
    trainer = build_trainer(folder, *callbacks, losses, max_steps=settings.pop("max_steps", STEPS), **settings)
    data = build_data(clips, num_workers=workers, batch_size=2)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return losses


@pytest.fixture(scope="module")
def uninterrupted(clip_folder, tmp_path_factory):
    """Losses and the last checkpoint of the run that nobody stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return run(folder, clip_folder), load(folder / f"step={STEPS}.ckpt")


def check(folder: Path, clips: Path, reference, stopped: Losses, at: int, **settings: Any) -> None:
    """Resumes from the newest checkpoint, of step ``at``, and holds it against the reference."""
    losses, final = reference
    found = max(folder.glob("step=*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))
    assert load(found)["global_step"] == at
    rest = run(folder / "rest", clips, resume=found, **settings)
    assert stopped.train + rest.train == losses.train
    end = load(folder / "rest" / f"step={STEPS}.ckpt")
    assert differences({name: end[name] for name in STATES}, {name: final[name] for name in STATES}) == []
    for name in COUNTS:
        assert end["loops"]["fit_loop"][name] == final["loops"]["fit_loop"][name], name
    assert stopped.val + rest.val == losses.val


def test_the_run_is_worth_comparing(uninterrupted):
    losses, final = uninterrupted
    assert [position for position, _ in losses.train] == list(range(STEPS))
    assert [step for step, _ in losses.val] == [3, 6]
    averaged = {name: final["state_dict"][name] for name in final["current_model_state"]}
    assert len(differences(averaged, final["current_model_state"])) > 20  # averaged and raw weights differ
    assert final["averaging_state"]["n_averaged"].item() == STEPS
    # averaged: 0.8 of the old and 0.2 of the new, told by a step between two checkpoints
    assert final["lr_schedulers"][0]["_last_lr"] == [pytest.approx(1e-3)]


def test_the_number_of_loader_workers_changes_nothing(uninterrupted, clip_folder, tmp_path):
    assert run(tmp_path, clip_folder, num_workers=0, max_steps=3).train == uninterrupted[0].train[:3]
    assert run(tmp_path, clip_folder, num_workers=2, max_steps=3).train == uninterrupted[0].train[:3]


def test_stopped_by_its_step_budget(uninterrupted, clip_folder, tmp_path):
    stopped = run(tmp_path, clip_folder, max_steps=4, num_workers=2)
    check(tmp_path, clip_folder, uninterrupted, stopped, 4, num_workers=2)


@pytest.mark.parametrize(
    ("hook", "nth", "what", "error", "at"),
    [
        ("on_train_batch_start", 5, ctrl_c, SystemExit, 5),
        ("on_train_batch_start", 3, full_disk, OSError, 3),  # right after a validation
        ("on_train_batch_end", 4, ctrl_c, SystemExit, 5),  # after the step, before its average
        ("on_train_batch_end", 4, sigterm, SystemExit, 5),
        ("on_validation_batch_start", 0, ctrl_c, SystemExit, 3),
        ("on_validation_batch_end", 1, full_disk, OSError, 6),
        ("on_validation_batch_end", 0, sigterm, SystemExit, 3),
    ],
)
def test_interrupted_anywhere(hook, nth, what, error, at, uninterrupted, clip_folder, tmp_path):
    stop = Stop(hook, nth, what)
    stopped = Losses()
    with pytest.raises(error):
        run_keeping(stopped, tmp_path, clip_folder, stop)
    # a step that was interrupted at its end is in the checkpoint; its loss was not recorded
    recorded = uninterrupted[0].train[:at]
    assert stopped.train == recorded[: len(stopped.train)]
    assert len(stopped.train) >= at - 1
    stopped.train = recorded
    check(tmp_path, clip_folder, uninterrupted, stopped, at)


def run_keeping(losses: Losses, folder: Path, clips: Path, stop: Callback, **settings: Any) -> None:
    """As `run`, with the losses kept when it raises."""
    run(folder, clips, stop, losses, **settings)


def test_interrupted_between_accumulated_batches(clip_folder, tmp_path):
    nth = 5
    settings = {"accumulate_grad_batches": 2, "max_steps": 4}
    whole = run(tmp_path / "whole", clip_folder, every=4, **settings)
    stopped = Losses()
    with pytest.raises(SystemExit):
        run_keeping(stopped, tmp_path, clip_folder, Stop("on_train_batch_start", nth, ctrl_c), **settings)
    found = tmp_path / f"step={nth // 2}.ckpt"
    rest = run(tmp_path / "rest", clip_folder, resume=found, every=4, **settings)
    begun = nth - nth % 2
    assert stopped.train == whole.train[:nth]
    assert rest.train == whole.train[begun:]
    final, expected = (load(tmp_path / name / "step=4.ckpt") for name in ("rest", "whole"))
    assert differences({k: final[k] for k in STATES}, {k: expected[k] for k in STATES}) == []


def test_the_last_step_is_kept_whatever_the_interval(uninterrupted, clip_folder, tmp_path):
    """`StepCheckpoint`: interval 4, stopped at 5 by the budget; the file after training still has the raw weights."""
    keeper = StepCheckpoint(str(tmp_path / "kept"), every_n_train_steps=4)
    stopped = run(tmp_path, clip_folder, keeper, max_steps=5, every=100)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["cmmd.ckpt", "last.ckpt"]
    kept = [load(path) for path in (tmp_path / "kept").iterdir()]
    assert [checkpoint["global_step"] for checkpoint in kept] == [5, 5]
    (tmp_path / "kept" / "cmmd.ckpt").rename(tmp_path / "step=5.ckpt")
    check(tmp_path, clip_folder, uninterrupted, stopped, 5)


class Clock(Callback):
    """Time goes by in training batches only; and what is written when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.seconds, self.written = 1000.0, seconds, []
        # the module's name alone: workers that are joined meanwhile go by the true clock
        monkeypatch.setattr("cmmd_lightning.training.checkpoint.time", SimpleNamespace(monotonic=lambda: self.now))

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += self.seconds

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.written.append(trainer.global_step)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"every_minutes": 2.0}, [3, 6, 8]),  # after 135 s each; and the end
        ({"every_minutes": 2.0, "every_n_train_steps": 4}, [3, 4, 7, 8]),  # the clock starts anew with each writing
        ({"every_n_train_steps": 3}, [3, 6, 8]),
    ],
)
def test_checkpoints_by_time_and_by_step(settings, steps, uninterrupted, clip_folder, tmp_path, monkeypatch):
    clock = Clock(monkeypatch, 45.0)
    keeper = StepCheckpoint(str(tmp_path / "kept"), **{"every_n_train_steps": 100, **settings})
    run(tmp_path, clip_folder, clock, keeper, every=100)
    assert clock.written == steps  # last.ckpt is a second name of cmmd.ckpt


def test_some_checkpoints_stay(clip_folder, tmp_path):
    keeper = StepCheckpoint(None, every_n_train_steps=2, keep_every_n_steps=4)
    run(tmp_path, clip_folder, keeper, every=100)
    kept = {path.name: load(path)["global_step"] for path in tmp_path.glob("*.ckpt")}
    assert kept == {"cmmd.ckpt": 8, "last.ckpt": 8, "cmmd-step=4.ckpt": 4, "cmmd-step=8.ckpt": 8}


def test_the_best_validation_is_kept_also_over_a_resume(uninterrupted, clip_folder, tmp_path):
    """Of the two validations, by the smaller loss; a resumed run knows the value to beat."""
    losses, _ = uninterrupted
    best = min(losses.val, key=lambda one: one[1])
    settings = {"keep_best": "val/loss", "every_n_train_steps": 100}
    run(tmp_path, clip_folder, StepCheckpoint(None, **settings), max_steps=4, every=100)
    keeper = StepCheckpoint(None, **settings)
    run(tmp_path, clip_folder, keeper, every=100, resume=tmp_path / "last.ckpt")
    kept = load(tmp_path / "cmmd-best.ckpt")
    assert (kept["global_step"], keeper.best) == best
    assert "averaging_state" in kept
    keeper.best = -1.0
    again = load(tmp_path / "last.ckpt")["callbacks"]
    (state,) = [state for key, state in again.items() if key.startswith("StepCheckpoint")]
    keeper.load_state_dict(state)
    assert keeper.best == best[1]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"every_minutes": 0.0}, r"every_minutes: expected a positive number, got 0\.0"),
        ({"every_n_train_steps": 4, "keep_every_n_steps": 6}, r"keep_every_n_steps as a multiple, got 4 and 6"),
    ],
)
def test_intervals_that_make_no_sense_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        StepCheckpoint(**settings)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_optimizer_step", "on_validation_batch_start"])
def test_sigterm_with_everything_in_place(hook, uninterrupted, clip_folder, tmp_path):
    """Watch, and checkpoints by step and time: what SIGTERM leaves goes on exactly."""
    keeper = StepCheckpoint(str(tmp_path / "kept"), every_n_train_steps=4, every_minutes=30.0)
    stop, stopped = Stop(hook, 0 if "validation" in hook else 4, sigterm), Losses()
    with pytest.raises(SystemExit):
        run(tmp_path, clip_folder, stop, stopped, Watch(every_n_steps=3), keeper, every=100)
    at = 5 if "validation" not in hook else 3
    files = sorted(tmp_path.glob("kept/*.ckpt"))
    assert [load(path)["global_step"] for path in files] == [at, at]
    files[1].rename(tmp_path / f"step={at}.ckpt")
    stopped.train = uninterrupted[0].train[:at]
    check(tmp_path, clip_folder, uninterrupted, stopped, at)


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A SLURM job of one process; gives the file in which ``scontrol`` notes how it was called."""
    calls = tmp_path / "bin" / "calls"
    calls.parent.mkdir()
    scontrol = calls.with_name("scontrol")
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{calls.parent}:{os.environ['PATH']}")
    for name, value in {"JOB_ID": 17, "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    return calls


def requeue() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize(
    ("hook", "nth", "at"),
    [
        ("on_train_batch_start", 4, 5),
        ("on_before_optimizer_step", 4, 5),  # inside of the step
        ("on_validation_batch_start", 0, 3),
    ],
)
def test_a_requeued_slurm_job_goes_on_exactly(hook, nth, at, slurm, uninterrupted, clip_folder, tmp_path, monkeypatch):
    """The signal comes anywhere; the checkpoint is that of the end of the batch, and the job is requeued once."""
    keeper = StepCheckpoint(None, every_n_train_steps=100)
    job = {"plugins": [SLURMEnvironment(auto_requeue=True, requeue_signal=signal.SIGUSR1)], "max_steps": at + 2}
    run(tmp_path, clip_folder, Stop(hook, nth, requeue), Watch(), keeper, every=100, **job)
    assert slurm.read_text() == "requeue 17\n"
    left = load(tmp_path / "hpc_ckpt_1.ckpt")
    assert left["global_step"] == at
    # the job was killed thereafter
    for path in (tmp_path / "cmmd.ckpt", tmp_path / "last.ckpt"):
        path.unlink()
    trainer = {"callbacks": [{"init_args": {"dirpath": None}}], "default_root_dir": str(tmp_path)}
    found = find_checkpoint("last", "fit", type("Settings", (dict,), {"__getattr__": dict.get})(trainer))
    assert found == str(tmp_path / "hpc_ckpt_1.ckpt")
    losses, final = uninterrupted
    for ckpt_path in (found, "hpc"):
        rest = run(tmp_path, clip_folder, resume=ckpt_path)
        assert rest.train == losses.train[at:]
        assert rest.val == [one for one in losses.val if one[0] > at or (one[0] == at and "validation" in hook)]
        end = load(tmp_path / f"step={STEPS}.ckpt")
        assert differences({name: end[name] for name in STATES}, {name: final[name] for name in STATES}) == []


def test_the_last_checkpoint_is_the_newest(tmp_path):
    trainer = {"callbacks": [{"init_args": {"dirpath": None}}], "default_root_dir": str(tmp_path)}
    settings = type("Settings", (dict,), {"__getattr__": dict.get})(trainer)
    assert find_checkpoint("last", "fit", settings) is None
    for age, name in [(30, "checkpoints/last.ckpt"), (20, "hpc_ckpt_1.ckpt"), (10, "last.ckpt")]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_whole({}, path)
        os.utime(path, (1e9 - age, 1e9 - age))
        assert find_checkpoint("last", "fit", settings) == str(path)


def test_interrupted_twice(uninterrupted, clip_folder, tmp_path):
    first, second = Losses(), Losses()
    with pytest.raises(SystemExit):
        run_keeping(first, tmp_path, clip_folder, Stop("on_train_batch_start", 2, ctrl_c))
    with pytest.raises(SystemExit):
        run_keeping(
            second, tmp_path, clip_folder, Stop("on_validation_batch_start", 0, ctrl_c), resume=tmp_path / "step=2.ckpt"
        )
    first.train += second.train
    check(tmp_path, clip_folder, uninterrupted, first, 3)


def test_saved_after_training_resumes_from_the_raw_weights(uninterrupted, clip_folder, tmp_path):
    """After a fit the model holds the averages; the raw weights are saved all the same, and validation leaves them."""
    trainer, model = build_trainer(tmp_path, max_steps=4), build_model()
    data = build_data(clip_folder, batch_size=2)
    trainer.fit(model, datamodule=data)
    averaged = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.validate(model, datamodule=data, verbose=False)
    assert differences(dict(model.state_dict()), averaged) == []
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    after, during = load(tmp_path / "after.ckpt"), load(tmp_path / "step=4.ckpt")
    assert differences({k: after[k] for k in STATES[:4]}, {k: during[k] for k in STATES[:4]}) == []
    assert differences(dict(after["state_dict"]), averaged) == []


def test_validation_and_checkpoints_use_the_averaged_weights(clip_folder, tmp_path):
    """By hand: the average keeps (1 + n) / (10 + n) of itself, 0.8 at the most, after n updates."""
    raw: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    name = "network.video_out.bias"

    class Watch(Callback):
        def on_train_start(self, trainer, pl_module):
            raw.append(pl_module.get_parameter(name).detach().clone())

        def on_train_batch_end(self, trainer, pl_module, *_):
            raw.append(pl_module.get_parameter(name).detach().clone())

        def on_validation_batch_end(self, trainer, pl_module, *_):
            seen.append(pl_module.get_parameter(name).detach().clone())

    run(tmp_path, clip_folder, Watch(), every=3, max_steps=3, num_workers=0)
    expected = raw[0]
    for n, weights in enumerate(raw[1:]):
        expected = torch.lerp(weights, expected, (1 + n) / (10 + n))
    checkpoint = load(tmp_path / "step=3.ckpt")
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(checkpoint["state_dict"][name], expected)
    assert torch.equal(checkpoint["current_model_state"][name], raw[3])
    assert torch.equal(CMMD.load_from_checkpoint(tmp_path / "step=3.ckpt").get_parameter(name), seen[0])


def test_the_warm_up_of_the_average_in_closed_form():
    """The start's share after n updates is the product of the weights: gone after 1,000, where 0.9999 keeps 90 %."""
    shares = [math.prod(decay_at(n, 0.9999) for n in range(updates)) for updates in (1, 100, 1000)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[1] == pytest.approx(math.prod((1 + n) / (10 + n) for n in range(100)))
    assert shares[2] < 1e-20
    assert decay_at(10**6, 0.9999) == 0.9999
    assert decay_at(10**6, 0.5) == decay_at(10, 0.5) == 0.5


def test_the_first_validation_sees_the_model_and_its_statistics(clip_folder, tmp_path):
    """Before any step the average is the model itself, data statistics included."""
    scales: list[torch.Tensor] = []

    class Watch(Callback):
        def on_validation_batch_end(self, trainer, pl_module, *_):
            scales.append(pl_module.codec.scale.clone())

    settings = {"num_sanity_val_steps": 1, "max_steps": 1}
    run(tmp_path, clip_folder, Watch(), every=1, num_workers=0, **settings)
    saved = load(tmp_path / "step=1.ckpt")["state_dict"]["codec.scale"]
    assert torch.equal(scales[0], saved)
    assert not torch.equal(saved, torch.ones_like(saved))


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"EMA\.decay must be at least 0 and below 1"):
        EMA(decay)


def counts(ready: int, processed: int, completed: int) -> dict[str, int]:
    return {"ready": ready, "started": ready, "processed": processed, "completed": completed}


def progress_of(counted: dict[str, int], validating: bool = False, val: tuple[int, int, bool] = (2, 2, True)) -> dict:
    """What a checkpoint counts: after an earlier epoch of 20 batches; validation has (ready, completed, all of it)."""
    earlier = {name: value + 20 for name, value in counted.items()}
    current = counts(val[0], val[1], val[1])
    loops = {
        "epoch_loop.batch_progress": {"total": earlier, "current": dict(counted)},
        "epoch_loop.val_loop.batch_progress": {"total": dict(current), "current": current, "is_last_batch": val[2]},
        "epoch_loop.state_dict": {"_batches_that_stepped": 26},
    }
    return {"loops": {"fit_loop": loops}, "validating": validating}


@pytest.mark.parametrize(
    ("before", "accumulate", "after"),
    [
        (counts(6, 6, 6), 1, counts(6, 6, 6)),
        (counts(7, 6, 6), 1, counts(6, 6, 6)),
        (counts(6, 6, 5), 1, counts(6, 6, 5)),  # at the end of a batch, which Lightning knows how to resume
        (counts(7, 6, 6), 2, counts(6, 6, 6)),
        (counts(7, 7, 7), 2, counts(6, 6, 6)),
        (counts(7, 7, 6), 2, counts(6, 6, 6)),
        (counts(8, 7, 7), 2, counts(6, 6, 6)),
        (counts(8, 8, 7), 4, counts(8, 8, 7)),
    ],
)
def test_batches_since_the_last_step_are_done_again(before, accumulate, after):
    checkpoint = progress_of(before)
    mend_progress(checkpoint, accumulate)
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert progress["current"] == after
    assert progress["total"] == {name: value + 20 for name, value in after.items()}
    weights_only = {"state_dict": {}}
    mend_progress(weights_only, accumulate)
    assert weights_only == {"state_dict": {}}


@pytest.mark.parametrize(
    ("before", "again", "steps"),
    [
        (progress_of(counts(6, 6, 5)), True, 26),  # written before the validation that is due
        (progress_of(counts(6, 6, 6), True, (2, 1, False)), True, 26),
        (progress_of(counts(6, 6, 6), True, (0, 0, False)), True, 26),
        (progress_of(counts(6, 6, 6), True), False, 26),  # written at its end
        (progress_of(counts(6, 6, 6)), False, 25),  # after it: Lightning skips it, and counts one more step for loggers
        (progress_of(counts(7, 6, 6)), False, 25),
        (progress_of(counts(5, 5, 4)), False, 26),  # none due
        (progress_of(counts(6, 5, 5)), False, 26),
    ],
)
def test_a_validation_that_is_due_is_done_as_a_whole(before, again, steps):
    mend_progress(before, 1, validate_every=13)
    loops = before["loops"]["fit_loop"]
    validation, batches = loops["epoch_loop.val_loop.batch_progress"], loops["epoch_loop.batch_progress"]
    # what Lightning takes for "in the middle of a validation", at its first batch
    assert (validation["total"]["started"] == validation["total"]["processed"] + 1) == again
    assert loops["epoch_loop.state_dict"]["_batches_that_stepped"] == steps
    if again:
        assert validation["current"] == counts(0, 0, 0)
        assert batches["current"] == counts(6, 6, 6)
