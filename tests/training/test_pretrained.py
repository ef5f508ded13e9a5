"""A fit that starts from a checkpoint, and the bound that holds the network against a frozen copy of it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SMALL, SMALL_RUN, cmmd
from lightning.pytorch import Callback
from tiny_training import CLIP, NETWORK, Losses, build_data, build_model, build_trainer
from torch import nn

from cmmd_lightning import CMMD, ClipSpec, CodecConfig, FrameAutoencoderModule
from cmmd_lightning.checkpoints import packaged_checkpoint
from cmmd_lightning.cli.resume_flags import refuse_other_run, sizes_of
from cmmd_lightning.cli.usage import UsageError
from cmmd_lightning.diffusion.objective import contrastive_loss, diffusion_loss, measure_errors, reference_errors

pytestmark = pytest.mark.filterwarnings("ignore")

PREFERENCE = {"bound": "preference", "contrastive_weight": 0.5, "beta": 4.0, "drop_probability": 0.0}


def saved(path: Path, model: Any) -> str:
    """The path of a checkpoint of a model as it is."""
    trainer = build_trainer(path.parent)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return str(path)


def moved(model: CMMD, seed: int = 1, scale: float = 0.05) -> CMMD:
    """Other weights, and statistics that no data have."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    model.codec.shift.fill_(0.125)
    model.codec.scale.fill_(0.75)
    model.mel.mean.fill_(-5.0)
    model.mel.std.fill_(3.0)
    return model


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> str:
    """A checkpoint of a model whose weights and statistics are its own."""
    return saved(tmp_path_factory.mktemp("start") / "start.ckpt", moved(build_model(weights_seed=3)))


@pytest.fixture(scope="module")
def trained(clip_folder, tmp_path_factory) -> str:
    """A checkpoint of a short run, whose averaged and raw weights differ."""
    folder = tmp_path_factory.mktemp("trained")
    build_trainer(folder, max_steps=3, every=3).fit(build_model(), datamodule=build_data(clip_folder))
    return str(folder / "step=3.ckpt")


