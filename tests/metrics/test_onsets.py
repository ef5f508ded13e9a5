"""Onsets in sound: known attacks, silence, noise, malformed input."""

import math

import pytest
import torch

from cmmd_lightning.metrics.functional.onsets import detect_onsets, onset_strength

SECONDS = 1.6
VOICES = ["click", "low tone", "high tone", "noise"]


def voice(kind: str, sample_rate: int, generator: torch.Generator) -> torch.Tensor:
    t = torch.arange(sample_rate // 4) / sample_rate
    if kind == "click":
        return torch.tensor([1.0])
    if kind == "noise":
        return torch.randn(t.shape, generator=generator) * torch.exp(-t / 0.03)
    hertz, decay = (90.0, 0.15) if kind == "low tone" else (1500.0, 0.05)
    return torch.exp(-t / decay) * torch.sin(2 * math.pi * hertz * t)


def clip(kind: str, sample_rate: int, times: list[float], noise: float = 1e-3) -> tuple[torch.Tensor, list[float]]:
    generator = torch.Generator().manual_seed(0)
    sound = noise * torch.randn(round(SECONDS * sample_rate), generator=generator)
    starts = [round(time * sample_rate) for time in times]
    for i, start in enumerate(starts):
        strike = voice(kind, sample_rate, generator) * (0.2 + 0.4 * i)
        end = min(len(sound), start + len(strike))
        sound[start:end] += strike[: end - start]
    return sound, [start / sample_rate for start in starts]


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 44100])
@pytest.mark.parametrize("kind", VOICES)
def test_attacks_are_reported_within_5_ms(kind, sample_rate):
    sound, times = clip(kind, sample_rate, [0.2371, 0.7013, 1.1999])
    found = detect_onsets(sound, sample_rate)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(times, abs=0.005)


@pytest.mark.parametrize("level", [1e-2, 1.0, 50.0])
def test_level_does_not_matter(level):
    sound, _ = clip("high tone", 16000, [0.3, 0.9])
    assert detect_onsets(level * sound, 16000).tolist() == pytest.approx(detect_onsets(sound, 16000).tolist(), abs=1e-4)


def test_delayed_sound_is_reported_later_by_the_delay():
    sound, _ = clip("click", 16000, [0.3, 0.9])
    early, late = detect_onsets(sound, 16000), detect_onsets(torch.roll(sound, 1600), 16000)
    assert (late - early).tolist() == pytest.approx([0.1, 0.1], abs=1e-6)


@pytest.mark.parametrize(
    "sound",
    [
        torch.zeros(16000),
        torch.zeros(0),
        torch.sin(2 * math.pi * 200 * torch.arange(16000) / 16000),
        0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(0)),
        torch.full((16000,), 0.5),
    ],
    ids=["silence", "nothing", "steady tone", "steady noise", "constant"],
)
def test_nothing_starts_where_nothing_changes(sound):
    assert detect_onsets(sound, 16000).tolist() == []


def test_strength_is_zero_for_silence_and_at_most_one():
    assert float(onset_strength(torch.zeros(16000), 16000).max()) == 0.0
    sound, _ = clip("noise", 16000, [0.3])
    strength = onset_strength(sound, 16000)
    assert 0.2 < float(strength.max()) <= 1.0
    assert float(strength.min()) >= 0.0


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        (torch.zeros(2, 100), 16000, "one dimension"),
        (torch.tensor([0.0, float("nan")]), 16000, "finite"),
        (torch.zeros(100), 100, "2000 Hz"),
    ],
)
def test_malformed_sound_raises(sound, rate, message):
    with pytest.raises(ValueError, match=message):
        detect_onsets(sound, rate)


@pytest.mark.parametrize("samples", [1, 10, 100, 1000])
def test_short_sounds_do_not_break(samples):
    sound = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    assert detect_onsets(sound, 16000).dim() == 1
