"""Memorisation: copies are found, fresh draws are not taken for copies, units do not matter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import nn

from cmmd_lightning.metrics.functional.memorisation import memorisation_scores, nearest_distances
from cmmd_lightning.metrics.memorisation import Memorisation


def gaussian(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_nearest_distances_equal_scipys(chunk):
    queries, bank = gaussian(20, 5, 0) * 3 + 100, gaussian(50, 5, 1) * torch.tensor([1, 10, 100, 0.1, 1]) + 100
    distances, indices = nearest_distances(queries, bank, chunk=chunk)
    matrix = cdist(queries.numpy(), bank.numpy(), "seuclidean", V=bank.numpy().var(axis=0))
    assert indices.tolist() == matrix.argmin(axis=1).tolist()
    assert distances.tolist() == pytest.approx(matrix.min(axis=1), rel=1e-9)


def test_exact_copies_are_found_at_distance_zero():
    bank = (gaussian(300, 64, 0) * 50 + 1000).float()
    chosen = torch.tensor([299, 0, 17, 17])
    distances, indices = nearest_distances(bank[chosen], bank, chunk=32)
    assert distances.tolist() == [0.0] * 4
    assert indices.tolist() == chosen.tolist()


@settings(deadline=None)
@given(st.lists(st.integers(-12, 12), min_size=4, max_size=4), st.integers(0, 1000))
def test_distances_do_not_depend_on_the_features_units(exponents, seed):
    queries, bank = gaussian(6, 4, seed), gaussian(15, 4, seed + 1)
    scale = 10.0 ** torch.tensor(exponents, dtype=torch.float64)
    distances, indices = nearest_distances(queries, bank)
    scaled_distances, scaled_indices = nearest_distances(queries * scale, bank * scale)
    assert scaled_indices.tolist() == indices.tolist()
    assert scaled_distances.tolist() == pytest.approx(distances.tolist(), rel=1e-9)


def test_constant_features_are_left_out():
    bank = torch.cat([gaussian(10, 2, 0), torch.full((10, 1), 0.1)], dim=1)
    queries = torch.cat([gaussian(3, 2, 1), torch.full((3, 1), 9.0)], dim=1)
    expected, _ = nearest_distances(queries[:, :2], bank[:, :2])
    assert nearest_distances(queries, bank)[0].tolist() == pytest.approx(expected.tolist())


def test_no_queries_give_empty_lists_and_malformed_rows_raise():
    distances, indices = nearest_distances(torch.zeros(0, 3), gaussian(4, 3, 0))
    assert (distances.shape, indices.shape, indices.dtype) == ((0,), (0,), torch.int64)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(4, 2\)"):
        nearest_distances(torch.zeros(2, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="must be finite"):
        nearest_distances(torch.full((1, 2), torch.nan), gaussian(4, 2, 0))
    with pytest.raises(ValueError, match="got 1 rows"):
        nearest_distances(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="got 5 equal ones"):
        nearest_distances(torch.zeros(2, 3), torch.full((5, 3), 0.1))


def test_scores_by_hand():
    held_out = torch.arange(1.0, 101.0)  # percentiles 1.99 and 5.95
    scores = memorisation_scores(torch.tensor([0.0, 1.0, 2.0, 5.0, 60.5]), held_out)
    assert (scores.generated_median, scores.held_out_median) == (2.0, 50.5)
    assert scores.share_below_1st_percentile == 0.4
    assert scores.share_below_5th_percentile == 0.8
    # nearer than 100, 99.5 (one tie), 98.5, 95.5 and 40 of the 100
    assert scores.auroc == pytest.approx((100 + 99.5 + 98.5 + 95.5 + 40) / 500)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_auroc_counts_pairs_with_ties_as_half(generated, held_out):
    one, other = torch.tensor(generated).float(), torch.tensor(held_out).float()
    pairs = [(h > g) + 0.5 * (h == g) for g in generated for h in held_out]
    assert memorisation_scores(one, other).auroc == pytest.approx(np.mean(pairs))
    assert memorisation_scores(other, one).auroc == pytest.approx(1 - np.mean(pairs))


def test_undefined_scores_are_nan_and_malformed_distances_raise():
    scores = memorisation_scores(torch.zeros(0), torch.tensor([1.0, 3.0]))
    assert scores.held_out_median == 2.0
    assert np.isnan([scores.generated_median, scores.auroc, scores.share_below_1st_percentile]).all()
    for bad in (torch.tensor([[1.0]]), torch.tensor([-1.0]), torch.tensor([torch.nan])):
        with pytest.raises(ValueError, match="generated distances must be"):
            memorisation_scores(bad, torch.ones(2))


def filled(generated, extractor=None):
    metric = Memorisation(extractor)
    metric.update(gaussian(400, 8, 0), kind="training")
    metric.update(gaussian(200, 8, 1), kind="held_out")
    metric.update(generated, kind="generated")
    return metric


def test_fresh_draws_are_no_copies_and_copies_are():
    fresh = filled(gaussian(200, 8, 2)).compute()
    assert float(fresh["memorisation_auroc"]) == pytest.approx(0.5, abs=0.05)
    assert float(fresh["memorisation_share_below_5%"]) == pytest.approx(0.05, abs=0.04)
    medians = [float(fresh[f"memorisation_median_{kind}"]) for kind in ("generated", "held_out")]
    assert medians[0] == pytest.approx(medians[1], rel=0.1)

    half = filled(torch.cat([gaussian(400, 8, 0)[100:200], gaussian(100, 8, 2)]))
    values = half.compute()
    assert float(values["memorisation_auroc"]) == pytest.approx(0.75, abs=0.05)
    assert float(values["memorisation_share_below_1%"]) == pytest.approx(0.5, abs=0.03)
    nearest = half.nearest()
    assert nearest.generated_distances[:100].tolist() == [0.0] * 100
    assert nearest.generated_indices[:100].tolist() == list(range(100, 200))
    assert bool((nearest.held_out_distances > 0).all())


def test_clips_farther_than_held_out_ones_are_below_one_half():
    values = filled(gaussian(50, 8, 2) + 10).compute()
    assert float(values["memorisation_auroc"]) == 0.0
    assert float(values["memorisation_share_below_5%"]) == 0.0


def test_an_extractor_is_asked_for_the_features():
    class Doubling(nn.Module):
        def forward(self, rows, rate):
            return rows * 2 if not self.training else rows * 0

    metric = Memorisation(Doubling()).train()
    for kind, seed in (("training", 0), ("held_out", 1), ("generated", 2)):
        metric.update(gaussian(20, 3, seed), 25.0, kind=kind)
    distances, indices = nearest_distances(gaussian(20, 3, 2).float(), gaussian(20, 3, 0).float())
    assert metric.nearest().generated_distances.tolist() == pytest.approx(distances.tolist(), rel=1e-5)
    assert metric.nearest().generated_indices.tolist() == indices.tolist()


def test_the_nearest_are_those_of_all_processes():
    """This process holds some rows, the other one, whose states the gathering function brings, the rest."""
    other, alone = Memorisation(), Memorisation()
    brought = []
    metric = Memorisation(
        dist_sync_fn=lambda state, group: [state, brought.pop(0)], distributed_available_fn=lambda: True
    )
    for number, kind in enumerate(("training", "held_out", "generated")):
        metric.update(gaussian(5, 3, number), kind=kind)
        other.update(gaussian(8, 3, 10 + number), kind=kind)
        alone.update(torch.cat([gaussian(5, 3, number), gaussian(8, 3, 10 + number)]), kind=kind)
    for _ in range(2):  # the second time tells whether the first one left this process as it was
        brought += [other.training_rows[0], other.held_out_rows[0], other.generated_rows[0], other.width]
        for got, expected in zip(metric.nearest(), alone.nearest(), strict=True):
            assert torch.equal(got, expected)


def test_missing_kinds_are_nan_with_one_warning():
    metric = Memorisation()
    metric.update(gaussian(4, 2, 0), kind="training")
    metric.update(gaussian(4, 2, 1), kind="generated")
    with pytest.warns(UserWarning, match="got 4 training, 0 held-out, 4 generated rows") as caught:
        values = metric.compute()
    assert len(caught) == 1
    assert np.isnan(float(values["memorisation_auroc"]))
    assert float(values["memorisation_median_generated"]) > 0
    with pytest.warns(UserWarning, match="0 training"):
        assert all(np.isnan(float(value)) for value in Memorisation().compute().values())


def test_malformed_updates_raise():
    metric = Memorisation()
    with pytest.raises(ValueError, match="training, held_out, generated, got 'test'"):
        metric.update(torch.zeros(2, 3), kind="test")
    with pytest.raises(ValueError, match="one tensor of features"):
        metric.update(torch.zeros(2, 3), 25.0, kind="training")
    with pytest.raises(ValueError, match="finite"):
        metric.update(torch.full((2, 3), torch.inf), kind="training")
    metric.update(torch.zeros(2, 3), kind="training")
    with pytest.raises(ValueError, match=r"\(rows, 3\), got \(2, 4\)"):
        metric.update(torch.zeros(2, 4), kind="generated")


def test_plot_draws():
    assert filled(gaussian(5, 8, 2)).plot()[0].axes
