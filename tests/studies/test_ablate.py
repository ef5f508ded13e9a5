"""``cmmd ablate`` and ``cmmd compare`` as they are typed, on an ablation that takes seconds."""

import json

import pytest
import torch
import yaml
from command_line import cmmd

from cmmd_lightning import CMMD
from cmmd_lightning.codecs import CodecConfig
from cmmd_lightning.data.stream.dataset import spread_order
from cmmd_lightning.studies.ablation.cells import Cell
from cmmd_lightning.studies.ablation.measure import HeldOut, Sampling, ceiling, sample_and_score
from cmmd_lightning.studies.ablation.plan import config_text, fingerprint
from cmmd_lightning.studies.ablation.results import read_results
from cmmd_lightning.training.datamodule import AudioVideoDataModule

CLIP = {"num_frames": 8, "fps": 10.0, "height": 16, "width": 16, "sample_rate": 8000, "n_fft": 256}
CLIP |= {"hop_length": 100, "n_mels": 16}
NETWORK = {"video_channels": [16, 16], "audio_channels": [16, 16], "head_channels": 16, "embedding_channels": 16}
SMALL = [
    *("--seeds", "[0]", "--guidance_scales", "[1,2]", "--num_inference_steps", 2),
    *("--num_clips", 7, "--num_train_clips", 4, "--base", "base.yaml", "--vae", "vae.yaml", "--output_dir", "out"),
]

