"""The checkpoint that is shipped: it works at once, and is what is said beside it."""

import json

import pytest
import torch
import yaml
from command_line import cmmd

from cmmd_lightning import CMMD
from cmmd_lightning.checkpoints import packaged_checkpoint
from cmmd_lightning.packaged import packaged_configs
from cmmd_lightning.procedural import render

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Rendered clips that no training has seen, whole and silent."""
    folder = tmp_path_factory.mktemp("demo")
    for name, streams in (("clips", "both"), ("silent", "video")):
        render("bounce", folder / name, 12, 99, duration=1.2, fps=20.0, streams=streams, num_workers=0, progress=False)
    return folder


def test_sound_for_silent_video_with_no_training(home):
    """Scored by the command that anybody would use, against the exact event times."""
    line = ["--ckpt_path", "demo", "--generate.task", "video_to_audio", "--generate.inputs", "silent"]
    steps = ["--generate.guidance_scale", 2, "--generate.num_inference_steps", 12]
    done = cmmd("predict", *line, *steps, "--generate.output_dir", "made", cwd=home)
    assert done.status == 0, done.err
    done = cmmd("evaluate", "--task", "video_to_audio", "--generated", "made", "--reference", "clips", cwd=home)
    assert done.status == 0, done.err
    score = json.loads((home / "made" / "report.json").read_text())["tasks"]["video_to_audio"]["event_f1@100ms"]
    assert score["n"] == 12
    assert score["value"] > 0.8 > 0.6 > score["floor"]


def test_it_is_small_and_made_as_its_config_says():
    path = packaged_checkpoint("demo")
    assert path.stat().st_size < 25e6
    stored = torch.load(path, weights_only=True)
    assert "optimizer_states" not in stored
    weights = [value for value in stored["state_dict"].values() if value.is_floating_point()]
    assert {value.dtype for value in weights} == {torch.float16}
    config = yaml.safe_load(packaged_configs()["bounce.yaml"].read_text())
    settings = config["model"]["init_args"]
    for group in ("clip", "network", "objective"):
        for key, value in settings[group].items():
            assert stored["hyper_parameters"][group][key] == value, key
    assert stored["global_step"] == config["trainer"]["max_steps"]


def test_what_lies_beside_it_tells_how_it_was_made():
    about = json.loads(packaged_checkpoint("demo").with_suffix(".json").read_text())
    assert about["commands"][0].startswith("cmmd fit --config bounce_vae.yaml")
    assert {"machine", "version", "data", "scores"} <= set(about)
    for scores in about["scores"].values():
        for entry in scores.values():
            assert {"value", "ci95", "floor", "ceiling", "n"} <= set(entry)


def test_in_python_too():
    model = CMMD.from_pretrained("demo")
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    frames = torch.zeros(1, 3, model.clip.num_frames, model.clip.height, model.clip.width)
    assert torch.isfinite(model.video_to_audio(frames, num_inference_steps=2)).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "--config", "quickstart.yaml", "--ckpt_path", "demo"], "expected a training checkpoint, got demo"),
        (["validate", "--ckpt_path", "dmeo"], "dmeo: expected a checkpoint file, or demo for the packaged one"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words, said, tmp_path):
    done = cmmd(*words, cwd=tmp_path)
    assert done.status == 2
    (error,) = done.errors
    assert said in error


def test_training_goes_on_from_it(home, tmp_path):
    """Its weights are where a fit can start, on clips of one's own."""
    settings = yaml.safe_load(packaged_configs()["bounce.yaml"].read_text())["model"]["init_args"]
    config = {"model": {"class_path": "cmmd_lightning.CMMD", "init_args": {**settings, "pretrained": "demo"}}}
    config["model"]["init_args"]["codec"] = {"kind": "clip_autoencoder", "path": "demo"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    flags = [
        "--data.root",
        home / "clips",
        "--data.num_workers",
        0,
        "--data.batch_size",
        2,
        "--data.source.val_fraction",
        0,
    ]
    trainer = ["--trainer.max_steps", 1, "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
    done = cmmd("fit", "--config", "own.yaml", *flags, *trainer, cwd=tmp_path)
    assert done.status == 0, done.err
    (made,) = (tmp_path / "checkpoints").glob("*.ckpt")
    trained, before = (
        torch.load(path, weights_only=True)["state_dict"] for path in (made, packaged_checkpoint("demo"))
    )
    moved = {key: float((trained[key] - before[key]).abs().max()) for key in before if key.startswith("network.")}
    assert 0 < max(moved.values()) < 2 * settings["learning_rate"]  # one step of AdamW away, and no more
