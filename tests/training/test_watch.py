"""A run that goes wrong is stopped, and what is on disk stays good."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SMALL, cmmd
from lightning.pytorch import Callback
from test_resume import STATES, Stop, ctrl_c, differences, load
from tiny_training import Losses, build_data, build_model, build_trainer

from cmmd_lightning.training.checkpoint import StepCheckpoint
from cmmd_lightning.training.watch import TrainingStoppedError, Watch

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 8


class Spoil(Callback):
    """Multiplies the sound of one example at some positions of the training stream."""

    def __init__(self, positions: set[int], factor: float, row: int = 1) -> None:
        self.positions, self.factor, self.row = positions, factor, row

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if int(batch["position"][0]) in self.positions:
            batch["mel"][self.row] *= self.factor


def nan_at(*positions: int) -> Spoil:
    return Spoil(set(positions), math.nan)


def run(folder: Path, clips: Path, *callbacks: Callback, resume: Any = None, every: int = 2, **settings: Any) -> Losses:
    """Trains, with `StepCheckpoint` as the only one that writes."""
    losses = Losses()
    trainer = build_trainer(folder, *callbacks, losses, max_steps=settings.pop("max_steps", STEPS), **settings)
    trainer.callbacks[-1] = StepCheckpoint(str(folder), every_n_train_steps=every)
    model = build_model(weights_seed=0 if resume is None else 5)
    trainer.fit(model, datamodule=build_data(clips, batch_size=2), ckpt_path=resume, weights_only=True)
    return losses


@pytest.fixture(scope="module")
def clean(clip_folder, tmp_path_factory):
    """Losses and the last checkpoint of a run without a watch."""
    folder = tmp_path_factory.mktemp("clean")
    return run(folder, clip_folder), load(folder / "last.ckpt")


def is_finite(checkpoint: dict[str, Any]) -> bool:
    tensors = [*checkpoint["state_dict"].values(), *checkpoint["current_model_state"].values()]
    tensors += [value for state in checkpoint["optimizer_states"][0]["state"].values() for value in state.values()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def check_resumes(folder: Path, clips: Path, clean: Any, at: int) -> None:
    """Both files are of step ``at``, finite, and go on to where the clean run went."""
    losses, final = clean
    for name in ("cmmd.ckpt", "last.ckpt"):
        checkpoint = load(folder / name)
        assert checkpoint["global_step"] == at
        assert is_finite(checkpoint)
    rest = run(folder / "rest", clips, Watch(), resume=folder / "last.ckpt")
    assert rest.train == losses.train[at:]
    end = load(folder / "rest" / "last.ckpt")
    assert differences({name: end[name] for name in STATES}, {name: final[name] for name in STATES}) == []


@pytest.mark.parametrize("every_n_steps", [1, 3])
def test_a_clean_run_is_left_as_it_is(every_n_steps, clean, clip_folder, tmp_path):
    losses, final = clean
    watched = run(tmp_path, clip_folder, Watch(every_n_steps=every_n_steps, window=4, patience=2))
    assert (watched.train, watched.val) == (losses.train, losses.val)
    end = load(tmp_path / "last.ckpt")
    assert differences({name: end[name] for name in STATES}, {name: final[name] for name in STATES}) == []
    kept = next(state for key, state in end["callbacks"].items() if key.startswith("Watch"))
    assert kept["losses"] == pytest.approx([loss for _, loss in losses.train[-4:]])


def test_a_bad_number_in_a_batch_stops_the_run_before_it_does_harm(clean, clip_folder, tmp_path):
    with pytest.raises(TrainingStoppedError) as stop:
        run(tmp_path, clip_folder, nan_at(5), Watch())
    pattern = (
        r"training stopped at global step 5, batch position 5: loss nan, gradient norm nan; "
        r"input not finite: index 1 \(train/\w+\.mp4 at \d\.\d\d s\); last good checkpoint: (\S+) \(step 5\)"
    )
    assert re.fullmatch(pattern, str(stop.value))[1] == str(tmp_path / "last.ckpt")
    check_resumes(tmp_path, clip_folder, clean, 5)


def test_judged_every_few_steps_bad_weights_never_reach_a_file(clean, clip_folder, tmp_path):
    """Bad at 4, to be judged after step 7; but a checkpoint is due at 6, and 3 stays."""
    with pytest.raises(TrainingStoppedError, match=r"global step 4, batch position 4: loss nan.*last.ckpt \(step 3\)"):
        run(tmp_path, clip_folder, nan_at(4), Watch(every_n_steps=8), every=3)
    check_resumes(tmp_path, clip_folder, clean, 3)


@pytest.mark.parametrize(("every_n_steps", "bad"), [(2, 3), (100, 4)])
def test_bad_weights_are_not_written_whatever_stops_the_run(every_n_steps, bad, clean, clip_folder, tmp_path):
    """The judge's own interval, at step 4; or Ctrl-C at 6, before which all steps are judged."""
    callbacks = [nan_at(bad), Watch(every_n_steps=every_n_steps), Stop("on_train_batch_start", 6, ctrl_c)]
    match = rf"global step {bad}, batch position {bad}: loss nan.*last.ckpt \(step 3\)"
    with pytest.raises(TrainingStoppedError, match=match):
        run(tmp_path, clip_folder, *callbacks, every=3)
    check_resumes(tmp_path, clip_folder, clean, 3)


