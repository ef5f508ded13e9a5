"""Every packaged config, run: two steps at a size that takes seconds, and built once as it is."""

import os
import shutil
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import SMALL_MODEL, SMALL_RUN, cmmd

from cmmd_lightning import CMMD, FrameAutoencoderModule, VocoderModule
from cmmd_lightning.data.sources.epic_sounds import FILES
from cmmd_lightning.media import probe
from cmmd_lightning.packaged import packaged_configs

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL_VAE = [
    *("--model.block_out_channels", "[8,8]", "--model.norm_num_groups", "4", "--model.unshuffle", "4"),
    *("--data.clip.height", "16", "--data.clip.width", "16", "--data.clip.num_frames", "8"),
]
VAE = "vae.ckpt"


# The clip as a config has it, and a thin network.
THIN = [
    *("--model.network.num_blocks", "1", "--model.network.head_channels", "16"),
    *("--model.network.embedding_channels", "16", "--trainer.strategy", "auto", "--trainer.precision", "32"),
]
AIST = ["gBR_sBM_c01_d04_mBR1_ch03", "gBR_sBM_c01_d05_mBR2_ch04", "gBR_sFM_c01_d05_mBR3_ch09"]
GRID = ["s1/bbaf2n", "s1/lwbsza", "s2/pgid6p"]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load(packaged_configs()[name].read_text())


def is_vae(name: str) -> bool:
    return read(name)["model"].get("class_path", "").endswith("FrameAutoencoderModule")


def saved_by(*names: str) -> str:
    """The checkpoint that stacked configs say they write."""
    trainers = [read(name).get("trainer", {}) for name in names]
    root = [trainer["default_root_dir"] for trainer in trainers if "default_root_dir" in trainer][-1]
    (saver,) = (c for c in trainers[0]["callbacks"] if c["class_path"].endswith("StepCheckpoint"))
    settings = saver.get("init_args", {})
    assert "dirpath" not in settings, "--trainer.default_root_dir alone is to move a run"
    return f"{root}/{settings.get('filename', 'cmmd')}.ckpt"


BASES = [name for name in packaged_configs() if "root" in read(name).get("data", {})]
OVERRIDES = [name for name in packaged_configs() if name not in BASES]
RECIPES = [name for name in OVERRIDES if name.startswith("ablation/")]
SMALLER = ["grid_small.yaml"]
PAPER_OVERRIDES = [name for name in OVERRIDES if name not in [*RECIPES, *SMALLER]]
PAPER = ["aist.yaml", "epic_sounds.yaml"]
MODELS = [name for name in BASES if not is_vae(name) and name != "vocoder.yaml"]
VAES = [name for name in BASES if is_vae(name)]


def thin(*names: str) -> list[str]:
    """A network of as many levels as the last of the stacked configs that says."""
    sizes = [read(name)["model"]["init_args"].get("network", {}) for name in names]
    levels = next(len(size["video_channels"]) for size in reversed(sizes) if "video_channels" in size)
    channels = str([16] * levels)
    return [*THIN, "--model.network.video_channels", channels, "--model.network.audio_channels", channels]


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
def corpora(tmp_path_factory) -> dict[str, list[object]]:
    """Data flags by source: one rendered clip under the names that the corpora give theirs."""
    root = tmp_path_factory.mktemp("corpora")
    flags = ["--duration", 4, "--fps", 12.5, "--height", 32, "--width", 32, "--sample_rate", 8000, "--num_workers", 0]
    done = cmmd("render", "dance", "clips", "--num_clips", 1, *flags, cwd=root)
    assert done.status == 0, done.err
    (clip,) = (root / "clips").glob("*.mp4")
    for path in [
        *(f"aist/{name}.mp4" for name in AIST),
        "epic/P01/videos/P01_11.MP4",
        *(f"grid/{n}.mpg" for n in GRID),
    ]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(clip, root / path)
    header = (
        "annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,start_sample,stop_sample,class,class_id"
    )
    (root / "csv").mkdir()
    for split, start in (("train", 0), ("val", 1)):
        times = f"00:00:0{start}.000,00:00:0{start + 3}.000,{start * 24000},{(start + 3) * 24000}"
        (root / "csv" / FILES[split]).write_text(f"{header}\nP01_11_{start},P01,P01_11,{times},rustle,4\n")
    annotations = ["--data.source.annotations", root / "csv"]
    places = {"Aist": ("aist", []), "EpicSounds": ("epic", annotations), "Grid": ("grid", [])}
    return {name: ["--data.root", root / folder, *more] for name, (folder, more) in places.items()}


