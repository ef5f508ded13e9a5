"""What a command line with ``--ckpt_path`` means: which checkpoint, and which flags it overrules."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from cmmd_lightning.checkpoints import packaged_checkpoint
from cmmd_lightning.cli.usage import UsageError
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.diffusion.noise import TimeNoise
from cmmd_lightning.models.unet import NetworkSpec
from cmmd_lightning.training.checkpoint_io import fault_of

logger = logging.getLogger(__name__)

_SIZES = ("clip", "network", "codec", "schedule_shift", "video_noise", "vocoder")

CHECKPOINT_WORDS = ("best", "hpc", "registry")
"""Words for a checkpoint that are left to Lightning."""


def find_checkpoint(path: str | None, subcommand: str, trainer: Any) -> str | None:
    """The file that ``--ckpt_path`` names, or the packaged checkpoint of that name.

    ``last`` is the newest of the ``last*.ckpt`` of the trainer's callbacks and the ``hpc_ckpt_*.ckpt`` that a requeued
    SLURM job left.

    Args:
        path: As typed, or as the config has it; None is none.
        subcommand: ``fit`` starts anew where there is no last checkpoint yet; others need one.
        trainer: The trainer's part of the config.

    Returns:
        The file, one of `CHECKPOINT_WORDS`, or None.

    Raises:
        UsageError: If there is no such file, or ``predict`` has none.
    """
    if path == "last":
        inits = [callback.get("init_args") or {} for callback in trainer.get("callbacks") or []]
        root = trainer.default_root_dir or "."
        folders = [folder for init in inits if "dirpath" in init for folder in _folders(init["dirpath"], root)]
        found = _newest_whole(folders, root)
        if found is not None:
            return str(found)
        if subcommand == "fit":
            logger.info("no last checkpoint yet, training starts from the beginning")
            return None
        places = ", ".join(folders) or "the folder of a checkpoint callback"
        raise UsageError(f"{subcommand}: expected last.ckpt of a fit in {places}, found none; name one by --ckpt_path")
    if path is None and subcommand == "predict":
        raise UsageError("predict: expected --ckpt_path with a checkpoint, got none")
    if path is None or path in CHECKPOINT_WORDS or Path(path).is_file():
        return path
    packaged = packaged_checkpoint(path)
    if packaged is None:
        raise UsageError(f"{path}: expected a checkpoint file, or demo for the packaged one; found none")
    if subcommand == "fit":
        raise UsageError(f"fit: expected a training checkpoint, got {path}, weights only: --model.pretrained {path}")
    return str(packaged)


def _newest_whole(folders: list[str], root: str) -> Path | None:
    """The newest checkpoint to go on from that is whole; others of the folders count where no last one is.

    Raises:
        UsageError: If there are some, and none is whole.
    """
    last = {file for folder in folders for file in Path(folder).glob("last*.ckpt")}
    last |= set(Path(root).glob("hpc_ckpt_*.ckpt"))
    others = {file for folder in folders for file in Path(folder).glob("*.ckpt")} - last
    torn: list[str] = []
    for files in (last, others):
        for file in sorted(filter(Path.is_file, files), key=lambda file: file.stat().st_mtime, reverse=True):
            fault = fault_of(file)
            if fault is not None:
                torn.append(f"{file}: {fault}")
            elif file in last or "optimizer_states" in torch.load(file, "cpu", weights_only=True, mmap=True):
                for line in torn:
                    logger.warning("%s; it is left out, %s is gone on from instead", line, file)
                return file
    if torn:
        raise UsageError(f"{torn[0]}; nothing is there to go on from: to start anew, remove it or add --ckpt_path null")
    return None


def _folders(dirpath: str | None, root: str) -> list[str]:
    """Where a checkpoint callback writes: of none named, `StepCheckpoint` in the root, Lightning's own below it."""
    return [dirpath] if dirpath else [root, f"{root}/checkpoints"]


def stored_hyperparameters(path: str) -> dict[str, Any]:
    """The hyperparameters of a checkpoint, its model's class under ``_class_path``.

    Raises:
        UsageError: If the file is no checkpoint of ours.
    """
    fault = fault_of(path)
    try:
        checkpoint = {} if fault else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        stored = dict(checkpoint["hyper_parameters"])
        stored["_class_path"]
    except Exception as error:  # a pickle of anything
        fault = fault or " ".join(str(error).split())[:120]
    if fault is not None:
        raise UsageError(f"{path}: expected a checkpoint of cmmd_lightning, got another file ({fault})")
    return stored


