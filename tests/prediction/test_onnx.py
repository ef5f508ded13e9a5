"""Models outside of torch: the exported parts, and whole predictions by onnxruntime."""

import json
import math
from pathlib import Path

import pytest
import soundfile
import torch
from command_line import cmmd
from tiny_training import CLIP, build_model

from cmmd_lightning import CMMD
from cmmd_lightning.codecs import LogMel
from cmmd_lightning.media import read_frames
from cmmd_lightning.prediction.onnx_export import TOLERANCE, export_onnx
from cmmd_lightning.prediction.onnx_runtime import OnnxNetwork, Session, use_onnx
from cmmd_lightning.procedural import render

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")

VOCOS = {"mel": LogMel(*CLIP.mel_settings).settings, "dim": 16, "intermediate_dim": 32, "num_layers": 1}
PARTS = ["decoder.onnx", "encoder.onnx", "network.onnx"]


def tiny() -> CMMD:
    """Both kinds of attention that are not in the demo, a codec over time, a neural vocoder; no weight at zero."""
    network = {**build_model().network.spec.to_dict(), "fusion": "cross_attention", "time_attention_levels": [0]}
    model = build_model(network=network, codec={"kind": "clip_autoencoder"}, vocoder=VOCOS)
    with torch.no_grad():
        for values in model.parameters():
            values.add_(0.05 * torch.randn_like(values))
    model.mel.mean.fill_(-1.0)
    model.codec.scale.fill_(2.0)
    return model.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[CMMD, Path]:
    model, folder = tiny(), tmp_path_factory.mktemp("tiny")
    assert sorted(path.name for path in export_onnx(model, folder)) == sorted([*PARTS, "model.json", "vocoder.onnx"])
    return model, folder


def copy_of(model: CMMD) -> CMMD:
    other = tiny()
    other.load_state_dict(model.state_dict())
    return other


# ---- parts


@pytest.mark.parametrize(("batch", "frames"), [(1, 8), (3, 8), (1, 16), (2, 5)])
def test_the_network_at_other_sizes(exported, batch, frames):
    """Whatever the batch and the length, as long as sound and picture keep their proportion."""
    model, folder = exported
    mel_frames = frames * CLIP.mel_frames // CLIP.num_frames
    video, mel = torch.randn(batch, *model.latent_shape[:1], frames, 4, 4), torch.randn(batch, CLIP.n_mels, mel_frames)
    inputs = video, mel, torch.rand(batch), torch.rand(batch)
    with torch.no_grad():
        expected = model.network(*inputs)
    for made, true in zip(OnnxNetwork(folder / "network.onnx")(*inputs), expected, strict=True):
        assert true.std() > 0.1
        torch.testing.assert_close(made, true, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 7, 40])
def test_the_codec_and_the_vocoder_at_other_lengths(exported, frames):
    model, folder = exported
    other = copy_of(model)
    use_onnx(other, folder)
    latents = torch.randn(2, model.latent_shape[0], frames, 4, 4)
    made, true = other.decode_latents(latents), model.decode_latents(latents)
    assert true.std() > 0.1
    torch.testing.assert_close(made, true, atol=1e-4, rtol=0)
    torch.testing.assert_close(other.encode_frames(true), model.encode_frames(true), atol=1e-4, rtol=1e-4)
    mel = torch.randn(2, CLIP.n_mels, 10 * frames)
    mel[0, :, -3:] = (math.log(model.mel.floor) - model.mel.mean) / model.mel.std  # silence is silent
    made, true = other.decode_sound(mel, 1000 * frames - 7), model.decode_sound(mel, 1000 * frames - 7)
    assert true.abs().max() > 0.01
    torch.testing.assert_close(made, true, atol=1e-5, rtol=1e-4)


def test_what_else_a_sampler_needs(exported):
    model, folder = exported
    settings = json.loads((folder / "model.json").read_text())
    assert settings["clip"] == CLIP.to_dict()
    assert settings["schedule"] == {"kind": "cosine", "prediction": "velocity", "shift": 1.0}
    assert settings["mel"] == {"mean": -1.0, "std": 1.0}
    assert settings["latents"] == {"shift": [0.0] * 8, "scale": [2.0] * 8, "context": model.codec.context}
    assert list(settings["parts"]) == ["network", "encoder", "decoder", "vocoder"]
    assert all(part["difference"] < TOLERANCE for part in settings["parts"].values())
    for name, shape in settings["parts"]["network"]["inputs"].items():
        assert [isinstance(size, str) for size in shape] == {
            "z_video": [True, False, True, False, False],
            "z_audio": [True, False, True],
        }.get(name, [True])


# ---- whole samples


