"""Codecs and vocoders from outside of the package, and checkpoints that name them."""

import sys
from types import ModuleType

import pytest
import torch
from tiny_training import build_model

from cmmd_lightning import CMMD
from cmmd_lightning.codecs import CodecConfig, FrameCodec, GriffinLimVocoder, build_frame_codec, build_vocoder


class Halves(FrameCodec):
    """A codec of somebody's own: pixels, scaled."""

    def __init__(self, factor: float = 0.5) -> None:
        super().__init__(CodecConfig(), 3, 1)
        self.factor = factor

    def encode(self, frames):
        return frames * self.factor, torch.full_like(frames, -30.0)

    def reconstruct(self, latents):
        return latents / self.factor


class Level(torch.nn.Module):
    """A vocoder of somebody's own, with a weight."""

    def __init__(self, mel, level: float = 0.0) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(level))

    def forward(self, log_mel, num_samples):
        return self.level.expand(len(log_mel), num_samples)


@pytest.fixture
def theirs(monkeypatch):
    module = ModuleType("theirs_module")
    module.Halves, module.Level, module.opened = Halves, Level, []
    module.function = module.opened.append
    monkeypatch.setitem(sys.modules, "theirs_module", module)


def saved(model, path, **changed):
    stored = {**dict(model.hparams), **changed}
    torch.save(
        {"state_dict": model.state_dict(), "hyper_parameters": stored, "pytorch-lightning_version": "2.6.0"}, path
    )
    return path


def test_classes_of_ones_own_by_path_and_their_weights(theirs, tmp_path):
    codec = {"class_path": "theirs_module.Halves", "init_args": {"factor": 0.25}}
    vocoder = {"class_path": "theirs_module.Level", "init_args": {"level": 0.125}}
    assert build_frame_codec(codec).encode(torch.ones(1, 3, 2, 2))[0].max() == 0.25
    assert build_vocoder(vocoder, None)(torch.zeros(1, 2, 3), 7).tolist() == [[0.125] * 7]
    model = build_model(codec=codec, vocoder=vocoder)
    assert (model.joint(num_inference_steps=1)[1] == 0.125).all()
    path = saved(model, tmp_path / "theirs.ckpt")
    with pytest.raises(ValueError, match=r"got theirs_module\.Halves, not imported unless you name it"):
        CMMD.from_pretrained(path)
    trusted = ["theirs_module.Halves", "theirs_module.Level"]
    assert CMMD.from_pretrained(path, trust=trusted).vocoder.level == 0.125
    louder = {"class_path": "theirs_module.Level", "init_args": {"level": 0.5}}
    assert CMMD.from_pretrained(path, trust=trusted, vocoder=louder).vocoder.level == 0.5
    assert type(CMMD.from_pretrained(path, trust=trusted[:1], vocoder="griffin_lim").vocoder) is GriffinLimVocoder


def test_an_assigned_vocoder_is_used_and_leaves_checkpoints_loadable(tmp_path):
    model = build_model()
    model.vocoder = Level(None, 1.0)
    assert (model.joint(num_inference_steps=1)[1] == 1).all()
    assert type(CMMD.from_pretrained(saved(model, tmp_path / "a.ckpt")).vocoder) is GriffinLimVocoder
    with pytest.raises(ValueError, match=r"got Level; a vocoder that is built already is assigned: model\.vocoder"):
        build_model(vocoder=Level(None))


def test_only_classes_of_the_right_kind_are_called(theirs):
    module = sys.modules["theirs_module"]
    for path in ("theirs_module.function", "theirs_module.missing", "theirs_module.Level"):
        with pytest.raises(ValueError, match=rf"codec {path}: expected"):
            build_frame_codec({"kind": path, "config": {}})
    with pytest.raises(ValueError, match="expected a class derived from Module"):
        build_vocoder("theirs_module.function", "mel")
    assert module.opened == []


def test_a_checkpoint_does_not_import_what_only_it_names(tmp_path):
    model, path = build_model(), tmp_path / "hostile.ckpt"
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    for changed in ({"vocoder": "evil_module.V"}, {"codec": {"kind": "evil_module.C"}}):
        saved(model, path, **changed)
        for load in (CMMD.from_pretrained, CMMD.load_from_checkpoint):
            with pytest.raises(ValueError, match=r"got evil_module\.., not imported unless you name it"):
                load(path)
        with pytest.raises(ValueError, match="not imported"), path.open("rb") as file:
            CMMD.load_from_checkpoint(file)
    with pytest.raises(ValueError, match=r"got evil_module\.C"):
        build_frame_codec({"kind": "autoencoder_kl", "path": str(path)})