MORE = ["--guidance_from", "[dropped,shifted]", "--tasks", "[video_to_audio,joint,audio_to_video]"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a base and a VAE config, both tiny."""
    folder = tmp_path_factory.mktemp("ablation")
    base, vae = (yaml.safe_load(config_text(f"ablation/{name}.yaml")) for name in ("base", "vae"))
    base["model"]["init_args"] |= {"clip": CLIP, "network": NETWORK}
    base["model"]["init_args"]["objective"]["contrastive_share"] = 1.0
    base["trainer"] |= {"val_check_interval": 2, "log_every_n_steps": 1}
    vae["model"]["init_args"] |= {"block_out_channels": [8, 8], "norm_num_groups": 4}
    vae["data"]["clip"] = CLIP
    vae["trainer"] |= {"max_steps": 2, "val_check_interval": 2, "log_every_n_steps": 1}
    for name, config in (("base", base), ("vae", vae)):
        config["trainer"]["accelerator"] = "cpu"
        config["data"]["batch_size"] = 2
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def done(home):
    run = cmmd("ablate", "--recipes", "[plain,infonce]", "--steps", "[4]", *SMALL, cwd=home)
    assert run.status == 0, run.err
    return run


@pytest.fixture
def lines(home, done):
    return read_results(home / "out" / "results.jsonl")


def test_each_cell_is_measured_at_equal_steps_and_at_equal_compute(lines):
    legs = {(line["recipe"], line["step"]): line["flops"] for line in lines}
    assert list(legs) == [("plain", 4), ("infonce", 2), ("infonce", 4)]
    ratio = legs["infonce", 4] / legs["plain", 4]
    assert ratio == pytest.approx(2)  # every example once more, whatever was drawn
    assert legs["infonce", 2] < 1.05 * legs["plain", 4]


def test_what_a_line_tells(lines, home):
    (truth,) = (line for line in lines if "truth" in line and line["recipe"] == "plain")
    assert len(truth["truth"]["events"]) == len(truth["truth"]["heard"]) == 7
    assert set(truth["gaps"]["video_to_audio"]) == {"true", "slight shift", "shift", "swap", "substitution", "reversal"}
    drawn = [line for line in lines if line.get("sampling") and line["recipe"] == "plain"]
    assert [line["sampling"]["guidance_scale"] for line in drawn] == [1.0, 2.0]
    for line in drawn:
        assert len(line["events"]) == len(line["rank"]) == 7
        assert 0 <= line["coverage[spectrum]"] <= 1
        assert -1 <= line["pitch"] <= 1
        assert line["frechet[audio]"] > 0
        assert line["frechet[spectrum]"] > 0
    assert all(line["command"].startswith("cmmd fit --config base.yaml --config ablation/") for line in lines)
    events = [json.loads(path.read_text())["events"] for path in sorted((home / "out/bounce/data/test").glob("*.json"))]
    expected = [[e["time"] for e in some if e["time"] < 0.8] for some in events]
    assert truth["truth"]["events"] == [expected[i] for i in spread_order(7)]


def test_what_repeats_the_truth_scores_so(home, done, monkeypatch):
    scene = home / "out" / "bounce"
    model = CMMD.from_pretrained(str(scene / "plain/seed-0/step=4.ckpt"))
    codec = CodecConfig(kind="autoencoder_kl", path=str(scene / "vae" / "vae.ckpt"))
    held = HeldOut(model, AudioVideoDataModule(str(scene / "data"), clip=model.clip, codec=codec), 7)
    monkeypatch.setattr(model, "sample", lambda task, video, *_, **__: (video, held.mel))
    how = Sampling("video_to_audio", 1.0, "dropped", 2)
    found = sample_and_score(held, how)
    assert found["frechet[audio]"] == pytest.approx(0, abs=1e-6)
    assert found["frechet[spectrum]"] == pytest.approx(0, abs=1e-6)
    assert (found["coverage[spectrum]"], found["rank"]) == (1.0, [1.0] * 7)
    assert found["pitch"] == pytest.approx(1)
    assert found["events"] == ceiling(held)["heard"]
    monkeypatch.setattr(model, "sample", lambda task, video, *_, **__: (video, held.mel.flip(1) + 5))
    off = sample_and_score(held, how)
    assert off["frechet[spectrum]"] > 100
    assert off["coverage[spectrum]"] == 0
    assert off["pitch"] < 0


def test_the_same_call_again_has_nothing_to_do(home, done, lines):
    again = cmmd("ablate", "--recipes", "[plain,infonce]", "--steps", "[4]", *SMALL, cwd=home)
    assert again.status == 0
    assert read_results(home / "out" / "results.jsonl") == lines


def test_a_new_way_to_draw_needs_no_new_training(home, done, lines):
    weights = home / "out/bounce/plain/seed-0/step=4.ckpt"
    made = weights.stat().st_mtime_ns
    run = cmmd("ablate", "--recipes", "[plain]", "--steps", "[4]", *SMALL, *MORE, cwd=home)
    assert run.status == 0, run.err
    new = read_results(home / "out" / "results.jsonl")[len(lines) :]
    ways = [
        (line["sampling"]["task"], line["sampling"]["guidance_scale"], line["sampling"]["guidance_from"])
        for line in new
    ]
    assert ways[0] == ("video_to_audio", 2.0, "shifted")
    assert [way[0] for way in ways] == ["video_to_audio", *["joint"] * 3, *["audio_to_video"] * 3]
    assert "seen" in new[1]
    assert "seen" not in new[-1]
    assert "frechet[video]" in new[-1]
    assert "rank" not in new[-1]
    assert weights.stat().st_mtime_ns == made


def test_a_cut_off_line_is_measured_again(home, done, lines):
    results = home / "out" / "results.jsonl"
    whole = results.read_text()
    results.write_text(whole[:-50])
    run = cmmd("ablate", "--recipes", "[plain,infonce]", "--steps", "[4]", *SMALL, *MORE, cwd=home)
    assert run.status == 0, run.err
    again = read_results(results)
    assert set(whole.splitlines()) <= {json.dumps(line) for line in again}


def test_weights_that_are_kept_are_a_checkpoint(home, done):
    """Without what only training needs, and the averaged weights, not the raw ones."""
    folder = home / "out/bounce/infonce/seed-0"
    kept, whole = (torch.load(folder / name, weights_only=True) for name in ("step=4.ckpt", "cmmd.ckpt"))
    assert "optimizer_states" not in kept
    assert "current_model_state" not in kept
    assert all(torch.equal(kept["state_dict"][key], whole["state_dict"][key]) for key in whole["state_dict"])
    assert CMMD.from_pretrained(str(folder / "step=4.ckpt")).hparams["seed"] == 0


def test_results_of_other_settings_are_refused(home, done):
    base = home / "base.yaml"
    before = base.read_text()
    line = ["--recipes", "[plain]", "--steps", "[4]"]
    base.write_text(before.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    other = cmmd("ablate", *line, *SMALL, cwd=home)
    base.write_text(before + "\n# a comment decides nothing\n")
    same = cmmd("ablate", *line, *SMALL, cwd=home)
    base.write_text(before)
    more = cmmd("ablate", *line, *SMALL, "--num_train_clips", 5, cwd=home)
    assert same.status == 0, same.err
    for run in (other, more):
        assert run.status == 1
        assert "expected results of plain as its configs are now, got some of other settings" in run.errors[0]


def test_settings_are_those_of_the_start_too(home):
    base, vae = (yaml.safe_load((home / f"{name}.yaml").read_text()) for name in ("base", "vae"))
    hashes = [fingerprint(base, vae, start, num_clips=7) for start in (None, "one", "another", "another")]
    assert len(set(hashes)) == 3


def test_steps_that_a_training_has_passed_are_trained_anew(home, done):
    run = cmmd("ablate", "--recipes", "[plain]", "--steps", "[2]", "--equal_compute", "false", *SMALL, cwd=home)
    assert run.status == 0, run.err
    folder = home / "out/bounce/plain/seed-0"
    assert torch.load(folder / "to-2/cmmd.ckpt", weights_only=True)["global_step"] == 2
    assert torch.load(folder / "cmmd.ckpt", weights_only=True)["global_step"] == 4
    early, late = (torch.load(folder / f"step={n}.ckpt", weights_only=True)["state_dict"] for n in (2, 4))
    moved = [key for key in early if key.startswith("network.") and not torch.equal(early[key], late[key])]
    assert len(moved) > 10


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--recipes", "[nothing]"], "ablation/nothing.yaml: expected a config, found none; beside it lie"),
        (["--recipes", "[plain]", "--scenes", "[jump]"], "scene 'jump': expected bounce or dance"),
        (["--recipes", "['a b']"], "recipe 'a b': expected names of configs and flags"),
        (["--recipes", "[plain]", "--steps", "[0]"], "one positive number of steps"),
    ],
)
def test_what_cannot_be_run_is_said_first(flags, said, home):
    run = cmmd("ablate", *flags, *SMALL, cwd=home)
    assert run.status == 1
    assert said in run.errors[0]


def test_a_training_that_fails_is_named_and_the_others_go_on(home, tmp_path):
    line = ["--recipes", "[plain+model.learning_rate=-1,plain]", "--steps", "[1]", *SMALL]
    line[-1] = str(tmp_path / "out")
    run = cmmd("ablate", *line, cwd=home)
    assert run.status == 1
    assert run.lines_with("fit.log: expected the training to end, got exit status 1; the log says why")
    assert {line["recipe"] for line in read_results(tmp_path / "out" / "results.jsonl")} == {"plain"}
    log = tmp_path / "out/bounce/plain+model.learning_rate=-1/seed-0/fit.log"
    assert "Invalid learning rate" in log.read_text()


def test_a_model_that_has_diverged_is_measured_as_it_is(home, tmp_path):
    line = ["--recipes", "[plain+model.learning_rate=1e30]", "--steps", "[3]", *SMALL]
    line[-1] = str(tmp_path / "out")
    run = cmmd("ablate", *line, cwd=home)
    assert run.status == 0, run.err
    drawn = [line for line in read_results(tmp_path / "out" / "results.jsonl") if "sampling" in line]
    assert [line["finite"] for line in drawn] == [0.0, 0.0]


def test_one_recipe_after_another(home, done):
    """Preference against a frozen copy starts where another recipe has come to."""
    cell = Cell("plain@4>preference", "bounce", 0)
    run = cmmd("ablate", "--recipes", "[plain,plain@4>preference]", "--steps", "[6]", *SMALL, cwd=home)
    assert run.status == 0, run.err
    found = {(li["recipe"], li["step"]): li for li in read_results(home / "out" / "results.jsonl")}
    line = found[cell.recipe, 6]
    assert "--model.pretrained out/bounce/plain/seed-0/step=4.ckpt" in line["command"]
    assert "--trainer.max_steps 2" in line["command"]
    assert line["flops"] > found["plain", 6]["flops"]


def test_comparison_of_what_was_run(home, done):
    run = cmmd("compare", "--results", "[out/results.jsonl]", "--output_dir", "compared", cwd=home)
    assert run.status == 0, run.err
    text = (home / "compared" / "comparison.md").read_text()
    assert "## bounce, video to audio" in text
    assert "| infonce | 2 |" in text
    assert "ceiling: true clips" in text
    for name in ("differences", "tolerance", "guidance", "gaps"):
        assert (home / "compared" / f"bounce-video_to_audio-{name}.png").stat().st_size > 5000
