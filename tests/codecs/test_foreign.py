"""Codecs and vocoders from outside of the package, and checkpoints that name them."""

import sys
from types import ModuleType

import pytest
import torch
from tiny_training import build_model

from cmmd_lightning import CMMD
from cmmd_lightning.codecs import CodecConfig, FrameCodec, build_frame_codec, build_vocoder


class Halves(FrameCodec):
    """A codec of somebody's own: pixels, scaled."""

    def __init__(self, factor: float = 0.5) -> None:
        super().__init__(CodecConfig(), 3, 1)
        self.factor = factor

    def encode(self, frames):
        return frames * self.factor, torch.full_like(frames, -30.0)

    def reconstruct(self, latents):
        return latents / self.factor


class Quiet(torch.nn.Module):
    def __init__(self, mel, level: float = 0.0) -> None:
        super().__init__()
        self.level = level

    def forward(self, log_mel, num_samples):
        return torch.full((len(log_mel), num_samples), self.level)


@pytest.fixture
def theirs(monkeypatch):
    module = ModuleType("theirs_module")
    module.Halves, module.Quiet = Halves, Quiet
    monkeypatch.setitem(sys.modules, "theirs_module", module)


def test_classes_of_ones_own_by_path(theirs, tmp_path):
    codec = {"class_path": "theirs_module.Halves", "init_args": {"factor": 0.25}}
    vocoder = {"class_path": "theirs_module.Quiet", "init_args": {"level": 0.125}}
    assert build_frame_codec(codec).encode(torch.ones(1, 3, 2, 2))[0].max() == 0.25
    assert build_vocoder(vocoder, None)(torch.zeros(1, 2, 3), 7).tolist() == [[0.125] * 7]
    model = build_model(codec=codec, vocoder=vocoder)
    assert (model.joint(num_inference_steps=1)[1] == 0.125).all()
    model.vocoder = lambda mel, samples: torch.ones(len(mel), samples)
    assert (model.joint(num_inference_steps=1)[1] == 1).all()


def test_a_checkpoint_does_not_import_what_only_it_names(tmp_path):
    model, path = build_model(), tmp_path / "hostile.ckpt"
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    for changed in ({"vocoder": "evil_module.V"}, {"codec": {"kind": "evil_module.C"}}):
        stored = {**dict(model.hparams), **changed}
        torch.save(
            {"state_dict": model.state_dict(), "hyper_parameters": stored, "pytorch-lightning_version": "2.6.0"}, path
        )
        for load in (CMMD.from_pretrained, CMMD.load_from_checkpoint):
            with pytest.raises(ValueError, match=r"got evil_module\.., not imported unless you name it"):
                load(path)
    with pytest.raises(ValueError, match=r"got evil_module\.C"):
        build_frame_codec({"kind": "autoencoder_kl", "path": str(path)})
