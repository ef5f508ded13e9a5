"""EventAgreement: the mean of the pure function, over batches and processes."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from cmmd_lightning.metrics import EventAgreement
from cmmd_lightning.metrics.functional.events import TOLERANCES, event_scores


def clips(count):
    rng = np.random.default_rng(0)
    reference = [rng.random(rng.integers(1, 5)) for _ in range(count)]
    return reference, [np.append(times + rng.normal(0, 0.05, len(times)), rng.random()) for times in reference]


def test_the_metric_is_the_mean_of_the_function():
    reference, estimate = clips(10)
    metric = EventAgreement()
    metric.update(estimate[:3], reference[:3])
    metric.update(estimate[3:], [torch.from_numpy(times) for times in reference[3:]])
    values = metric.compute()
    for tolerance in TOLERANCES:
        scores = np.mean([event_scores(r, e, tolerance) for r, e in zip(reference, estimate, strict=True)], axis=0)
        got = [float(values[f"event_{name}@{tolerance * 1000:g}ms"]) for name in ("precision", "recall", "f1")]
        assert got == pytest.approx(scores.tolist(), abs=1e-6)
    curve = [float(values[f"event_f1@{tolerance * 1000:g}ms"]) for tolerance in TOLERANCES]
    assert float(values["event_f1@mean"]) == pytest.approx(np.mean(curve), abs=1e-6)


def test_states_of_two_processes_add_up():
    reference, estimate = clips(9)
    both, first, second = EventAgreement(), EventAgreement(), EventAgreement()
    both.update(estimate, reference)
    first.update(estimate[:4], reference[:4])
    second.update(estimate[4:], reference[4:])
    first.merge_state(second)
    assert {k: float(v) for k, v in first.compute().items()} == pytest.approx(
        {k: float(v) for k, v in both.compute().items()}
    )


def test_empty_lists_count_as_agreement():
    metric = EventAgreement()
    metric.update([[], []], [[], [0.5]])
    assert float(metric.compute()["event_f1@100ms"]) == 0.5


def test_reset_forgets():
    metric = EventAgreement()
    metric.update([[0.5]], [[0.9]])
    metric.reset()
    metric.update([[0.5]], [[0.5]])
    assert float(metric.compute()["event_f1@mean"]) == 1.0


def test_plot_draws_every_value():
    metric = EventAgreement()
    metric.update([[0.5]], [[0.5]])
    figure, _ = metric.plot()
    assert figure.axes


def test_perfect_input_scores_one_everywhere():
    metric = EventAgreement()
    metric.update([[0.5, 0.5, 1.0], [0.1]], [[1.0, 0.5, 0.5], torch.tensor([0.1])])
    assert {float(value) for value in metric.compute().values()} == {1.0}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_before_any_clip_every_value_is_nan():
    assert all(bool(value.isnan()) for value in EventAgreement().compute().values())


def test_a_malformed_clip_leaves_the_metric_as_it_was():
    metric = EventAgreement()
    metric.update([[0.5]], [[0.5]])
    with pytest.raises(ValueError, match="finite"):
        metric.update([[0.5], [0.5]], [[0.9], [float("nan")]])
    assert float(metric.compute()["event_f1@mean"]) == 1.0


def test_malformed_input_raises():
    with pytest.raises(ValueError, match="as many clips of both, got 0 estimates, 1 references"):
        EventAgreement().update([], [[0.1]])
    with pytest.raises(ValueError, match="one dimension"):
        EventAgreement().update([0.1], [0.1])  # one clip's times where a list of clips is expected


@pytest.mark.parametrize("tolerances", [(), (-0.1,), (0.1, float("nan")), (float("inf"),)])
def test_malformed_tolerances_raise(tolerances):
    with pytest.raises(ValueError, match="tolerances must be finite seconds, 0 or more"):
        EventAgreement(tolerances=tolerances)


def test_the_metrics_work_where_lightning_cannot_be_imported():
    script = """
import sys
for name in ("lightning", "pytorch_lightning", "lightning_fabric"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
from cmmd_lightning.metrics import EventAgreement
from cmmd_lightning.metrics.synchrony import AVAlign, EnvelopeLag, EventLag
import torch
metrics = [EventAgreement(), AVAlign(fps=10.0), EventLag(), EnvelopeLag(rate=10.0)]
envelope = torch.sin(torch.arange(40.0))
for metric in metrics:
    clip = envelope if isinstance(metric, EnvelopeLag) else [0.5, 1.25]
    metric.update([clip], [clip])
values = {name: float(value) for metric in metrics for name, value in metric.compute().items()}
assert values["event_f1@mean"] == values["av_align[tempotokens-2025]"] == 1.0 and values["event_lag"] == 0.0, values
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
