"""Scene ``bounce``: impacts are where the sidecar says, in the picture and in the sound."""

import itertools

import numpy as np
import pytest
from mir_eval.util import match_events

from cmmd_lightning.procedural import SceneSettings, raster, simulate
from cmmd_lightning.procedural.bounce import FLIGHT_ALONE, HEAD, SIZES, TAIL, Bouncer

ALONE = SceneSettings(max_shapes=1)


def bouncer(impacts, radius=0.1):
    impacts = np.asarray(impacts, dtype=float)
    return Bouncer(
        impacts, 0.5 + 0 * impacts, np.diff(impacts, prepend=impacts[0] - 0.5), 0.9, radius, "disc", "bar", 0.1
    )


def events_of(index, settings=SceneSettings(), seed=0):  # noqa: B008
    tiny = SceneSettings(settings.duration, 1.0, 8, 8, 100, settings.correlation, settings.max_shapes)
    return simulate("bounce", seed, index, tiny, streams="audio").events


def test_flight_is_a_parabola_that_touches_the_floor_at_impacts_only():
    shape = bouncer([-0.4, 0.3, 1.2, 1.6])
    times = np.linspace(0, 1.5, 4001)
    lift = shape.lift(times)
    assert np.abs(shape.lift(np.array([0.3, 1.2]))).max() < 1e-12
    away = np.min(np.abs(times[:, None] - shape.impacts), axis=1) > 1e-3
    assert (lift[away] > 0).all()
    assert shape.lift(np.array([0.75]))[0] == pytest.approx(1.0)  # the longest flight, 0.9 s, reaches 1
    curvature = np.diff(lift, 2) / np.diff(times)[0] ** 2
    assert np.median(curvature) == pytest.approx(-8 / 0.9**2)  # one gravity
    assert np.mean(np.isclose(curvature, -8 / 0.9**2, rtol=1e-4)) > 0.998


@pytest.mark.parametrize("phase", np.linspace(0, 0.1, 11))
def test_every_impact_squashes_some_frame_at_ten_frames_a_second(phase):
    shape = bouncer([-0.5, 0.7 + phase, 1.5])
    squash = shape.squash(np.arange(14) / 10)
    near = squash[np.abs(np.arange(14) / 10 - 0.7 - phase) < 0.1]
    assert near.max() > 0.3
    assert squash.max() == near.max()


def test_squash_lasts_an_eighth_of_a_second():
    shape, times = bouncer([-1.0, 0.7, 1.8]), np.linspace(0.5, 1.0, 5001)
    squashed = times[shape.squash(times) > 0]
    assert squashed[0] == pytest.approx(0.67, abs=1e-3)
    assert squashed[-1] == pytest.approx(0.79, abs=1e-3)
    assert times[np.argmax(shape.squash(times))] == pytest.approx(0.7, abs=1e-3)


def test_pitch_by_size_and_level_by_speed():
    assert bouncer([0, 1, 2], radius=SIZES[1]).pitch == pytest.approx(200)
    assert bouncer([0, 1, 2], radius=SIZES[0]).pitch == pytest.approx(900)
    shape = bouncer([-0.9, 0.0, 0.35, 1.25])
    assert shape.levels[1:] == pytest.approx([0.0, 28 * np.log10(0.35 / 0.9), 0.0])
    assert shape.levels.min() > -12


@pytest.mark.parametrize("sample_rate", [8000, 16000, 48000])
def test_sound_jumps_within_a_millisecond_of_each_impact(sample_rate):
    checked = 0
    for index in range(12):
        clip = simulate("bounce", 11, index, SceneSettings(sample_rate=sample_rate, max_shapes=1), streams="audio")
        sound = clip.sound.abs().numpy()
        for event in clip.events:
            start = event["time"] * sample_rate
            after = sound[int(np.ceil(start - 0.01)) : int(start + 0.02 * sample_rate)]
            before = sound[int(start - 0.01 * sample_rate) : int(start - 0.01)]
            first_loud = np.flatnonzero(after > 0.3 * after.max())[0]
            assert first_loud <= 0.001 * sample_rate + 1
            assert before.max() < 0.35 * after.max()
            checked += 1
    assert checked > 60


