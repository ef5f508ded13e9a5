"""Faults: each does what its name says, and the clip itself stays as it was."""

import numpy as np
import pytest
import torch

from cmmd_lightning.media import MediaError, write_sound, write_video
from cmmd_lightning.metrics.functional.events import detect_onsets, event_scores
from cmmd_lightning.studies.calibration.faults import SAMPLE_RATE, Clip, alterations, procedural_clip, real_clip

OFFSETS = (0.05, 0.3)


@pytest.fixture(scope="module")
def bounce():
    return procedural_clip("bounce", 3, 0, margin=0.3)


@pytest.fixture(scope="module")
def altered(bounce):
    other = procedural_clip("bounce", 3, 1, margin=0.3, rates=()).span()
    return {change.name: change for change in alterations(bounce, other, OFFSETS)}


def inside(clip):
    return [time - clip.start for time in clip.events if 0 <= time - clip.start < clip.duration]


def test_the_span_holds_its_events_at_every_rate(bounce):
    assert event_scores(inside(bounce), detect_onsets(bounce.span(), SAMPLE_RATE), 0.02).f1 > 0.9
    assert {fps: len(frames) for fps, frames in bounce.frames.items()} == {
        25.0: 100,
        8.0: 32,
        10.0: 40,
        12.5: 50,
        15.0: 60,
        20.0: 80,
        30.0: 120,
    }
    for fps, frames in bounce.frames.items():  # a frame at the same instant shows the same picture
        assert torch.equal(frames[0], bounce.frames[25.0][0]), fps


@pytest.mark.parametrize("late", [0.05, -0.05, 0.3, -0.3])
def test_an_offset_moves_the_sound_and_leaves_no_seam(bounce, altered, late):
    change = altered[f"offset {late * 1000:+g} ms"]
    assert change.frames is None
    samples = round(late * SAMPLE_RATE)
    own, moved = bounce.span(), change.sound
    assert len(moved) == len(own)
    kept = (own[: len(own) - samples], moved[samples:]) if samples > 0 else (own[-samples:], moved[:samples])
    assert torch.equal(*kept)


def test_every_fault_of_the_issue_is_there(altered):
    assert set(altered) == {
        *(f"offset {late * sign:+g} ms" for late in (50, 300) for sign in (1, -1)),
        "swapped partner",
        *("dropped 25%", "dropped 50%", "added 25%", "added 50%", "drift 2%", "drift 5%"),
        *("sound noise 20 dB", "sound noise 10 dB", "sound noise 0 dB", "sound 20 dB softer"),
        *("picture noise 0.02", "picture noise 0.05", "picture noise 0.1", "picture at half size"),
        *("H.264 crf 23 and AAC", "H.264 crf 40 and AAC"),
        *(f"{fps:g} fps" for fps in (8, 10, 12.5, 15, 20, 30)),
    }


def test_dropped_and_added_events_are_lost_and_too_many(bounce, altered):
    true = inside(bounce)
    dropped = event_scores(true, detect_onsets(altered["dropped 50%"].sound, SAMPLE_RATE), 0.02)
    added = event_scores(true, detect_onsets(altered["added 50%"].sound, SAMPLE_RATE), 0.02)
    assert dropped.recall == pytest.approx(0.5, abs=0.15)
    assert dropped.precision > 0.9
    assert added.precision == pytest.approx(1 / 1.5, abs=0.12)
    assert added.recall > 0.9


def test_a_drift_grows_with_time(bounce, altered):
    true = np.array(inside(bounce))
    expected = [time for time in 1.05 * true if time < bounce.duration]
    found = detect_onsets(altered["drift 5%"].sound, SAMPLE_RATE)
    assert event_scores(expected, found, 0.02).f1 > 0.85
    assert event_scores(true, found, 0.02).f1 < 0.6


def test_harmless_changes_have_the_stated_size(bounce, altered):
    sound, frames = bounce.span(), bounce.frames[25.0]
    for decibels in (20, 10, 0):
        noise = altered[f"sound noise {decibels} dB"].sound - sound
        assert 20 * torch.log10(sound.std() / noise.std()) == pytest.approx(decibels, abs=0.2)
    assert torch.equal(altered["sound 20 dB softer"].sound, 0.1 * sound)
    assert altered["picture at half size"].frames.shape == (100, 3, 32, 32)
    errors = [
        float((altered[name].frames.float() - frames.float()).square().mean().sqrt())
        for name in ("H.264 crf 23 and AAC", "H.264 crf 40 and AAC")
    ]
    assert 0 < errors[0] < errors[1] < 40
    assert altered["H.264 crf 23 and AAC"].frames.shape == frames.shape
    assert altered["8 fps"].frames.shape[0] == 32
    assert altered["8 fps"].sound is None


def test_alterations_follow_from_the_clip_alone(bounce, altered):
    other = procedural_clip("bounce", 3, 1, margin=0.3, rates=()).span()
    for change in alterations(bounce, other, OFFSETS):
        first = altered[change.name]
        assert (change.sound is None) == (first.sound is None)
        assert change.sound is None or torch.equal(change.sound, first.sound)
        assert change.frames is None or torch.equal(change.frames, first.frames)


def test_a_real_clip_is_cut_between_its_margins(tmp_path):
    frames = torch.arange(75, dtype=torch.uint8).reshape(75, 1, 1, 1).expand(75, 3, 32, 32) * 3
    sound = torch.arange(3 * SAMPLE_RATE) / (4 * SAMPLE_RATE)
    write_video(tmp_path / "a.mkv", frames, 25.0, sound, SAMPLE_RATE, crf=0)
    clip = real_clip(tmp_path / "a.mkv", margin=0.5, rates=(12.5, 50.0))
    assert clip.start == 0.52
    assert clip.duration == pytest.approx(1.96, abs=0.041)
    assert clip.frames[25.0][0].float().mean() == pytest.approx(39, abs=2)
    assert torch.equal(clip.frames[12.5], clip.frames[25.0][::2][: len(clip.frames[12.5])])
    assert torch.equal(clip.frames[50.0][::2], clip.frames[25.0])
    assert clip.span(late=0.5).shape == clip.span(late=-0.5).shape == clip.span().shape
    assert clip.events is None
    names = [change.name for change in alterations(clip, clip.span(), (0.5,))]
    assert not any(name.startswith(("dropped", "added")) for name in names)


def test_real_clips_that_cannot_be_used_are_named(tmp_path):
    frames = torch.zeros(40, 3, 32, 32, dtype=torch.uint8)
    write_video(tmp_path / "silent.mp4", frames, 25.0)
    write_video(tmp_path / "short.mp4", frames, 25.0, torch.zeros(25600), 16000)
    write_sound(tmp_path / "sound.wav", torch.zeros(25600), 16000)
    for name, message in (
        ("silent.mp4", "got no sound"),
        ("short.mp4", "at least 2.04 s of picture and sound, got 1.60 s"),
        ("sound.wav", "got no picture"),
    ):
        with pytest.raises(MediaError, match=message):
            real_clip(tmp_path / name, margin=0.5)


def test_a_clip_knows_its_own_rate():
    clip = Clip("a", {12.0: torch.zeros(1), 8.0: torch.zeros(1)}, torch.zeros(1), 0.0, 1.0)
    assert clip.fps == 12.0
