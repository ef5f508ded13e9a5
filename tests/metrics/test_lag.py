"""Lag of envelopes and of event lists."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmmd_lightning.metrics.functional.lag import envelope_lag, event_lag, loudness_envelope

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