def test_lightnings_own_checkpoint_callback_writes_no_bad_weights_either(clip_folder, tmp_path):
    trainer = build_trainer(tmp_path, nan_at(4), Watch(every_n_steps=8), every=3)
    with pytest.raises(TrainingStoppedError, match=r"global step 4, .*step=3.ckpt \(step 3\)"):
        trainer.fit(build_model(), datamodule=build_data(clip_folder, batch_size=2))
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["step=3.ckpt"]
    assert is_finite(load(tmp_path / "step=3.ckpt"))


def test_the_gradient_norm_is_logged_before_clipping(clip_folder, tmp_path):
    norms: list[tuple[float, float]] = []

    class Measure(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            squares = [float(p.grad.double().square().sum()) for p in pl_module.parameters() if p.grad is not None]
            norms.append((float(trainer.callback_metrics["train/grad_norm"]), math.sqrt(sum(squares))))

    run(tmp_path, clip_folder, Watch(), Measure(), max_steps=2)
    assert len(norms) == 2
    for logged, expected in norms:
        assert logged == pytest.approx(expected, rel=1e-5)


def test_accumulated_batches_are_one_step(clip_folder, tmp_path):
    """Bad in the first of the two batches of step 2: positions 4 and 5."""
    with pytest.raises(
        TrainingStoppedError, match=r"global step 2, batch position 4 to 5: loss nan.*index 1 \("
    ) as stop:
        run(tmp_path, clip_folder, nan_at(4), Watch(), accumulate_grad_batches=2, max_steps=4, every=1)
    assert str(stop.value).endswith("last.ckpt (step 2)")
    assert load(tmp_path / "last.ckpt")["global_step"] == 2


SPIKES = {"window": 4, "patience": 2, "spike_factor": 20.0}


def test_a_spike_that_stays_stops_the_run(clean, clip_folder, tmp_path):
    """Up at 5 and 6: noticed before step 6 acts; what step 5 did is not written, though a writing was due."""
    spoil = Spoil({5, 6, 7}, 50.0)
    with pytest.raises(TrainingStoppedError) as stop:
        run(tmp_path, clip_folder, spoil, Watch(**SPIKES), every=1)
    pattern = (
        r"training stopped at global step 6, batch position 6: loss (\S+), above 20 times its median of (\S+) "
        r"for 2 steps, gradient norm \S+; input finite: index 0 \(.+\), index 1 \(.+\); "
        r"last good checkpoint: \S+ \(step 5\)"
    )
    found = re.fullmatch(pattern, str(stop.value))
    assert found is not None, stop.value
    median = sorted(loss for _, loss in clean[0].train[2:5])  # and the loss of step 5, which is above them
    assert float(found[2]) == pytest.approx((median[1] + median[2]) / 2, rel=1e-4)
    assert float(found[1]) > 20 * float(found[2])
    check_resumes(tmp_path, clip_folder, clean, 5)


@pytest.mark.parametrize(("positions", "settings"), [({5}, SPIKES), ({5, 6, 7}, {**SPIKES, "spike_factor": None})])
def test_one_bad_batch_is_no_spike_and_spikes_may_be_allowed(positions, settings, clip_folder, tmp_path):
    run(tmp_path, clip_folder, Spoil(positions, 50.0), Watch(**settings), every=1)
    assert load(tmp_path / "last.ckpt")["global_step"] == STEPS


def test_a_resumed_run_remembers_what_is_usual(clip_folder, tmp_path):
    """Stopped at 4, by its budget, with the median's steps behind it: the spike is found as early as without a stop."""
    run(tmp_path, clip_folder, Watch(**SPIKES), max_steps=4)
    with pytest.raises(TrainingStoppedError, match=r"global step 5, .* for 2 steps"):
        run(tmp_path, clip_folder, Spoil({4, 5}, 50.0), Watch(**SPIKES), resume=tmp_path / "last.ckpt")


def test_it_can_be_told_to_let_bad_numbers_pass(clip_folder, tmp_path):
    losses = run(tmp_path, clip_folder, nan_at(5), Watch(nonfinite=False))
    assert [math.isnan(loss) for _, loss in losses.train] == [False] * 5 + [True] * 3


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"spike_factor": 1.0}, r"spike_factor: expected more than 1, or null for none, got 1\.0"),
        ({"window": 10, "patience": 6}, "a window of twice the patience, got 1, 6 and 10"),
        ({"every_n_steps": 0}, "every_n_steps and patience of at least 1 .* got 0, 10 and 200"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        Watch(**settings)


def test_the_command_says_it_in_one_line(tmp_path):
    """A learning rate that blows the weights up."""
    watch = "--trainer.callbacks+=cmmd_lightning.Watch"
    done = cmmd("fit", "--config", "quickstart.yaml", *SMALL, "--model.learning_rate", "1e30", watch, cwd=tmp_path)
    assert done.status == 1
    (line,) = done.errors
    assert re.match(r"cmmd: error: training stopped at global step 1, batch position 1: loss \S+, gradient norm", line)
    assert line.endswith("last good checkpoint: runs/quickstart/last.ckpt (step 1)")
    assert load(tmp_path / "runs/quickstart/last.ckpt")["global_step"] == 1


@pytest.mark.parametrize("how", ["nan", "sigterm"])
def test_several_processes_stop_together(how, clip_folder, tmp_path):
    """Bad numbers, or SIGTERM, reach the second of two processes only."""
    script = Path(__file__).parents[1] / "watch_run.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script), str(clip_folder), str(tmp_path), how],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) == (how == "nan"), done.stderr[-2000:]
    stops = [(tmp_path / f"stop-{rank}.txt").read_text() for rank in range(2)]
    if how == "nan":
        assert stops[0] == stops[1]
        pattern = (
            r"training stopped at global step 3, batch position 3: loss nan, gradient norm nan; "
            r"process 1: input not finite: index 3 \(train/\S+ at \S+ s\); last good checkpoint: \S+ \(step 3\)"
        )
        assert re.fullmatch(pattern, stops[0]), stops[0]
    checkpoint = load(tmp_path / "last.ckpt")
    assert checkpoint["global_step"] == {"nan": 3, "sigterm": 10}[how]
    assert is_finite(checkpoint)
