"""Figures over what an ablation varies step by step: the contrastive weight, and a scene's correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmmd_lightning.evaluation.figures import COLOURS, new_figure
from cmmd_lightning.studies.ablation.cells import Cell
from cmmd_lightning.studies.ablation.plan import config_text, merged
from cmmd_lightning.studies.ablation.summary import Arm, interval

_WEIGHT = "model.objective.contrastive_weight"
_F1 = "F1@100ms"
_ERROR = "error"
Points = list[tuple[float, Arm]]


def by_weight(found: Sequence[Arm]) -> dict[str, Points]:
    """Arms of one scene and task that differ in contrastive weight alone: recipe to ascending weights and arms."""
    forms: dict[str, Points] = {}
    for arm in (arm for arm in found if arm.guidance_from == "dropped" and ">" not in arm.recipe):
        cell = Cell(arm.recipe, arm.scene, 0)
        try:
            settings = merged([config_text(name) for name in cell.configs("ablation/base.yaml")], cell.flags)
        except ValueError:  # a recipe of one's own that is not here
            continue
        weight = float(settings["model"]["init_args"]["objective"]["contrastive_weight"])
        form = "+".join(part for part in arm.recipe.split("+") if not part.startswith(_WEIGHT))
        if weight > 0:
            forms.setdefault(f"{form}, {arm.step} steps", []).append((weight, arm))
    return {form: _ascending(points) for form, points in forms.items() if len(points) > 1}


def by_correlation(found: Sequence[Arm]) -> dict[str, dict[str, Points]]:
    """Arms of one recipe on scenes that differ in their correlation alone: scene and task to recipe to these."""
    groups: dict[str, dict[str, Points]] = {}
    for arm in (arm for arm in found if arm.guidance_from == "dropped"):
        cell = Cell(arm.recipe, arm.scene, 0)
        recipes = groups.setdefault(f"{cell.scene_name}-{arm.task}", {})
        recipes.setdefault(f"{arm.name}, {arm.step} steps", []).append((cell.correlation, arm))
    swept = {
        name: {recipe: _ascending(points) for recipe, points in recipes.items() if len(points) > 1}
        for name, recipes in groups.items()
    }
    return {name: recipes for name, recipes in swept.items() if recipes}


def _ascending(points: Points) -> Points:
    return sorted(points, key=lambda point: point[0])


def weight_figure(forms: dict[str, Points], baseline: Arm) -> Figure:
    """F1 at 100 ms and the error with the true partner over the contrastive weight, with the baseline's."""
    figure = new_figure(8.5, 3.6)
    left, right = figure.subplots(1, 2)
    for (form, points), colour in zip(forms.items(), COLOURS[1:] * 9, strict=False):
        _draw(left, points, form, colour)
        errors = [(weight, float(np.mean(arm.sets[_ERROR]))) for weight, arm in points if _ERROR in arm.sets]
        if errors:
            right.plot(*zip(*errors, strict=True), "o-", color=colour, markersize=4)
    left.axhline(baseline.scores[_F1].mean(), color=COLOURS[0], linestyle="--", label=baseline.name)
    if _ERROR in baseline.sets:
        right.axhline(np.mean(baseline.sets[_ERROR]), color=COLOURS[0], linestyle="--")
    for axes, label in ((left, "event F1 at 100 ms"), (right, "error with the true partner")):
        axes.set(xlabel="contrastive weight", ylabel=label, xscale="log")
        axes.grid(alpha=0.3)
    right.set_yscale("log")
    figure.legend(loc="outside right center", fontsize=7)
    return figure


def correlation_figure(recipes: dict[str, Points]) -> Figure:
    """F1 at 100 ms, on the events that have a visible cause, over the correlation, with floor and ceiling."""
    figure = new_figure(9.0, 3.6)
    axes = figure.subplots()
    for (recipe, points), colour in zip(recipes.items(), COLOURS * 9, strict=False):
        _draw(axes, points, recipe, colour)
    points = max(recipes.values(), key=len)
    x = [correlation for correlation, _ in points]
    axes.plot(x, [arm.ceiling[_F1] for _, arm in points], "^:", color="#777777", label="true clips after the codecs")
    axes.plot(x, [arm.floor[_F1] for _, arm in points], "s--", color="#777777", label="wrong partners")
    axes.set(xlabel="share of the sounds with a visible cause", ylabel="event F1 at 100 ms", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=7)
    return figure


def _draw(axes: Axes, points: Points, label: str, colour: str) -> None:
    """Means with their intervals over clips and seeds."""
    x, means = [value for value, _ in points], [float(arm.scores[_F1].mean()) for _, arm in points]
    ends = np.array([interval(arm.scores[_F1]) for _, arm in points]).T
    axes.errorbar(x, means, np.abs(ends - means), fmt="o-", color=colour, label=label, markersize=4, capsize=2)
