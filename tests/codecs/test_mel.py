import math

import numpy as np
import pytest
import torch

from cmmd_lightning.codecs import LogMel, mel


def noise(batch: int = 2, samples: int = 8000, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


def reference_log_mel(sound, sample_rate, n_fft, hop, bands, f_min=0.0, f_max=None):
    """From the definitions: Hann window, DFT magnitude, triangles evenly spaced on the HTK scale, natural log."""

    def to_mel(hz):
        return 2595.0 * np.log10(1.0 + hz / 700.0)

    edges = 700.0 * (10.0 ** (np.linspace(to_mel(f_min), to_mel(f_max or sample_rate / 2), bands + 2) / 2595.0) - 1.0)
    hertz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    rising = (hertz[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hertz[None]) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(np.asarray(sound, dtype=np.float64), n_fft // 2, mode="reflect")
    starts = [frame * hop for frame in range(math.ceil(len(sound) / hop))]
    spectrum = np.abs(np.fft.rfft(np.stack([padded[s : s + n_fft] * window for s in starts]), axis=1))
    return np.log(np.maximum(spectrum @ triangles.T, 1e-5)).T


@pytest.mark.parametrize(
    ("sample_rate", "n_fft", "hop", "bands"), [(16000, 1024, 200, 80), (16000, 512, 160, 48), (24000, 1024, 256, 100)]
)
def test_agrees_with_the_definition(sample_rate, n_fft, hop, bands):
    sound = noise()
    found = LogMel(sample_rate, n_fft, hop, bands)(sound)
    for row in range(2):
        expected = reference_log_mel(sound[row].numpy(), sample_rate, n_fft, hop, bands)
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-4)


def test_agrees_with_the_definition_in_a_narrower_range():
    sound = noise(1)
    found = LogMel(16000, 1024, 200, 40, f_min=50.0, f_max=6000.0)(sound)[0]
    expected = reference_log_mel(sound[0].numpy(), 16000, 1024, 200, 40, 50.0, 6000.0)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 3, 199, 200, 201, 512, 513, 8000, 8001])
def test_has_one_frame_per_started_hop(samples):
    log_mel = LogMel(16000, 1024, 200, 80)
    assert log_mel(noise(1, samples)).shape == (1, 80, math.ceil(samples / 200))
    assert log_mel.num_frames(samples) == math.ceil(samples / 200)


def test_frame_is_centred_on_its_sample():
    sound = torch.zeros(1, 8000)
    sound[0, 17 * 200] = 1.0
    loudness = LogMel(16000, 1024, 200, 80)(sound).exp().sum(dim=1)[0]
    assert loudness.argmax() == 17
    for distance in (1, 2):
        assert torch.isclose(loudness[17 - distance], loudness[17 + distance], rtol=1e-4)
        # The window's weight at that distance from its centre.
        weight = 0.5 + 0.5 * math.cos(2 * math.pi * distance * 200 / 1024)
        assert loudness[17 + distance] / loudness[17] == pytest.approx(weight, rel=1e-4)


def test_silence_sits_on_the_floor():
    assert torch.allclose(LogMel()(torch.zeros(1, 4000)), torch.tensor(math.log(1e-5)))


def test_long_sound_in_chunks_is_the_same(monkeypatch):
    log_mel, sound = LogMel(16000, 512, 200, 40), noise(2, 8050)
    whole = log_mel(sound)
    monkeypatch.setattr(mel, "_CHUNK", 7)
    assert torch.allclose(log_mel(sound), whole, atol=1e-6)


def test_stretch_of_the_whole_equals_the_stretch_alone_away_from_its_ends():
    log_mel, sound = LogMel(16000, 1024, 200, 80), noise(1, 16000)
    inside = log_mel(sound[:, 20 * 200 : 60 * 200])
    assert torch.allclose(inside[:, :, 3:-3], log_mel(sound)[:, :, 23:57], atol=1e-4)


def test_normalize_and_back():
    log_mel = LogMel()
    values = log_mel(noise())
    assert torch.equal(log_mel.normalize(values), values)
    log_mel.mean.fill_(-4.0)
    log_mel.std.fill_(2.5)
    assert torch.allclose(log_mel.normalize(values), (values + 4.0) / 2.5)
    assert torch.allclose(log_mel.denormalize(log_mel.normalize(values)), values, atol=1e-5)
    assert set(log_mel.state_dict()) == {"mean", "std"}


def test_bands_that_the_window_cannot_resolve_are_refused(recwarn):
    with pytest.raises(ValueError, match="n_mels=128 with n_fft=512 at 16000 Hz, which leaves 1 empty"):
        LogMel(16000, 512, 200, 128)
    assert not recwarn.list


@pytest.mark.parametrize("shape", [(8000,), (2, 1, 8000), (2, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected sound of shape"):
        LogMel()(torch.zeros(shape))