def sizes_of(path: str, settings: Mapping[str, Any], flags: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a checkpoint that a model must share to start from its weights; those that were typed stay as typed.

    Args:
        path: A checkpoint of CMMD.
        settings: The model's part of the config.
        flags: Names below ``model`` that were typed.

    Raises:
        UsageError: If it is no such checkpoint.
    """
    stored = stored_hyperparameters(path)
    if "network" not in stored:
        raise UsageError(
            f"--model.pretrained {path}: expected a checkpoint of CMMD, got one of {stored['_class_path']}"
        )
    stored["codec"] = (
        {**stored["codec"], "path": path} if stored["codec"]["kind"] != "pixel_unshuffle" else stored["codec"]
    )
    if isinstance(stored.get("vocoder"), Mapping):
        stored["vocoder"] = path
    for name, spec in (("clip", ClipSpec), ("network", NetworkSpec), ("video_noise", TimeNoise)):
        stored[name] = spec.of(stored.get(name)).to_dict()  # what was not there when it was made, too
    kept = {*flags, "network.gradient_checkpointing"}  # which saves memory, and changes nothing
    taken = {name: stored[name] for name in _SIZES if name in stored and name not in flags}
    for name, value in taken.items():
        if isinstance(value, Mapping):
            own = {key: settings[name][key] for key in value if f"{name}.{key}" in kept}
            taken[name] = {**value, **own}
    return taken


def flags_of(args: list[str], group: str) -> dict[str, str]:
    """Flags of a group that were typed, ``--model.a.b 1`` as {"a.b": "1"}."""
    typed: dict[str, str] = {}
    for i, arg in enumerate(args):
        if arg.startswith(f"--{group}."):
            name, equals, value = arg[len(group) + 3 :].partition("=")
            typed[name.removeprefix("init_args.")] = value if equals else (args[i + 1] if i + 1 < len(args) else "")
    return typed


def refuse_overruled(flags: Mapping[str, str], stored: Mapping[str, Any], path: str) -> None:
    """Refuses flags that say something else than the checkpoint, whose settings Lightning would use silently.

    Args:
        flags: Names below ``model``, and the values typed.
        stored: The checkpoint's hyperparameters.
        path: The checkpoint.

    Raises:
        UsageError: If a flag contradicts the checkpoint.
    """
    for name, value in flags.items():
        kept: Any = stored
        for part in name.split("."):
            kept = kept.get(part) if isinstance(kept, Mapping) else None
        if name != "class_path" and not _says(_plain(value), kept):
            raise UsageError(
                f"--model.{name} {value}: the checkpoint {path} was made with {kept} and keeps it; leave the flag out, "
                "or train another one by fit with --ckpt_path null and another --trainer.default_root_dir"
            )


def refuse_other_run(settings: Mapping[str, Any], stored: Mapping[str, Any], path: str) -> None:
    """Refuses to go on with a checkpoint that nobody asked for by flag where the config says something else.

    Such as the last checkpoint of the base config, found by that config and an override of it.

    Args:
        settings: The model's part of the config.
        stored: The checkpoint's hyperparameters; its codecs are resolved, and not compared. Of ``pretrained`` it counts
            only whether there is one: its file may have moved.
        path: The checkpoint.

    Raises:
        UsageError: If they differ.
    """
    for name, value in settings.items():
        kept = stored.get(name)
        if name in ("codec", "vocoder") or name not in stored or (name == "pretrained" and value and kept):
            continue
        pairs = {name: (value, kept)}
        if isinstance(value, Mapping) and isinstance(kept, Mapping):
            pairs = {f"{name}.{key}": (part, kept[key]) for key, part in value.items() if key in kept}
        for key, (new, old) in pairs.items():
            same = _says(list(new) if isinstance(new, tuple) else new, old)
            if not same:
                raise UsageError(
                    f"{path}: the last checkpoint was made with model.{key} {old}, the config says {new}; "
                    "give another --trainer.default_root_dir, or go on with its settings by --ckpt_path last"
                )


def _plain(value: str) -> Any:
    """A typed value; YAML takes ``1e-3`` for a string."""
    try:
        return float(value)
    except ValueError:
        return yaml.safe_load(value)


def _says(value: Any, kept: Any) -> bool:
    """Whether a value agrees with what is kept; of a mapping, the keys that it has; one number stands for several."""
    if isinstance(value, Mapping) and isinstance(kept, Mapping):
        return all(_says(part, kept.get(key)) for key, part in value.items())
    if isinstance(value, Mapping) and isinstance(kept, float):
        return all(part == kept for part in value.values())
    if isinstance(value, list) and isinstance(kept, list | tuple):
        return value == list(kept)
    return bool(value == kept)
