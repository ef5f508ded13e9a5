"""Extractors in the field's real formats with random weights, and the statistics that need none."""

import math
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cmmd_lightning.metrics.extractors import build_audio_extractor, build_video_extractor
from cmmd_lightning.metrics.functional.quality import frechet_distance_of_features
from cmmd_lightning.metrics.weights import weights_hash


def one_line(error):
    return "\n" not in str(error.value)


# the layout of pytorch-i3d's files: stage, channels in, channels of b0, b1a, b1b, b2a, b2b, b3b
I3D_MIXED = [
    ("Mixed_3b", 192, (64, 96, 128, 16, 32, 32)),
    ("Mixed_3c", 256, (128, 128, 192, 32, 96, 64)),
    ("Mixed_4b", 480, (192, 96, 208, 16, 48, 64)),
    ("Mixed_4c", 512, (160, 112, 224, 24, 64, 64)),
    ("Mixed_4d", 512, (128, 128, 256, 24, 64, 64)),
    ("Mixed_4e", 512, (112, 144, 288, 32, 64, 64)),
    ("Mixed_4f", 528, (256, 160, 320, 32, 128, 128)),
    ("Mixed_5b", 832, (256, 160, 320, 32, 128, 128)),
    ("Mixed_5c", 832, (384, 192, 384, 48, 128, 128)),
]


@pytest.fixture(scope="module")
def i3d_state():
    generator = torch.Generator().manual_seed(0)
    units = [("Conv3d_1a_7x7", 3, 64, 7), ("Conv3d_2b_1x1", 64, 64, 1), ("Conv3d_2c_3x3", 64, 192, 3)]
    for stage, width, (b0, b1a, b1b, b2a, b2b, b3b) in I3D_MIXED:
        units += [(f"{stage}.b0", width, b0, 1), (f"{stage}.b1a", width, b1a, 1), (f"{stage}.b1b", b1a, b1b, 3)]
        units += [(f"{stage}.b2a", width, b2a, 1), (f"{stage}.b2b", b2a, b2b, 3), (f"{stage}.b3b", width, b3b, 1)]
    state = {}
    for name, inputs, outputs, kernel in units:
        weight = torch.randn(outputs, inputs, kernel, kernel, kernel, generator=generator)
        state[f"{name}.conv3d.weight"] = weight * math.sqrt(2 / (inputs * kernel**3))
        state[f"{name}.bn.weight"] = torch.ones(outputs)
        for statistic in ("bias", "running_mean"):
            state[f"{name}.bn.{statistic}"] = 0.1 * torch.randn(outputs, generator=generator)
        # small enough for the epsilon to matter
        state[f"{name}.bn.running_var"] = 0.02 + torch.rand(outputs, generator=generator)
    state["logits.conv3d.weight"] = torch.randn(400, 1024, 1, 1, 1, generator=generator) / 32
    state["logits.conv3d.bias"] = torch.randn(400, generator=generator)
    return state


