"""Frechet and kernel distances: closed forms, torchmetrics, and the states of the metrics."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd
from torchmetrics.wrappers import FeatureShare

from cmmd_lightning.metrics.functional.quality import frechet_distance, frechet_distance_of_features, kernel_distance
from cmmd_lightning.metrics.quality import FrechetDistance, KernelDistance
from cmmd_lightning.metrics.weights import weights_hash


def features(rows, width, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64) @ mixing * scale + shift


class Rows(nn.Module):
    """An extractor that hands on rows, and counts its calls."""

    name = "rows"

    def __init__(self, width):
        super().__init__()
        self.num_features = width
        self.calls = 0

    def forward(self, rows, rate=1.0):
        self.calls += 1
        return rows


def test_diagonal_gaussians_have_a_closed_form():
    a, b = torch.tensor([1.0, 4.0, 9.0, 0.0]), torch.tensor([4.0, 1.0, 9.0, 2.0])
    expected = 1 + 4 + float((a.sqrt() - b.sqrt()).square().sum())
    shift = torch.tensor([1.0, 0.0, -2.0, 0.0])
    got = frechet_distance(torch.zeros(4), torch.diag(a), shift, torch.diag(b))
    assert got == pytest.approx(expected, abs=1e-6)


def test_shift_of_the_mean_alone_is_its_squared_length():
    cov = torch.cov(features(50, 6, 0).T)
    shift = torch.arange(6.0)
    assert frechet_distance(torch.zeros(6), cov, shift, cov) == pytest.approx(55.0, rel=1e-12)


@pytest.mark.parametrize(("rows", "width"), [(200, 8), (40, 1), (20, 30)])
def test_frechet_equals_torchmetrics(rows, width):
    a, b = features(rows, width, 1), features(rows + 5, width, 2, 1.5, 0.3)
    reference = FrechetInceptionDistance(feature=Rows(width), normalize=False).set_dtype(torch.float64)
    reference.update(a, real=True)
    reference.update(b, real=False)
    # where covariances are singular, torchmetrics takes roots of rounding errors
    assert frechet_distance_of_features(a, b) == pytest.approx(float(reference.compute()), rel=1e-6)


@pytest.mark.parametrize(("rows", "width"), [(60, 8), (1030, 3)])
def test_kernel_equals_torchmetrics_over_all_rows(rows, width):
    a, b = features(rows, width, 1), features(rows, width, 2, 1.5)
    assert kernel_distance(a, b) == pytest.approx(float(poly_mmd(a, b)), rel=1e-9)


def test_kernel_of_unequal_counts_by_hand():
    # kernel values (xy + 1)^3: within a 1; within b 8 (1, 1), 27 (1, 2) twice; across 1
    a, b = torch.zeros(2, 1), torch.tensor([[1.0], [1.0], [2.0]])
    assert kernel_distance(a, b) == pytest.approx(1 + (8 + 27 + 27) / 3 - 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 20), st.integers(2, 20))
def test_frechet_is_symmetric_not_negative_and_blind_to_common_rotations(seed, width, n, m):
    a, b = features(n, width, seed), features(m, width, seed + 1, 0.5, 1.0)
    rotation = torch.linalg.qr(features(width, width, seed + 2))[0]
    value = frechet_distance_of_features(a, b)
    near = pytest.approx(value, rel=1e-6, abs=1e-6)
    assert value >= 0
    assert frechet_distance_of_features(b, a) == near
    assert frechet_distance_of_features(a @ rotation, b @ rotation) == near
    assert frechet_distance_of_features(a, a.flip(0)) == pytest.approx(0, abs=1e-9 * float(a.square().sum()))
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a), rel=1e-9, abs=1e-9)
    assert kernel_distance(a @ rotation, b @ rotation) == pytest.approx(kernel_distance(a, b), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("distance", [frechet_distance_of_features, kernel_distance])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), "at least 2 rows .* got 1 and 5"),
        (torch.zeros(5, 3), torch.zeros(5, 4), r"got shapes \(5, 3\), \(5, 4\)"),
        (torch.zeros(5), torch.zeros(5), "expected features"),
        (torch.zeros(5, 3), torch.full((5, 3), torch.inf), "finite"),
    ],
)
def test_malformed_features_raise(distance, a, b, message):
    with pytest.raises(ValueError, match=message):
        distance(a, b)


def test_malformed_gaussians_raise():
    with pytest.raises(ValueError, match=r"got shapes \[\(2,\), \(3,\)"):
        frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(2), torch.eye(2) * torch.nan)


FUNCTIONS = [(FrechetDistance, "frechet_distance", frechet_distance_of_features)]
FUNCTIONS += [(KernelDistance, "kernel_distance", kernel_distance)]
a, b = features(30, 4, 3).float(), features(40, 4, 4, 2.0, 5.0).float()


@pytest.mark.parametrize(("metric", "key", "function"), FUNCTIONS)
def test_metric_over_batches_equals_the_function(metric, key, function):
    measure = metric(Rows(4))
    for rows in a.split(7):
        measure.update(rows, real=True)
    for rows in b.split(16):
        measure.update(rows, 25.0, real=False)
    values = measure.compute()
    assert float(values[key]) == pytest.approx(function(a, b), rel=1e-6)
    assert (int(values["num_real"]), int(values["num_generated"])) == (30, 40)
    measure.reset()
    measure.update(a, real=True)
    measure.update(a, real=False)
    assert float(measure.compute()[key]) == pytest.approx(function(a, a), abs=1e-5)


@pytest.mark.parametrize(("metric", "key", "function"), FUNCTIONS)
def test_states_of_two_processes_add_up(metric, key, function):
    first, second = metric(Rows(4)), metric(Rows(4))
    first.update(a, real=True)
    first.update(b[:10], real=False)
    second.update(b[10:], real=False)
    first.merge_state(second)
    assert float(first.compute()[key]) == pytest.approx(function(a, b), rel=1e-6)
    assert first.describe()["num_generated"] == 40


def test_a_process_without_rows_syncs():
    def gather(tensor, group=None):
        return [tensor, torch.zeros(0)] if tensor.is_floating_point() else [tensor, torch.zeros_like(tensor)]

    measure = KernelDistance(Rows(4), dist_sync_fn=gather, distributed_available_fn=lambda: True)
    measure.update(a, real=True)
    measure.update(b, real=False)
    assert float(measure.compute()["kernel_distance"]) == pytest.approx(kernel_distance(a, b), rel=1e-6)
    assert measure.describe()["num_real"] == 30


def test_description_names_what_the_figure_depends_on():
    class Pooled(nn.Linear):
        name, num_features = "pooled-v1", 3

        def forward(self, frames, fps):
            return super().forward(frames.float().mean(dim=(2, 3)))

    extractor = Pooled(2, 3)
    measure = FrechetDistance(extractor)
    for shape, real in [((4, 2, 8, 8), True), ((4, 2, 8, 8), True), ((6, 2, 16, 9), False)]:
        measure.update(torch.rand(shape), 25.0, real=real)
    digest = hashlib.sha256()
    for name in ("bias", "weight"):
        value = extractor.state_dict()[name]
        digest.update(f"{name}:torch.float32:{tuple(value.shape)}:".encode() + value.numpy().tobytes())
    assert measure.describe() == {
        "extractor": "pooled-v1",
        "weights": digest.hexdigest(),
        "num_features": 3,
        "num_real": 8,
        "num_generated": 6,
        "clips_real": 8,
        "clips_generated": 6,
        "sizes": [[2, 8, 8], [2, 16, 9]],
    }
    assert FrechetDistance(extractor, "mine").describe()["extractor"] == "mine"


def test_weights_hash_follows_names_types_shapes_and_values():
    layer = nn.Linear(2, 2)
    before = weights_hash(layer)
    assert weights_hash(nn.Sequential(layer)) != before
    assert weights_hash(nn.Linear(2, 2).half()) != before
    with torch.no_grad():
        layer.weight[0, 0] = torch.nextafter(layer.weight[0, 0], torch.tensor(9.0))
    assert weights_hash(layer) != before
    assert weights_hash(nn.BatchNorm2d(2)) == weights_hash(nn.BatchNorm2d(2))


def test_feature_share_extracts_once():
    extractor = Rows(4)
    frechet, kernel = FrechetDistance(extractor), KernelDistance(extractor)
    shared = FeatureShare([frechet, kernel])
    shared.update(a, real=True)
    shared.update(b, real=False)
    assert extractor.calls == 2
    values = shared.compute()
    assert float(values["FrechetDistance_frechet_distance"]) == pytest.approx(
        frechet_distance_of_features(a, b), rel=1e-6
    )
    assert shared["KernelDistance"].describe()["weights"] == "none"


def test_extractor_stays_in_evaluation_mode():
    measure = FrechetDistance(nn.Dropout(0.5), num_features=4)
    measure.train()
    measure.update(a, real=True)
    measure.update(a, real=False)
    assert float(measure.compute()["frechet_distance"]) == pytest.approx(0, abs=1e-9)


def test_few_rows_warn():
    measure = FrechetDistance(Rows(4))
    measure.update(a, real=True)
    with pytest.warns(UserWarning, match="no distance with 30 real and 0 generated"):
        assert measure.compute()["frechet_distance"].isnan()
    measure.update(b[:4], real=False)
    with pytest.warns(UserWarning, match="singular"):
        value = float(measure.compute()["frechet_distance"])
    assert value == pytest.approx(frechet_distance_of_features(a, b[:4]), rel=1e-6)


@pytest.mark.parametrize(("rows", "message"), [(torch.zeros(3, 5), r"got \(3, 5\)"), (a * torch.nan, "finite")])
def test_what_is_no_rows_raises(rows, message):
    with pytest.raises(ValueError, match=message):
        FrechetDistance(Rows(4)).update(rows, real=True)
    with pytest.raises(ValueError, match="num_features"):
        FrechetDistance(nn.Identity())


def test_plot_draws_the_values():
    measure = KernelDistance(Rows(4))
    measure.update(a, real=True)
    measure.update(b, real=False)
    figure, axes = measure.plot()
    assert axes is not None
    assert figure is not None
