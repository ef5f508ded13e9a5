"""What holds for every scene: settings, lengths, sidecars, determinism, the correlation knob."""

import json
import math

import numpy as np
import pytest
import torch

from cmmd_lightning.procedural import SCENES, SceneSettings, simulate
from cmmd_lightning.procedural.scene import MIN_GAP, decouple

SMALL = SceneSettings(duration=2.0, fps=10.0, height=24, width=24, sample_rate=8000)


@pytest.mark.parametrize("scene", sorted(SCENES))
@pytest.mark.parametrize(
    ("duration", "fps", "height", "width", "sample_rate"),
    [
        (0.7, 8.0, 33, 47, 8000),
        (1.0, 60.0, 16, 64, 44100),
        (1.601, 29.97, 64, 17, 11025),
        (0.1, 12.5, 8, 8, 48000),
        (9.3, 10.0, 32, 32, 22050),
    ],
)
def test_any_rate_size_and_length(scene, duration, fps, height, width, sample_rate):
    settings = SceneSettings(duration, fps, height, width, sample_rate, correlation=0.5)
    clip = simulate(scene, 3, 1, settings)
    frames = max(1, round(duration * fps))
    assert clip.frames.shape == (frames, 3, height, width)
    assert clip.frames.dtype == torch.uint8
    assert clip.sound.shape == (round(frames / fps * sample_rate),)
    assert clip.sound.dtype == torch.float32
    assert clip.sound.abs().max() <= 1
    assert all(0 <= event["time"] < frames / fps for event in clip.events)


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_events_do_not_depend_on_rates_or_size(scene):
    fine = SceneSettings(duration=4.0, fps=50.0, height=40, width=40, sample_rate=24000, correlation=0.6)
    coarse = SceneSettings(duration=4.0, fps=8.0, height=16, width=16, sample_rate=8000, correlation=0.6)
    first, second = (simulate(scene, 5, 2, settings) for settings in (fine, coarse))
    assert first.events == second.events
    assert len(first.events) >= 4


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_picture_is_sampled_at_its_instants(scene):
    """Every second frame at 20 fps is the frame at 10 fps: frame i shows the instant i / fps."""
    slow = simulate(scene, 1, 0, SceneSettings(fps=10.0, height=32, width=32), streams="video")
    fast = simulate(scene, 1, 0, SceneSettings(fps=20.0, height=32, width=32), streams="video")
    assert torch.equal(fast.frames[::2], slow.frames)


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_deterministic_and_streams_are_independent(scene):
    clip, again = simulate(scene, 7, 4, SMALL), simulate(scene, 7, 4, SMALL)
    silent, unseen = simulate(scene, 7, 4, SMALL, streams="video"), simulate(scene, 7, 4, SMALL, streams="audio")
    assert torch.equal(clip.frames, again.frames)
    assert torch.equal(clip.sound, again.sound)
    assert clip.sidecar == again.sidecar
    assert silent.sound is None
    assert torch.equal(silent.frames, clip.frames)
    assert unseen.frames is None
    assert torch.equal(unseen.sound, clip.sound)
    assert clip.events == silent.events == unseen.events


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_seed_and_index_change_the_clip(scene):
    clip, next_clip, other = (simulate(scene, *numbers, SMALL) for numbers in ((0, 0), (0, 1), (1, 0)))
    assert clip.events != next_clip.events != other.events != clip.events
    assert not torch.equal(clip.frames, next_clip.frames)
    assert not torch.equal(clip.sound, other.sound)


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_sidecar_schema(scene):
    settings = SceneSettings(duration=3.0, fps=12.5, height=20, width=30, sample_rate=16000, correlation=0.5)
    sidecar = json.loads(json.dumps(simulate(scene, 2, 9, settings).sidecar))
    expected = {
        "scene": scene,
        "seed": 2,
        "index": 9,
        "fps": 12.5,
        "duration": 3.0,
        "size": [20, 30],
        "sample_rate": 16000,
        "correlation": 0.5,
        "streams": "both",
    }
    assert {key: sidecar[key] for key in expected} == expected
    assert sidecar["period"] is None or sidecar["period"] > 0
    times = [event["time"] for event in sidecar["events"]]
    assert times == sorted(times)
    for event in sidecar["events"]:
        assert event["kind"] == {"bounce": "impact", "dance": "beat"}[scene]
        assert event["visible"] in (True, False)
        assert event["audible"] in (True, False)
        assert event["visible"] or event["audible"]
        assert event["pitch_hz"] > 0
        assert -12.5 < event["level_db"] <= 0


@pytest.mark.parametrize("scene", sorted(SCENES))
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8, 1.0])
def test_correlation_is_the_share_of_sounds_with_a_visible_cause(scene, correlation):
    both, seen, heard = 0, 0, 0
    for index in range(60):
        settings = SceneSettings(duration=5.0, fps=1.0, height=8, width=8, sample_rate=100, correlation=correlation)
        for event in SCENES[scene]().simulate(np.random.default_rng(index), settings, video=False, audio=False).events:
            both += event["visible"] and event["audible"]
            seen += event["visible"]
            heard += event["audible"]
    spread = 4 * math.sqrt(correlation * (1 - correlation) / heard)
    assert both / heard == pytest.approx(correlation, abs=spread + 0.02 * (0 < correlation < 1))
    assert both / seen == pytest.approx(correlation, abs=spread + 0.02 * (0 < correlation < 1))
    assert heard / seen == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_picture_does_not_know_the_correlation(scene):
    clips = [
        simulate(scene, 3, 3, SceneSettings(2.0, 10.0, 24, 24, 8000, correlation), streams="video")
        for correlation in (0.0, 1.0)
    ]
    assert torch.equal(clips[0].frames, clips[1].frames)
    times = [[event["time"] for event in clip.events if event["visible"]] for clip in clips]
    assert times[0] == times[1]


def test_decouple_keeps_sounds_apart():
    rng = np.random.default_rng(0)
    seen = np.arange(0.5, 20, 0.5)
    sounding, heard = decouple(rng, seen, seen + 0.03, 0.5, 20.0)
    audible = np.sort(np.concatenate([seen[sounding], heard[~np.isnan(heard)]]))
    assert 10 < sounding.sum() < 30
    assert np.diff(audible).min() >= MIN_GAP


def test_decouple_of_nothing():
    sounding, heard = decouple(np.random.default_rng(0), np.empty(0), np.empty(0), 0.5, 1.0)
    assert len(sounding) == len(heard) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"duration": 0.0}, "duration must be positive, got 0.0"),
        ({"fps": -1.0}, "fps must be positive, got -1.0"),
        ({"width": 0}, "width must be positive, got 0"),
        ({"correlation": 1.5}, "correlation must be between 0 and 1, got 1.5"),
        ({"max_shapes": 3}, "max_shapes must be 1 or 2, got 3"),
    ],
)
def test_settings_out_of_range(change, words):
    with pytest.raises(ValueError, match=words):
        SceneSettings(**change)


def test_unknown_scene_and_negative_seed():
    with pytest.raises(ValueError, match="scene must be one of bounce, dance, got 'rain'"):
        simulate("rain")
    with pytest.raises(ValueError, match="not be negative, got -1 and 0"):
        simulate("bounce", -1)
    with pytest.raises(ValueError, match="streams must be"):
        simulate("bounce", streams="none")
