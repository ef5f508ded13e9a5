"""The adapters, on tiny random models saved in the real form, against the models asked directly."""

import builtins
import json
import math

import pytest
import torch
import torchaudio
from torch import nn

from cmmd_lightning.metrics.encoders import (
    AudioClassifier,
    ClapSound,
    ClipFrames,
    ScriptedEncoder,
    build_classifier,
    build_encoders,
    read_labels,
)
from cmmd_lightning.metrics.meaning import ClassifierAgreement, PairAgreement
from cmmd_lightning.metrics.weights import weights_hash

transformers = pytest.importorskip("transformers")

LABELS = ("dog", "cat", "rain")
WORDS = ["a", "photo", "of", "this", "is", "sound", ".", *LABELS]


def lively(model):
    """Weights so large that another picture, sound or sentence makes another answer."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4)
    return model


def save_clip(folder):
    """CLIP, with a byte-pair vocabulary that knows the words of the test only by their letters."""
    torch.manual_seed(0)
    letters = sorted(set("".join(WORDS)))
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokens), "bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    config = transformers.CLIPConfig(
        text_config={**text, "pad_token_id": len(tokens) - 1, "max_position_embeddings": 32},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    lively(transformers.CLIPModel(config)).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 32})
    )
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor",
                "feature_extractor_type": "CLIPFeatureExtractor",
                "size": {"shortest_edge": 32},
                "crop_size": {"height": 32, "width": 32},
            }
        )
    )
    return folder


def save_clap(folder, fused=False):
    """CLAP, whose longest input is one second."""
    torch.manual_seed(1)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = sorted(set("".join(WORDS)) | {"Ġ", "T"})
    tokens = [*specials, *letters]
    audio = {"spec_size": 64, "num_mel_bins": 16, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4]}
    config = transformers.ClapConfig(
        text_config={
            "vocab_size": len(tokens),
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 66,
        },
        audio_config={
            **audio,
            "enable_fusion": fused,
            "hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "num_hidden_layers": 2,
            "patch_embeds_hidden_size": 8,
            "projection_dim": 12,
        },
        projection_dim=12,
    )
    model = lively(transformers.ClapModel(config))
    model.logit_scale_t.data.zero_()  # the text's temperature, which must not be mistaken for the sound's
    model.save_pretrained(folder)
    truncation = "fusion" if fused else "rand_trunc"
    transformers.ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation=truncation).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", "model_max_length": 64})
    )
    return folder


def save_ast(folder):
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ASTConfig(**sizes, max_length=128, num_mel_bins=16, num_labels=4)
    lively(transformers.ASTForAudioClassification(config)).save_pretrained(folder)
    transformers.ASTFeatureExtractor(max_length=128, num_mel_bins=16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    saved = {"clip": save_clip, "clap": save_clap, "ast": save_ast}
    return {name: str(save(tmp_path_factory.mktemp(name))) for name, save in saved.items()}


def pictures(count, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, length, 24, 40), generator=generator, dtype=torch.uint8)


def sounds(count, length, seed=0):
    return 0.3 * torch.randn(count, length, generator=torch.Generator().manual_seed(seed))


def clip_says(folder, frames):
    """Image embeddings and texts of CLIPModel's own forward, for one clip (3, T, H, W)."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    images = [frame.permute(1, 2, 0).numpy() for frame in frames.unbind(1)]
    texts = tokenizer([f"a photo of {label}" for label in LABELS], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**texts, pixel_values=processor(images, return_tensors="pt")["pixel_values"])


def test_clip_on_one_frame_is_clips_own_zero_shot(folders):
    encoder = ClipFrames(folders["clip"], LABELS)
    frames = pictures(2, 1)
    expected = [clip_says(folders["clip"], clip).logits_per_image.softmax(dim=1) for clip in frames]
    got = encoder(frames, 25.0)
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert float((got[0] - got[1]).abs().max()) > 1e-2  # the model tells the two pictures apart


