"""Visible impacts and turns, on pictures drawn here with known times."""

import numpy as np
import pytest
import torch

from cmmd_lightning.metrics.functional.events import event_scores
from cmmd_lightning.metrics.functional.impacts import detect_impacts
from cmmd_lightning.metrics.functional.motion import detect_motion_turns, frames_to_unit, motion_envelope


def bouncing(rng, *, shapes=1, fps=10.0, num_frames=16, size=64, noise=0.0):
    """Discs that bounce for ever, each in its own lane: frames (T, 3, H, W) uint8, and impact times."""
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    picture = np.ones((num_frames, 3, size, size)) * (rng.random(3) * 0.4)[:, None, None]
    times = []
    for lane in range(shapes):
        radius, period = rng.uniform(0.07, 0.12) * size, rng.uniform(0.4, 0.9)
        x, floor, first = (lane + 0.5) / shapes * size, 0.92 * size - radius, rng.uniform(0.1, 0.1 + period)
        height = 2.2 * (period / 2) ** 2 * size  # one gravity for all
        colour = rng.random(3) * 0.5 + 0.5
        for i in range(num_frames):
            phase = ((i / fps - first) % period) / period
            y = floor - 4 * height * phase * (1 - phase)
            cover = np.clip(radius - np.hypot(columns - x, rows - y) + 0.5, 0, 1)
            picture[i] = picture[i] * (1 - cover) + colour[:, None, None] * cover
        times += np.arange(first % period, num_frames / fps, period).tolist()
    picture = picture + noise * rng.standard_normal(picture.shape)
    return torch.from_numpy((picture.clip(0, 1) * 255).round().astype(np.uint8)), sorted(times)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize(("fps", "num_frames"), [(10.0, 16), (25.0, 40)])
def test_impacts_are_found_between_the_frames(fps, num_frames, noise):
    rng = np.random.default_rng(7)
    scores = []
    for i in range(10):
        frames, times = bouncing(rng, shapes=1 + i % 2, fps=fps, num_frames=num_frames, noise=noise)
        scores.append([event_scores(times, detect_impacts(frames, fps), t).f1 for t in (0.05, 0.1)])
    at_50, at_100 = np.mean(scores, axis=0)
    assert at_100 >= 0.9
    assert at_50 >= 0.85  # half a frame at 10 fps


def test_uint8_and_float_frames_agree():
    frames, _ = bouncing(np.random.default_rng(0))
    assert detect_impacts(frames, 10.0).tolist() == pytest.approx(detect_impacts(frames / 127.5 - 1, 10.0).tolist())


def test_a_mirrored_picture_strikes_at_the_same_times():
    frames, _ = bouncing(np.random.default_rng(1), fps=10.0)
    times = detect_impacts(frames, 10.0)
    assert times.numel() > 0
    assert detect_impacts(frames.flip(3), 10.0).tolist() == pytest.approx(times.tolist(), abs=1e-6)


def still(value=90):
    return torch.full((16, 3, 64, 64), value, dtype=torch.uint8)


def sliding():
    frames = still()
    for i in range(16):
        frames[i, :, 30:40, 3 * i : 3 * i + 10] = 250
    return frames


def rising():
    frames = still()
    for i in range(16):
        frames[i, :, 52 - 3 * i : 62 - 3 * i, 20:30] = 250
    return frames


@pytest.mark.parametrize(
    "frames",
    [
        still(),
        sliding(),
        rising(),
        torch.randint(0, 255, (16, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte(),
    ],
    ids=["still", "sliding", "rising", "noise"],
)
def test_nothing_strikes_where_nothing_falls(frames):
    assert detect_impacts(frames, 10.0).tolist() == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_frames_have_no_impacts(count):
    assert detect_impacts(torch.zeros(count, 3, 16, 16, dtype=torch.uint8), 10.0).tolist() == []


@pytest.mark.parametrize("detect", [detect_impacts, detect_motion_turns])
def test_malformed_frames_raise(detect):
    with pytest.raises(ValueError, match="shape"):
        detect(torch.zeros(16, 64, 64, 3), 10.0)
    with pytest.raises(ValueError, match="fps"):
        detect(still(), 0.0)
    with pytest.raises(ValueError, match="finite"):
        detect(torch.full((16, 3, 8, 8), float("nan")), 10.0)


def test_float_frames_map_to_the_unit_range():
    frames = torch.tensor([-1.0, 0.0, 1.0, 3.0]).view(4, 1, 1, 1).expand(4, 3, 1, 1)
    assert frames_to_unit(frames)[:, 0, 0, 0].tolist() == [0, 0.5, 1, 1]


def test_envelope_is_the_mean_change_midway_between_frames():
    frames = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    frames[1, :, 0, 0] = 255
    times, energy = motion_envelope(frames, 4.0)
    assert times.tolist() == [0.125, 0.375]
    assert energy.tolist() == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize("fps", [10.0, 25.0])
def test_turns_of_a_swinging_bar(fps):
    """A bar swings sideways as a sine of 1 s; it turns every half second."""
    count = round(3.2 * fps)
    x = 32 + 20 * np.sin(2 * np.pi * (np.arange(count) / fps - 0.13))
    columns = np.arange(64) + 0.5
    cover = np.clip(5 - np.abs(columns[None] - x[:, None]) + 0.5, 0, 1)
    frames = torch.from_numpy((np.broadcast_to(cover[:, None, None], (count, 3, 16, 64)) * 255).astype(np.uint8).copy())
    expected = np.arange(0.25 + 0.13, 3.0, 0.5)
    found = detect_motion_turns(frames, fps)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=0.04)


def test_a_still_picture_does_not_turn():
    assert detect_motion_turns(still(), 10.0).tolist() == []
