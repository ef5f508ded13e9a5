from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from cmmd_lightning.codecs import build_frame_codec
from cmmd_lightning.training.autoencoder import FrameAutoencoderModule

TINY = {"block_out_channels": [8, 8], "norm_num_groups": 4, "unshuffle": 2, "latent_channels": 3}


def tiny(weights_seed: int = 0, **changes) -> FrameAutoencoderModule:
    torch.manual_seed(weights_seed)
    return FrameAutoencoderModule(**{**TINY, **changes})


def scenes(batches: int = 4, size: int = 2) -> torch.Tensor:
    """Flat colours with a brighter square, (batches * size, n = 2, 3, 16, 16)."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(batches * size, 1, 3, 1, 1, generator=generator).mul(1.4).sub(1.0).repeat(1, 2, 1, 16, 16)
    frames[..., 4:10, 6:12] += 0.5
    return frames


def loader(frames: torch.Tensor, size: int = 2) -> DataLoader:
    return DataLoader([{"frames": example} for example in frames], size)


def trainer(folder: Path, **settings) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **{**quiet, **settings})


def saver(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


def test_loss_is_l1_plus_mse_plus_weighted_kl():
    module = tiny(kl_weight=0.01)
    frames = scenes()
    mean, logvar = (values.detach() for values in module.codec.encode(frames.flatten(0, 1)))
    estimate = frames.flatten(0, 1) + 0.3
    losses = module._losses(estimate, frames.flatten(0, 1), mean, logvar)
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (0.5 * logvar).exp()), prior).mean()
    assert losses["reconstruction"].item() == pytest.approx(0.3 + 0.09, rel=1e-5)
    assert losses["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert losses["loss"].item() == pytest.approx(0.39 + 0.01 * kl.item(), rel=1e-4)


def test_every_weight_learns_and_the_loss_falls(tmp_path):
    module = tiny(learning_rate=5e-3, warmup_steps=0)
    frames = scenes()
    module.training_step({"frames": frames}, 0).backward()
    assert [name for name, values in module.named_parameters() if not values.grad.abs().max() > 0] == []
    quiet = {"enable_checkpointing": False}
    before = trainer(tmp_path, **quiet).validate(module, loader(frames), verbose=False)[0]
    trainer(tmp_path, max_steps=40, **quiet).fit(module, loader(frames))
    after = trainer(tmp_path, **quiet).test(module, loader(frames), verbose=False)[0]
    assert set(after) == {"test/loss", "test/reconstruction", "test/kl", "test/psnr"}
    assert after["test/loss"] < 0.6 * before["val/loss"]
    assert after["test/psnr"] > before["val/psnr"] + 3.0


def test_noise_follows_from_seed_step_and_place_in_the_batch():
    module, frames = tiny(), scenes()[:4]
    first = module.training_step({"frames": frames}, 0)
    torch.rand(7)
    assert torch.equal(module.training_step({"frames": frames}, 9), first)
    places = {"position": torch.zeros(4, dtype=torch.long), "index": torch.arange(4)}
    assert torch.equal(module.training_step({"frames": frames, **places}, 0), first)
    other = {**places, "position": torch.ones(4, dtype=torch.long)}
    assert not torch.equal(module.training_step({"frames": frames, **other}, 0), first)
    assert not torch.equal(tiny(seed=1).training_step({"frames": frames}, 0), first)
    # Two halves of a global batch, as two processes see them, are the whole.
    halves = [
        module.training_step({"frames": frames[part], **{k: v[part] for k, v in places.items()}}, 0)
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert torch.allclose(sum(halves) / 2, first, atol=1e-6)


def test_learning_rate_rises_then_falls_to_zero():
    for decay_steps, expected in ((24, [0.2, 0.8, 1.0, 0.5, 0.0, 0.0]), (None, [0.2, 0.8, 1.0, 1.0, 1.0, 1.0])):
        module = FrameAutoencoderModule(**TINY, warmup_steps=4, decay_steps=decay_steps)
        factor = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
        assert [factor(step) for step in (0, 3, 4, 14, 24, 99)] == pytest.approx(expected)


@pytest.mark.parametrize("averaged", [False, True])
def test_checkpoint_is_plain_and_is_the_codec(tmp_path, averaged):
    module, frames = tiny(block_out_channels=(8, 8)), scenes()
    callbacks = [EMAWeightAveraging(decay=0.5)] if averaged else []
    trainer(tmp_path, max_steps=3, callbacks=[saver(tmp_path), *callbacks]).fit(module, loader(frames))
    path = tmp_path / "step=3.ckpt"

    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["hyper_parameters"]["codec"] == module.codec.config.to_dict()
    assert checkpoint["hyper_parameters"]["block_out_channels"] == [8, 8]
    assert ("current_model_state" in checkpoint) == averaged
    codec = build_frame_codec({"kind": "autoencoder_kl", "path": str(path)})
    for name, values in codec.state_dict().items():
        assert torch.equal(values, checkpoint["state_dict"][f"codec.{name}"])
    # After fit the module itself holds the averages.
    assert codec.fingerprint() == module.codec.fingerprint()
    if averaged:
        raw = checkpoint["current_model_state"]["codec.vae.encoder.conv_in.weight"]
        assert not torch.equal(raw, codec.vae.encoder.conv_in.weight)
    loaded = FrameAutoencoderModule.load_from_checkpoint(path)
    assert loaded.codec.fingerprint() == codec.fingerprint()
    assert torch.equal(loaded(frames[0]), codec.decode(codec.encode(frames[0])[0]))


def test_checkpoint_is_plain_from_the_command_line_too(tmp_path):
    arguments = ["--model.block_out_channels=[8,8]", "--model.norm_num_groups=4", "--trainer.max_steps=1"]
    arguments += ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    arguments += ["--trainer.enable_checkpointing=false", "--trainer.enable_model_summary=false"]
    cli = LightningCLI(FrameAutoencoderModule, run=False, args=arguments, save_config_callback=None)
    cli.trainer.fit(cli.model, loader(scenes()))
    path = tmp_path / "vae.ckpt"
    cli.trainer.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["hyper_parameters"]["codec"]["unshuffle"] == 4
    codec = build_frame_codec({"kind": "autoencoder_kl", "path": str(path)})
    assert codec.fingerprint() == cli.model.codec.fingerprint()
    loaded = FrameAutoencoderModule.load_from_checkpoint(path, weights_only=True)
    assert loaded.codec.fingerprint() == codec.fingerprint()


def test_resumed_run_equals_the_uninterrupted_one(tmp_path):
    frames = scenes(batches=2)

    def run(folder: Path, steps: int, seed: int, resume: Path | None = None) -> dict:
        module = tiny(weights_seed=seed, learning_rate=1e-2, decay_steps=6)
        fit = trainer(folder, max_steps=steps, callbacks=[EMAWeightAveraging(decay=0.9), saver(folder)])
        fit.fit(module, loader(frames), ckpt_path=resume, weights_only=True)
        return torch.load(folder / f"step={steps}.ckpt", weights_only=True)

    whole = run(tmp_path / "whole", 6, seed=0)
    run(tmp_path / "half", 4, seed=0)
    resumed = run(tmp_path / "resumed", 6, seed=1, resume=tmp_path / "half" / "step=4.ckpt")
    for state in ("state_dict", "current_model_state"):
        for name, values in whole[state].items():
            assert torch.equal(resumed[state][name], values), (state, name)
    for name, values in whole["optimizer_states"][0]["state"][0].items():
        assert torch.equal(resumed["optimizer_states"][0]["state"][0][name], values), name
    assert resumed["lr_schedulers"] == whole["lr_schedulers"]


def test_bad_checkpoints_are_named(tmp_path):
    trainer(tmp_path, max_steps=1, callbacks=[saver(tmp_path)]).fit(tiny(), loader(scenes()))
    path = tmp_path / "step=1.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["state_dict"]["codec.vae.encoder.conv_in.weight"]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"step=1\.ckpt: expected .* got other weights than .*conv_in\.weight"):
        build_frame_codec({"kind": "autoencoder_kl", "path": str(path)})
