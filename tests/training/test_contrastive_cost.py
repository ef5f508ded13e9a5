import pytest

from cmmd_lightning import ObjectiveSpec
from cmmd_lightning.data import NegativeSpec
from cmmd_lightning.training.cost import contrastive_forwards, cost_card

HALF = {"task_probabilities": (0.5, 0.25, 0.25), "drop_probability": 0.2, "contrastive_share": 0.5}


@pytest.mark.parametrize(
    ("settings", "negatives", "expected"),
    [
        (HALF, 1, (0.5, 0.0)),  # as many rows at every step, whatever is drawn
        (HALF, 3, (3 * 0.5, 0.0)),
        ({**HALF, "form": "target"}, 3, (0.0, 0.0)),
        ({**HALF, "contrastive_times": (0.25, 0.75)}, 1, (0.5, 0.0)),
        ({**HALF, "bound": "preference"}, 3, (3 * 0.5, 0.5 + 3 * 0.5)),
        ({**HALF, "bound": "preference", "form": "target"}, 3, (0.0, 0.5)),
        ({**HALF, "contrastive_weight": 0.0}, 1, (0.0, 0.0)),
        ({**HALF, "bound": "preference"}, 0, (0.0, 0.0)),
    ],
)
def test_forwards_that_the_contrastive_term_adds(settings, negatives, expected):
    assert contrastive_forwards(ObjectiveSpec(**settings), negatives) == pytest.approx(expected)


def test_the_card_counts_the_forwards_of_the_reference():
    def step(**objective: object) -> tuple[float, str]:
        settings = {"network": {"video_channels": [32], "audio_channels": [32]}, "objective": {**HALF, **objective}}
        card = cost_card(settings, negatives=NegativeSpec(1))
        line = card["training step, one clip"]
        return float(line.split()[0]) / float(card["forward, one clip"].split()[0]), line

    plain, line = step()
    assert plain == pytest.approx(3 * 1.5, rel=0.02)
    assert "reference" not in line
    held, line = step(bound="preference")
    assert held - plain == pytest.approx(1.0, abs=0.02)
    assert line.endswith("and 1.00 forwards of the reference)")
