import math

import pytest
import torch
import yaml

from cmmd_lightning.codecs import (
    GriffinLimVocoder,
    LogMel,
    Vocos,
    build_vocoder,
    log_spectral_distance,
    sound_round_trip,
)

VOCOS = {
    "feature_extractor": {
        "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
        "init_args": {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": "center"},
    },
    "backbone": {
        "class_path": "vocos.models.VocosBackbone",
        "init_args": {"input_channels": 100, "dim": 16, "intermediate_dim": 32, "num_layers": 2},
    },
    "head": {
        "class_path": "vocos.heads.ISTFTHead",
        "init_args": {"dim": 16, "n_fft": 1024, "hop_length": 256, "padding": "center"},
    },
}


def pings(times, samples=16000, rate=16000):
    """Decaying tones over a little noise, (1, samples)."""
    clock = torch.arange(samples) / rate
    sound = 0.001 * torch.randn(samples, generator=torch.Generator().manual_seed(1))
    for number, time in enumerate(times):
        since = clock - time
        sound += (since >= 0) * 0.5 * torch.exp(-since.clamp(min=0) * 25) * torch.sin(1500 * (1.3 + number) * since)
    return sound[None]


@pytest.mark.parametrize(("n_fft", "bands"), [(1024, 80), (1024, 64), (512, 64)])
def test_griffin_lim_keeps_clicks_in_their_place(n_fft, bands):
    mel = LogMel(16000, n_fft, 200, bands)
    for offset in (0, 67, 133):
        places = [2000 + offset, 7000 + offset, 13000 + offset]
        sound = torch.zeros(1, 16000)
        for place in places:
            sound[0, place : place + 8] = 0.8
        again = GriffinLimVocoder(mel)(mel(sound), 16000)[0]
        for place in places:
            found = place - 800 + int(again[place - 800 : place + 800].abs().argmax())
            assert abs(found - (place + 4)) / 16000 < 0.005


def test_griffin_lim_round_trip_is_close():
    mel = LogMel(16000, 1024, 200, 80)
    sound = pings([0.2, 0.55, 0.8])
    again = GriffinLimVocoder(mel)(mel(sound), 16000)
    # 4.6 dB when written; silence is at 11.3 dB.
    assert log_spectral_distance(again, sound) < 5.5
    assert log_spectral_distance(torch.zeros_like(sound), sound) > 11.0
    assert again.std() == pytest.approx(sound.std().item(), rel=0.1)
    assert sound_round_trip(mel, GriffinLimVocoder(mel), sound)["mel_error"] < 1.5


def test_griffin_lim_is_deterministic_alone_or_in_a_batch_and_leaves_the_global_generator_alone():
    mel = LogMel(16000, 512, 200, 40)
    vocoder = GriffinLimVocoder(mel, n_iter=8)
    sounds = torch.cat([pings([0.1, 0.3], 6000), pings([0.2], 6000), pings([0.05], 6000)])
    state = torch.get_rng_state()
    batch = vocoder(mel(sounds), 6000)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(vocoder(mel(sounds), 6000), batch)
    assert torch.allclose(vocoder(mel(sounds[1:2]), 6000), batch[1:2], atol=1e-4)


@pytest.mark.parametrize("samples", [1, 150, 200, 201, 512, 1600, 1733])
def test_griffin_lim_gives_exactly_the_samples_asked_for(samples):
    mel = LogMel(16000, 1024, 200, 80)
    sound = GriffinLimVocoder(mel, n_iter=2)(mel(0.1 * torch.ones(2, samples)), samples)
    assert sound.shape == (2, samples)
    assert torch.isfinite(sound).all()


@pytest.mark.parametrize("floor", [1e-5, 0.6])
def test_what_lies_on_the_floor_of_the_mel_is_silent(floor):
    mel = LogMel(floor=floor)
    assert GriffinLimVocoder(mel)(mel(torch.zeros(1, 4000)), 4000).abs().max() < 1e-4
    loud = 0.3 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    assert GriffinLimVocoder(mel)(mel(loud), 4000).std() == pytest.approx(loud.std().item(), rel=0.15)


def test_misfit_input_is_refused():
    vocoder = build_vocoder("griffin_lim", LogMel(16000, 1024, 200, 80))
    with pytest.raises(ValueError, match=r"\(batch, 80, frames\), got \(1, 64, 10\)"):
        vocoder(torch.zeros(1, 64, 10), 2000)
    with pytest.raises(ValueError, match="2001 samples need 11 frames of 200 samples, got 10"):
        vocoder(torch.zeros(1, 80, 10), 2001)
    for name in ("hifigan", "vocos", "vocos:"):
        with pytest.raises(ValueError, match="expected 'griffin_lim', the path of a vocoder"):
            build_vocoder(name, LogMel())


@pytest.fixture(scope="module")
def vocos_folder(tmp_path_factory):
    """Random weights in the layout of a published vocos."""
    from vocos import Vocos

    folder = tmp_path_factory.mktemp("vocos")
    (folder / "config.yaml").write_text(yaml.safe_dump(VOCOS))
    torch.manual_seed(0)
    model = Vocos.from_hparams(str(folder / "config.yaml"))
    torch.nn.init.normal_(model.head.out.weight, std=0.2)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def test_vocos_gives_what_the_package_gives(vocos_folder):
    from vocos import Vocos as Original

    mel = LogMel(24000, 1024, 256, 100)
    vocoder = build_vocoder(f"vocos:{vocos_folder}", mel)
    assert isinstance(vocoder, Vocos)
    sound = 0.1 * torch.randn(2, 256 * 40, generator=torch.Generator().manual_seed(0))
    found = vocoder(mel(sound), 256 * 40)
    original = Original.from_hparams(str(vocos_folder / "config.yaml")).eval()
    original.load_state_dict(torch.load(vocos_folder / "pytorch_model.bin", weights_only=True))
    expected = original(sound)
    assert found.shape == expected.shape == (2, 256 * 40)
    assert found.abs().max() > 1e-3
    # The package has one frame more, at the very end; up to where that one reaches, all is equal.
    reach = 256 * 40 - 256 * 20
    assert torch.allclose(found[:, :reach], expected[:, :reach], atol=1e-5)
    assert vocoder(mel(sound), 9999).shape == (2, 9999)


def test_vocos_refuses_another_mel_and_names_both(vocos_folder):
    with pytest.raises(ValueError, match="made for") as caught:
        build_vocoder(f"vocos:{vocos_folder}", LogMel(16000, 1024, 200, 80))
    assert "hop_length 256, n_fft 1024, n_mels 100, sample_rate 24000; got " in str(caught.value)
    assert str(caught.value).endswith("hop_length 200, n_fft 1024, n_mels 80, sample_rate 16000")
    with pytest.raises(ValueError, match="f_min 40"):
        build_vocoder(f"vocos:{vocos_folder}", LogMel(24000, 1024, 256, 100, f_min=40.0))


def with_part(tmp_path, vocos_folder, part, **changes):
    config = {**VOCOS, part: {**VOCOS[part], **changes}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "pytorch_model.bin").write_bytes((vocos_folder / "pytorch_model.bin").read_bytes())
    return f"vocos:{tmp_path}"


def test_vocos_of_other_kinds_are_refused(tmp_path, vocos_folder):
    mel = LogMel(24000, 1024, 256, 100)
    name = with_part(tmp_path, vocos_folder, "feature_extractor", class_path="vocos.feature_extractors.EncodecFeatures")
    with pytest.raises(ValueError, match=r"a feature_extractor of class .*, got vocos.*\.EncodecFeatures"):
        build_vocoder(name, mel)
    name = with_part(tmp_path, vocos_folder, "feature_extractor", init_args={"padding": "same"})
    with pytest.raises(ValueError, match="got padding 'same'"):
        build_vocoder(name, mel)
    name = with_part(tmp_path, vocos_folder, "head", class_path="subprocess.Popen", init_args={"args": "true"})
    with pytest.raises(ValueError, match=r"a head of class vocos\.heads\.ISTFTHead, got subprocess\.Popen"):
        build_vocoder(name, mel)
    name = with_part(tmp_path, vocos_folder, "head", init_args={"dim": 16, "n_fft": 512, "hop_length": 256})
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: expected the weights of its config\.yaml"):
        build_vocoder(name, mel)


def test_vocos_that_is_not_there(tmp_path):
    mel = LogMel(24000, 1024, 256, 100)
    with pytest.raises(ValueError, match=r"no config\.yaml and no pytorch_model\.bin"):
        build_vocoder(f"vocos:{tmp_path}", mel)
    with pytest.raises(ValueError, match="a path that does not exist"):
        build_vocoder(f"vocos:{tmp_path / 'nowhere'}", mel)
    (tmp_path / "pytorch_model.bin").touch()
    (tmp_path / "config.yaml").write_text("just: words")
    with pytest.raises(ValueError, match=r"config\.yaml: expected vocos' config\.yaml"):
        build_vocoder(f"vocos:{tmp_path}", mel)


def test_griffin_lim_at_other_rates_keeps_pitch():
    mel = LogMel(24000, 1024, 256, 100)
    sound = 0.5 * torch.sin(2 * math.pi * 1000 * torch.arange(12000) / 24000)[None]
    spectrum = torch.fft.rfft(GriffinLimVocoder(mel)(mel(sound), 12000)[0]).abs()
    assert abs(int(spectrum.argmax()) * 24000 / 12000 - 1000) < 40
