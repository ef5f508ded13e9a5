"""LightningCLI for CMMD: one parser for the model and the frame VAE, and generation from files."""

from __future__ import annotations

import logging
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from cmmd_lightning.callbacks import PredictionWriter
from cmmd_lightning.cli import UsageError, flags_of, known_checkpoint, lookup
from cmmd_lightning.commands import describe, prepare
from cmmd_lightning.datamodule import AudioVideoDataModule
from cmmd_lightning.generation import GenerationSpec
from cmmd_lightning.module import CMMD

logger = logging.getLogger(__name__)


class CMMDCLI(LightningCLI):
    """LightningCLI with CMMD as the default model, its sizes handed to the data, and ``predict`` on files."""

    def __init__(self, args: list[str] | None = None, command: str | None = None, **kwargs: Any) -> None:
        self.typed, self.command = list(args or []), command
        self.status = 0
        super().__init__(
            LightningModule,
            AudioVideoDataModule,
            subclass_mode_model=True,
            args=args,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            **kwargs,
        )

    # ---- parsing

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """CMMD is the model where none is named."""
        parser.set_defaults({"model": {"class_path": "cmmd_lightning.CMMD"}})
        if self.command == "prepare":
            parser.add_argument("--shard", type=str, default="1/1", help="i/n: take the i-th of n shares of the files")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})
        if subcommand == "predict":
            parser.add_class_arguments(GenerationSpec, "generate", skip={"inputs"})
            parser.add_argument("--generate.inputs", nargs="+", type=str, default=[], help="media files or folders")
        return parser

    def _parse_ckpt_path(self) -> None:
        """Takes the model's class and sizes from the checkpoint; flags against it are refused.

        Raises:
            UsageError: If there is no such checkpoint, it is no checkpoint of ours, or a flag contradicts it.
        """
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if path is None:
            if subcommand == "predict":
                raise UsageError("predict: expected --ckpt_path with a checkpoint, got none")
            return
        known_checkpoint(path)
        if path in ("last", "best", "hpc", "registry"):
            return
        stored = _stored_hyperparameters(path)
        class_path = stored.pop("_class_path")
        for name, value in flags_of(self.typed, "model").items():
            kept = lookup(stored, name)
            if name not in ("class_path",) and yaml.safe_load(value) != kept:
                raise UsageError(f"--model.{name} {value}: the checkpoint {path} was made with {kept} and keeps it")
        model = {"class_path": class_path, "init_args": stored}
        self.config = self.parser.parse_object({subcommand: {"model": model}}, self.config)

    def before_instantiate_classes(self) -> None:
        """Hands the model's sizes to the data; keeps predictions free of log folders."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        sizes = config.model.init_args
        for name in ("clip", "codec"):
            if name in sizes:
                config.data[name] = sizes[name]
        if self.subcommand != "fit":
            self.save_config_callback = None
            if config.trainer.logger is None:
                config.trainer.logger = False

    # ---- predict

    def before_predict(self) -> None:
        """Generation from files: inputs to the data, settings to the model, a writer to the trainer."""
        group = self.config_init.predict.generate
        spec = group if isinstance(group, GenerationSpec) else GenerationSpec(**vars(group))
        if not isinstance(self.model, CMMD):
            raise UsageError(f"predict: expected a checkpoint of CMMD, got one of {type(self.model).__name__}")
        self.model.generation = self.datamodule.generation = spec
        self.writer = PredictionWriter(spec, checkpoint=self.config_init.predict.ckpt_path)
        self.trainer.callbacks.append(self.writer)  # type: ignore[attr-defined]

    def after_predict(self) -> None:
        """An input that failed shows in the exit status."""
        self.status = int(bool(self.writer.failed))


def _stored_hyperparameters(path: str) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        stored = dict(checkpoint["hyper_parameters"])
        stored["_class_path"]
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"{path}: expected a checkpoint of cmmd_lightning, got a file that is none ({reason})"
        ) from error
    return stored


def run_lightning(args: list[str]) -> int:
    """Runs ``fit``, ``validate``, ``test`` or ``predict`` and gives the exit status."""
    return CMMDCLI(args).status


def run_with_config(command: str, args: list[str]) -> int:
    """Runs ``prepare`` or ``describe`` on the data or the model of a config."""
    cli = CMMDCLI(args, command=command, run=False)
    if command == "prepare":
        return prepare(cli.datamodule, cli.config.shard)
    return describe(cli.model)