def test_clip_means_eight_frames_at_even_times(folders):
    frames = pictures(1, 24)
    said = clip_says(folders["clip"], frames[0, :, 1::3])  # the middles of eight thirds-of-24 stretches
    mean = said.image_embeds.mean(dim=0)
    cosines = mean / mean.norm() @ said.text_embeds.T
    expected = (math.exp(2.6592) * cosines).softmax(dim=0)
    torch.testing.assert_close(ClipFrames(folders["clip"], LABELS)(frames, 25.0)[0], expected, rtol=1e-4, atol=1e-5)


def clap_says(folder, sound):
    """Logits over labels of ClapModel's own forward, for one sound (N,) at 48 kHz of up to a second."""
    model = transformers.ClapModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = tokenizer([f"This is a sound of {label}." for label in LABELS], padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**texts, **extractor(sound.numpy(), sampling_rate=48000, return_tensors="pt"))


def test_clap_on_a_short_sound_is_claps_own_zero_shot(folders):
    sound = sounds(2, 8000)
    at_48k = torchaudio.functional.resample(sound, 16000, 48000)
    expected = torch.cat([clap_says(folders["clap"], one).logits_per_audio.softmax(dim=1) for one in at_48k])
    encoder = ClapSound(folders["clap"], LABELS)
    torch.testing.assert_close(encoder(sound, 16000), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(at_48k, 48000), expected, rtol=1e-4, atol=1e-5)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3