def data_flags(name: str, films: Path, corpora: dict[str, list[object]]) -> list[object]:
    source = read(name)["data"].get("source")
    return corpora.get(source["class_path"] if isinstance(source, dict) else source) or ["--data.root", films]


@pytest.fixture(scope="module")
def vae(films, tmp_path_factory) -> Path:
    """A frame VAE, from `folder_vae.yaml`."""
    home = tmp_path_factory.mktemp("vae")
    line = ["fit", "--config", "folder_vae.yaml", *SMALL_VAE, *SMALL_RUN, "--data.root", films]
    done = cmmd(*line, cwd=home)
    assert done.status == 0, done.err
    return home / saved_by("folder_vae.yaml")


def test_there_are_the_configs_that_the_readme_names():
    assert {"quickstart.yaml", "demo.yaml", "folder.yaml", "grid.yaml", *PAPER} <= set(MODELS)
    assert {f"{name}_vae.yaml" for name in ("folder", "grid", "grid_long", "bounce")} | {"ablation/vae.yaml"} == set(
        VAES
    )
    assert {"512.yaml", "ncmmd.yaml", "paper.yaml", "cross_attention.yaml", "no_fusion.yaml"} == set(PAPER_OVERRIDES)


@pytest.mark.parametrize("name", VAES)
def test_vae_configs_train_a_codec(name, films, corpora, tmp_path):
    line = ["fit", "--config", name, *SMALL_VAE, *SMALL_RUN, *data_flags(name, films, corpora)]
    done = cmmd(*line, cwd=tmp_path)
    assert done.status == 0, done.err
    checkpoint = torch.load(tmp_path / saved_by(name), weights_only=True)
    assert checkpoint["global_step"] == 2
    codec = checkpoint["hyper_parameters"]["codec"]
    assert codec["config"]["channels" if codec["kind"] == "clip_autoencoder" else "block_out_channels"] == [8, 8]
    # the same command again goes on; nothing is left to do
    again = cmmd(*line, cwd=tmp_path)
    assert again.status == 0, again.err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    # and its quality is measured by a command, with the sizes of the checkpoint
    done = cmmd("validate", *line[1:3], *SMALL_VAE[6:], *line[3 + len(SMALL_VAE) :], cwd=tmp_path)
    assert done.status == 0, done.err
    assert "val/psnr" in done.out


def run_two_steps(names: list[str], flags: list[object], cwd: Path) -> dict[str, Any]:
    """Runs ``fit`` on stacked configs and gives the checkpoint that it leaves."""
    cwd.mkdir(exist_ok=True)
    stacked = [part for name in names for part in ("--config", name)]
    done = cmmd("fit", *stacked, *SMALL_RUN, *flags, "--data.cache_dir", "runs/cache", cwd=cwd)
    assert done.status == 0, done.err
    assert [path.name for path in cwd.iterdir()] == ["runs"]
    checkpoint = torch.load(cwd / saved_by(*names), weights_only=True)
    assert checkpoint["global_step"] == 2
    assert "averaging_state" in checkpoint
    rates = [read(name).get("model", {}).get("init_args", {}).get("learning_rate") for name in names]
    assert checkpoint["hyper_parameters"]["learning_rate"] == [rate for rate in rates if rate is not None][-1]
    return checkpoint


@pytest.mark.parametrize("name", MODELS)
def test_model_configs_train(name, films, corpora, vae, tmp_path):
    codec = read(name)["model"]["init_args"]["codec"]["kind"]
    flags = ["--model.codec.path", vae] if codec != "pixel_unshuffle" else ["--model.codec.unshuffle", "4"]
    size = thin(name) if name in PAPER else SMALL_MODEL
    run_two_steps([name], [*size, *flags, *data_flags(name, films, corpora)], tmp_path)
    assert not [path for path in films.iterdir() if path.name == "cache"]


