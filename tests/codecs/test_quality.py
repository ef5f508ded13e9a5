import math

import numpy as np
import pytest
import torch

from cmmd_lightning.codecs import (
    GriffinLimVocoder,
    LogMel,
    PixelUnshuffleCodec,
    frame_round_trip,
    log_spectral_distance,
    psnr,
    sound_round_trip,
)


def noise(samples=8000, seed=0):
    return 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_known_errors():
    zero = torch.zeros(2, 3, 8, 8)
    assert psnr(zero + 0.2, zero).item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(zero + 2.0, zero).item() == pytest.approx(0.0, abs=1e-4)
    # Of each example first: 40 dB and 20 dB are 30 dB, not the PSNR of the pooled error.
    mixed = zero.clone()
    mixed[0], mixed[1] = 0.02, 0.2
    assert psnr(mixed, zero).item() == pytest.approx(30.0, abs=1e-4)
    assert math.isinf(psnr(zero, zero).item())
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3, 8, 8\) and \(1, 3, 8, 8\)"):
        psnr(zero, zero[:1])


def test_log_spectral_distance_of_a_gain_is_that_gain():
    sound = noise()
    assert log_spectral_distance(sound, sound).item() == 0.0
    assert log_spectral_distance(10 * sound, sound).item() == pytest.approx(20.0, abs=1e-3)
    assert log_spectral_distance(-sound, sound).item() == pytest.approx(0.0, abs=1e-3)
    assert log_spectral_distance(sound / 2, sound).item() == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_log_spectral_distance_agrees_with_numpy():
    heard, wanted = noise(seed=1), noise()

    def magnitude(sound):
        padded = np.pad(sound.double().numpy(), 256)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
        starts = range(0, len(padded) - 511, 128)
        return np.abs(np.fft.rfft(np.stack([padded[s : s + 512] * window for s in starts]), axis=1))

    expected = []
    for row in range(2):
        a, b = magnitude(heard[row]), magnitude(wanted[row])
        floor = b.max() * 1e-4
        decibels = 20 * np.log10(np.maximum(a, floor) / np.maximum(b, floor))
        expected.append(np.sqrt((decibels**2).mean(axis=1)).mean())
    assert log_spectral_distance(heard, wanted, 512, 128).item() == pytest.approx(np.mean(expected), rel=1e-4)


def test_log_spectral_distance_stops_at_the_dynamic_range():
    sound = noise()
    # All of the reference lies within 80 dB of its peak, and silence counts as 80 dB below it.
    assert 50.0 < log_spectral_distance(torch.zeros_like(sound), sound).item() < 80.0
    silence = torch.zeros_like(sound)
    assert log_spectral_distance(silence, silence).item() == 0.0


def test_frame_round_trip():
    frames = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    perfect = frame_round_trip(PixelUnshuffleCodec(4), frames, batch_size=2)
    assert perfect == {"psnr": math.inf, "compression": 1.0}

    class Darker(PixelUnshuffleCodec):
        def reconstruct(self, latents):
            return super().reconstruct(latents) - 0.2

    assert frame_round_trip(Darker(4), frames * 0.5)["psnr"] == pytest.approx(20.0, abs=1e-3)


def test_sound_round_trip():
    class Perfect(torch.nn.Module):
        def forward(self, log_mel, num_samples):
            return sound[:, :num_samples]

    sound, mel = noise(), LogMel()
    assert sound_round_trip(mel, Perfect(), sound) == {"log_spectral_distance": 0.0, "mel_error": 0.0}
    real = sound_round_trip(mel, GriffinLimVocoder(mel), sound)
    assert 0.5 < real["mel_error"] < 3.0
    assert 3.0 < real["log_spectral_distance"] < 9.0
