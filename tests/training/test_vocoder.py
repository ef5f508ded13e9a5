from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_training import CLIP, build_model
from torch.utils.data import DataLoader

from cmmd_lightning import CMMD, VocoderModule
from cmmd_lightning.codecs import LogMel, build_vocoder
from cmmd_lightning.prediction.generation import decode_long_sound
from cmmd_lightning.training.ema import EMA

TINY = {"clip": CLIP, "dim": 16, "intermediate_dim": 32, "num_layers": 1, "warmup_steps": 0}


def tones(count: int = 8, samples: int = 2000) -> torch.Tensor:
    """Harmonic tones that swell, (count, samples) at 8 kHz."""
    pitches = 150.0 + 40.0 * torch.arange(count)
    phases = 2 * torch.pi * pitches[:, None] * torch.arange(samples) / 8000
    return sum(torch.sin(k * phases) / k for k in range(1, 6)) * torch.linspace(0.01, 0.2, samples)


def loader(sounds: torch.Tensor) -> DataLoader:
    return DataLoader([{"sound": sound} for sound in sounds], 4)


def trainer(folder: Path, **settings) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **{**quiet, **settings})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The checkpoint of a short training with weight averaging."""
    folder = tmp_path_factory.mktemp("vocoder")
    torch.manual_seed(0)
    module = VocoderModule(**TINY, learning_rate=1e-2)
    callbacks = [EMA(decay=0.5), ModelCheckpoint(folder, "vocoder")]
    fit = trainer(folder, max_steps=200, callbacks=callbacks)
    fit.fit(module, loader(tones()))
    return folder / "vocoder.ckpt"


def test_it_learns(trained, tmp_path):
    torch.manual_seed(0)
    quiet = trainer(tmp_path, enable_checkpointing=False)
    before = quiet.validate(VocoderModule(**TINY), loader(tones()), verbose=False)[0]
    module = VocoderModule.load_from_checkpoint(trained, weights_only=True)
    after = quiet.test(module, loader(tones()), verbose=False)[0]
    assert set(after) == {f"test/{name}" for name in ("loss", "spectra", "mel", "log_spectral_distance")}
    assert after["test/loss"] < 0.5 * before["val/loss"]
    assert after["test/log_spectral_distance"] < 0.7 * before["val/log_spectral_distance"]


def test_every_weight_gets_a_gradient():
    module = VocoderModule(**TINY)
    module.training_step({"sound": tones()}, 0).backward()
    assert [name for name, values in module.named_parameters() if not values.grad.abs().max() > 0] == []


def test_loss_is_spectra_plus_weighted_mel():
    module, sound = VocoderModule(**TINY, mel_weight=3.0), tones()
    losses = module._losses(0.5 * sound, sound)
    mel = (module.mel(0.5 * sound) - module.mel(sound)).abs().mean()
    assert losses["mel"].item() == pytest.approx(mel.item()) == pytest.approx(0.69, abs=0.2)
    assert losses["loss"].item() == pytest.approx((losses["spectra"] + 3.0 * mel).item())


def test_learning_rate_rises_then_falls_to_zero():
    module = VocoderModule(**{**TINY, "warmup_steps": 4}, learning_rate=1.0, decay_steps=24)
    factor = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [factor(step) for step in (0, 3, 4, 14, 24, 99)] == pytest.approx([0.2, 0.8, 1.0, 0.5, 0.0, 0.0])


def test_the_checkpoint_is_the_vocoder(trained):
    checkpoint = torch.load(trained, weights_only=True)
    vocoder = build_vocoder(str(trained), LogMel(*CLIP.mel_settings))
    for name, values in vocoder.state_dict().items():
        assert torch.equal(values, checkpoint["state_dict"][f"vocoder.{name}"])
    raw = checkpoint["current_model_state"]["vocoder.backbone.embed.weight"]
    assert not torch.equal(raw, vocoder.backbone.embed.weight)
    assert not any(values.requires_grad for values in vocoder.parameters())


def test_another_mel_is_refused_and_both_are_named(trained):
    mel = LogMel(8000, 256, 100, 16, floor=0.03)
    with pytest.raises(ValueError, match=r"vocoder\.ckpt: made for .*floor 1e-05.*; got .*floor 0\.03"):
        build_vocoder(str(trained), mel)
    with pytest.raises(ValueError, match=r"made for .*hop_length 100.*; got .*hop_length 80"):
        build_model(vocoder=str(trained), clip={**CLIP.to_dict(), "hop_length": 80})


def test_files_that_are_no_vocoder_are_named(tmp_path):
    mel = LogMel(*CLIP.mel_settings)
    (tmp_path / "bad.ckpt").write_text("nothing")
    torch.save({"hyper_parameters": {"codec": {}}, "state_dict": {}}, tmp_path / "vae.ckpt")
    for name in ("bad", "vae", "missing"):
        with pytest.raises(ValueError, match=rf"{name}\.ckpt: expected a vocoder checkpoint"):
            build_vocoder(str(tmp_path / f"{name}.ckpt"), mel)


def test_it_lives_in_the_checkpoint_of_the_model(trained, tmp_path):
    model = build_model(vocoder=str(trained))
    path = tmp_path / "cmmd.ckpt"
    fit = trainer(tmp_path, max_steps=0, enable_checkpointing=False)
    fit.strategy.connect(model)
    fit.save_checkpoint(path)
    moved = trained.rename(trained.with_name("moved.ckpt"))
    try:
        loaded = CMMD.load_from_checkpoint(path, weights_only=True)
        mel = torch.randn(1, 16, 64)
        sound = model.decode_sound(mel, 6400)
        assert sound.abs().max() > 1e-3
        assert torch.equal(loaded.decode_sound(mel, 6400), sound)
        # long sound in pieces is as one
        long = torch.randn(2, 16, 700)
        whole = loaded.decode_sound(long, 69_950)
        torch.testing.assert_close(decode_long_sound(loaded, long, 69_950, 1.5), whole, atol=1e-6, rtol=0)
        # given by name, a vocoder takes the place of the checkpoint's
        plain = CMMD.load_from_checkpoint(path, weights_only=True, vocoder="griffin_lim")
        assert not any(name.startswith("vocoder.") for name in plain.state_dict())
        assert plain.hparams["vocoder"] == "griffin_lim"
    finally:
        moved.rename(trained)
    again = build_model(vocoder=str(trained), learning_rate=0.5, pretrained=str(path))
    assert torch.equal(again.decode_sound(mel, 6400), sound)
    assert not any(values.requires_grad for values in again.vocoder.parameters())


def test_a_checkpoint_without_one_takes_the_one_that_is_named(trained, tmp_path):
    path = tmp_path / "cmmd.ckpt"
    fit = trainer(tmp_path, max_steps=0, enable_checkpointing=False)
    fit.strategy.connect(build_model())
    fit.save_checkpoint(path)
    loaded = CMMD.load_from_checkpoint(path, weights_only=True, vocoder=str(trained))
    assert torch.equal(
        loaded.vocoder.backbone.embed.weight, build_vocoder(str(trained), loaded.mel).backbone.embed.weight
    )