def test_a_vocoder_trains_and_a_model_takes_it(films, tmp_path):
    """And a prediction needs the model's checkpoint alone."""
    small = [
        "--model.dim",
        "8",
        "--model.intermediate_dim",
        "8",
        "--model.num_layers",
        "1",
        "--data.frames_per_item",
        "8",
    ]
    mel = ["--model.clip.sample_rate", "8000", "--model.clip.n_fft", "256", "--model.clip.hop_length", "100"]
    mel += ["--model.clip.n_mels", "16", "--model.clip.mel_floor", "0.01"]
    done = cmmd("fit", "--config", "vocoder.yaml", *SMALL_RUN, *small, *mel, "--data.root", films, cwd=tmp_path)
    assert done.status == 0, done.err
    vocoder = tmp_path / saved_by("vocoder.yaml")
    flags = [*SMALL_MODEL, "--model.codec.unshuffle", "4", "--data.root", films, "--model.vocoder"]
    checkpoint = run_two_steps(["folder.yaml"], [*flags, vocoder], tmp_path / "model")
    expected = torch.load(vocoder, weights_only=True)
    assert checkpoint["hyper_parameters"]["vocoder"] == expected["hyper_parameters"]["vocoder"]
    for name, values in expected["state_dict"].items():
        if name.startswith("vocoder."):
            assert torch.equal(checkpoint["state_dict"][name], values)
    # the same command again goes on, also where the vocoder has gone
    vocoder.unlink()
    again = ["fit", "--config", "folder.yaml", *SMALL_RUN, *flags, vocoder, "--data.cache_dir", "runs/cache"]
    done = cmmd(*again, "--trainer.max_steps", "3", cwd=tmp_path / "model")
    assert done.status == 0, done.err
    made = ["--generate.task", "video_to_audio", "--generate.inputs", films / "val", "--generate.output_dir", "out"]
    steps = ["--generate.num_inference_steps", "2"]
    done = cmmd("predict", "--ckpt_path", saved_by("folder.yaml"), *made, *steps, cwd=tmp_path / "model")
    assert done.status == 0, done.err
    assert len(list((tmp_path / "model" / "out").glob("*.wav"))) == 2


@pytest.mark.parametrize("name", PAPER_OVERRIDES)
def test_overrides_train_stacked_on_a_base(name, corpora, vae, tmp_path):
    """Each changes what it says, leaves the rest of its base, and has a folder of its own."""
    names = ["aist.yaml", name]
    short = ["--model.clip.num_frames", "4"] if name == "512.yaml" else []
    flags = [*thin(*names), *short, "--model.codec.path", vae, *corpora["Aist"]]
    checkpoint = run_two_steps(names, flags, tmp_path)
    settings = checkpoint["hyper_parameters"]
    base, changes = (read(one)["model"]["init_args"] for one in names)
    for group in ("clip", "network", "objective"):
        for key, value in {**base[group], **changes.get(group, {})}.items():
            if key != "num_frames" and (group != "network" or key in ("fusion", "attention_levels")):
                assert settings[group][key] == value, (group, key)
    assert not (tmp_path / "runs" / "aist").exists()


@pytest.mark.parametrize("name", [*RECIPES, *SMALLER])
def test_recipes_train_stacked_on_their_base(name, films, corpora, vae, tmp_path):
    base = "grid.yaml" if name in SMALLER else "ablation/base.yaml"
    flags: list[object] = [*SMALL_MODEL, "--model.codec.path", vae, *data_flags(base, films, corpora)]
    if name == "ablation/preference.yaml":
        run_two_steps([base], flags, tmp_path / "first")
        flags += ["--model.pretrained", tmp_path / "first" / saved_by(base)]
    checkpoint = run_two_steps([base, name], flags, tmp_path / "then")
    changes = read(name).get("model", {}).get("init_args", {})
    for key, value in changes.get("objective", {}).items():
        assert checkpoint["hyper_parameters"]["objective"][key] == value, key


def test_all_overrides_stack(corpora, vae, tmp_path):
    names = ["epic_sounds.yaml", "512.yaml", "ncmmd.yaml", "cross_attention.yaml"]
    flags = [*thin(*names), "--model.clip.num_frames", "4", "--model.codec.path", vae, *corpora["EpicSounds"]]
    settings = run_two_steps(names, flags, tmp_path)["hyper_parameters"]
    assert (settings["clip"]["height"], settings["clip"]["fps"], settings["schedule_shift"]) == (
        512,
        10.0,
        {"video": 0.25, "audio": 1.0},
    )
    assert (settings["network"]["fusion"], settings["objective"]["contrastive_weight"]) == ("cross_attention", 0.0)