def i3d_by_hand(state, x):
    """The network as TensorFlow's padding rule and the layout above have it, on pixels (B, 3, T, 224, 224)."""

    def pad(x, kernel, stride):
        pads = []
        for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
            total = max(k - (size % s or s), 0)
            pads += [total // 2, total - total // 2]
        return pads

    def unit(x, name, stride=1):
        weight = state[f"{name}.conv3d.weight"]
        kernel = weight.shape[2:]
        x = functional.conv3d(functional.pad(x, pad(x, kernel, (stride,) * 3)), weight, stride=stride)
        scale = (state[f"{name}.bn.running_var"] + 0.001).rsqrt() * state[f"{name}.bn.weight"]
        shift = state[f"{name}.bn.bias"] - state[f"{name}.bn.running_mean"] * scale
        return (x * scale[:, None, None, None] + shift[:, None, None, None]).clamp(min=0)

    def pool(x, kernel, stride):
        return functional.max_pool3d(functional.pad(x, pad(x, kernel, stride), value=-math.inf), kernel, stride)

    x = pool(unit(x, "Conv3d_1a_7x7", 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
    for stage, width, _ in I3D_MIXED:
        if stage == "Mixed_4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if stage == "Mixed_5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        assert x.shape[1] == width
        pooled = pool(x, (3, 3, 3), (1, 1, 1))
        second, third = (unit(unit(x, f"{stage}.b{k}a"), f"{stage}.b{k}b") for k in (1, 2))
        x = torch.cat([unit(x, f"{stage}.b0"), second, third, unit(pooled, f"{stage}.b3b")], dim=1)
    steps = (x[:, :, :-1] + x[:, :, 1:]).mean(dim=(3, 4)) / 2
    logits = torch.einsum("bct,oc->bot", steps, state["logits.conv3d.weight"][:, :, 0, 0, 0])
    return (logits + state["logits.conv3d.bias"][:, None]).mean(dim=2)


def stretched(frames, side=224):
    """Bilinear with sample points at the pixels' centres, as two matrices."""

    def matrix(size):
        at = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
        low = np.minimum(np.floor(at).astype(int), size - 2)
        weights = np.zeros((side, size))
        weights[np.arange(side), low], weights[np.arange(side), low + 1] = 1 - (at - low), at - low
        return torch.from_numpy(weights)

    height, width = matrix(frames.shape[-2]), matrix(frames.shape[-1])
    return torch.einsum("bcthw,yh,xw->bctyx", frames.double(), height, width).float() / 127.5 - 1


def test_i3d_in_the_real_format(i3d_state, tmp_path):
    assert len(i3d_state) == 57 * 5 + 2
    torch.save(i3d_state, tmp_path / "rgb_imagenet.pt")
    extractor = build_video_extractor(f"i3d:{tmp_path / 'rgb_imagenet.pt'}")
    assert (extractor.name, extractor.num_features) == ("i3d-kinetics400-logits", 400)
    assert not extractor.training
    frames = torch.randint(0, 256, (1, 3, 9, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got, expected = extractor(frames, 25.0), i3d_by_hand(i3d_state, stretched(frames))
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        extractor(frames[:, :, :8], 25.0)


def test_i3d_files_that_do_not_fit_raise_one_line(i3d_state, tmp_path):
    path = tmp_path / "weights.pt"
    state = {**i3d_state, "Conv3d_1a_7x7.bn.num_batches_tracked": torch.tensor(7)}
    torch.save(state, path)
    tracked = weights_hash(build_video_extractor(f"i3d:{path}"))
    torch.save(i3d_state, path)
    assert weights_hash(build_video_extractor(f"i3d:{path}")) == tracked
    del state["Mixed_3b.b1a.conv3d.weight"]
    state["fc.weight"] = torch.zeros(2)
    state["logits.conv3d.bias"] = torch.zeros(157)
    torch.save(state, path)
    fault = "missing: Mixed_3b.b1a.conv3d.weight; unknown: fc.weight; of another shape: logits.conv3d.bias"
    with pytest.raises(ValueError, match=fault) as error:
        build_video_extractor(f"i3d:{path}")
    assert one_line(error)
    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"expected a state dict or TorchScript, got weights.pt") as error:
        build_video_extractor(f"i3d:{path}")
    assert one_line(error)
    torch.save({"state_dict": i3d_state}, path)
    with pytest.raises(ValueError, match="names and tensors"):
        build_video_extractor(f"i3d:{path}")


class Scripted(nn.Module):
    """The interface of StyleGAN-V's TorchScript file."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        if rescale:
            x = x / 255 * 2 - 1
        rows = self.scale * x.mean(dim=(1, 2, 3, 4))[:, None].repeat(1, 400)
        return rows if return_features and resize else rows.softmax(1)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_i3d_is_detected(tmp_path):
    torch.jit.script(Scripted()).save(tmp_path / "i3d_torchscript.pt")
    extractor = build_video_extractor(f"i3d:{tmp_path / 'i3d_torchscript.pt'}")
    assert (extractor.name, extractor.num_features) == ("i3d-kinetics400-logits-torchscript", 400)
    frames = torch.full((2, 3, 10, 8, 8), 255, dtype=torch.uint8)
    frames[1] = 0
    torch.testing.assert_close(extractor(frames, 25.0), torch.tensor([[2.0], [-2.0]]).expand(2, 400))
    assert weights_hash(extractor) != "none"


@pytest.fixture(scope="module")
def vggish_state():
    """The layout of torchvggish's file; the large matrices are views of little memory."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    convolutions = [(0, 1, 64), (3, 64, 128), (6, 128, 256), (8, 256, 256), (11, 256, 512), (13, 512, 512)]
    for k, inputs, outputs in convolutions:
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
        state[f"features.{k}.weight"] = weight * math.sqrt(2 / (9 * inputs))
        state[f"features.{k}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    for k, inputs, outputs in [(0, 12288, 4096), (2, 4096, 4096), (4, 4096, 128)]:
        values = torch.randn(inputs + outputs, generator=generator) * math.sqrt(2 / inputs)
        state[f"embeddings.{k}.weight"] = values.as_strided((outputs, inputs), (1, 1))
        state[f"embeddings.{k}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return state


@pytest.fixture(scope="module")
def vggish(vggish_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("vggish") / "vggish.pth"
    torch.save({**vggish_state, "pproc.pca_means": torch.zeros(128, 1)}, path)
    return build_audio_extractor(f"vggish:{path}")


def noise(*shape, seed=0):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_vggish_front_end_equals_an_independent_one(vggish):
    audio = pytest.importorskip("transformers.audio_utils")
    sound = noise(1, 16000 * 2 + 5)
    filters = audio.mel_filter_bank(257, 64, 125.0, 7500.0, 16000, mel_scale="kaldi", triangularize_in_mel_space=True)
    window = audio.window_function(400, "hann", periodic=True)
    expected = audio.spectrogram(
        sound[0].numpy(), window, 400, 160, 512, power=1.0, center=False, mel_filters=filters, mel_floor=0.0
    )
    expected = np.log(expected.T[:192] + 0.01).reshape(1, 2, 96, 64)
    np.testing.assert_allclose(vggish.patches(sound, 16000).numpy(), expected, atol=1e-4)


def test_vggish_in_the_real_format(vggish, vggish_state):
    assert (vggish.name, vggish.num_features) == ("vggish", 128)
    sounds = noise(2, 16000 * 2)
    x = vggish.patches(sounds, 16000).flatten(0, 1)[:, None]
    for k in (0, "pool", 3, "pool", 6, 8, "pool", 11, 13, "pool"):
        if k == "pool":
            x = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax(dim=(3, 5))
        else:
            x = functional.conv2d(x, vggish_state[f"features.{k}.weight"], padding=1)
            x = (x + vggish_state[f"features.{k}.bias"][:, None, None]).clamp(min=0)
    x = torch.stack([x[:, :, t, f] for t in range(6) for f in range(4)], dim=1).flatten(1)  # time, band, channel
    for k in (0, 2, 4):
        x = x.clamp(min=0) @ vggish_state[f"embeddings.{k}.weight"].T + vggish_state[f"embeddings.{k}.bias"]
    assert x.shape == (4, 128)
    assert bool((x < 0).any())  # no ReLU at the end
    with torch.no_grad():
        rows = vggish(sounds, 16000)
        torch.testing.assert_close(rows, x, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(vggish(sounds[1:], 16000), rows[2:], rtol=1e-4, atol=1e-4)


def test_vggish_pads_short_sound_to_one_patch(vggish):
    sound = noise(1, 8000)
    padded = functional.pad(sound, (0, 7600))
    assert vggish.patches(sound, 16000).shape == (1, 1, 96, 64)
    torch.testing.assert_close(vggish.patches(sound, 16000), vggish.patches(padded, 16000))
    assert vggish.patches(padded[:, :-1], 16000).shape[1] == 1
    assert vggish.patches(noise(1, 48000 * 2), 48000).shape[1] == 2


def test_vggish_that_does_not_fit_raises(tmp_path):
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "vggish.pth")
    with pytest.raises(ValueError, match=r"of VGGish .* missing: .* and 14 more$") as error:
        build_audio_extractor(f"vggish:{tmp_path / 'vggish.pth'}")
    assert one_line(error)


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def clap_folder(request, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    audio = {
        "spec_size": 64, "patch_embeds_hidden_size": 16, "hidden_size": 32, "depths": [1, 1], "window_size": 4,
        "num_attention_heads": [2, 2], "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4], "num_classes": 4,
        "enable_fusion": request.param, "fusion_type": "aff_2d" if request.param else None,
    }  # fmt: skip
    text = {
        "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8
    }  # fmt: skip
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    folder = tmp_path_factory.mktemp("clap") / "tiny"
    transformers.ClapModel(config).save_pretrained(folder)
    truncation = "fusion" if request.param else "rand_trunc"
    transformers.ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation=truncation).save_pretrained(folder)
    return folder


def test_clap_equals_transformers(clap_folder):
    import transformers

    extractor = build_audio_extractor(f"clap:{clap_folder}")
    assert (extractor.name, extractor.num_features) == ("clap:tiny", 24)
    sounds = noise(2, 48000 + 20000)
    rows = extractor(sounds, 48000)
    model = transformers.ClapModel.from_pretrained(clap_folder).eval()
    preprocess = transformers.ClapFeatureExtractor.from_pretrained(clap_folder)
    expected = []
    for window in (sounds[0, :48000], sounds[0, 48000:], sounds[1, :48000], sounds[1, 48000:]):
        inputs = preprocess(window.numpy(), sampling_rate=48000, return_tensors="pt")
        with torch.no_grad():
            output = model.get_audio_features(inputs["input_features"], is_longer=torch.tensor([[False]]))
        expected.append(getattr(output, "pooler_output", output))
    torch.testing.assert_close(rows, torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert torch.equal(extractor(sounds, 48000), rows)
    assert float((rows[0] - rows[1]).norm()) > 1e-3
    assert len(extractor(noise(3, 800), 8000)) == 3


def test_clap_without_transformers_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cmmd-lightning\[metrics\]'"):
        build_audio_extractor(f"clap:{tmp_path}")


@pytest.mark.parametrize("spec", ["", "fvd", "i3d", "i3d:", "pixel-statistics:x", "vggish:x"])
def test_wrong_video_spec_raises(spec):
    with pytest.raises(ValueError, match="expected pixel-statistics or i3d:PATH_OR_HUB"):
        build_video_extractor(spec)


@pytest.mark.parametrize("spec", ["", "fad", "clap", "vggish:", "i3d:x"])
def test_wrong_audio_spec_raises(spec):
    with pytest.raises(ValueError, match="expected mel-statistics, vggish:PATH_OR_HUB or clap:PATH_OR_HUB"):
        build_audio_extractor(spec)


@pytest.mark.parametrize(
    "spec", ["vggish:missing.pth", "vggish:/no/such/file.pth", "clap:missing", "clap:/no/such/one"]
)
def test_missing_files_raise(spec):
    with pytest.raises(ValueError, match=r"expected the path of an existing .* on the Hub, got"):
        build_audio_extractor(spec)


def test_hub_names_are_downloaded(monkeypatch, tmp_path, vggish_state):
    torch.save(vggish_state, tmp_path / "weights.pth")
    asked = []

    def download(repo, filename):
        asked.append((repo, filename))
        return str(tmp_path / "weights.pth")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    assert build_audio_extractor("vggish:owner/some-name/folder/weights.pth").name == "vggish"
    assert asked == [("owner/some-name", "folder/weights.pth")]


def scenes(count, seed, frames=6, side=32):
    """Soft blobs on stripes, moving in ellipses: uint8 (count, 3, frames, side, side)."""
    p = torch.rand(11, count, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    t = torch.arange(frames)[:, None, None] / 8
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    across = 0.5 + 0.4 * torch.sin(6.28 * (p[0] + (0.5 + p[1]) * t))
    down = 0.5 + 0.4 * torch.cos(6.28 * (p[2] + (0.5 + p[3]) * t))
    blob = torch.exp(-((x - across) ** 2 + (y - down) ** 2) / (0.005 + 0.02 * p[4]))
    stripes = 0.3 * p[7] * (1 + torch.sin((20 + 30 * p[5]) * (x * p[6] + y * (1 - p[6]))))
    pictures = torch.stack([stripes * (1 - blob) + blob * p[8 + c] for c in range(3)], dim=1)
    return (255 * pictures).round().to(torch.uint8)


def noisy(clips, sigma):
    return (clips + 255 * sigma * noise(*clips.shape) / 0.3).clamp(0, 255).to(torch.uint8)


def blurred(clips, size):
    return functional.avg_pool3d(clips.float(), (1, size, size), 1, (0, size // 2, size // 2)).to(torch.uint8)


def strikes(count, seed, samples=12000):
    """Decaying tones: (count, samples) at 16 kHz."""
    p = torch.rand(4, count, 5, 1, generator=torch.Generator().manual_seed(seed))
    since = torch.arange(samples) / 16000 - 0.6 * p[0]
    tones = torch.exp(-(8 + 20 * p[1]) * since) * torch.sin(6.28 * (150 + 3000 * p[2] ** 2) * since)
    return ((since >= 0) * tones * (0.1 + 0.3 * p[3])).sum(dim=1) + noise(count, samples, seed=seed) / 300


def distances(extractor, rate, reference, others):
    rows = extractor(reference, rate)
    return [frechet_distance_of_features(rows, extractor(other, rate)) for other in others]


def test_pixel_statistics_rank_degradations():
    extractor = build_video_extractor("pixel-statistics")
    reference, other = scenes(60, 1), scenes(60, 2)
    worse = [noisy(other, 0.02), noisy(other, 0.1), blurred(other, 3), blurred(other, 7)]
    frozen = other[:, :, :1].expand_as(other)
    same, *far = distances(extractor, 8.0, reference, [other, *worse, frozen])
    assert 0 < same < far[0] < far[1]
    assert same < far[2] < far[3]
    assert min(far[1], far[3], far[4]) > 5 * same


def test_mel_statistics_rank_degradations():
    extractor = build_audio_extractor("mel-statistics")
    reference, other = strikes(100, 1), strikes(100, 2)
    levels = [other + level * noise(*other.shape, seed=9) for level in (0.01, 0.03, 0.1)]
    smooth = [functional.avg_pool1d(other[:, None], size, 1, size // 2)[:, 0] for size in (3, 9)]
    same, *far = distances(extractor, 16000, reference, [other, *levels, *smooth])
    assert 0 < same < far[0] < far[1] < far[2]
    assert 5 * same < min(far[1], far[3])
    assert far[3] < far[4]


def test_statistics_do_not_depend_on_the_batch():
    video, audio = build_video_extractor("pixel-statistics"), build_audio_extractor("mel-statistics")
    clips, sounds = scenes(3, 0), strikes(3, 0)
    assert (video.name, video.num_features) == ("pixel-statistics-v1", 40)
    assert (audio.name, audio.num_features) == ("mel-statistics-v2", 46)
    assert video(clips, 25.0).shape == (3, 40)
    assert audio(sounds, 16000).shape == (3, 46)
    assert torch.equal(video(clips, 25.0)[1:2], video(clips[1:2], 25.0))
    assert torch.equal(audio(sounds, 16000)[1:2], audio(sounds[1:2], 16000))
    assert (weights_hash(video), weights_hash(audio)) == ("none", "none")


def test_statistics_do_not_depend_on_rate():
    video, audio = build_video_extractor("pixel-statistics"), build_audio_extractor("mel-statistics")
    clips, sounds = scenes(2, 0), strikes(2, 0)
    torch.testing.assert_close(video(clips.repeat_interleave(3, dim=2), 24.0), video(clips, 8.0))
    from torchaudio.functional import resample

    there = resample(sounds, 16000, 48000)
    # all but the top band, where the resampling's filter ends
    torch.testing.assert_close(audio(there, 48000)[:, :11], audio(sounds, 16000)[:, :11], rtol=0, atol=0.05)


def test_pixel_statistics_by_hand():
    extractor = build_video_extractor("pixel-statistics")
    grey = extractor(torch.full((1, 3, 4, 16, 24), 51, dtype=torch.uint8), 8.0)[0]
    expected = torch.tensor([0.8, 0, 0] + [0.8] * 14 + [0.0] * 23)
    torch.testing.assert_close(grey, expected, rtol=0, atol=1e-4)
    flicker = torch.zeros(1, 3, 8, 16, 16, dtype=torch.uint8)
    flicker[:, :, ::2] = 255
    tail = extractor(flicker, 8.0)[0, -8:]
    changes = [math.log(256), math.log(511)] * 3
    torch.testing.assert_close(tail, torch.tensor([*changes, 4.0, 0.0]), rtol=0, atol=1e-3)


def test_mel_statistics_by_hand():
    extractor = build_audio_extractor("mel-statistics")
    assert torch.equal(extractor(torch.zeros(1, 100), 8000), torch.zeros(1, 46))
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)[None]
    rows = extractor(tone, 16000)[0]
    mel = 2595 * np.log10(1 + np.array([50, 1000, 7600]) / 700)
    band = int((mel[1] - mel[0]) / (mel[2] - mel[0]) * 13 - 0.5)
    assert int(rows[:12].argmax()) == band
    # at full scale the three bins of a Hann window's peak hold 1/2, 1 and 1/2
    edges = 700 * (10 ** (np.linspace(mel[0], mel[2], 14)[band : band + 3] / 2595) - 1)
    weights = np.interp([1000 - 31.25, 1000, 1000 + 31.25], edges, [0, 1, 0])
    assert float(rows[band]) == pytest.approx(math.log1p(1e3 * np.dot(weights, [0.5, 1, 0.5])), abs=1e-3)
    assert float(rows[12 + band] + rows[24 + band]) < 0.01


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (torch.zeros(1, 3, 4, 8, 8), 8.0, "uint8 frames .* got torch.float32"),
        (torch.zeros(3, 4, 8, 8, dtype=torch.uint8), 8.0, r"got torch.uint8 \(3, 4, 8, 8\)"),
        (torch.zeros(1, 3, 0, 8, 8, dtype=torch.uint8), 8.0, "expected uint8 frames"),
        (torch.zeros(1, 3, 4, 8, 8, dtype=torch.uint8), 0.0, "fps must be positive"),
    ],
)
def test_malformed_frames_raise(frames, fps, message):
    with pytest.raises(ValueError, match=message):
        build_video_extractor("pixel-statistics")(frames, fps)


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        (torch.zeros(800), 8000, r"float sound \(B, N\), got torch.float32 \(800,\)"),
        (torch.zeros(1, 800, dtype=torch.int16), 8000, "got torch.int16"),
        (torch.zeros(1, 0), 8000, "expected float sound"),
        (torch.zeros(1, 800), 0, "sample_rate must be positive"),
    ],
)
def test_malformed_sound_raises(sound, rate, message):
    with pytest.raises(ValueError, match=message):
        build_audio_extractor("mel-statistics")(sound, rate)
