"""Cells of an ablation: a name that says what is laid over the base config, and the command that trains it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[\w./=\[\],-]+")
_START = re.compile(r"([^@>]+)@(\d+)")


@dataclass(frozen=True)
class Cell:
    """One recipe on one scene with one seed; ValueError if the recipe or the scene is malformed.

    A recipe is names of configs (``infonce`` for ``ablation/infonce.yaml``) and flags
    (``model.objective.temperature=0.05``) that are laid over the base, joined by ``+``. ``plain@400>preference`` lays
    the second over the base and starts from the weights that the first has after 400 steps. A scene is ``bounce`` or
    ``dance``, with ``@C`` behind it where only a share C of the sounds has a visible cause.

    Example:
        >>> cell = Cell("infonce+model.objective.temperature=0.05", "bounce@0.5", 1)
        >>> cell.configs("ablation/base.yaml"), cell.flags
        (['ablation/base.yaml', 'ablation/infonce.yaml'], {'model.objective.temperature': '0.05'})
        >>> cell.scene_name, cell.correlation
        ('bounce', 0.5)
        >>> Cell("plain@400>preference", "bounce", 1).start
        (Cell(recipe='plain', scene='bounce', seed=1), 400)
    """

    recipe: str
    scene: str
    seed: int  # of weights, data stream and noise

    def __post_init__(self) -> None:
        first = self.recipe.rpartition(">")[0]
        if not all(_NAME.fullmatch(part) for part in self._parts) or (first and not _START.fullmatch(first)):
            raise ValueError(
                f"recipe {self.recipe!r}: expected names of configs and flags KEY=VALUE joined by +, "
                "behind another recipe as RECIPE@STEPS> or alone"
            )
        if not re.fullmatch(r"(bounce|dance)(@(0?\.\d+|0|1|1\.0))?", self.scene):
            raise ValueError(
                f"scene {self.scene!r}: expected bounce or dance, or with a correlation, such as bounce@0.5"
            )

    def __str__(self) -> str:
        return f"{self.scene} {self.recipe} seed {self.seed}"

    @property
    def scene_name(self) -> str:
        """The scene without its correlation."""
        return self.scene.partition("@")[0]

    @property
    def correlation(self) -> float:
        """Share of the sounds that have a visible cause."""
        return float(self.scene.partition("@")[2] or 1.0)

    @property
    def _parts(self) -> list[str]:
        return self.recipe.rpartition(">")[2].split("+")

    @property
    def start(self) -> tuple[Cell, int] | None:
        """Whose weights it starts from, and after how many steps; None where it starts from nothing."""
        match = _START.fullmatch(self.recipe.rpartition(">")[0])
        return None if match is None else (Cell(match[1], self.scene, self.seed), int(match[2]))

    @property
    def flags(self) -> dict[str, str]:
        """The flags of the recipe."""
        parts = (part.partition("=") for part in self._parts if "=" in part)
        return {key: value for key, _, value in parts}

    def configs(self, base: str) -> list[str]:
        """The base, and the configs that the recipe lays over it."""
        return [base, *(f"ablation/{part}.yaml" for part in self._parts if "=" not in part)]

    def folder(self, root: Path) -> Path:
        """Where it is trained."""
        return root / self.scene / re.sub(r"[/\[\]>]", "_", self.recipe) / f"seed-{self.seed}"

    def weights(self, root: Path, step: int) -> Path:
        """Where its weights after a step are kept."""
        return self.folder(root) / f"step={step}.ckpt"

    def fit(self, base: str, root: Path, step: int) -> list[str]:
        """Arguments of ``cmmd`` that train it on up to a step, those of what it starts from counted."""
        scene, seed, pretrained = root / self.scene, str(self.seed), []
        if self.start is not None:
            first, before = self.start
            pretrained, step = ["--model.pretrained", str(first.weights(root, before))], step - before
        return [
            "fit",
            *(word for name in self.configs(base) for word in ("--config", name)),
            *(word for key, value in self.flags.items() for word in (f"--{key}", value)),
            *("--data.root", str(scene / "data"), "--model.codec.path", str(scene / "vae" / "vae.ckpt")),
            *("--seed_everything", seed, "--model.seed", seed, "--data.seed", seed),
            *pretrained,
            *("--trainer.max_steps", str(step), "--trainer.default_root_dir", str(self.folder(root))),
        ]
