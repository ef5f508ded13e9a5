"""Running an ablation: train each cell by ``cmmd fit``, measure it, and add a line to ``results.jsonl``."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cmmd_lightning.codecs import CodecConfig
from cmmd_lightning.evaluation.provenance import machine
from cmmd_lightning.procedural import render
from cmmd_lightning.studies.ablation.cells import Cell
from cmmd_lightning.studies.ablation.measure import HeldOut, Sampling, ceiling, partner_gaps, sample_and_score
from cmmd_lightning.studies.ablation.plan import Plan, config_text, fingerprint, merged
from cmmd_lightning.studies.ablation.results import RESULTS, Results
from cmmd_lightning.studies.ablation.summary import clip_scores
from cmmd_lightning.training.autoencoder import FrameAutoencoderModule
from cmmd_lightning.training.checkpoint import export_weights
from cmmd_lightning.training.cost import step_flops
from cmmd_lightning.training.datamodule import AudioVideoDataModule
from cmmd_lightning.training.module import CMMD

logger = logging.getLogger(__name__)

_SECONDS = 2.5  # length of a rendered source in clips


def run_ablation(plan: Plan, output_dir: str | Path, *, progress: bool = True) -> tuple[Path, list[str]]:
    """Trains and measures what is not in the results yet; a line for each training that failed, the others go on.

    Interrupted at any time, the same call goes on where it was: a training from its last checkpoint, a measurement from
    its last way to draw. Each line of ``results.jsonl`` tells ``recipe``, ``scene``, ``seed``, ``step``, ``flops`` (of
    training so far), ``command``, ``machine``, ``settings`` (see `fingerprint`), and either ``gaps`` and ``truth`` or,
    with ``sampling``, what `sample_and_score` finds. ValueError if the folder holds results of other settings.
    """
    root = Path(output_dir)
    root.mkdir(parents=True, exist_ok=True)
    results = Results(root / RESULTS)
    cells, failed = list(plan.cells()), []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task = bar.add_task("cells", total=len(cells))
        for number, cell in enumerate(cells):
            bar.update(task, description=str(cell), completed=number)
            try:
                _Runner(plan, root, results, cell).run()
            except TrainingFailedError as error:
                failed.append(str(error))
                logger.error("%s", error)
        bar.update(task, completed=len(cells))
    return results.path, failed


class TrainingFailedError(RuntimeError):
    """A training that did not come to its end."""


class _Runner:
    """One cell: what of it is not in the results yet is done."""

    def __init__(self, plan: Plan, root: Path, results: Results, cell: Cell) -> None:
        self.plan, self.root, self.results, self.cell = plan, root, results, cell
        self.config = merged([config_text(name) for name in cell.configs(plan.base)], cell.flags)
        self.vae = merged([config_text(plan.vae)], {})
        sizes = {"num_train_clips": plan.num_train_clips, "num_clips": plan.num_clips}
        start = cell.start
        self.start: _Runner | None = None if start is None else _Runner(plan, root, results, start[0])
        before: str | None = None if self.start is None else self.start.settings
        self.settings: str = fingerprint(self.config, self.vae, before, **sizes)
        self.first_step = 0 if start is None else start[1]
        for line in results.lines:
            same = (line["recipe"], line["scene"], line["seed"]) == (cell.recipe, cell.scene, cell.seed)
            if same and line["settings"] != self.settings:
                raise ValueError(
                    f"{results.path}: expected results of {cell.recipe} as its configs are now, got some of other "
                    "settings; give another --output_dir"
                )

    def run(self) -> None:
        """All legs of the cell, the shortest first: one training, stopped and measured on its way."""
        for step in self._legs():
            missing = self._missing(step)
            if missing or not self._has_gaps(step):
                self._measure(step, self.trained(step), missing)

    def _legs(self) -> list[int]:
        """Steps to measure at: those asked for, and those that cost as much as the first recipe's."""
        if min(self.plan.steps) <= self.first_step:
            raise ValueError(f"{self.cell.recipe}: expected steps above {self.first_step}, got {min(self.plan.steps)}")
        steps = set(self.plan.steps)
        if self.plan.equal_compute:
            first = _Runner(self.plan, self.root, self.results, replace(self.cell, recipe=self.plan.recipes[0]))
            before = self.flops(self.first_step)
            each = self.flops(self.first_step + 1) - before
            steps |= {self.first_step + max(1, round((first.flops(n) - before) / each)) for n in self.plan.steps}
        return sorted(steps)

    def _has_gaps(self, step: int) -> bool:
        return any("gaps" in line for line in self.results.of(self.cell, step))

    def _missing(self, step: int) -> list[Sampling]:
        known = [line.get("sampling") for line in self.results.of(self.cell, step)]
        return [way for way in self.plan.samplings() if asdict(way) not in known]

    def flops(self, step: int) -> float:
        """What training up to a step costs."""
        before = 0.0 if self.start is None else self.start.flops(self.first_step)
        codec = FrameAutoencoderModule(**self.vae["model"]["init_args"]).codec.config.to_dict()
        model = {**self.config["model"]["init_args"], "codec": codec}
        return before + (step - self.first_step) * step_flops(model, self.config["data"])

    def trained(self, step: int) -> Path:
        """The cell's weights after so many steps, trained now where they are not there."""
        weights = self.cell.weights(self.root, step)
        if not weights.is_file():
            self._prepare()
            if self.start is not None:
                self.start.trained(self.first_step)
            folder, own_steps = self.cell.folder(self.root), step - self.first_step
            if _steps(folder / "cmmd.ckpt") > own_steps:  # trained past it, which leaves nothing of it
                folder = folder / f"to-{step}"
            where = ["--trainer.default_root_dir", str(folder)]
            _cmmd([*self.cell.fit(self.plan.base, self.root, step), *where], folder / "fit.log")
            if _steps(folder / "cmmd.ckpt") != own_steps:
                raise TrainingFailedError(f"{folder}: expected cmmd.ckpt after {own_steps} steps, got another one")
            export_weights(folder / "cmmd.ckpt", weights)
        return weights

    def _prepare(self) -> None:
        """The scene's clips and frame VAE."""
        scene, clip = self.root / self.cell.scene, self.config["model"]["init_args"]["clip"]
        counts = {"train": self.plan.num_train_clips, "val": 32, "test": self.plan.num_clips}
        for seed, (split, count) in enumerate(counts.items()):
            render(
                self.cell.scene_name,
                scene / "data" / split,
                count,
                seed,
                duration=_SECONDS * clip["num_frames"] / clip["fps"],
                fps=clip["fps"],
                height=clip["height"],
                width=clip["width"],
                sample_rate=clip["sample_rate"],
                correlation=self.cell.correlation,
                progress=False,
            )
        if _steps(scene / "vae" / "vae.ckpt") < self.vae["trainer"]["max_steps"]:
            where = ["--data.root", str(scene / "data"), "--trainer.default_root_dir", str(scene / "vae")]
            _cmmd(["fit", "--config", self.plan.vae, *where], scene / "vae" / "fit.log")

    def _measure(self, step: int, weights: Path, missing: list[Sampling]) -> None:
        model = CMMD.from_pretrained(str(weights))
        codec = CodecConfig(kind="autoencoder_kl", path=str(self.root / self.cell.scene / "vae" / "vae.ckpt"))
        data = AudioVideoDataModule(str(self.root / self.cell.scene / "data"), clip=model.clip, codec=codec)
        held = HeldOut(model, data, self.plan.num_clips)
        line = {
            **asdict(self.cell),
            "step": step,
            "flops": self.flops(step),
            "command": shlex.join(["cmmd", *self.cell.fit(self.plan.base, self.root, step)]),
            "machine": machine(),
            "settings": self.settings,
        }
        if not self._has_gaps(step):
            truth = {"events": held.events, **ceiling(held)}
            self.results.add({**line, "gaps": partner_gaps(held), "truth": truth})
        for how in missing:
            began = time.monotonic()
            found = sample_and_score(held, how)
            scores = clip_scores(found.get("seen", held.events), found["events"])
            rounded = {name: values.round(4).tolist() for name, values in scores.items()}
            self.results.add({**line, "sampling": asdict(how), **found, "scores": rounded})
            f1 = " / ".join(f"{scores[name].mean():.3f}" for name in ("F1@25ms", "F1@50ms", "F1@100ms"))
            way = f"{how.task} guidance {how.guidance_scale:g} {how.guidance_from}"
            told = f"{way}: F1@25/50/100ms {f1} ({time.monotonic() - began:.0f} s)"
            logger.info("%s, step %d: %s", self.cell, step, told)


def _cmmd(arguments: Sequence[str], log: Path) -> None:
    """A command in a process of its own, its output in a file; Ctrl-C is left to it, and then passed on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    code = "from cmmd_lightning.cli import main; main()"
    with log.open("a") as file:
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=file, stderr=file)
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it was told too, and saves where it is
            raise
    if status:
        raise TrainingFailedError(f"{log}: expected the training to end, got exit status {status}; the log says why")


def _steps(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["global_step"]) if checkpoint.is_file() else 0
