"""Lag of envelopes and of event lists, and the metrics over clips."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmmd_lightning.metrics.functional.lag import envelope_lag, event_lag, loudness_envelope
from cmmd_lightning.metrics.synchrony import EnvelopeLag, EventLag

EVENTS = [0.31, 0.52, 0.94, 1.37]


@settings(max_examples=50, deadline=None)
@given(st.integers(-300, 300))
def test_a_known_shift_of_events_is_found(milliseconds):
    shift = milliseconds / 1000
    lag = event_lag(EVENTS, [time + shift for time in EVENTS])
    assert lag.seconds == pytest.approx(shift, abs=0.003)
    assert lag.strength == pytest.approx(1.0, abs=0.02)


def test_swapping_the_lists_turns_the_sign():
    late = [time + 0.12 for time in EVENTS]
    assert event_lag(EVENTS, late).seconds == pytest.approx(-event_lag(late, EVENTS).seconds)


def agreement(reference: list[float], estimate: list[float], delay: float) -> float:
    """The definition of :func:`event_lag`, written once more."""
    distances = np.subtract.outer(estimate, reference)
    return float(np.exp(-((distances - delay) ** 2) / (2 * 0.03**2)).sum()) / max(distances.shape)


times = st.lists(st.integers(0, 400).map(lambda k: k * 0.005), min_size=1, max_size=8)
EVERY = 3.2  # longer than any distance of two events: nothing is cut off


@settings(max_examples=100, deadline=None)
@given(times, times, st.integers(-200, 200))
def test_the_lag_is_the_best_delay_turns_with_the_lists_and_moves_with_one_of_them(reference, estimate, steps):
    """Two delays may agree equally well, and either is right: so agreements are compared."""
    lag = event_lag(reference, estimate, max_lag=EVERY)
    best = agreement(reference, estimate, lag.seconds)
    curve = [agreement(reference, estimate, delay) for delay in np.arange(-2.0, 2.01, 0.02)]
    assert best >= max(curve) - 1e-3
    assert lag.strength == pytest.approx(min(1.0, best), rel=0.005)  # taken on the grid of 5 ms
    turned = event_lag(estimate, reference, max_lag=EVERY)
    moved = event_lag(reference, [time + steps * 0.005 for time in estimate], max_lag=EVERY)
    assert turned.strength == pytest.approx(lag.strength, abs=1e-9)
    assert moved.strength == pytest.approx(lag.strength, abs=1e-9)
    assert agreement(reference, estimate, -turned.seconds) == pytest.approx(best, abs=1e-3)
    assert agreement(reference, estimate, moved.seconds - steps * 0.005) == pytest.approx(best, abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(times, st.integers(-100, 100), st.integers(-200, 200))
def test_any_list_is_late_by_what_it_was_moved_wherever_both_start(reference, steps, shift):
    """An autocorrelation has one highest peak, at 0."""
    both = [time + shift * 0.005 for time in reference]
    late = [time + steps * 0.005 for time in both]
    assert event_lag(both, late).seconds == pytest.approx(steps * 0.005, abs=1e-6)
    assert event_lag(late, both).seconds == pytest.approx(-steps * 0.005, abs=1e-6)
    assert event_lag(both, late).strength == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(-12, 12))
def test_envelope_lag_turns_with_the_envelopes_and_moves_with_one_of_them(seed, steps):
    noise = torch.randn(200, generator=torch.Generator().manual_seed(seed))
    first, second = noise[40:140], noise[40 - steps : 140 - steps]
    lag, turned = envelope_lag(first, second, 25.0), envelope_lag(second, first, 25.0)
    assert lag.seconds == pytest.approx(steps / 25, abs=0.02)
    assert turned == pytest.approx((-lag.seconds, lag.strength), abs=1e-9)


def test_missing_partners_weaken_the_agreement():
    assert event_lag(EVENTS, EVENTS[:2]).strength == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("reference", "estimate"), [([], [0.5]), ([0.5], []), ([], []), ([0.0], [3.0])])
def test_nothing_to_compare_has_no_lag(reference, estimate):
    lag = event_lag(reference, estimate)
    assert math.isnan(lag.seconds)
    assert lag.strength == 0.0


@pytest.mark.parametrize("steps", [-9, -1, 0, 4, 12])
def test_a_known_shift_of_envelopes_is_found(steps):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, generator=generator)
    lag = envelope_lag(noise[20:120], noise[20 - steps : 120 - steps], rate=25.0)
    assert lag.seconds == pytest.approx(steps / 25, abs=0.011)
    assert lag.strength == pytest.approx(1.0, abs=1e-6)


def test_scale_and_offset_of_an_envelope_do_not_matter():
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0))
    plain, scaled = envelope_lag(noise, noise.roll(3), 25.0), envelope_lag(noise, 7 * noise.roll(3) + 2, 25.0)
    assert scaled == pytest.approx(plain)


def test_constant_envelopes_have_no_lag():
    lag = envelope_lag(torch.ones(50), torch.rand(50), 25.0)
    assert math.isnan(lag.seconds)
    assert lag.strength == 0.0


def test_malformed_envelopes_raise():
    with pytest.raises(ValueError, match="one length"):
        envelope_lag(torch.ones(5), torch.ones(6), 25.0)
    with pytest.raises(ValueError, match="rate"):
        envelope_lag(torch.ones(5), torch.ones(5), 0.0)
    with pytest.raises(ValueError, match="finite"):
        envelope_lag(torch.full((5,), float("nan")), torch.ones(5), 25.0)


def test_loudness_is_in_decibels():
    sound = torch.cat([torch.full((8000,), 0.1), torch.full((8000,), 0.01), torch.zeros(8000)])
    assert loudness_envelope(sound, 16000, torch.tensor([0.25, 0.75, 1.25])).tolist() == pytest.approx(
        [40.0, 20.0, 0.0], abs=1e-3
    )


@pytest.mark.parametrize(
    ("reference", "estimate", "message"),
    [([float("nan")], [0.1], "finite"), ([0.1], [[0.1]], "one dimension"), ([], [float("inf")], "finite")],
)
def test_malformed_events_raise(reference, estimate, message):
    with pytest.raises(ValueError, match=message):
        event_lag(reference, estimate)


def test_the_value_is_the_median_size_and_clips_without_a_lag_have_no_part_in_it():
    metric = EventLag()
    lags = [0.1, -0.04, 0.02, 0.3]
    metric.update([[time + lag for time in EVENTS] for lag in lags[:2]], [EVENTS, EVENTS])
    metric.update([*([time + lag for time in EVENTS] for lag in lags[2:]), []], [EVENTS] * 3)
    with pytest.warns(UserWarning, match="1 clips have no event_lag"):
        assert float(metric.compute()["event_lag"]) == pytest.approx(0.07, abs=1e-4)
    assert metric.clip_values().dtype == torch.float64
    assert metric.clip_values().flatten().tolist() == pytest.approx([*lags, math.nan], abs=1e-4, nan_ok=True)
    metric.reset()
    assert metric.clip_values().tolist() == []


def test_clips_without_a_lag_give_nan_and_a_warning():
    metric = EventLag()
    metric.update([[0.5], [3.0]], [[], [0.5]])
    with pytest.warns(UserWarning, match="2 clips have no event_lag"):
        assert bool(metric.compute()["event_lag"].isnan())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("updates", [0, 1])
def test_before_any_clip_every_value_is_nan(updates):
    metric = EventLag()
    for _ in range(updates):
        metric.update([], [])
    assert all(bool(value.isnan()) for value in metric.compute().values())


def test_the_envelope_metric_measures_envelopes():
    noise = torch.randn(120, generator=torch.Generator().manual_seed(0))
    metric = EnvelopeLag(rate=25.0, max_lag=0.4)
    metric.update([noise[6:106], 2 * noise[5:105].numpy() + 1], [noise[10:110], noise[10:110]])
    assert float(metric.compute()["motion_loudness_lag"]) == pytest.approx(4.5 / 25, abs=0.01)
    metric.update([noise[:50]], [torch.ones(50)])
    assert metric.clip_values().isnan().flatten().tolist() == [False, False, True]


def test_a_malformed_clip_leaves_the_metric_as_it_was():
    metric = EventLag()
    metric.update([EVENTS], [EVENTS])
    with pytest.raises(ValueError, match="finite"):
        metric.update([[0.1], [math.nan]], [EVENTS, EVENTS])
    assert metric.clip_values().tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EventLag(max_lag=0.0), "max_lag"),
        (lambda: EventLag(max_lag=math.nan), "max_lag"),
        (lambda: EnvelopeLag(rate=-1.0), "rate"),
        (lambda: EventLag().update([], [[0.1]]), "as many clips of both, got 0 estimates, 1 references"),
        (lambda: EventLag().update([0.1], [0.1]), "one dimension"),
    ],
)
def test_malformed_input_of_the_metrics_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call()
