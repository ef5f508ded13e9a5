"""Voices: where they start, how they decay, what pitch they have."""

import numpy as np
import pytest

from cmmd_lightning.procedural import sound


def spectrum_peak(signal, sample_rate):
    power = np.abs(np.fft.rfft(signal * np.hanning(len(signal)), 1 << 18))
    return np.argmax(power) * sample_rate / (1 << 18)


def test_place_starts_at_any_real_time():
    signal = np.zeros(100)
    sound.place(signal, 0.02531, 1000, 0.01, lambda since: since + 1, gain=2.0)
    assert np.flatnonzero(signal)[[0, -1]].tolist() == [26, 35]
    assert signal[26] == pytest.approx(2 * (1 + 0.026 - 0.02531))


@pytest.mark.parametrize("time", [-0.005, 0.098, 0.2])
def test_place_at_the_edges(time):
    signal = np.zeros(100)
    sound.place(signal, time, 1000, 0.01, lambda since: np.ones(len(since)), gain=1.0)
    instants = np.arange(100) / 1000
    np.testing.assert_array_equal(signal, (instants >= time - 1e-9) & (instants < time + 0.01 - 1e-9))


@pytest.mark.parametrize("timbre", sound.TIMBRES)
@pytest.mark.parametrize("pitch", [200.0, 450.0, 900.0])
def test_struck_pitch_peak_and_decay(timbre, pitch):
    rng, since = np.random.default_rng(0), np.arange(16000) / 16000
    signal = sound.struck(timbre, pitch, 0.2, 16000, rng)(since)
    assert 0.4 < np.abs(signal).max() < 1.9
    assert spectrum_peak(signal[320:4800], 16000) == pytest.approx(pitch, rel=0.03)
    levels = [20 * np.log10(np.abs(signal[int(16000 * t) : int(16000 * (t + 0.02))]).max()) for t in (0.02, 0.22)]
    assert levels[0] - levels[1] == pytest.approx(30, abs=7)


def test_partials_stay_below_the_nyquist_frequency():
    since = np.arange(4000) / 8000
    signal = sound.struck("bar", 900.0, 0.25, 8000, np.random.default_rng(0))(since)[400:]
    power = np.abs(np.fft.rfft(signal * np.hanning(len(signal)))) ** 2
    frequency = np.fft.rfftfreq(len(signal), 1 / 8000)
    expected = (np.abs(frequency - 900) < 40) | (np.abs(frequency - 2.756 * 900) < 40)
    assert power[expected].sum() > 0.999 * power.sum()


def test_bass_note_ends():
    since = np.arange(8000) / 16000
    signal = sound.bass(80.0, 0.3, 0.5, 16000)(since)
    assert np.abs(signal[4800:]).max() == 0
    assert spectrum_peak(signal[:4800], 16000) == pytest.approx(80, rel=0.03)


def test_room_noise_level_and_length():
    for seed, length in enumerate((1, 17, 1000, 64000)):
        noise = sound.room_noise(np.random.default_rng(seed), length)
        assert noise.shape == (length,)
        if length >= 1000:
            assert -61 < 20 * np.log10(noise.std()) < -42
            assert abs(noise.mean()) < noise.std()


def test_decibels():
    assert sound.decibels(-20) == pytest.approx(0.1)
