import pytest
import torch

from cmmd_lightning.diffusion.noise import TimeNoise


def draw(noise: TimeNoise, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return noise.draw(shape, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("shared", "persistence"), [(0.0, 0.0), (0.4, 0.0), (0.0, 0.6), (0.4, 0.5)])
def test_its_covariance_is_the_stated_one_at_every_frame(shared, persistence):
    noise = draw(TimeNoise(shared, persistence), (4, 12, 100, 100))
    assert noise.mean().abs() < 0.02
    covariance = torch.cov(noise.transpose(0, 1).flatten(1))  # of the 12 frames, over 40,000 values
    lag = (torch.arange(12)[:, None] - torch.arange(12)).abs()
    expected = shared + (1 - shared) * torch.tensor(persistence) ** lag
    torch.testing.assert_close(covariance, expected, atol=0.03, rtol=0)


def test_without_correlation_it_is_the_noise_that_older_checkpoints_were_trained_with():
    shape = (3, 5, 2, 2)
    assert torch.equal(draw(TimeNoise.of(None), shape), torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def test_places_and_channels_stay_independent():
    noise = draw(TimeNoise(persistence=0.5), (2, 4000, 3, 3))
    correlation = torch.corrcoef(noise.transpose(0, 1).flatten(1).T)  # of the 18 values of a frame, over 4,000 frames
    torch.testing.assert_close(correlation, torch.eye(18), atol=0.1, rtol=0)


def test_it_follows_from_the_generator_and_comes_back_from_its_plain_form():
    noise = TimeNoise(0.3, 0.2)
    assert torch.equal(draw(noise, (2, 4, 3, 3), seed=7), draw(noise, (2, 4, 3, 3), seed=7))
    assert TimeNoise.of(noise.to_dict()) == TimeNoise.of(noise) == noise


@pytest.mark.parametrize("settings", [{"shared": 1.0}, {"persistence": -0.1}, {"persistence": 1.0}])
def test_what_is_out_of_range_is_refused(settings):
    with pytest.raises(ValueError, match=r"TimeNoise\.\w+: expected at least 0 and below 1"):
        TimeNoise(**settings)