class AtStart(Callback):
    """What a model is when its training begins."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}


def fit(folder: Path, clips: Path, *callbacks: Callback, resume: str | None = None, **settings: Any) -> CMMD:
    steps = settings.pop("max_steps", 4)
    model = build_model(weights_seed=0 if resume is None else 5, **settings)
    trainer = build_trainer(folder, *callbacks, max_steps=steps, every=2)
    trainer.fit(model, datamodule=build_data(clips, batch_size=2), ckpt_path=resume, weights_only=True)
    return model


def load(path: Path | str) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


# ---- where a fit starts


def test_a_fit_starts_from_the_averaged_weights_and_their_statistics(trained, clip_folder, tmp_path):
    begun = AtStart()
    fit(tmp_path, clip_folder, begun, pretrained=trained, max_steps=1)
    checkpoint = load(trained)
    assert set(begun.state) == set(checkpoint["state_dict"])
    for name, value in checkpoint["state_dict"].items():
        assert torch.equal(begun.state[name], value), name
    raw = checkpoint["current_model_state"]
    assert any(not torch.equal(raw[name], begun.state[name]) for name in raw)


def test_the_statistics_of_the_data_are_not_applied(start, clip_folder, tmp_path):
    """And validation before any step sees the pretrained model, through the average too."""
    begun = AtStart()
    model = fit(tmp_path, clip_folder, begun, pretrained=start, max_steps=2)
    assert set(begun.state["codec.shift"].tolist()) == {0.125}
    assert (model.mel.mean.item(), model.mel.std.item()) == (-5.0, 3.0)
    state = load(tmp_path / "step=2.ckpt")
    assert set(state["state_dict"]["codec.scale"].tolist()) == {0.75}
    averaged = state["averaging_state"]
    assert averaged["n_averaged"].item() == 2


def test_the_file_is_read_by_a_fit_only(clip_folder, tmp_path):
    path = Path(saved(tmp_path / "start.ckpt", moved(build_model())))
    fit(tmp_path, clip_folder, pretrained=str(path), objective=PREFERENCE, max_steps=2)
    path.unlink()
    finished = tmp_path / "step=2.ckpt"
    model = CMMD.from_pretrained(str(finished))
    assert model.hparams["pretrained"] == str(path)
    assert load(finished)["hyper_parameters"]["pretrained"] == str(path)
    assert model.joint(num_inference_steps=1)[1].shape == (1, CLIP.num_samples)
    build_trainer(tmp_path).validate(model, datamodule=build_data(clip_folder), verbose=False)
    with pytest.raises(
        FileNotFoundError, match=r"start\.ckpt: expected a checkpoint or a hub name, found no such file"
    ):
        fit(tmp_path, clip_folder, pretrained=str(path))


def test_a_path_is_stored_as_text(tmp_path):
    assert type(build_model(pretrained=tmp_path / "a.ckpt").hparams["pretrained"]) is str
    assert build_model().hparams["pretrained"] is None


@pytest.mark.parametrize(
    ("changes", "expected", "got"),
    [
        ({"clip": {**CLIP.to_dict(), "fps": 8.0}}, "clip.fps 10.0", "clip.fps 8.0"),
        (
            {"network": {**NETWORK, "video_channels": [8], "head_channels": 8}},
            "network.video_channels [16], network.head_channels 16",
            "network.video_channels [8], network.head_channels 8",
        ),
        ({"schedule_shift": 0.5}, "schedule_shift 1.0", "schedule_shift 0.5"),
    ],
)
def test_another_clip_network_or_schedule_is_refused(changes, expected, got, tmp_path):
    path = saved(tmp_path / "other.ckpt", build_model(**changes))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        build_model().take_over(path)
    assert str(caught.value) == f"{path}: expected a checkpoint with {expected}, got {got}"


def test_another_codec_is_refused_also_of_the_same_kind(tmp_path):
    codec = CodecConfig("autoencoder_kl", unshuffle=4, config={"block_out_channels": [8], "norm_num_groups": 4})
    own = saved(tmp_path / "own.ckpt", build_model(weights_seed=0, codec=codec))
    ours = build_model(codec=CodecConfig("autoencoder_kl", str(own)))
    theirs = build_model(weights_seed=1, codec=codec)
    path = saved(tmp_path / "other.ckpt", theirs)
    prints = [model.codec.fingerprint()[:12] for model in (ours, theirs)]
    with pytest.raises(ValueError, match=rf"other\.ckpt: .* with codec {prints[0]}, got codec {prints[1]}$"):
        ours.take_over(path)
    # its own weights under other statistics are the same codec
    nn.init.constant_(theirs.codec.scale, 2.0)
    build_model(weights_seed=1, codec=codec).take_over(saved(tmp_path / "same.ckpt", theirs))


def test_what_saves_memory_only_may_differ(tmp_path):
    path = saved(tmp_path / "other.ckpt", build_model(network={**NETWORK, "gradient_checkpointing": True}))
    build_model().take_over(path)


def test_what_is_no_checkpoint_of_a_model_is_refused_in_one_line(tmp_path):
    text = tmp_path / "text.ckpt"
    text.write_text("no checkpoint")
    vae = saved(tmp_path / "vae.ckpt", FrameAutoencoderModule(block_out_channels=(8, 8), norm_num_groups=4))
    for path in (text, vae):
        with pytest.raises(ValueError, match=rf"{Path(path).name}: expected a checkpoint of CMMD") as caught:
            build_model().take_over(str(path))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


# ---- the reference


def test_preference_without_a_pretrained_model_is_refused(clip_folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"CMMD\.pretrained: expected a checkpoint, the reference of the bound 'preference', got none"
    ):
        fit(tmp_path, clip_folder, objective=PREFERENCE)


def test_the_reference_is_frozen_and_no_part_of_the_model(start, clip_folder, tmp_path):
    seen: list[bool] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(pl_module._reference.training)

    model = fit(tmp_path, clip_folder, Watch(), pretrained=start, objective=PREFERENCE)
    reference = model._reference
    assert seen == [False] * 4
    assert reference is not model.network
    expected = CMMD.from_pretrained(start).network.state_dict()
    for name, value in reference.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert any(not torch.equal(value, expected[name]) for name, value in model.network.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in reference.parameters())
    assert all(reference is not module for module in model.modules())
    assert set(model.state_dict()) == set(build_model().state_dict())
    checkpoint = load(tmp_path / "step=4.ckpt")
    assert set(checkpoint["state_dict"]) == set(model.state_dict())
    trained = {name for name in model.state_dict() if name.startswith("network.")}
    assert set(checkpoint["current_model_state"]) == trained
    assert len(checkpoint["optimizer_states"][0]["state"]) == len(list(model.network.parameters()))


def test_the_reference_goes_where_the_network_is(start):
    model = build_model(pretrained=start, objective=PREFERENCE)
    model._trainer = build_trainer(Path(start).parent)
    model.setup("fit")
    model.to("meta", torch.bfloat16)
    model.on_fit_start()
    assert {(p.device.type, p.dtype) for p in model._reference.parameters()} == {("meta", torch.bfloat16)}


def test_other_bounds_keep_no_reference(start, clip_folder, tmp_path):
    model = fit(tmp_path, clip_folder, pretrained=start, max_steps=2)
    assert model._reference is None
    assert "reference" not in load(tmp_path / "step=2.ckpt")


def test_the_loss_is_diffusion_plus_eta_times_preference(start, clip_folder, tmp_path):
    model = build_model(pretrained=start, objective={**PREFERENCE, "beta": 1000.0})
    model._trainer = build_trainer(tmp_path)
    data = build_data(clip_folder)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    model.setup("fit")
    model._trainer = None  # nothing to log to
    # before any step the network is its reference: log 2 for each generated modality
    draws = model._draws(batch, 0)
    pair, wrong = model._normalised(batch, True)
    plain = diffusion_loss(measure_errors(model.network, model.schedules, pair, wrong, draws), draws)
    begin = math.log(2) * draws.weight.mean().item()
    expected = plain + 0.5 * begin
    torch.testing.assert_close(model.training_step(batch, 0), expected, atol=1e-4, rtol=1e-5)
    # and then it is held against it
    moved(model, seed=2)
    pair, wrong = model._normalised(batch, True)
    errors = measure_errors(model.network, model.schedules, pair, wrong, draws)
    known = reference_errors(CMMD.from_pretrained(start).network, model.schedules, pair, wrong, draws)
    term = contrastive_loss(errors, draws, model.objective, known)
    assert abs(term.item() - begin) > 0.01
    loss = model.training_step(batch, 0)
    torch.testing.assert_close(loss, diffusion_loss(errors, draws) + 0.5 * term, atol=1e-5, rtol=1e-5)
    loss.backward()
    assert all(p.grad is None for p in model._reference.parameters())
    # without a weight neither wrong partners nor the reference are asked
    model.objective = type(model.objective)(**{**PREFERENCE, "contrastive_weight": 0.0})
    model._reference.forward = None
    torch.testing.assert_close(model.training_step(batch, 0), diffusion_loss(errors, draws), atol=1e-5, rtol=1e-5)


# ---- resuming

STATES = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")


def flat(nest: Any) -> list[Any]:
    """The leaves of a nest of mappings and lists, in order."""
    if isinstance(nest, dict):
        return [leaf for key in sorted(nest, key=str) for leaf in flat(nest[key])]
    return [leaf for item in nest for leaf in flat(item)] if isinstance(nest, list | tuple) else [nest]


@pytest.mark.parametrize("objective", [PREFERENCE, {}])
def test_resumed_equals_uninterrupted(objective, start, clip_folder, tmp_path):
    """Also where the pretrained file has moved."""
    whole, first, second = Losses(), Losses(), Losses()
    settings = {"objective": objective, "pretrained": start}
    fit(tmp_path / "whole", clip_folder, whole, **settings)
    fit(tmp_path / "part", clip_folder, first, max_steps=2, **settings)
    elsewhere = tmp_path / "elsewhere.ckpt"
    elsewhere.write_bytes(Path(start).read_bytes())
    settings["pretrained"] = str(elsewhere)
    fit(tmp_path / "rest", clip_folder, second, resume=str(tmp_path / "part" / "step=2.ckpt"), **settings)
    assert first.train + second.train == whole.train
    assert first.val + second.val == whole.val
    ends = [load(tmp_path / name / "step=4.ckpt") for name in ("rest", "whole")]
    rest, uninterrupted = (flat({name: end[name] for name in STATES}) for end in ends)
    assert len(rest) == len(uninterrupted) > 100
    for got, expected in zip(rest, uninterrupted, strict=True):
        assert torch.equal(got, expected) if isinstance(expected, torch.Tensor) else got == expected


def test_going_on_against_another_reference_is_refused(start, trained, clip_folder, tmp_path):
    fit(tmp_path / "part", clip_folder, objective=PREFERENCE, pretrained=start, max_steps=2)
    at = str(tmp_path / "part" / "step=2.ckpt")
    with pytest.raises(
        ValueError, match=r"step=3\.ckpt: expected the network that the fit began with as its reference"
    ):
        fit(tmp_path / "rest", clip_folder, resume=at, objective=PREFERENCE, pretrained=trained)
    # where nothing is held against it, where the weights once came from does not matter
    fit(tmp_path / "rest", clip_folder, resume=at, pretrained=trained, max_steps=3)


@pytest.mark.parametrize(("new", "old"), [("a.ckpt", "a.ckpt"), ("b/a.ckpt", "/x/a.ckpt"), (None, None)])
def test_a_run_is_recognised_wherever_its_pretrained_file_lies(new, old):
    stored = build_model(pretrained=old).hparams
    refuse_other_run({"pretrained": new, "seed": 0}, stored, "last.ckpt")
    with pytest.raises(UsageError, match=r"made with model\.seed 0, the config says 1"):
        refuse_other_run({"pretrained": new, "seed": 1}, stored, "last.ckpt")


@pytest.mark.parametrize(("new", "old"), [("a.ckpt", None), (None, "a.ckpt")])
def test_a_run_from_scratch_is_another_than_one_that_is_not(new, old):
    stored = build_model(pretrained=old).hparams
    with pytest.raises(UsageError, match=rf"made with model\.pretrained {old}, the config says {new}"):
        refuse_other_run({"pretrained": new}, stored, "last.ckpt")


def test_a_checkpoint_from_before_knows_of_no_pretrained_model():
    stored = {name: value for name, value in build_model().hparams.items() if name != "pretrained"}
    refuse_other_run({"pretrained": None, "seed": 0}, stored, "last.ckpt")
    assert ClipSpec.of(stored["clip"]) == CLIP


def test_on_the_command_line_a_run_goes_on_where_its_pretrained_file_has_moved(tmp_path):
    """By the same command with another path; and by no path at all, from the checkpoint's own."""
    assert cmmd("fit", "--config", "quickstart.yaml", *SMALL, cwd=tmp_path).status == 0
    base, start = tmp_path / "runs/quickstart/cmmd.ckpt", tmp_path / "start.ckpt"
    base.rename(start)
    (base.parent / "last.ckpt").unlink()
    line = ["fit", "--config", "quickstart.yaml", *SMALL, "--model.objective.bound", "preference"]
    refused = cmmd(*line, cwd=tmp_path)
    assert refused.status != 0
    assert refused.lines_with("CMMD.pretrained: expected a checkpoint, the reference of the bound 'preference'")
    assert cmmd(*line, "--model.pretrained", "start.ckpt", cwd=tmp_path).status == 0
    first = load(base)
    assert first["hyper_parameters"]["pretrained"] == "start.ckpt"
    start.rename(tmp_path / "elsewhere.ckpt")
    more = ["--trainer.max_steps", first["global_step"] + 1]
    done = cmmd(*line, "--model.pretrained", "elsewhere.ckpt", *more, cwd=tmp_path)
    assert done.status == 0, done.err
    second = load(base)
    assert second["global_step"] == first["global_step"] + 1
    assert second["hyper_parameters"]["pretrained"] == "elsewhere.ckpt"
    assert second["reference"] == first["reference"]
    more = ["--trainer.max_steps", first["global_step"] + 2, "--ckpt_path", "last"]
    done = cmmd("fit", "--config", "quickstart.yaml", *SMALL, *more, cwd=tmp_path)
    assert done.status == 0, done.err
    assert load(base)["hyper_parameters"]["pretrained"] == "elsewhere.ckpt"