@pytest.mark.parametrize("task", ["video_to_audio", "audio_to_video", "joint"])
def test_samples_of_all_tasks(exported, task):
    """The same noise, guided, over two windows: the same video and sound."""
    model, folder = exported
    other = copy_of(model)
    replaced = use_onnx(other, folder)
    assert replaced["network"] is not other.network
    given = {
        "video_to_audio": (torch.rand(1, 3, 12, 32, 32) * 2 - 1,),
        "audio_to_video": (torch.rand(1, 9600) * 0.2 - 0.1,),
        "joint": (1, 12),
    }[task]
    results = [getattr(m, task)(*given, num_inference_steps=4, guidance_scale=2.0) for m in (model, other)]
    expected, made = (r if isinstance(r, tuple) else (r,) for r in results)
    for one, true in zip(made, expected, strict=True):
        assert true.std() > 1e-3
        assert (one - true).abs().max() <= TOLERANCE


def test_an_export_of_another_model_is_refused(exported):
    model, folder = exported
    other = copy_of(model)
    with torch.no_grad():
        other.network.video_out.bias.add_(1.0)
    with pytest.raises(ValueError, match=f"{folder}: expected an export of the model .* got one of another network;"):
        use_onnx(other, folder)


# ---- the commands, on the checkpoint that is shipped


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    for name, streams in (("silent", "video"), ("sounds", "audio")):
        render("bounce", folder / name, 1, 99, duration=1.2, fps=20.0, streams=streams, num_workers=0, progress=False)
    done = cmmd("export", "--ckpt_path", "demo", "--output_dir", "exported", cwd=folder)
    assert done.status == 0, done.err
    assert sorted(path.name for path in (folder / "exported").iterdir()) == sorted([*PARTS, "model.json"])
    return folder


@pytest.mark.parametrize("task", ["video_to_audio", "audio_to_video", "joint"])
def test_predict_by_onnxruntime(home, task):
    inputs = {"video_to_audio": ["silent"], "audio_to_video": ["sounds"]}.get(task)
    line = ["predict", "--ckpt_path", "demo", "--generate.task", task, "--generate.num_inference_steps", 5]
    line += ["--generate.guidance_scale", 2, *(["--generate.inputs", *inputs] if inputs else [])]
    for runtime in (["torch"], ["onnx", "--onnx_dir", "exported"]):
        out = home / f"{task}_{runtime[0]}"
        done = cmmd(*line, "--generate.output_dir", out, "--runtime", *runtime, cwd=home)
        assert done.status == 0, done.err
    folders = [home / f"{task}_{runtime}" for runtime in ("torch", "onnx")]
    (stem,) = {path.stem for path in folders[0].glob("*.mp4")}
    if task != "audio_to_video":
        expected, made = (soundfile.read(folder / f"{stem}.wav")[0] for folder in folders)
        assert abs(expected).max() > 0.01
        # Griffin-Lim makes up to a thousand times as much of the last digits; of the log-Mel, see below
        assert ((made - expected) ** 2).mean() ** 0.5 <= TOLERANCE
    if task != "video_to_audio":
        expected, made = (read_frames(folder / f"{stem}.mp4", num_frames=24, fps=20.0).float() for folder in folders)
        assert expected.std() > 5
        assert (made - expected).abs().mean() < 1.0  # of 255, after the encoder
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    assert manifests[0][0]["model"] == manifests[1][0]["model"]  # the weights are the same


@pytest.mark.parametrize("task", ["video_to_audio", "audio_to_video", "joint"])
def test_what_is_sampled_from_the_demo(home, task):
    """Before codec and vocoder, where the tolerance is that of the networks."""
    generator = torch.Generator().manual_seed(0)
    video, mel = torch.randn(1, 8, 24, 8, 8, generator=generator), torch.randn(1, 64, 120, generator=generator)
    given = {"video_to_audio": (video, None), "audio_to_video": (None, mel)}.get(task, (None, None))
    made = []
    for onnx in (False, True):
        model = CMMD.from_pretrained("demo")
        if onnx:
            use_onnx(model, home / "exported")
        made.append(model.sample(task, *given, 24, names=["a"], num_inference_steps=5, guidance_scale=2.0))
    for true, one in zip(*made, strict=True):
        assert (one - true).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "predict: expected --onnx_dir with the folder that cmmd export wrote"),
        (["--onnx_dir", "nowhere"], "nowhere: expected a folder that cmmd export wrote"),
    ],
)
def test_an_export_that_is_not_there(flags, said, tmp_path):
    line = ["predict", "--ckpt_path", "demo", "--generate.task", "joint", "--runtime", "onnx", *flags]
    done = cmmd(*line, cwd=tmp_path)
    assert done.status in (1, 2)
    (error,) = done.errors
    assert said in error


def test_a_session_runs_on_as_many_threads_as_torch(exported, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    session = Session(exported[1] / "encoder.onnx")
    assert session._session.get_session_options().intra_op_num_threads == 3
