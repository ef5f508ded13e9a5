"""The tables and figures of an ablation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from cmmd_lightning.evaluation.figures import COLOURS, draw_cells, new_figure, set_tolerances
from cmmd_lightning.evaluation.rendering import Section, Table, write_document
from cmmd_lightning.studies.ablation.measure import GAP_TIMES
from cmmd_lightning.studies.ablation.results import read_results
from cmmd_lightning.studies.ablation.summary import Arm, arms, base_of, difference, interval
from cmmd_lightning.studies.ablation.sweeps import by_correlation, by_weight, correlation_figure, weight_figure

SHOWN = ("F1@25ms", "F1@50ms", "F1@100ms")


def write_comparison(
    results: Sequence[str | Path],
    output_dir: str | Path,
    *,
    baseline: str = "plain",
    recipes: Sequence[str] | None = None,
) -> list[Path]:
    """Write ``comparison.md``, ``.html``, ``.csv`` and ``.tex``, and the figures; gives the files.

    Args:
        results: Files ``results.jsonl``, read as one; ValueError if there are none.
        output_dir: Folder for what is written.
        baseline: The recipe that others are compared with.
        recipes: Those shown, in this order; all unless told otherwise.
    """
    lines = [line for path in results for line in read_results(path)]
    known = dict.fromkeys(line["recipe"] for line in lines if "sampling" in line)
    if not known:
        raise ValueError(f"{', '.join(map(str, results))}: expected results of cmmd ablate, got none")
    unknown = [recipe for recipe in recipes or () if recipe not in known]
    if unknown:
        raise ValueError(f"recipes: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    if recipes is not None:
        lines = [line for recipe in recipes for line in lines if line["recipe"] == recipe]
    found = arms(lines)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)

    def picture(name: str, figure: Figure) -> Path:
        path = folder / f"{name}.png".replace("@", "-")
        figure.savefig(path, dpi=120)
        return path

    sections = []
    for scene, task in dict.fromkeys((arm.scene, arm.task) for arm in found):
        here = [arm for arm in found if (arm.scene, arm.task) == (scene, task)]
        has_gaps = any(arm.gaps for arm in here)  # there is no wrong partner where both are drawn
        figures = {name: draw for name, draw in _FIGURES.items() if has_gaps or draw is not gaps_figure}
        pictures = [picture(f"{scene}-{task}-{name}", draw(here, baseline)) for name, draw in figures.items()]
        weights, plain = by_weight(here), [arm for arm in here if arm.recipe == baseline]
        if weights and plain:
            pictures.append(picture(f"{scene}-{task}-weight", weight_figure(weights, plain[0])))
        sections.append(Section(f"{scene}, {task.replace('_', ' ')}", "", [table(here, baseline)], pictures))
    swept = by_correlation(found)
    if swept:
        drawn = [picture(f"{name}-correlation", correlation_figure(points)) for name, points in swept.items()]
        sections.append(Section("Correlation of video and audio", pictures=drawn))
    written = write_document(folder / "comparison", "Recipes compared", sections)
    return [*written, *(path for section in sections for path in section.pictures)]


def table(found: Sequence[Arm], baseline: str) -> Table:
    """A table of the arms of one scene and task, with paired differences to the baseline.

    ``by seed`` is the last of the F1, seed by seed; ``equal`` is what an arm and the baseline have in common.
    """
    first = next((arm for arm in found if arm.recipe == baseline), found[0])
    sets = list(dict.fromkeys(name for arm in found for name in arm.sets))
    head = ["recipe", "steps", "cost", "seeds", "guidance", *SHOWN, "by seed", "lag (ms)", *sets, "equal"]
    rows = []
    for arm in found:
        means = [f"{arm.scores[name].mean():.3f}" for name in SHOWN]
        by_seed = " ".join(f"{value:.2f}" for value in arm.scores[SHOWN[-1]].mean(1))
        about = [
            *(arm.name, str(arm.step), f"{arm.flops / first.flops:.2f}", str(len(arm.seeds))),
            *("/".join(dict.fromkeys(arm.scales)), *means, by_seed, f"{1000 * arm.scores['lag'].mean():.0f}"),
            *(f"{np.mean(arm.sets[name]):.3g}" if name in arm.sets else "" for name in sets),
        ]
        compared = base_of(arm, found, baseline)
        for base in dict.fromkeys(compared.values()):
            equal = ", ".join(name for name, other in compared.items() if other is base)
            rows.append([*about, equal, *(_signed(*difference(arm, base, name)) for name in SHOWN)])
        if not compared:
            rows.append([*about, *[""] * (1 + len(SHOWN))])
    for name, scores in (("floor: wrong partners", first.floor), ("ceiling: true clips", first.ceiling)):
        values = [f"{scores[measure]:.3f}" for measure in SHOWN]
        blank = [""] * (len(sets) + 1 + len(SHOWN))
        rows.append([name, "", "", "", "", *values, "", f"{1000 * scores['lag']:.0f}", *blank])
    return Table([*head, *(f"difference in {name}" for name in SHOWN)], rows)


def _signed(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _label(arm: Arm) -> str:
    return f"{arm.name.replace('model.objective.', '')}, {arm.step} steps"


def _height(found: Sequence[Arm]) -> float:
    """In inches, so that the legend has room for every arm."""
    return max(4.0, 0.8 + 0.17 * len(found))


def differences_figure(found: Sequence[Arm], baseline: str) -> Figure:
    """Paired differences in F1 to the baseline, with their intervals: equal steps filled, equal compute hollow."""
    compared = [(arm, base_of(arm, found, baseline)) for arm in found]
    compared = [(arm, bases) for arm, bases in compared if bases]
    figure = new_figure(9.0, 1.2 + 0.45 * max(1, len(compared)))
    panels = figure.subplots(1, len(SHOWN), sharey=True)
    for axes, measure in zip(panels, SHOWN, strict=True):
        axes.axvline(0, color="#999999", linewidth=1)
        for place, (arm, bases) in enumerate(compared):
            for offset, (equal, base) in enumerate(bases.items()):
                value, low, high = difference(arm, base, measure)
                y, fill = place + 0.18 * offset, "white" if equal == "compute" else COLOURS[1]
                axes.plot([low, high], [y, y], color=COLOURS[1])
                axes.plot([value], [y], "o", color=COLOURS[1], markerfacecolor=fill)
        axes.set_title(f"difference in {measure}", fontsize=9)
        axes.grid(alpha=0.3, axis="x")
        axes.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(compared)), [_label(arm) for arm, _ in compared], fontsize=8)
    panels[0].invert_yaxis()
    panels[1].set_xlabel(f"against {baseline}; filled: equal steps, hollow: equal compute; 95 % intervals", fontsize=8)
    return figure


def tolerance_figure(found: Sequence[Arm], baseline: str) -> Figure:
    """F1 over the tolerance, each arm at its best guidance, with floor and ceiling."""
    figure = new_figure(9.0, _height(found))
    axes = figure.subplots()
    names = [name for name in found[0].floor if name.endswith("ms")]
    x = [float(name[3:-2]) for name in names]
    for arm, colour in zip(found, COLOURS * 9, strict=False):
        ends = np.array([interval(arm.scores[name]) for name in names])
        axes.plot(x, [arm.scores[name].mean() for name in names], "o-", color=colour, label=_label(arm), markersize=3)
        axes.fill_between(x, ends[:, 0], ends[:, 1], color=colour, alpha=0.12, linewidth=0)
    axes.plot(x, [found[0].ceiling[name] for name in names], "^:", color="#777777", label="true clips after the codecs")
    axes.plot(x, [found[0].floor[name] for name in names], "s--", color="#777777", label="wrong partners")
    set_tolerances(axes, x)
    figure.legend(loc="outside right center", fontsize=7)
    return figure


def guidance_figure(found: Sequence[Arm], baseline: str) -> Figure:
    """F1 at 50 ms over the guidance scale."""
    figure = new_figure(9.0, _height(found))
    axes = figure.subplots()
    for arm, colour in zip(found, COLOURS * 9, strict=False):
        points = sorted((float(scale), scores["F1@50ms"]) for scale, scores in arm.by_scale.items())
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=_label(arm), markersize=4)
    axes.set(xlabel="guidance scale", ylabel="event F1 at 50 ms")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=7)
    return figure


def gaps_figure(found: Sequence[Arm], baseline: str) -> Figure:
    """How much worse each arm predicts with wrong partners, by their kind and the diffusion time."""
    shown = [arm for arm in found if arm.gaps and arm.guidance_from == "dropped"]
    kinds = list(dict.fromkeys(kind for arm in shown for kind in arm.gaps))
    figure = new_figure(11.0, 1.5 + 0.28 * max(1, len(shown)))
    panels = figure.subplots(1, len(GAP_TIMES), sharey=True)
    for number, (axes, t) in enumerate(zip(panels, GAP_TIMES, strict=True)):
        gaps = np.array([[arm.gaps[kind][:, number].mean() for kind in kinds] for arm in shown])
        gaps = gaps.reshape(len(shown), len(kinds))
        scale = SymLogNorm(1e-3, vmin=-1.0, vmax=1.0, base=10)
        draw_cells(axes, gaps, kinds, scale, "RdBu", lambda gap: f"{gap:.2g}" if abs(gap) >= 0.01 else f"{gap:.3f}")
        axes.set_title(f"t = {t:g}", fontsize=9)
    panels[0].set_yticks(range(len(shown)), [_label(arm) for arm in shown], fontsize=8)
    panels[len(panels) // 2].set_xlabel("error with a wrong partner minus that with the true one", fontsize=8)
    return figure


_FIGURES: dict[str, Callable[[Sequence[Arm], str], Figure]] = {
    "differences": differences_figure,
    "tolerance": tolerance_figure,
    "guidance": guidance_figure,
    "gaps": gaps_figure,
}
