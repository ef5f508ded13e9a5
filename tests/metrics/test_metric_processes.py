"""Every metric gives on two processes what it gives on one; run as a script, this file is one of two processes."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch
from torch import distributed, nn
from torchmetrics import Metric

from cmmd_lightning.metrics import EventAgreement, Measure
from cmmd_lightning.metrics.meaning import ClassifierAgreement, PairAgreement
from cmmd_lightning.metrics.memorisation import Kind, Memorisation
from cmmd_lightning.metrics.quality import FrechetDistance, KernelDistance
from cmmd_lightning.metrics.synchrony import AVAlign, EnvelopeLag, EventLag

REFERENCE = [[0.2, 0.71, 1.3], [0.5], [], [0.1, 0.9], [0.4, 0.42], [1.1, 1.5]]
ESTIMATE = [[0.24, 0.7], [0.58, 1.0], [], [0.11, 0.88, 1.2], [0.41], []]
NOISE = torch.randn(6, 60, generator=torch.Generator().manual_seed(0))
ROWS = NOISE.reshape(6, 20, 3)
EVENTS = [([est], [ref]) for ref, est in zip(REFERENCE, ESTIMATE, strict=True)]
SIDES = [(rows + (i % 2) * rows.square(), {"real": i % 2 == 0}) for i, rows in enumerate(ROWS)]


def first_values(media: torch.Tensor, rate: float) -> torch.Tensor:
    return media[:, :3]


class Case(NamedTuple):
    """A metric and the arguments of its updates: positional ones, and a dictionary of the others if there are any."""

    metric: Callable[[], Metric]
    updates: list[tuple[Any, ...]]


CASES = {
    "EventAgreement": Case(EventAgreement, EVENTS),
    "AVAlign 2025": Case(lambda: AVAlign(fps=10.0), EVENTS),
    "AVAlign 2024": Case(lambda: AVAlign(fps=10.0, variant="tempotokens-2024"), EVENTS),
    "EventLag": Case(EventLag, EVENTS),
    "EnvelopeLag": Case(lambda: EnvelopeLag(rate=25.0), [([x.roll(i)], [x]) for i, x in enumerate(NOISE)]),
    "FrechetDistance": Case(lambda: FrechetDistance(nn.Identity(), num_features=3), SIDES),
    "KernelDistance": Case(lambda: KernelDistance(nn.Identity(), num_features=3), SIDES),
    "PairAgreement": Case(PairAgreement, [([x[:1]], [x.flip(0)[:1]]) for x in ROWS]),
    "ClassifierAgreement": Case(
        lambda: ClassifierAgreement(lambda *media: first_values(*media).softmax(1)),
        [(x + 1.5 * x.flip(0), x, 16000, torch.arange(20) % 3) for x in ROWS],
    ),
    "Memorisation": Case(
        Memorisation, [(x + 0.1, {"kind": kind}) for x, kind in zip(ROWS, 2 * get_args(Kind), strict=True)]
    ),
}
SPLITS: dict[str, Callable[[int], int]] = {"uneven": lambda count: count - 2, "first has none": lambda count: 0}
"""Updates of the first process, of so many; the second has the others."""


def measure(case: Case, updates: list[tuple[Any, ...]]) -> dict[str, list[float] | str]:
    """Every value of a metric as a list; as float64, whose JSON is exact."""
    metric = case.metric()
    for update in updates:
        named = update[-1] if isinstance(update[-1], dict) else {}
        metric.update(*(update[:-1] if named else update), **named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clips without events, of a process without clips
        values = metric.compute()
    values = dict(values) if isinstance(values, dict) else {"value": values}
    if isinstance(metric, Measure):
        values["lags"] = metric.clip_values().flatten()
    return {
        name: value if isinstance(value, str) else torch.as_tensor(value).double().flatten().tolist()
        for name, value in values.items()
    }


def run_process(rank: int, folder: Path) -> None:
    """Process ``rank`` of two."""
    meeting = f"file://{folder / 'meeting'}"
    distributed.init_process_group("gloo", meeting, timedelta(seconds=60), world_size=2, rank=rank)
    found: dict[str, Any] = {}
    for split, share in SPLITS.items():
        for name, case in CASES.items():
            first = share(len(case.updates))
            mine = case.updates[:first] if rank == 0 else case.updates[first:]
            found[f"{split}, {name}"] = measure(case, mine)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate()[1][-3000:] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_result_of_one(ranks, name, split):
    alone = measure(CASES[name], CASES[name].updates)
    first, second = (found[f"{split}, {name}"] for found in ranks)
    assert json.dumps(first) == json.dumps(second)  # NaN included
    assert list(first) == list(alone)
    for key, value in alone.items():
        expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True)
        assert first[key] == expected, key


@pytest.mark.parametrize("name", CASES)
def test_a_part_of_the_updates_gives_other_values(name):
    """So a metric that did not sync would be seen above."""
    metric, updates = CASES[name]
    part = updates[: SPLITS["uneven"](len(updates))]
    assert json.dumps(measure(CASES[name], updates)) != json.dumps(measure(Case(metric, part), part))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_process(int(sys.argv[1]), Path(sys.argv[2]))
