"""Every packaged config, run: two steps at a size that takes seconds, and built once as it is."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import SMALL_MODEL, SMALL_RUN, cmmd

from cmmd_lightning import CMMD, FrameAutoencoderModule
from cmmd_lightning.cli import packaged_configs
from cmmd_lightning.media import probe

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL_VAE = [
    *("--model.block_out_channels", "[8,8]", "--model.norm_num_groups", "4", "--model.unshuffle", "4"),
    *("--data.clip.height", "16", "--data.clip.width", "16", "--data.clip.num_frames", "8"),
]
VAE = "vae.ckpt"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load(packaged_configs()[name].read_text())


def is_vae(name: str) -> bool:
    return read(name)["model"]["class_path"].endswith("FrameAutoencoderModule")


def saved_by(name: str) -> str:
    """The checkpoint that a config says it writes."""
    (callback,) = (
        c["init_args"] for c in read(name)["trainer"]["callbacks"] if c["class_path"].endswith("StepCheckpoint")
    )
    return f"{callback['dirpath']}/{callback.get('filename', 'cmmd')}.ckpt"


MODELS = [name for name in packaged_configs() if not is_vae(name)]
VAES = [name for name in packaged_configs() if is_vae(name)]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Rendered clips in the layout of the demo."""
    root = tmp_path_factory.mktemp("films")
    flags = ["--duration", 2, "--fps", 10, "--height", 16, "--width", 16, "--sample_rate", 8000, "--num_workers", 0]
    for seed, (split, count) in enumerate({"train": 4, "val": 2}.items()):
        done = cmmd("render", "bounce", split, "--num_clips", count, "--seed", seed, *flags, cwd=root)
        assert done.status == 0, done.err
    return root


@pytest.fixture(scope="module")
def vae(films, tmp_path_factory) -> Path:
    """A frame VAE, from `demo_vae.yaml`."""
    home = tmp_path_factory.mktemp("vae")
    line = ["fit", "--config", "demo_vae.yaml", *SMALL_VAE, *SMALL_RUN, "--data.root", films]
    done = cmmd(*line, cwd=home)
    assert done.status == 0, done.err
    return home / saved_by("demo_vae.yaml")


def test_there_are_the_configs_that_the_readme_names():
    assert {"quickstart.yaml", "demo.yaml", "demo_vae.yaml", "folder.yaml", "folder_vae.yaml"} <= set(
        packaged_configs()
    )


@pytest.mark.parametrize("name", VAES)
def test_vae_configs_train_a_codec(name, films, tmp_path):
    line = ["fit", "--config", name, *SMALL_VAE, *SMALL_RUN, "--data.root", films]
    assert cmmd(*line, cwd=tmp_path).status == 0
    checkpoint = torch.load(tmp_path / saved_by(name), weights_only=True)
    assert checkpoint["global_step"] == 2
    assert checkpoint["hyper_parameters"]["codec"]["config"]["block_out_channels"] == [8, 8]
    # the same command again goes on; nothing is left to do
    again = cmmd(*line, cwd=tmp_path)
    assert again.status == 0, again.err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    # and its quality is measured by a command, with the sizes of the checkpoint
    done = cmmd("validate", "--config", name, *SMALL_VAE[6:], *SMALL_RUN, "--data.root", films, cwd=tmp_path)
    assert done.status == 0, done.err
    assert "val/psnr" in done.out


@pytest.mark.parametrize("name", MODELS)
def test_model_configs_train(name, films, vae, tmp_path):
    codec = read(name)["model"]["init_args"]["codec"]["kind"]
    flags = ["--model.codec.path", vae] if codec == "autoencoder_kl" else ["--model.codec.unshuffle", "4"]
    data = ["--data.root", films, "--data.cache_dir", "runs/cache"]
    line = ["--config", name, *SMALL_MODEL, *SMALL_RUN, *flags, *data]
    done = cmmd("fit", *line, cwd=tmp_path)
    assert done.status == 0, done.err
    checkpoint = torch.load(tmp_path / saved_by(name), weights_only=True)
    assert checkpoint["global_step"] == 2
    assert checkpoint["hyper_parameters"]["learning_rate"] == read(name)["model"]["init_args"]["learning_rate"]
    assert "averaging_state" in checkpoint
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert not [path for path in films.iterdir() if path.name == "cache"]


@pytest.mark.parametrize("route", ["config", "flags"])
def test_a_model_on_a_vae_carries_it_in_its_checkpoint(route, films, vae, tmp_path):
    own = shutil.copy(vae, tmp_path / VAE)
    name = {"config": "demo.yaml", "flags": "folder.yaml"}[route]
    kind = [] if route == "config" else ["--model.codec.kind", "autoencoder_kl"]
    rest = [*SMALL_RUN, "--data.root", films, "--data.cache_dir", "cache"]
    done = cmmd("fit", "--config", name, *SMALL_MODEL, *kind, "--model.codec.path", own, *rest, cwd=tmp_path)
    assert done.status == 0, done.err
    Path(own).unlink()
    ckpt = saved_by(name)
    # the cache was made with the VAE's weights, and is found again with those of the checkpoint
    for command in (["validate"], ["fit", "--trainer.max_steps", "3"]):
        done = cmmd(command[0], "--config", name, *rest, *command[1:], "--ckpt_path", ckpt, cwd=tmp_path)
        assert done.status == 0, done.err
        assert done.lines_with("prepared 0 sources"), done.err
    weights, codec = torch.load(tmp_path / ckpt, weights_only=True), torch.load(vae, weights_only=True)["state_dict"]
    assert weights["global_step"] == 3
    trained = [key for key in codec if not key.endswith(("shift", "scale"))]
    assert len(trained) > 10
    assert all(torch.equal(weights["state_dict"][key], codec[key]) for key in trained)
    line = [
        "--ckpt_path",
        ckpt,
        "--generate.task",
        "joint",
        "--generate.output_dir",
        "made",
        "--generate.num_inference_steps",
        2,
    ]
    done = cmmd("predict", *line, cwd=tmp_path)
    assert done.status == 0, done.err
    assert probe(tmp_path / "made" / "sample.mp4", verify=True).problems == ()


@pytest.mark.parametrize("name", MODELS)
def test_model_configs_fit_together_at_their_own_size(name):
    settings = read(name)["model"]["init_args"]
    if settings["codec"]["kind"] == "autoencoder_kl":  # the VAE of the same name, untrained
        small = read(f"{name.removesuffix('.yaml')}_vae.yaml")["model"].get("init_args", {})
        settings["codec"] = FrameAutoencoderModule(**small).codec.config.to_dict()
    model = CMMD(**settings)
    frames = torch.zeros(1, 3, model.clip.num_frames, model.clip.height, model.clip.width)
    sound = model.video_to_audio(frames, num_inference_steps=1)
    assert sound.shape == (1, model.clip.num_samples)
    assert torch.isfinite(sound).all()
    assert min(model.latent_shape[1:]) >= 2 ** len(settings["network"]["video_channels"]) / 2
