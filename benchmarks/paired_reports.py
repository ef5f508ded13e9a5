"""Whether one model beats another on the same clips: paired differences of two reports of ``cmmd evaluate``.

python benchmarks/paired_reports.py A/report.json B/report.json [--task video_to_audio]

Prints, per measure, the mean of each report and the mean difference A - B, with its 95 % interval by bootstrap over the
clips that both have.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

from cmmd_lightning.evaluation.measures import size_of_lag
from cmmd_lightning.studies.ablation.summary import interval

MEASURES = ("linear_sync", "linear_sync_lag", "event_f1@100ms", "event_f1@mean", "motion_loudness_correlation")


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs=2, type=Path)
    parser.add_argument("--task", default="video_to_audio")
    args = parser.parse_args()
    ours, theirs = (
        {clip["stem"]: clip for clip in json.loads(path.read_text())["runs"][args.task]["clips"]}
        for path in args.reports
    )
    for name in MEASURES:
        pairs = [(ours[stem].get(name), theirs[stem].get(name)) for stem in sorted(ours.keys() & theirs.keys())]
        if name.endswith("lag"):
            pairs = [tuple(size_of_lag(math.nan if x is None else x) for x in pair) for pair in pairs]
        kept = np.array([pair for pair in pairs if None not in pair], dtype=float)
        difference = kept[:, 0] - kept[:, 1]
        low, high = interval(difference[None])
        means = f"{kept[:, 0].mean():.3f} against {kept[:, 1].mean():.3f}"
        print(f"{name:<30} {means}: {difference.mean():+.3f} [{low:+.3f}, {high:+.3f}], {len(kept)} clips")


if __name__ == "__main__":
    main()