def test_another_run_in_the_same_folder_is_not_gone_on_with(corpora, vae, tmp_path):
    """The last checkpoint is found by its folder: one that was made with other settings is refused."""
    line = [*SMALL_RUN, *thin("aist.yaml"), "--model.codec.path", vae, *corpora["Aist"]]
    assert cmmd("fit", "--config", "aist.yaml", *line, cwd=tmp_path).status == 0
    stacked = ["--config", "aist.yaml", "--config", "ncmmd.yaml", "--trainer.default_root_dir", "runs/aist"]
    done = cmmd("fit", *stacked, *line, cwd=tmp_path)
    assert done.status == 2
    (error,) = done.errors
    said = (
        "the last checkpoint was made with model.objective.contrastive_weight 0.05, the config says 0.0; give another"
    )
    assert said in error
    again = cmmd("fit", "--config", "aist.yaml", *line, cwd=tmp_path)  # the same command: nothing is left to do
    assert again.status == 0, again.err


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_values_show_from_any_folder(name, tmp_path):
    done = cmmd("fit", "--config", name, "--print_config", cwd=tmp_path)
    assert done.status == 0, done.err
    config = yaml.safe_load(done.out)
    model, trainer, data = config["model"]["init_args"], config["trainer"], config["data"]
    clip = {key: model["clip"][key] for key in ("num_frames", "fps", "height", "width", "sample_rate")}
    assert clip == {"num_frames": 16, "fps": 10.0, "height": 128, "width": 128, "sample_rate": 16000}
    assert (model["learning_rate"], model["betas"], model["decay"]) == (1e-4, [0.9, 0.999], "constant")
    objective = {key: model["objective"][key] for key in ("contrastive_weight", "bound", "form", "contrastive_share")}
    assert objective == {  # what docs/results.md recommends
        "contrastive_weight": 0.05,
        "bound": "infonce",
        "form": "condition",
        "contrastive_share": 0.25,
    }
    assert model["network"]["fusion"] == "easy"
    assert data["negatives"]["kinds"] == ["shift", "swap", "substitution"]
    assert (trainer["max_steps"], trainer["strategy"], trainer["precision"]) == (700_000, "ddp", "bf16-mixed")
    assert 8 * data["batch_size"] == 128
    assert (
        data["source"]["class_path"].rpartition(".")[2] == {"aist.yaml": "Aist", "epic_sounds.yaml": "EpicSounds"}[name]
    )
    callbacks = {c["class_path"].rpartition(".")[2]: c["init_args"] for c in trainer["callbacks"]}
    assert callbacks["EMA"]["decay"] == 0.9999
    assert callbacks["StepCheckpoint"]["every_minutes"] == 20.0
    assert callbacks["StepCheckpoint"]["keep_best"] == "val/loss"
    assert {"SampleLogger", "Watch"} <= set(callbacks)


def test_aist_runs_fast_dev_on_a_cpu(corpora, tmp_path):
    """The command as typed, the strategy as in the config: 128x128, a thin network, pixels for latents."""
    channels = "[64,64,64]"
    words = [
        *("fit", "--config", "aist.yaml", "--trainer.fast_dev_run", "true", *corpora["Aist"]),
        *("--trainer.accelerator", "cpu", "--trainer.precision", "32", "--model.codec.kind", "pixel_unshuffle"),
        *("--model.codec.path", "null", "--model.codec.unshuffle", "8", "--model.network.video_channels", channels),
        *("--model.network.audio_channels", channels, "--data.batch_size", "2", "--data.num_workers", "0"),
        *("--model.network.num_blocks", "1"),
    ]
    code = "import sys; from cmmd_lightning.cli import main; sys.argv[0] = 'cmmd'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "`Trainer.fit` stopped: `max_steps=1` reached" in done.stderr
    assert not list((tmp_path / "runs" / "aist").glob("*.ckpt"))  # a fast_dev_run leaves no checkpoint


@pytest.fixture(scope="module")
def clip_vae(tmp_path_factory) -> Path:
    """A checkpoint as training a `clip_autoencoder` leaves it, untrained."""
    torch.manual_seed(0)
    module = FrameAutoencoderModule(kind="clip_autoencoder", block_out_channels=[8, 8])
    path = tmp_path_factory.mktemp("clip_vae") / "vae.ckpt"
    version = {"pytorch-lightning_version": "2.6.0"}
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), **version}, path)
    return path


@pytest.mark.parametrize("route", ["config", "flags", "clip_autoencoder"])
def test_a_model_on_a_vae_carries_it_in_its_checkpoint(route, films, vae, clip_vae, tmp_path):
    vae = clip_vae if route == "clip_autoencoder" else vae
    own = shutil.copy(vae, tmp_path / VAE)
    name = "demo.yaml" if route == "config" else "folder.yaml"
    kinds = {"config": [], "flags": ["--model.codec.kind", "autoencoder_kl"]}
    kind = kinds.get(route, ["--model.codec.kind", route])
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


