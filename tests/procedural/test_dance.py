"""Scene ``dance``: the figure turns, and the drums sound, on the beat."""

import numpy as np
import pytest

from cmmd_lightning.procedural import SceneSettings, figure, simulate
from cmmd_lightning.procedural.dance import TEMPO

STYLES = [figure.Style(arms, legs, 1.0, 0.05, 0.1, 0.07) for arms in figure.ARM_MOVES for legs in figure.LEG_MOVES]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.arms}-{style.legs}")
def test_motion_is_mirrored_in_time_about_each_beat_and_only_there(style):
    away = np.linspace(0.02, 0.45, 30)
    for beat in (0.0, 1.0, 2.0, 7.0):
        before, after = figure.pose(style, beat - away), figure.pose(style, beat + away)
        for joint, place in before.items():
            np.testing.assert_allclose(place, after[joint], atol=1e-9)
    before, after = figure.pose(style, 0.5 - away), figure.pose(style, 0.5 + away)
    assert max(np.abs(before[joint] - after[joint]).max() for joint in before) > 0.1


@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.arms}-{style.legs}")
def test_hips_are_lowest_and_hands_turn_on_the_beat(style):
    phase = np.linspace(0.5, 3.5, 3001)
    points = figure.pose(style, phase)
    height = points["hips"][:, 1]
    lowest = phase[1:-1][(height[1:-1] < height[:-2]) & (height[1:-1] < height[2:])]
    assert lowest == pytest.approx([1.0, 2.0, 3.0])
    for hand in ("left_hand", "right_hand"):
        speed = np.diff(points[hand], axis=0)
        turns = (speed[1:] * speed[:-1]).sum(axis=1) < 0
        assert phase[1:-1][turns] == pytest.approx([1.0, 2.0, 3.0], abs=2e-3)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.arms}-{style.legs}")
def test_bones_keep_their_length(style):
    points = figure.pose(style, np.linspace(0, 2, 50))
    lengths = {"thigh": figure.THIGH, "shin": figure.SHIN, "arm": figure.ARM, "forearm": figure.FOREARM}
    for bone, (start, end) in figure.BONES.items():
        part = bone.split("_")[-1]
        if part in ("arm", "forearm", "thigh", "shin"):
            length = np.linalg.norm(points[start] - points[end], axis=1)
            np.testing.assert_allclose(length, lengths[part], atol=1e-6)
    assert min(points["left_foot"][:, 1].min(), points["right_foot"][:, 1].min()) >= 0


@pytest.mark.parametrize("index", range(4))
def test_frames_turn_on_the_beat(index):
    """Frames d before and d after a beat are alike; about any other instant they are not."""
    fps, reach = 200.0, 30
    clip = simulate("dance", 0, index, SceneSettings(duration=2.0, fps=fps, height=48, width=48), streams="video")
    frames = clip.frames.numpy().astype(float)
    centers = np.arange(reach, len(frames) - reach)
    unlike = np.array(
        [np.mean([np.abs(frames[i - d] - frames[i + d]).mean() for d in range(5, reach, 6)]) for i in centers]
    )
    beats = [event["time"] for event in clip.events if reach / fps + 0.1 < event["time"] < 2.0 - reach / fps - 0.1]
    assert beats
    for beat in beats:
        near = np.abs(centers / fps - beat) < 0.1
        assert abs(centers[near][np.argmin(unlike[near])] / fps - beat) <= 1.01 / fps
        assert unlike[near].min() < 0.3 * unlike[near].max()


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
def test_sound_jumps_within_a_millisecond_of_each_beat(sample_rate):
    checked = 0
    for index in range(12):
        clip = simulate("dance", 4, index, SceneSettings(sample_rate=sample_rate), streams="audio")
        sound = clip.sound.abs().numpy()
        for event in clip.events:
            start = event["time"] * sample_rate
            if not 0.02 * sample_rate < start < len(sound) - 0.02 * sample_rate:
                continue
            after = sound[int(np.ceil(start - 0.01)) : int(start + 0.02 * sample_rate)]
            before = sound[int(start - 0.01 * sample_rate) : int(start - 0.01)]
            assert np.flatnonzero(after > 0.3 * after.max())[0] <= 0.001 * sample_rate + 1
            assert before.max() < 0.25 * after.max()
            checked += 1
    assert checked > 60


def test_beats_are_periodic_and_the_tempo_varies():
    tempos, phases, moves, drums = [], [], set(), set()
    for index in range(60):
        clip = simulate("dance", 0, index, SceneSettings(4.0, 1.0, 8, 8, 100))
        times = [event["time"] for event in clip.events]
        assert clip.meta["period"] == pytest.approx(60 / clip.meta["bpm"], abs=1e-6)
        assert np.diff(times) == pytest.approx(clip.meta["period"], abs=3e-6)
        assert times[0] < clip.meta["period"]
        assert 4.0 - times[-1] <= clip.meta["period"] + 1e-6
        tempos.append(clip.meta["bpm"])
        phases.append(times[0] / clip.meta["period"])
        moves.add(tuple(clip.meta["moves"].values()))
        drums.update(event["drum"] for event in clip.events)
    assert TEMPO[0] <= min(tempos) < 90
    assert 125 < max(tempos) <= TEMPO[1]
    assert np.std(phases) == pytest.approx(12**-0.5, abs=0.08)
    assert len(moves) > 12
    assert drums == {"kick", "snare", "both"}


def test_without_correlation_the_music_has_its_own_tempo():
    clip = simulate("dance", 0, 3, SceneSettings(duration=6.0, correlation=0.0), streams="audio")
    seen = [event["time"] for event in clip.events if event["visible"]]
    heard = [event["time"] for event in clip.events if event["audible"]]
    assert not set(seen) & set(heard)
    assert np.diff(seen) == pytest.approx(clip.meta["period"], abs=3e-6)
    assert np.diff(heard) == pytest.approx(60 / clip.meta["unseen_bpm"], abs=3e-6)