@pytest.mark.parametrize("index", range(6))
def test_shape_is_lowest_at_each_impact(index, monkeypatch):
    fps, black = 100.0, np.zeros((128, 128, 3), dtype=np.float32)
    monkeypatch.setattr(raster, "backdrop", lambda *_: raster.Backdrop(black, dark=True, hue=0.0))
    settings = SceneSettings(duration=3.0, fps=fps, height=128, width=128, max_shapes=1)
    clip = simulate("bounce", 21, index, settings, streams="video")
    bright = (clip.frames.amax(dim=(1, 3)) > 100).numpy()  # (T, rows)
    top = bright.argmax(axis=1)
    for event in clip.events:
        around = np.arange(max(0, int((event["time"] - 0.12) * fps)), min(len(top), int((event["time"] + 0.12) * fps)))
        lowest = around[top[around] == top[around].max()] / fps
        assert np.abs(lowest - event["time"]).min() <= 1 / fps
        assert top[around].max() > np.median(top)


def test_impacts_are_aperiodic_apart_and_about_two_a_second():
    rates, flights, twos = [], [], 0
    for index in range(300):
        clip = simulate("bounce", 0, index, SceneSettings(4.0, 1.0, 8, 8, 100), streams="audio")
        times = np.array([event["time"] for event in clip.events])
        rates.append(len(times) / 4.0)
        twos += len(clip.meta["shapes"]) == 2
        assert times.min() >= HEAD
        assert times.max() <= 4.0 - TAIL
        assert np.diff(times).min() >= 0.08
        if len(clip.meta["shapes"]) == 1:
            flights.extend(np.diff(times))
    assert 1.6 < np.mean(rates) < 2.2
    assert FLIGHT_ALONE[0] - 1e-6 <= min(flights) < 0.4
    assert 0.8 < max(flights) <= FLIGHT_ALONE[1] + 1e-6
    assert np.std(flights) > 0.1
    assert 0.2 < twos / 300 < 0.4


def test_shuffled_pairs_agree_poorly():
    """Event F1 within 100 ms of another clip's impacts: the floor that synchrony is measured against."""
    times = [np.array([event["time"] for event in events_of(index)]) for index in range(60)]
    scores = [
        2 * len(match_events(reference, estimate, 0.1)) / (len(reference) + len(estimate))
        for reference, estimate in itertools.pairwise(times)
    ]
    assert 0.15 < np.mean(scores) < 0.4


def test_max_shapes():
    clips = [simulate("bounce", 0, index, SceneSettings(1.0, 4.0, 16, 16, 1000, max_shapes=1)) for index in range(20)]
    assert {len(clip.meta["shapes"]) for clip in clips} == {1}


def test_background_is_static():
    clip = simulate("bounce", 0, 0, ALONE, streams="video")
    assert (clip.frames[:, :, :3] == clip.frames[:1, :, :3]).float().mean() > 0.95


def test_backgrounds_and_sounds_vary():
    clips = [simulate("bounce", 0, index, SceneSettings(1.0, 4.0, 16, 16, 8000)) for index in range(20)]
    corners = {tuple(clip.frames[0, :, 0, 0].tolist()) for clip in clips}
    timbres = {event["timbre"] for clip in clips for event in clip.events}
    outlines = {shape["outline"] for clip in clips for shape in clip.meta["shapes"]}
    assert len(corners) == 20
    assert timbres == {"bar", "bell", "drum", "pluck"}
    assert outlines == {"diamond", "disc", "hexagon", "square", "triangle"}


def test_silence_between_impacts_is_a_quiet_room():
    quiet = []
    for index in range(10):
        clip = simulate("bounce", 0, index, SceneSettings(correlation=1.0, max_shapes=1), streams="audio")
        first = int(clip.events[0]["time"] * 16000)
        quiet.append(20 * np.log10(clip.sound[:first].std().item() + 1e-12))
    assert -70 < min(quiet) < max(quiet) < -40