@pytest.mark.parametrize("name", [name for name in MODELS if name not in PAPER])
def test_model_configs_fit_together_at_their_own_size(name):
    settings = read(name)["model"]["init_args"]
    if settings["codec"].get("path") not in (None, "demo"):  # the VAE of the same name, untrained
        own = "ablation/vae.yaml" if name == "ablation/base.yaml" else f"{name.removesuffix('.yaml')}_vae.yaml"
        small = read(own)["model"].get("init_args", {})
        settings["codec"] = FrameAutoencoderModule(**small).codec.config.to_dict()
    model = CMMD(**settings)
    frames = torch.zeros(1, 3, model.clip.num_frames, model.clip.height, model.clip.width)
    sound = model.video_to_audio(frames, num_inference_steps=1)
    assert sound.shape == (1, model.clip.num_samples)
    assert torch.isfinite(sound).all()
    assert min(model.latent_shape[1:]) >= 2 ** len(settings["network"]["video_channels"]) / 2


def card_of(*names: str, cwd: Path, flags: tuple[str, ...] = ()) -> dict[str, str]:
    done = cmmd("describe", *(part for name in names for part in ("--config", name)), *flags, cwd=cwd)
    assert done.status == 0, done.err
    assert list(cwd.iterdir()) == []
    return {line[:34].strip(): line[35:] for line in done.err.splitlines() if "   " in line}


def number(text: str) -> float:
    return float(text.split()[0])


def test_the_cost_card_of_the_full_size_network(tmp_path):
    """Built by shape only; the VAE of the hub is not downloaded."""
    card = card_of("aist.yaml", cwd=tmp_path)
    assert card["clip"] == "16 frames 128x128 at 10 fps, 1.6 s, 16000 Hz"
    assert card["latents; Mel"] == "4x16x16x16; 80x128"
    assert number(card["network parameters"]) == pytest.approx(130, rel=0.03)
    # Stable Diffusion's VAE: 83,653,863 parameters
    assert card["codec parameters"].startswith("83.65 M, frozen")
    # 10 frames a second of 4x16x16 numbers, twice, at 2 bytes; 80 Mel frames a second of 80 bands at 4 bytes
    hour = 3600 * (10 * 1024 * 2 * 2 + 80 * 80 * 4) / 1e9
    assert number(card["cache, an hour of media"]) == pytest.approx(hour, abs=1e-3)
    # a backward is two forwards; a quarter of the examples once more
    extra = 0.25
    step = number(card["training step, one clip"])
    assert step == pytest.approx(3 * number(card["forward, one clip"]) * (1 + extra), rel=0.01)
    total = card["700000 steps of 16 clips"]
    assert number(total) == pytest.approx(700_000 * 16 * step * 1e9 / 1e18, rel=0.01)
    fixed, example = (number(card[name]) for name in ("weights, AdamW, average, codec", "activations, one clip"))
    assert fixed == pytest.approx((20 * number(card["network parameters"]) + 4 * 83.65) * 1e6 / 2**30, rel=1e-3)
    assert number(card["training memory, batch 64"]) == pytest.approx(fixed + 64 * example, abs=0.05)


def test_cost_cards_follow_what_the_overrides_say(tmp_path):
    base, without = card_of("aist.yaml", cwd=tmp_path), card_of("aist.yaml", "ncmmd.yaml", cwd=tmp_path)
    forward = number(base["forward, one clip"])
    assert number(without["training step, one clip"]) == pytest.approx(3 * forward, rel=0.01)
    large = card_of("aist.yaml", "512.yaml", cwd=tmp_path)
    assert large["latents; Mel"] == "4x16x64x64; 80x128"
    assert number(large["network parameters"]) == pytest.approx(120, rel=0.1)
    recomputed = card_of("aist.yaml", cwd=tmp_path, flags=("--model.network.gradient_checkpointing", "true"))
    assert number(recomputed["activations, one clip"]) < 0.3 * number(base["activations, one clip"])


def test_only_models_have_a_cost_card(tmp_path):
    done = cmmd("describe", "--config", "folder_vae.yaml", cwd=tmp_path)
    assert done.status == 2
    assert done.errors == [
        "cmmd: error: describe: expected a config of CMMD, got one of cmmd_lightning.FrameAutoencoderModule"
    ]


@pytest.mark.parametrize("name", ["grid_long_vae.yaml", "vocoder.yaml"])
def test_settings_that_a_config_of_another_model_leaves_out_are_of_that_model(name, tmp_path):
    """CMMD's own weight decay and warm-up once stayed in them, as settings of the same names."""
    done = cmmd("fit", "--config", name, "--print_config", cwd=tmp_path)
    assert done.status == 0, done.err
    model = yaml.safe_load(done.out)["model"]
    own = {"FrameAutoencoderModule": FrameAutoencoderModule, "VocoderModule": VocoderModule}
    known = signature(own[model["class_path"].rpartition(".")[2]]).parameters
    assert model["init_args"]["weight_decay"] == known["weight_decay"].default > 0
