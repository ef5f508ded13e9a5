"""What an ablation is to train and to measure, and the settings that configs laid over each other come to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from cmmd_lightning.diffusion.sampling import GuidanceFrom, Task
from cmmd_lightning.packaged import configs_folder
from cmmd_lightning.studies.ablation.cells import Cell
from cmmd_lightning.studies.ablation.measure import Sampling


@dataclass(frozen=True)
class Plan:
    """What is trained and what is measured."""

    recipes: tuple[str, ...]  # see `Cell`, as for scenes
    scenes: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: tuple[int, ...]  # optimiser steps after which a cell is measured
    equal_compute: bool  # whether it is also measured where it has cost what the first recipe costs by then
    tasks: tuple[Task, ...]
    guidance_scales: tuple[float, ...]  # 1 is no guidance
    guidance_from: tuple[GuidanceFrom, ...]  # what guidance leads away from, each tried
    num_inference_steps: int
    num_clips: int  # held out
    num_train_clips: int  # each 2.5 times as long as the model's
    base: str  # config below the recipes
    vae: str  # config of the frame VAE, one for each scene

    def __post_init__(self) -> None:
        if not set(self.tasks) <= set(get_args(Task)):
            raise ValueError(f"tasks: expected some of {', '.join(get_args(Task))}, got {', '.join(self.tasks)}")
        if not (self.recipes and self.scenes and self.seeds and self.steps and min(self.steps) > 0):
            raise ValueError("expected at least one recipe, one scene, one seed and one positive number of steps")
        for cell in self.cells():
            for name in cell.configs(self.base):
                config_text(name)

    def cells(self) -> Iterator[Cell]:
        """Seed after seed, so that every recipe has one before any has two."""
        return (Cell(r, scene, seed) for seed in self.seeds for scene in self.scenes for r in self.recipes)

    def samplings(self) -> list[Sampling]:
        """Every way to draw; without guidance there is nothing to lead away from."""
        return [
            Sampling(task, scale, away, self.num_inference_steps)
            for task in self.tasks
            for scale in self.guidance_scales
            for away in (self.guidance_from if scale != 1.0 else ("dropped",))
        ]


def fingerprint(settings: Mapping[str, Any], vae: Mapping[str, Any], start: str | None = None, **sizes: int) -> str:
    """Hash of what decides the results of a cell: not of comments, of how it is logged, or when it is saved.

    Of settings `merged` of the model, its data and its trainer, of the frame VAE's, of the hash of what it starts from,
    and of the sizes of the data.
    """
    said = [
        {**settings, "trainer": _deciding(settings["trainer"])},
        {**vae, "trainer": {**_deciding(vae["trainer"]), "max_steps": vae["trainer"]["max_steps"]}},
        *([] if start is None else [start]),
    ]
    return hashlib.sha256(json.dumps([said, sizes], sort_keys=True).encode()).hexdigest()[:12]


def _deciding(trainer: Mapping[str, Any]) -> dict[str, Any]:
    averaging = [callback for callback in trainer.get("callbacks", []) if callback["class_path"].endswith("EMA")]
    former = {"cmmd_lightning.EMA": "cmmd_lightning.ema.EMA"}  # by which earlier results know it
    averaging = [{**one, "class_path": former.get(one["class_path"], one["class_path"])} for one in averaging]
    return {"callbacks": averaging, **{key: trainer.get(key) for key in ("gradient_clip_val", "precision")}}


def config_text(name: str) -> str:
    """Text of a config, a path or the name of a packaged one; ValueError if there is none."""
    packaged = configs_folder() / name
    for path in (Path(name), packaged):
        if path.is_file():
            return path.read_text()
    known = ", ".join(sorted(path.stem for path in (packaged.parent).glob("*.yaml")))
    raise ValueError(f"{name}: expected a config, found none; beside it lie {known or 'none'}")


def merged(texts: Sequence[str], flags: Mapping[str, str]) -> dict[str, Any]:
    """Configs laid one over the other, and flags over them, as plain settings.

    Example:
        >>> merged(["model: {a: 1, b: 2}", "model: {b: 3}"], {"model.c": "[4]"})
        {'model': {'a': 1, 'b': 3, 'init_args': {'c': [4]}}}
    """
    settings: dict[str, Any] = {}
    for text in texts:
        _lay(settings, yaml.safe_load(text) or {})
    for key, value in flags.items():
        inner: Any = yaml.safe_load(value)
        for name in reversed(re.sub(r"^model\.", "model.init_args.", key).split(".")):
            inner = {name: inner}
        _lay(settings, inner)
    return settings


def _lay(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _lay(below[key], value)
        else:
            below[key] = dict(value) if isinstance(value, Mapping) else value
