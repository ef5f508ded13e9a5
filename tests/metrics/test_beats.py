"""Beats against click tracks and procedural dances whose beats are known to the sample."""

import sys

import librosa
import numpy as np
import pytest
import torch

from cmmd_lightning.metrics.functional.beats import detect_beats
from cmmd_lightning.metrics.functional.events import event_scores
from cmmd_lightning.procedural import SceneSettings, simulate

RATE = 16000


def click_track(bpm: float, first: float, seconds: float = 6.0, rate: int = RATE) -> tuple[torch.Tensor, np.ndarray]:
    sound = 1e-3 * torch.randn(round(seconds * rate), generator=torch.Generator().manual_seed(0))
    starts = np.round(np.arange(first, seconds - 0.2, 60 / bpm) * rate).astype(int)
    t = torch.arange(rate // 10) / rate
    for start in starts:
        sound[start : start + len(t)] += 0.8 * torch.exp(-t / 0.01) * torch.sin(2 * torch.pi * 1000 * t)
    return sound, starts / rate


def errors(beats: torch.Tensor | np.ndarray, true: np.ndarray) -> np.ndarray:
    """Of each beat found, the seconds by which it is later than the nearest true one."""
    found = np.asarray(beats)
    return found - true[np.abs(found[:, None] - true).argmin(axis=1)]


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("bpm", [60, 85, 105, 120, 140])
def test_beats_of_click_tracks_are_found_within_5_ms(bpm, rate):
    sound, true = click_track(bpm, 0.337, rate=rate)
    found = detect_beats(sound, rate)
    assert found.dtype == torch.float64
    assert abs(np.median(errors(found, true))) < 0.005
    assert event_scores(true, found, 0.01).f1 > 0.9


@pytest.mark.parametrize("bpm", [165, 180])
def test_a_fast_track_may_be_found_at_half_its_tempo_but_on_its_beats(bpm):
    sound, true = click_track(bpm, 0.1, 8.0)
    found = detect_beats(sound, RATE)
    assert abs(np.median(errors(found, true))) < 0.005
    scores = event_scores(true, found, 0.01)
    assert scores.precision == 1.0
    assert scores.recall > 0.4


def test_beats_of_dances_are_within_15_ms_and_the_tracker_alone_is_later():
    own, alone, scores = [], [], []
    for index in range(6):
        clip = simulate("dance", 1, index, SceneSettings(fps=10.0, height=16, width=16), streams="audio")
        true = np.array([event["time"] for event in clip.events])
        found = detect_beats(clip.sound, RATE)
        own.append(errors(found, true))
        scores.append(event_scores(true, found, 0.025).f1)
        alone.append(errors(librosa.beat.beat_track(y=clip.sound.numpy(), sr=RATE, units="time")[1], true))
    own, alone = np.concatenate(own), np.concatenate(alone)
    assert (np.abs(own) < 0.015).mean() > 0.95
    assert abs(np.median(own)) < 0.005
    assert np.mean(scores) > 0.9
    assert 0.02 < np.median(alone) < 0.07


def test_beats_move_with_the_sound_and_not_with_its_level():
    sound, _ = click_track(105, 0.337)
    found = detect_beats(sound, RATE)
    moved = detect_beats(torch.cat([1e-3 * torch.randn(1600, generator=torch.Generator().manual_seed(1)), sound]), RATE)
    assert event_scores(found + 0.1, moved, 0.01).f1 > 0.9
    assert detect_beats(0.01 * sound, RATE).tolist() == pytest.approx(found.tolist(), abs=1e-9)


@pytest.mark.parametrize("samples", [0, 1, 10, 100, 1000, 32000])
def test_silence_of_any_length_has_no_beats(samples):
    assert detect_beats(torch.zeros(samples), RATE).tolist() == []


@pytest.mark.parametrize("samples", [1, 100, 1000, 3000])
def test_short_sounds_do_not_break(samples):
    found = detect_beats(torch.randn(samples, generator=torch.Generator().manual_seed(0)), RATE)
    assert found.dim() == 1
    assert bool(((found >= 0) & (found <= samples / RATE)).all())


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        (torch.zeros(2, 100), RATE, "one dimension"),
        (torch.tensor([0.0, float("nan")]), RATE, "finite"),
        (torch.zeros(100), 100, "2000 Hz"),
    ],
)
def test_malformed_sound_raises(sound, rate, message):
    with pytest.raises(ValueError, match=message):
        detect_beats(sound, rate)


def test_without_librosa_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cmmd-lightning\[metrics\]'"):
        detect_beats(torch.zeros(16000), RATE)
