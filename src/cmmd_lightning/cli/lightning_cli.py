"""LightningCLI for CMMD: one parser for the model and the frame VAE, and generation from files."""

from __future__ import annotations

import logging
import os
import signal
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cmmd_lightning.checkpoints import packaged_checkpoint
from cmmd_lightning.cli.commands import describe, prepare
from cmmd_lightning.cli.resume_flags import (
    CHECKPOINT_WORDS,
    find_checkpoint,
    flags_of,
    refuse_other_run,
    refuse_overruled,
    sizes_of,
    stored_hyperparameters,
)
from cmmd_lightning.cli.usage import UsageError
from cmmd_lightning.codecs.foreign import foreign_classes, refuse_foreign
from cmmd_lightning.evaluation.generated import EvaluationSpec
from cmmd_lightning.prediction.onnx_runtime import OnnxRuntime
from cmmd_lightning.prediction.requests import GenerationSpec, plan_inputs
from cmmd_lightning.prediction.writer import PredictionWriter
from cmmd_lightning.training.autoencoder import FrameAutoencoderModule
from cmmd_lightning.training.checkpoint_io import install
from cmmd_lightning.training.datamodule import AudioVideoDataModule
from cmmd_lightning.training.module import CMMD
from cmmd_lightning.training.progress import RunProgress
from cmmd_lightning.training.vocoder import VocoderModule

logger = logging.getLogger(__name__)

_MODELS = {f"cmmd_lightning.{model.__name__}": model for model in (CMMD, FrameAutoencoderModule, VocoderModule)}


def _with_default_model(args: list[str]) -> list[str]:
    """The arguments with CMMD as the model that flags and configs may replace.

    As the parser's default, its own settings would stay where a config names another class that has such settings too.
    """
    first = sum(not arg.startswith("-") for arg in args[:1])  # after the subcommand
    return [*args[:first], "--model=cmmd_lightning.CMMD", *args[first:]]


