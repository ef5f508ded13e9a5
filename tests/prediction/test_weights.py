"""Models from checkpoints: which weights, and under which names."""

import copy

import pytest
import torch
from tiny_training import build_model

from cmmd_lightning import CMMD


def saved(path, model, **more):
    stored = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save({**stored, "pytorch-lightning_version": "2.6.0", **more}, path)
    return path


def test_raw_weights_are_those_that_were_not_averaged(tmp_path):
    model, bias = build_model(), "network.video_out.bias"
    raw = {bias: model.state_dict()[bias] + 1}
    path = saved(tmp_path / "run.ckpt", model, current_model_state=raw, optimizer_states=[])
    averaged = CMMD.from_pretrained(path).state_dict()
    other = CMMD.from_pretrained(path, weights="raw").state_dict()
    assert torch.equal(averaged[bias], model.state_dict()[bias])
    assert torch.equal(other[bias], raw[bias])
    assert all(torch.equal(averaged[name], other[name]) for name in averaged if name != bias)
    # that of a run without averaging holds no others
    saved(path, model, optimizer_states=[])
    assert torch.equal(CMMD.from_pretrained(path, weights="raw").state_dict()[bias], model.state_dict()[bias])
    with pytest.raises(ValueError, match="expected a training checkpoint, got one that holds averaged weights only"):
        CMMD.from_pretrained(saved(path, model), weights="raw")


def test_a_compiled_network_keeps_the_names_of_its_weights(tmp_path):
    model = build_model(1)
    plain = copy.deepcopy(model)
    model.network = torch.compile(model.network, backend="eager")
    assert list(model.state_dict()) == list(plain.state_dict())
    again = CMMD.from_pretrained(saved(tmp_path / "compiled.ckpt", model))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in plain.state_dict().items())
    with torch.no_grad():
        model.network.video_out.bias.add_(1.0)
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model.network.video_out.bias, plain.network.video_out.bias)


def test_a_bfloat16_model_samples_what_it_samples_in_float32():
    model = build_model(2).eval()
    frames = torch.rand(1, 8, 32, 32, 3).mul(255).to(torch.uint8)
    settings = {"num_inference_steps": 2, "seed": 1}
    mel = copy.deepcopy(model.mel)
    sound, video = model.video_to_audio(frames, **settings), model.joint(**settings)[0]
    model.bfloat16()
    half = model.video_to_audio(frames, **settings)
    assert half.dtype == torch.float32
    assert (mel(half) - mel(sound)).abs().mean() < 0.2  # of log-Mels; their phases are Griffin-Lim's
    assert (mel(half.roll(1000)) - mel(sound)).abs().mean() > 0.2
    assert (model.joint(**settings)[0] - video).abs().mean() < 0.05
    assert model.audio_to_video(sound, **settings).shape == (1, 3, 8, 32, 32)
