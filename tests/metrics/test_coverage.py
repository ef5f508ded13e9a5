"""Coverage of a set's modes, against what it must be."""

import pytest
import torch

from cmmd_lightning.metrics.functional.quality import coverage


def test_a_set_covers_itself_and_one_mode_covers_half():
    real = torch.cat([torch.randn(50, 3), torch.randn(50, 3) + 100])
    assert coverage(real, real) == 1.0
    assert coverage(real, real[:50]) == 0.5
    assert coverage(real, real + 1000) == 0.0


def test_two_samples_of_one_distribution():
    """About 1 - 2^-k, as its authors show."""
    torch.manual_seed(0)
    found = [coverage(torch.randn(400, 8), torch.randn(400, 8), neighbours=3) for _ in range(10)]
    assert sum(found) / 10 == pytest.approx(1 - 2**-3, abs=0.02)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="expected more than 5 rows of real features, got 5"):
        coverage(torch.randn(5, 2), torch.randn(9, 2))
