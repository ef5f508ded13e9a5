import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmmd_lightning.diffusion.schedule import NoiseSchedule, expand_like

times = st.floats(0.0, 1.0)
shifts = st.sampled_from([0.25, 0.5, 1.0, 2.0])
seeds = st.integers(0, 2**31 - 1)
fast = settings(max_examples=40, deadline=None)


def pair(seed: int, shape: tuple[int, ...] = (3, 4, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@fast
@given(t=times, shift=shifts)
def test_variance_is_preserved_and_the_ratio_is_the_shifted_cosine_one(t, shift):
    alpha, sigma = NoiseSchedule(shift).alpha_sigma(torch.tensor(t, dtype=torch.float64))
    assert (alpha**2 + sigma**2).item() == pytest.approx(1.0, abs=1e-6)
    # cross products, since a ratio has no value at the ends
    left = sigma.item() * shift * math.cos(math.pi * t / 2)
    assert left == pytest.approx(alpha.item() * math.sin(math.pi * t / 2), abs=1e-6)


@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_exact(shift, dtype):
    alpha, sigma = NoiseSchedule(shift).alpha_sigma(torch.tensor([0.0, 1.0], dtype=dtype))
    assert alpha.tolist() == [1.0, 0.0]
    assert sigma.tolist() == [0.0, 1.0]
    assert alpha.dtype == torch.float32
    x, eps = pair(0)
    schedule = NoiseSchedule(shift)
    zero, one = torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)
    assert torch.equal(schedule.add_noise(x, eps, zero), x)
    assert torch.equal(schedule.add_noise(x, eps, one), eps)
    assert torch.equal(schedule.velocity(x, eps, zero), eps)
    assert torch.equal(schedule.velocity(x, eps, one), -x)


def test_known_values():
    alpha, sigma = NoiseSchedule().alpha_sigma(torch.tensor([1 / 3, 0.5, 2 / 3], dtype=torch.float64))
    torch.testing.assert_close(alpha, torch.tensor([math.sqrt(3) / 2, math.sqrt(0.5), 0.5]))
    torch.testing.assert_close(sigma, torch.tensor([0.5, math.sqrt(0.5), math.sqrt(3) / 2]))
    # Halving alpha / sigma at t = 1/2: 1 to 2.
    alpha, sigma = NoiseSchedule(0.5).alpha_sigma(torch.tensor(0.5))
    assert alpha.item() == pytest.approx(1 / math.sqrt(5))
    assert sigma.item() == pytest.approx(2 / math.sqrt(5))


@fast
@given(seed=seeds, t=st.lists(times, min_size=3, max_size=3), shift=shifts)
def test_velocity_gives_back_data_and_noise(seed, t, shift):
    schedule, (x, eps) = NoiseSchedule(shift), pair(seed)
    t = torch.tensor(t, dtype=torch.float64)
    z, v = schedule.add_noise(x, eps, t), schedule.velocity(x, eps, t)
    torch.testing.assert_close(schedule.data_from_velocity(z, v, t), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(schedule.noise_from_velocity(z, v, t), eps, atol=1e-5, rtol=1e-5)
    # (z, v) is (x, eps) turned by an angle: lengths are kept.
    torch.testing.assert_close(z**2 + v**2, x**2 + eps**2, atol=1e-4, rtol=1e-4)


@fast
@given(shift=shifts, low=times, high=times)
def test_signal_falls_with_time(shift, low, high):
    low, high = sorted((low, high))
    alpha, sigma = NoiseSchedule(shift).alpha_sigma(torch.tensor([low, high], dtype=torch.float64))
    assert alpha[0] >= alpha[1]
    assert sigma[0] <= sigma[1]


def test_velocity_is_the_derivative_along_the_angle():
    x, eps = (values.double() for values in pair(3))
    phi = torch.tensor([0.2, 0.7, 1.3], dtype=torch.float64)
    t, step = phi / (math.pi / 2), 1e-2
    z = [NoiseSchedule().add_noise(x, eps, t + d / (math.pi / 2)) for d in (-step, step)]
    torch.testing.assert_close((z[1] - z[0]) / (2 * step), NoiseSchedule().velocity(x, eps, t), atol=1e-3, rtol=1e-3)


def test_one_time_per_example():
    x, eps = pair(1, (2, 3, 4, 5, 6))
    t = torch.tensor([0.1, 0.9])
    both = NoiseSchedule().add_noise(x, eps, t)
    for i in range(2):
        assert torch.equal(both[i : i + 1], NoiseSchedule().add_noise(x[i : i + 1], eps[i : i + 1], t[i : i + 1]))
    assert expand_like(t, x).shape == (2, 1, 1, 1, 1)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan])
def test_a_shift_that_is_not_positive_is_refused(shift):
    with pytest.raises(ValueError, match=r"NoiseSchedule\.shift must be positive"):
        NoiseSchedule(shift)
