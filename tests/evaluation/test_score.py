"""Observations to scores: floors, signs, and clips that lack a side."""

import math

import numpy as np
import pytest

from cmmd_lightning.evaluation import Observation, score
from cmmd_lightning.evaluation.measures import View
from cmmd_lightning.metrics.synchrony import Events


def observation(name, reference, estimate, *, motion=None, loudness=None, best=None):
    left, right = {"events": Events(reference, 2.0)}, {"events": Events(estimate, 2.0)}
    left |= {} if motion is None else {"motion": motion}
    right |= {} if loudness is None else {"loudness": loudness}
    ideal = None if best is None else View(left, right | {"events": Events(best, 2.0)})
    return Observation(name, 2.0, "sidecar", View(left, right), ideal)


def test_of_lags_the_size_counts_and_the_median_has_the_sign():
    lags = {"a": 0.08, "b": -0.04, "c": 0.06}
    clips = [observation(name, [0.5, 1.1], [0.5 + lag, 1.1 + lag]) for name, lag in lags.items()]
    clips.append(observation("silent", [0.5], []))
    metrics, rows = score(clips)
    entry = metrics["event_lag"]
    assert [row["event_lag"] for row in rows] == pytest.approx([0.08, -0.04, 0.06, None], abs=1e-4)
    assert entry["value"] == pytest.approx(0.06, abs=1e-4)  # the clip without events has no part in it
    assert entry["median"] == pytest.approx(0.06, abs=1e-4)
    assert (entry["n"], entry["n_without"], entry["unit"], entry["higher_is_better"]) == (3, 1, "seconds", False)
    assert "median" not in metrics["event_f1@100ms"]
    assert not any(name.startswith(("event_recall", "event_precision")) for name in rows[0])


def test_no_lag_at_all_gives_no_value():
    metrics, rows = score([observation("a", [0.5], []), observation("b", [], [])])
    assert metrics["event_lag"]["value"] is None
    assert (metrics["event_lag"]["median"], metrics["event_lag"]["n_without"]) == (None, 2)
    assert [row["event_lag"] for row in rows] == [None, None]


def test_floor_random_and_ceiling_have_closed_forms():
    reference, far = [0.2, 0.6], [1.4, 1.8]  # nothing of one near the other
    clips = [observation("a", reference, reference, best=far), observation("b", far, far, best=far)]
    entry = score(clips)[0]["event_f1@100ms"]
    assert (entry["value"], entry["floor"], entry["ceiling"], entry["ci95"]) == (1.0, 0.0, 0.5, [1.0, 1.0])
    whole = [observation(str(i), list(np.arange(0.1, 2.0, 0.2)), [0.5]) for i in range(2)]
    assert score(whole)[0]["event_recall@200ms"]["floor_random"] > 0.5  # they cover the clip


def test_clips_that_lack_a_side_count_where_they_can():
    bump = np.exp(-(((np.arange(100) - 50) / 4.0) ** 2))
    clips = [
        observation("whole", [1.0], [1.0], motion=bump, loudness=bump),
        observation("shifted", [1.0], [1.0], motion=bump, loudness=np.roll(bump, 4)),
        observation("blind", [1.0], [1.0], loudness=bump),
        observation("deaf", [1.0], [1.0], motion=bump),
    ]
    for ordered in (clips, clips[::-1]):
        metrics, rows = score(ordered)
        entry = metrics["motion_loudness_lag"]
        assert (entry["n"], metrics["event_f1@25ms"]["n"]) == (2, 4)
        assert entry["value"] == pytest.approx(0.04, abs=0.005)
        assert entry["floor_random"] is None
        # wrong partners: lags of 80, 0 and 0 ms against the two pictures, of 0 and 80 ms against the third
        assert 0 <= entry["floor"] < 0.08
        assert sum("motion_loudness_lag" in row for row in rows) == 2


def test_numbers_do_not_depend_on_anything_but_the_seed():
    rng = np.random.default_rng(0)
    clips = [observation(str(i), sorted(rng.uniform(0, 2, 5)), sorted(rng.uniform(0, 2, 5))) for i in range(12)]
    assert score(clips, seed=4) == score(clips, seed=4)
    entries = [score(clips, seed=seed)[0]["event_f1@100ms"] for seed in (4, 5)]
    assert entries[0]["value"] == entries[1]["value"]
    assert entries[0]["floor_random"] != entries[1]["floor_random"]
    assert not math.isnan(entries[0]["ci95"][0])
