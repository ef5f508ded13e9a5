"""The losses of a run with true and with wrong partners, of the same examples, as a picture.

    python benchmarks/loss_curves.py RUN PICTURE

RUN is a folder that holds TensorBoard event files somewhere, PICTURE a .png.
"""

import sys
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cmmd_lightning.evaluation.figures import new_figure

COLOURS = {"true partner": "#4575b4", "wrong partner": "#d73027"}


def main(run: str, picture: str) -> None:
    """Read and draw."""
    logs = [EventAccumulator(str(path)) for path in sorted(Path(run).rglob("events.out.tfevents.*"))]
    figure = new_figure(9.0, 3.4)
    for axes, name in zip(figure.subplots(1, 2), ("audio", "video"), strict=True):
        for stage, style in (("train", {"alpha": 0.35, "linewidth": 0.8}), ("val", {"marker": "o"})):
            points = np.array([p for log in logs for p in _points(log, f"{stage}/{name}")]).reshape(-1, 3)
            steps, wrong, gap = points[points[:, 0].argsort()].T
            for label, values in (("true partner", wrong - gap), ("wrong partner", wrong)):
                axes.plot(steps, values, color=COLOURS[label], label=f"{stage}, {label}", **style)
        axes.set(title={"audio": "sound", "video": "picture"}[name], xlabel="step", ylabel="e", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(picture, dpi=120)


def _points(log: EventAccumulator, name: str) -> list[tuple[float, float, float]]:
    """Step, e with a wrong partner, and the gap, of the same examples."""
    log.Reload()
    if f"{name}_gap" not in log.Tags()["scalars"]:
        return []
    pairs = zip(log.Scalars(f"{name}_negative"), log.Scalars(f"{name}_gap"), strict=True)
    return [(wrong.step, wrong.value, gap.value) for wrong, gap in pairs]


if __name__ == "__main__":
    main(*sys.argv[1:])
