"""Controls for `linear_sync`: how many clips it needs, what its parts are worth, and what wrong partners teach it.

    python benchmarks/linear_sync.py TRAIN VAL

TRAIN and VAL are folders of clips of one kind that are in sync. Prints the AUROC of telling VAL's clips from the same
with the sound 100 ms late or early (the worse), and from the same with another clip's sound.
"""

import sys

import numpy as np

from cmmd_lightning.metrics.functional.linear_sync import (
    LinearSync,
    Sequences,
    fit_linear_sync,
    pixel_sequence,
    spectrum_sequence,
)
from cmmd_lightning.studies.calibration.analysis import auroc
from cmmd_lightning.studies.calibration.calibrate import real_set
from cmmd_lightning.studies.calibration.faults import SAMPLE_RATE, Clip


def clips_of(folder: str, limit: int) -> list[Clip]:
    """The spans of a folder's clips."""
    clips = real_set(folder, "turns", limit=limit)
    return [clips.clip(i) for i in range(clips.num_clips)]


def judge(operator: LinearSync, clips: list[Clip]) -> tuple[float, float]:
    """AUROC at 100 ms, the worse way, and against another clip's sound."""
    seen = [operator.see(clip.frames[clip.fps], clip.fps) for clip in clips]

    def scores(late: float, partner: int = 0) -> np.ndarray:
        sounds = [clips[(i + partner) % len(clips)].span(late=late) for i in range(len(clips))]
        return np.array(
            [operator.agreement(a, operator.hear(b, SAMPLE_RATE)) for a, b in zip(seen, sounds, strict=True)]
        )

    true = scores(0.0)
    return min(auroc(true, scores(late)) for late in (0.1, -0.1)), auroc(true, scores(0.0, partner=7))


def main(train: str, val: str) -> None:
    """Fit and judge each control."""
    clips = clips_of(val, 50)
    fit = [
        Sequences(pixel_sequence(clip.frames[clip.fps], clip.fps), spectrum_sequence(clip.span(), SAMPLE_RATE))
        for clip in clips_of(train, 400)
    ]
    shortest = min(len(clip.pixels) for clip in fit)
    wrong = [
        Sequences(clip.pixels[:shortest], other.spectrum[:shortest])
        for clip, other in zip(fit, fit[-37:] + fit[:-37], strict=True)
    ]
    operators = {f"{n} clips": fit_linear_sync(fit[:n]) for n in (50, 100, 200, 400)}
    operators["each with the sound of another"] = fit_linear_sync(wrong)
    operators["without frames before and after"] = fit_linear_sync(fit, context=0)
    operators["one direction only"] = fit_linear_sync(fit, num_directions=1)
    operators["16 principal components only"] = fit_linear_sync(fit, num_components=16)
    for name, operator in operators.items():
        print("{:32s} {:.2f} {:.2f}".format(name, *judge(operator, clips)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