def test_fine_tuning_takes_the_sizes_of_the_checkpoint(clip_folder, tmp_path):
    """`folder.yaml` has others of its own; the packaged checkpoint, with its codec, is gone on from with one flag."""
    line = ["fit", "--config", "folder.yaml", "--model.pretrained", "demo", "--data.root", clip_folder, *SMALL_RUN]
    done = cmmd(*line, "--data.cache_dir", "cache", "--model.learning_rate", "1e-5", cwd=tmp_path)
    assert done.status == 0, done.err
    assert done.lines_with("demo: it is gone on from with its own clip, network, codec, schedule_shift")
    made, demo = load(tmp_path / "runs/folder/cmmd.ckpt"), load(packaged_checkpoint("demo"))
    for name in ("clip", "network", "codec"):
        assert made["hyper_parameters"][name].items() >= demo["hyper_parameters"][name].items(), name
    assert made["hyper_parameters"]["schedule_shift"] == demo["hyper_parameters"]["schedule_shift"]
    assert (made["global_step"], made["hyper_parameters"]["learning_rate"]) == (2, 1e-5)
    for name, value in demo["state_dict"].items():  # two steps of 1e-5 at most away; the codec is as it was
        torch.testing.assert_close(made["state_dict"][name], value.float(), atol=1e-4, rtol=1e-3)
    # the same command again goes on
    again = cmmd(*line, "--data.cache_dir", "cache", "--model.learning_rate", "1e-5", cwd=tmp_path)
    assert again.status == 0, again.err


def test_fine_tuning_keeps_what_was_typed(start):
    settings = CMMD(clip=CLIP, network=NETWORK).hparams
    taken = sizes_of(start, settings, {"clip.height": "64", "schedule_shift": "0.5"})
    assert taken["clip"]["height"] == settings["clip"]["height"]
    assert taken["network"].items() >= load(start)["hyper_parameters"]["network"].items()
    assert "schedule_shift" not in taken


def test_fine_tuning_from_another_kind_of_checkpoint_is_one_line(tmp_path):
    module = FrameAutoencoderModule(block_out_channels=[8, 8], norm_num_groups=4)
    path = saved(tmp_path / "vae.ckpt", module)
    done = cmmd("fit", "--config", "folder.yaml", "--model.pretrained", path, cwd=tmp_path)
    assert done.errors == [
        f"cmmd: error: --model.pretrained {path}: expected a checkpoint of CMMD, got one of "
        "cmmd_lightning.FrameAutoencoderModule"
    ]
