"""What an ablation says: each recipe at its own best guidance, and paired differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmmd_lightning.metrics.functional.events import TOLERANCES
from cmmd_lightning.metrics.functional.intervals import shuffled
from cmmd_lightning.metrics.synchrony import MAX_LAG, EventAgreement, EventLag

Table = NDArray[np.float64]
Line = Mapping[str, Any]

MEASURES = (*(f"F1@{round(1000 * t)}ms" for t in TOLERANCES), "F1@mean", "lag")
"""Per clip: event F1 at each tolerance and its mean, and the size of the event lag in seconds."""
_RESAMPLES = 2000
_SAME_COST = 0.03


@dataclass(eq=False)
class Arm:
    """One recipe on one scene after so many steps, over its seeds."""

    recipe: str
    scene: str
    step: int
    flops: float
    seeds: list[int]
    task: str
    guidance_from: str
    scores: dict[str, Table]  # measure to values per seed and clip (S, N): see `at_best_guidance`
    scales: list[str]  # the guidance that each seed and half chose
    by_scale: dict[str, dict[str, float]]  # guidance to the mean of each measure over seeds and clips
    sets: dict[str, list[float]]  # one per seed: ``error`` with the true partner, and others at the usual guidance
    gaps: dict[str, Table] = field(default_factory=dict)  # kind of wrong partner to e_neg - e per seed and time (S, 3)
    floor: dict[str, float] = field(default_factory=dict)  # measure to its value for wrong partners
    ceiling: dict[str, float] = field(default_factory=dict)  # to that of the true clips after codecs and vocoder

    @property
    def name(self) -> str:
        """The recipe, and what guidance led away from where that is not the usual."""
        return self.recipe + ("" if self.guidance_from == "dropped" else f", guidance from {self.guidance_from}")


def clip_scores(reference: Sequence[Sequence[float]], estimate: Sequence[Sequence[float]]) -> dict[str, Table]:
    """`MEASURES` (N,) of each clip, of event times in seconds per clip."""
    agreement, lag, rows = EventAgreement(), EventLag(), []
    for true, made in zip(reference, estimate, strict=True):
        f1 = list(agreement.score(made, true))[-len(TOLERANCES) - 1 :]
        seconds = abs(lag.score(made, true)[0])
        rows.append([*f1, MAX_LAG if np.isnan(seconds) else seconds])
    return dict(zip(MEASURES, np.array(rows).reshape(-1, len(MEASURES)).T, strict=True))


def at_best_guidance(
    by_scale: Mapping[str, Mapping[str, Table]], by: str = "F1@mean"
) -> tuple[dict[str, Table], list[str]]:
    """Scores (N,) of each clip at the guidance that is best for the other half of the clips, and each half's guidance.

    So that a recipe is neither held to a guidance that suits another, nor flattered by choosing on what is scored.
    """
    count = len(next(iter(by_scale.values()))[by])
    halves = [np.arange(count) % 2 == k for k in (0, 1)]
    means = {name: [table[by][half].mean() for half in halves] for name, table in by_scale.items()}
    chosen = [max(means, key=lambda name: means[name][1]), max(means, key=lambda name: means[name][0])]
    scores = {
        measure: np.where(halves[0], by_scale[chosen[0]][measure], by_scale[chosen[1]][measure])
        for measure in by_scale[chosen[0]]
    }
    return scores, chosen


def interval(values: Table, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of a mean over seeds and clips (S, N): both are drawn again, a clip under all at once."""
    rng = np.random.default_rng(seed)
    seeds, clips = values.shape
    means = [
        values[np.ix_(rng.integers(0, seeds, seeds), rng.integers(0, clips, clips))].mean() for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def arms(lines: Sequence[Line]) -> list[Arm]:
    """The arms of ``results.jsonl``, in the order in which they were first run."""
    drawn = [line for line in lines if "sampling" in line]
    keys = dict.fromkeys(
        (line["recipe"], line["scene"], line["step"], line["sampling"]["task"], line["sampling"]["guidance_from"])
        for line in drawn
    )
    plain = [line for line in lines if "truth" in line]
    floors: dict[str, dict[str, float]] = {}
    for line in plain:
        if line["scene"] not in floors:
            floors[line["scene"]] = _shuffled(line["truth"]["events"], line["truth"]["events"])
    return [_arm(key, drawn, plain, floors[key[1]]) for key in keys]


def _arm(
    key: tuple[str, str, int, str, str], drawn: Sequence[Line], plain: Sequence[Line], floor: dict[str, float]
) -> Arm:
    recipe, scene, step, task, away = key

    def is_mine(line: Line) -> bool:
        return (line["recipe"], line["scene"], line["step"]) == (recipe, scene, step)

    def fits(sampling: Line) -> bool:
        return sampling["task"] == task and (sampling["guidance_from"] == away or sampling["guidance_scale"] == 1)

    mine = [line for line in drawn if is_mine(line) and fits(line["sampling"])]
    about = {line["seed"]: line for line in plain if is_mine(line)}
    counts = sorted({line["sampling"]["num_inference_steps"] for line in mine})
    if len(counts) > 1:
        raise ValueError(f"{recipe}, {scene}, {step} steps: expected one number of inference steps, got {counts}")
    seeds = sorted({line["seed"] for line in mine} & set(about))
    by_seed = {
        seed: {_scale(line): _scores(line, about[seed]["truth"]["events"]) for line in mine if line["seed"] == seed}
        for seed in seeds
    }
    every = set(by_seed[seeds[0]])  # a seed that lacks one of them is not measured to its end yet
    seeds = [seed for seed in seeds if set(by_seed[seed]) == every]
    tables = [by_seed[seed] for seed in seeds]
    at_best = [at_best_guidance(table) for table in tables]
    rows, scales = [scores for scores, _ in at_best], [scale for _, chosen in at_best for scale in chosen]
    usual = max(dict.fromkeys(scales), key=scales.count)
    truth = about[seeds[0]]["truth"]
    reference, made = {"audio_to_video": ("events", "seen"), "joint": ("seen", "heard")}.get(task, ("events", "heard"))
    return Arm(
        *(recipe, scene, step, mine[0]["flops"], seeds, task, away),
        scores={name: np.stack([row[name] for row in rows]) for name in MEASURES},
        scales=scales,
        by_scale={s: {m: float(np.mean([t[s][m].mean() for t in tables])) for m in MEASURES} for s in tables[0]},
        sets={
            **_errors([about[seed]["gaps"].get(task, {}) for seed in seeds]),
            **_sets([line for line in mine if _scale(line) == usual and line["seed"] in seeds]),
        },
        gaps=_gaps([about[seed]["gaps"].get(task, {}) for seed in seeds]),
        floor=floor,
        ceiling={name: float(values.mean()) for name, values in clip_scores(truth[reference], truth[made]).items()},
    )


def _scale(line: Line) -> str:
    return f"{line['sampling']['guidance_scale']:g}"


def _scores(line: Line, events: Sequence[Sequence[float]]) -> dict[str, Table]:
    """Scores of each clip, as the line has them or from its events."""
    if "scores" in line:
        return {name: np.array(values) for name, values in line["scores"].items()}
    return clip_scores(line.get("seen", events), line["events"])


def _sets(lines: Sequence[Line]) -> dict[str, list[float]]:
    known = ("frechet[audio]", "frechet[video]", "frechet[spectrum]", "coverage[spectrum]", "rank", "pitch")
    names = [name for name in known if all(name in line for line in lines)]
    found = {name: [float(np.mean(line[name])) for line in lines] for name in names}
    if all("seen" in line for line in lines):
        found["shuffled F1@100ms"] = [_shuffled(line["seen"], line["events"])["F1@100ms"] for line in lines]
    return found


def _errors(tables: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    return {"error": [float(np.mean(table["true"])) for table in tables]} if all(tables) else {}


def _gaps(tables: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Table]:
    kinds = [kind for kind in tables[0] if kind != "true"] if tables else []
    return {kind: np.array([np.subtract(table[kind], table["true"]) for table in tables]) for kind in kinds}


def _shuffled(reference: Sequence[Sequence[float]], estimate: Sequence[Sequence[float]]) -> dict[str, float]:
    """Events of other clips in place of a clip's own."""
    pairs = shuffled(reference, estimate, limit=4)
    return {
        name: float(values.mean()) for name, values in clip_scores(*([p[i] for p in pairs] for i in (0, 1))).items()
    }


def difference(arm: Arm, base: Arm, measure: str) -> tuple[float, float, float]:
    """Mean difference of two arms over the seeds that both have, and its paired interval: lower and upper end."""
    common = [seed for seed in arm.seeds if seed in base.seeds]
    one, other = (np.stack([side.scores[measure][side.seeds.index(seed)] for seed in common]) for side in (arm, base))
    count = min(one.shape[1], other.shape[1])
    paired = one[:, :count] - other[:, :count]
    return float(paired.mean()), *interval(paired)


def base_of(arm: Arm, found: Sequence[Arm], baseline: str) -> dict[str, Arm]:
    """What an arm is compared with: by ``steps`` and ``compute`` the baseline's arm that is equal to it in that.

    An arm with guidance away from something else has ``guidance``, itself with the usual one.
    """
    here = [a for a in found if (a.scene, a.task, a.guidance_from) == (arm.scene, arm.task, "dropped")]
    if arm.guidance_from != "dropped":
        equal = {"guidance": [a for a in here if (a.recipe, a.step) == (arm.recipe, arm.step)]}
    elif arm.recipe == baseline:
        equal = {}
    else:
        peers = [a for a in here if a.recipe == baseline]
        alike = [a for a in peers if abs(a.flops / arm.flops - 1) <= _SAME_COST]
        equal = {"steps": [a for a in peers if a.step == arm.step], "compute": alike}
    return {name: some[0] for name, some in equal.items() if some}