class CMMDCLI(LightningCLI):
    """LightningCLI with CMMD as the default model, its sizes handed to the data, and ``predict`` on files."""

    def __init__(self, args: list[str] | None = None, command: str | None = None, **kwargs: Any) -> None:
        self.typed, self.command = list(args or []), command
        self.checkpoint: str | None = None
        self.status = 0
        super().__init__(
            LightningModule,
            AudioVideoDataModule,
            subclass_mode_model=True,
            args=_with_default_model(self.typed),
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            **kwargs,
        )

    # ---- parsing

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Errors are raised, and told in one line by `main`."""
        return super().init_parser(**{"exit_on_error": False, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """CMMD is the model where none is named."""
        parser.set_defaults({"data.source": {"class_path": "cmmd_lightning.data.Folder"}})
        if self.command is not None:
            parser.add_argument("--ckpt_path", type=str | None, default=None, help="of fit; not used")
        if self.command == "prepare":
            parser.add_argument("--shard", type=str, default="1/1", help="i/n: take the i-th of n shares of the files")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})
        if subcommand == "test":
            parser.add_class_arguments(EvaluationSpec, "evaluation")
        if subcommand == "predict":
            parser.add_class_arguments(GenerationSpec, "generate", skip={"inputs"})
            parser.add_argument("--generate.inputs", nargs="+", type=str, default=[], help="media files or folders")
            parser.add_argument(
                "--runtime", type=Literal["torch", "onnx"], default="torch", help="what runs the networks"
            )
            parser.add_argument(
                "--onnx_dir", type=str | None, default=None, help="of cmmd export, for the runtime onnx"
            )
        return parser

    def _parse_ckpt_path(self) -> None:
        """Takes the model's class and sizes from the checkpoint; flags against it are refused.

        Raises:
            UsageError: If there is no such checkpoint, it is no checkpoint of ours, or a flag contradicts it.
        """
        subcommand = self.config.get("subcommand")
        if subcommand in (None, "fit"):
            self._take_sizes(subcommand)
        if not subcommand:
            return
        config = self.config[subcommand]
        last = subcommand == "fit" and config.get("ckpt_path") == "last"
        asked = any(arg.startswith("--ckpt_path") for arg in self.typed)
        config.ckpt_path = self.checkpoint = find_checkpoint(config.get("ckpt_path"), subcommand, config.trainer)
        if self.checkpoint is None or self.checkpoint in CHECKPOINT_WORDS:
            return
        stored = stored_hyperparameters(self.checkpoint)
        class_path = stored.pop("_class_path")
        if class_path not in _MODELS:
            raise UsageError(
                f"{self.checkpoint}: expected a checkpoint of {', '.join(_MODELS)}, got one of {class_path}"
            )
        given = config.model.get("init_args")
        refuse_foreign(stored, foreign_classes(given.as_dict() if given else {}), self.checkpoint)
        arguments = signature(_MODELS[class_path]).parameters
        model = {"class_path": class_path, "init_args": {k: v for k, v in stored.items() if k in arguments}}
        flags = flags_of(self.typed, "model")
        settings = config.model.get("init_args") or {}
        if subcommand == "fit" and settings.get("pretrained") and stored.get("pretrained"):
            model["init_args"]["pretrained"] = settings["pretrained"]  # where it lies now; what it holds, a fit checks
            flags.pop("pretrained", None)
        flags.pop("compile", None)  # how it is computed, not what
        if last:  # the same command again: where the codecs came from is not in the checkpoint, the codecs are
            flags.pop("codec.path", None)
            flags.pop("vocoder", None)
        refuse_overruled(flags, stored, self.checkpoint)
        if last and not asked and config.model.class_path.rpartition(".")[2] == class_path.rpartition(".")[2]:
            refuse_other_run(config.model.init_args.as_dict(), stored, self.checkpoint)
        self.config = self.parser.parse_object({subcommand: {"model": model}}, self.config)

    def _take_sizes(self, subcommand: str | None) -> None:
        """Of the model that a fit starts from, what its weights need to mean the same, where no flag says otherwise."""
        model = self.config[subcommand].model if subcommand else self.config.model
        settings = model.as_dict().get("init_args") or {}
        name = settings.get("pretrained")
        path = name and (name if Path(name).is_file() else packaged_checkpoint(name))
        if not path or model.class_path.rpartition(".")[2] != "CMMD":
            return  # what is not there, the fit says
        taken = sizes_of(str(path), settings, flags_of(self.typed, "model"))
        refuse_foreign(taken, foreign_classes(settings), path)
        made = {"model": {"class_path": model.class_path, "init_args": taken}}
        self.config = self.parser.parse_object({subcommand: made} if subcommand else made, self.config)
        logger.info("%s: it is gone on from with its own %s", name, ", ".join(taken))

    def before_instantiate_classes(self) -> None:
        """Hands the model's sizes to the data; keeps predictions free of log folders."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        sizes = config.model.init_args
        for name in ("clip", "codec"):
            if name in sizes:
                for flag in flags_of(self.typed, f"data.{name}"):
                    raise UsageError(
                        f"--data.{name}.{flag}: data are cut as the model wants, see --model.{name}.{flag}"
                    )
                config.data[name] = sizes[name]
        if self.checkpoint is not None and "codec" in sizes and sizes.codec.kind != "pixel_unshuffle":
            config.data.codec = {**vars(sizes.codec), "path": self.checkpoint}  # its weights, not only its sizes
        if self.subcommand in ("validate", "test", "predict"):
            signal.signal(signal.SIGTERM, _stop)  # Lightning notes the signal, and goes on
        if self.subcommand != "fit":
            self.save_config_callback = None
            if config.trainer.logger is None:
                config.trainer.logger = False

    def instantiate_classes(self) -> None:
        """Nothing for ``describe``: it reads the settings."""
        if self.command != "describe":
            super().instantiate_classes()

    def _instantiate_trainer(self, config: Any, callbacks: list[Any]) -> Trainer:
        """With a bar of ours, unless another one or none is asked for."""
        given = config.get("callbacks") or []
        own = [*callbacks, *(given if isinstance(given, list) else [given])]
        if config.get("enable_progress_bar") is not False and not any(isinstance(one, ProgressBar) for one in own):
            callbacks = [*callbacks, RunProgress()]
        return super()._instantiate_trainer(config, callbacks)

    # ---- fit, test and predict

    def before_fit(self) -> None:
        """Checkpoints are written whole, whichever callback asks for them."""
        install(self.trainer)

    def before_test(self) -> None:
        """What the test generates, and how."""
        group = self.config_init.test.evaluation
        if isinstance(self.model, CMMD):
            self.model.evaluation = group if isinstance(group, EvaluationSpec) else EvaluationSpec(**vars(group))

    def before_predict(self) -> None:
        """Generation from files: inputs to the data, settings to the model, a writer to the trainer."""
        group = self.config_init.predict.generate
        spec = group if isinstance(group, GenerationSpec) else GenerationSpec(**vars(group))
        if not isinstance(self.model, CMMD):
            raise UsageError(f"predict: expected a checkpoint of CMMD, got one of {type(self.model).__name__}")
        self.model.generation, self.datamodule.inputs = spec, plan_inputs(spec)
        self.writer = PredictionWriter(spec, self.datamodule.inputs, checkpoint=self.config_init.predict.ckpt_path)
        self.trainer.callbacks.append(self.writer)  # type: ignore[attr-defined]
        if self.config_init.predict.runtime == "onnx":
            if self.config_init.predict.onnx_dir is None:
                raise UsageError("predict: expected --onnx_dir with the folder that cmmd export wrote, got none")
            self.trainer.callbacks.append(OnnxRuntime(self.config_init.predict.onnx_dir))  # type: ignore[attr-defined]

    def after_predict(self) -> None:
        """An input that failed shows in the exit status."""
        self.status = int(bool(self.writer.failed))


def _stop(*_: Any) -> None:
    raise SIGTERMException


def run_lightning(args: list[str]) -> int:
    """Runs ``fit``, ``validate``, ``test`` or ``predict`` and gives the exit status."""
    for arg in args:
        if arg.startswith("-") and os.path.isfile(arg):
            raise UsageError(f"{arg}: expected a flag, got a file whose name begins with a dash: write ./{arg}")
    return CMMDCLI(args).status


def run_with_config(command: str, args: list[str]) -> int:
    """Runs ``prepare`` or ``describe`` on the data or the model of a config."""
    cli = CMMDCLI(args, command=command, run=False)
    if command == "prepare":
        return prepare(cli.datamodule, cli.config.shard)
    config = cli.config
    if config.model.class_path.rpartition(".")[2] != "CMMD":
        raise UsageError(f"describe: expected a config of CMMD, got one of {config.model.class_path}")
    data, steps = config.data.as_dict(), config.trainer.max_steps
    return describe(config.model.init_args.as_dict(), data["negatives"], data["batch_size"], steps)