def test_clap_hears_all_of_a_long_sound_and_the_same_every_time(folders):
    sound = sounds(1, 2 * 48000 + 3000)  # more than two seconds where the longest input is one: three stretches
    said = [clap_says(folders["clap"], part) for part in sound[0].split(33000)]
    mean = torch.cat([one.audio_embeds for one in said]).mean(dim=0)
    cosines = mean / mean.norm() @ said[0].text_embeds.T
    expected = (math.exp(math.log(1 / 0.07)) * cosines).softmax(dim=0)
    encoder = ClapSound(folders["clap"], LABELS)
    torch.testing.assert_close(encoder(sound, 48000)[0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(encoder(sound, 48000), encoder(sound, 48000))


def test_a_fused_clap_gives_a_clip_the_same_row_alone_and_in_a_batch(tmp_path):
    encoder = ClapSound(str(save_clap(tmp_path, fused=True)), LABELS)
    sound = sounds(3, 50000)
    alone = torch.cat([encoder(one[None], 48000) for one in sound])
    torch.testing.assert_close(encoder(sound, 48000), alone)


def test_classifier_is_the_model_on_its_own_rate_over_stretches(folders):
    classifier = AudioClassifier(folders["ast"], max_seconds=0.5)
    sound = sounds(2, 12000)
    model = transformers.ASTForAudioClassification.from_pretrained(folders["ast"]).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders["ast"])
    with torch.no_grad():
        parts = [
            model(**extractor(list(part.numpy()), sampling_rate=16000, return_tensors="pt")).logits.softmax(dim=1)
            for part in sound.split(6000, dim=1)
        ]
    torch.testing.assert_close(classifier(sound, 16000), (parts[0] + parts[1]) / 2)
    at_24k = torchaudio.functional.resample(sound, 16000, 24000)
    back = torchaudio.functional.resample(at_24k, 24000, 16000)
    torch.testing.assert_close(classifier(at_24k, 24000), classifier(back, 16000))


def test_built_from_one_line_they_work_in_the_metrics(folders, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("dog\n\n cat \nrain\n", encoding="utf-8")
    assert read_labels(labels) == LABELS
    video, audio = build_encoders(f"clip+clap:{folders['clip']}, {folders['clap']},{labels}")
    metric = PairAgreement(video.outputs)
    assert not any(module.training for module in (*video.train().modules(), *audio.train().modules()))
    frames, sound = pictures(3, 2), sounds(3, 4000)
    metric.update(audio(sound, 16000).split(1), video(frames, 25.0).split(1))
    common = torch.minimum(video(frames, 25.0), audio(sound, 16000)).sum(dim=1).mean()
    assert float(metric.compute()["audio_visual_agreement"]) == pytest.approx(float(common), abs=1e-6)
    assert video.name.startswith("CLIP clip")
    assert audio.name.endswith(", 3 labels")

    metric = ClassifierAgreement(build_classifier(f"hf:{folders['ast']}"))
    metric.update(sound, sound, 16000)
    assert float(metric.compute()["classifier_agreement"]) == 1.0
    assert float(metric.compute()["classifier_kl"]) == 0.0


class Means(nn.Module):
    """Mean colour (B, 3) times weights, as a shared space."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, frames: torch.Tensor, fps: float) -> torch.Tensor:
        return frames.float().mean(dim=[2, 3, 4]) * self.scale * fps


class Peaks(nn.Module):
    def forward(self, sound: torch.Tensor, sample_rate: int) -> torch.Tensor:
        return sound[:, :3] * sample_rate


def test_a_pair_of_torchscript_files(tmp_path):
    torch.jit.script(Means()).save(tmp_path / "video.pt")
    torch.jit.script(Peaks()).save(tmp_path / "audio.pt")
    video, audio = build_encoders(f"torchscript:{tmp_path / 'video.pt'},{tmp_path / 'audio.pt'}")
    frames, sound = pictures(4, 2), sounds(4, 9)
    expected = frames.float().mean(dim=(2, 3, 4)) * torch.tensor([1.0, 2.0, 3.0]) * 10
    torch.testing.assert_close(video(frames, 10), expected)
    torch.testing.assert_close(audio(sound.double(), 16000), sound[:, :3] * 16000)
    assert (video.name, video.outputs, video.weights_hash) == ("video.pt", "embeddings", weights_hash(video))
    metric = PairAgreement(video.outputs)
    metric.update(audio(sound, 16000).split(1), video(frames, 10.0).split(1))
    cosine = torch.cosine_similarity(expected, sound[:, :3]).mean()
    assert float(metric.compute()["audio_visual_agreement"]) == pytest.approx(float(cosine), abs=1e-6)


def test_the_hash_is_that_of_the_weights(folders):
    first = ClipFrames(folders["clip"], LABELS)
    assert first.weights_hash == ClipFrames(folders["clip"], LABELS[::-1]).weights_hash
    assert first.weights_hash == weights_hash(first)
    assert first.weights_hash != ClapSound(folders["clap"], LABELS).weights_hash


def test_wrong_specs_say_what_was_expected(tmp_path):
    for spec in ("clip+clap:a,b", "clip+clap:a,,c", "torchscript:video.pt", "imagebind:a,b", ""):
        with pytest.raises(ValueError, match=r"clip\+clap:CLIP,CLAP,LABELS_FILE or torchscript:VIDEO.pt,AUDIO.pt"):
            build_encoders(spec)
    for spec in ("hf:", "ast", "folder:here"):
        with pytest.raises(ValueError, match="hf:FOLDER_OR_HUB_NAME"):
            build_classifier(spec)
    with pytest.raises(FileNotFoundError, match="no TorchScript file"):
        build_encoders(f"torchscript:{tmp_path / 'none.pt'},{tmp_path / 'none.pt'}")
    for text in ("dog\n", "dog\ndog\ncat\n"):
        (tmp_path / "labels.txt").write_text(text)
        with pytest.raises(ValueError, match=r"the labels of labels.txt must be two or more, none twice"):
            read_labels(tmp_path / "labels.txt")


def test_malformed_media_raise(folders, tmp_path):
    torch.jit.script(Means()).save(tmp_path / "video.pt")
    scripted = ScriptedEncoder(tmp_path / "video.pt")
    for bad in (torch.zeros(1, 3, 2, 4, 4), torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8), pictures(1, 0)):
        for encoder in (ClipFrames(folders["clip"], LABELS), scripted):
            with pytest.raises(ValueError, match=r"frames must be uint8 \(B, 3, T, H, W\)"):
                encoder(bad, 25.0)
    classifier = AudioClassifier(folders["ast"])
    for bad in (torch.zeros(4), torch.zeros(2, 0), torch.zeros(1, 4, dtype=torch.int16)):
        with pytest.raises(ValueError, match=r"sound must be float \(B, N\)"):
            classifier(bad, 16000)
    for encoder in (classifier, scripted):
        with pytest.raises(ValueError, match="finite"):
            encoder(torch.full((1, 4000), torch.nan), 16000)


def test_without_transformers_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cmmd-lightning\[metrics\]'"):
        AudioClassifier("anything")
