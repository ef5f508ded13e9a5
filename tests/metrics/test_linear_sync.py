"""Linear synchrony: finds what is common, where it is, and nothing where there is nothing."""

import numpy as np
import pytest
import torch

from cmmd_lightning.metrics.functional.linear_sync import (
    FPS,
    LinearSync,
    Sequences,
    fit_linear_sync,
    pixel_sequence,
    spectrum_sequence,
)

RATE = 16000


def clip(seed, late=0.0, seconds=4.0):
    """A bar whose brightness follows a slow random curve, and a tone whose level follows the same curve, later."""
    rng = np.random.default_rng(seed)
    knots = rng.random(int((seconds + 2) * 5))
    at = np.arange(len(knots)) / 5 - 1
    frames = torch.zeros(int(seconds * 25), 3, 40, 40, dtype=torch.uint8)
    for i in range(len(frames)):
        frames[i, :, 10:20, 5:35] = int(255 * np.interp(i / 25, at, knots))
    frames[:, :, 30:] = torch.from_numpy(rng.integers(0, 255, (len(frames), 3, 10, 40), dtype=np.uint8))
    times = np.arange(int(seconds * RATE)) / RATE
    level = np.exp(4 * np.interp(times - late, at, knots)) / 100
    return frames, torch.from_numpy(level * np.sin(2 * np.pi * 500 * times)).float()


def sequences(seed):
    frames, sound = clip(seed)
    return Sequences(pixel_sequence(frames, 25.0), spectrum_sequence(sound, RATE))


@pytest.fixture(scope="module")
def operator():
    return fit_linear_sync([sequences(seed) for seed in range(20)], num_components=16, num_directions=2, source="bars")


def test_clips_in_sync_agree_and_strangers_do_not(operator):
    seen = [operator.see(clip(seed)[0], 25.0) for seed in range(100, 110)]
    heard = [operator.hear(clip(seed)[1], RATE) for seed in range(100, 110)]
    own = [operator.agreement(a, b) for a, b in zip(seen, heard, strict=True)]
    other = [operator.agreement(a, b) for a, b in zip(seen, heard[1:] + heard[:1], strict=True)]
    assert min(own) > 0.7
    assert max(other) < 0.5 < min(own)
    assert operator.correlations[0] > 0.9


@pytest.mark.parametrize("late", [-0.24, -0.1, 0.0, 0.08, 0.3])
def test_the_lag_is_found_and_signed(operator, late):
    lags = [
        operator.lag(operator.see(clip(seed)[0], 25.0), operator.hear(clip(seed, late)[1], RATE)).seconds
        for seed in range(200, 206)
    ]
    assert np.median(lags) == pytest.approx(late, abs=0.02)


def test_level_and_colour_offset_of_the_clip_do_not_matter(operator):
    frames, sound = clip(300)
    seen, heard = operator.see(frames, 25.0), operator.hear(sound, RATE)
    assert operator.hear(0.1 * sound, RATE) == pytest.approx(heard, abs=1e-3)
    assert operator.see((frames // 2 + 60), 25.0) == pytest.approx(seen / 2, abs=0.15)


def test_an_operator_survives_its_file(operator, tmp_path):
    operator.save(tmp_path / "a.safetensors")
    again = LinearSync.load(tmp_path / "a.safetensors")
    assert (again.context, again.source) == (2, "bars")
    frames, sound = clip(5)
    assert np.array_equal(again.see(frames, 25.0), operator.see(frames, 25.0))
    assert np.array_equal(again.hear(sound, RATE), operator.hear(sound, RATE))


@pytest.mark.parametrize("content", [b"", b"not an operator"])
def test_a_file_that_is_none_is_named(tmp_path, content):
    (tmp_path / "b.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"b\.safetensors: expected a fitted linear synchrony") as error:
        LinearSync.load(tmp_path / "b.safetensors")
    assert "\n" not in str(error.value)


def test_the_projections_have_unit_variance_and_the_stated_correlations(operator):
    """On the clips it was fitted on, as canonical correlation analysis has it (the ridge takes a little)."""
    pairs = [(operator.see(clip(s)[0], 25.0), operator.hear(clip(s)[1], RATE)) for s in range(20)]
    seen, heard = (np.concatenate([p[i] - p[i].mean(axis=0) for p in pairs]) for i in (0, 1))
    assert seen.var(axis=0) == pytest.approx(1.0, abs=0.1)
    assert heard.var(axis=0) == pytest.approx(1.0, abs=0.2)
    found = np.corrcoef(seen[:, 0], heard[:, 0])[0, 1]
    assert found == pytest.approx(operator.correlations[0], abs=0.05)
    assert abs(np.corrcoef(seen[:, 0], seen[:, 1])[0, 1]) < 0.1


def test_too_little_to_fit_on_is_refused():
    with pytest.raises(ValueError, match=r"at least 1000 frames \(40 s\).*got 100"):
        fit_linear_sync([sequences(0)])


def test_still_pictures_and_silence_agree_with_nothing(operator):
    still = operator.see(torch.full((50, 3, 40, 40), 9, dtype=torch.uint8), 25.0)
    silent = operator.hear(torch.zeros(2 * RATE), RATE)
    sound = operator.hear(clip(1)[1], RATE)
    assert operator.agreement(still, sound) == 0.0
    assert operator.agreement(still, silent) == 0.0
    assert np.isnan(operator.lag(still, sound).seconds)


def test_sequences_are_cut_by_time_at_any_rate():
    frames, sound = clip(0, seconds=2.0)
    assert pixel_sequence(frames[::2], 12.5).shape == pixel_sequence(frames, 25.0).shape == (50, 1024)
    coarse, fine = pixel_sequence(frames[::2], 12.5), pixel_sequence(frames, 25.0)
    assert np.ptp(coarse[::2] - fine[::2], axis=0).max() < 1e-6  # the same frames, but for the mean that was taken off
    assert np.ptp(coarse[1:-1:2] - (coarse[:-2:2] + coarse[2::2]) / 2, axis=0).max() < 1e-6
    assert spectrum_sequence(torch.nn.functional.interpolate(sound[None, None], scale_factor=3)[0, 0], 48000).shape == (
        50,
        32,
    )
    click = torch.zeros(RATE)
    click[round(10 / FPS * RATE)] = 1.0
    assert int(spectrum_sequence(click, RATE).sum(axis=1).argmax()) == 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pixel_sequence(torch.zeros(2, 1, 8, 8), 25.0), r"\(T, 3, H, W\)"),
        (lambda: pixel_sequence(torch.zeros(0, 3, 8, 8), 25.0), "at least one picture"),
        (lambda: pixel_sequence(torch.zeros(2, 3, 8, 8), 0.0), "fps must be positive"),
        (lambda: spectrum_sequence(torch.zeros(2, 8), RATE), "one dimension"),
        (lambda: spectrum_sequence(torch.full((8,), torch.nan), RATE), "finite"),
    ],
)
def test_malformed_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call()
