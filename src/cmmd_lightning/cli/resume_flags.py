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

logger = logging.getLogger(__name__)

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
        found = [file for folder in folders for file in Path(folder).glob("last*.ckpt")]
        found += Path(root).glob("hpc_ckpt_*.ckpt")
        if found:
            return str(max(found, key=lambda file: file.stat().st_mtime))
        if subcommand == "fit":
            logger.info("no last checkpoint yet, training starts from the beginning")
            return None
        places = ", ".join(folders) or "the folder of a checkpoint callback"
        raise UsageError(f"{subcommand}: expected last.ckpt of a fit in {places}, found none")
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


def _folders(dirpath: str | None, root: str) -> list[str]:
    """Where a checkpoint callback writes: of none named, `StepCheckpoint` in the root, Lightning's own below it."""
    return [dirpath] if dirpath else [root, f"{root}/checkpoints"]


def stored_hyperparameters(path: str) -> dict[str, Any]:
    """The hyperparameters of a checkpoint, its model's class under ``_class_path``.

    Raises:
        UsageError: If the file is no checkpoint of ours.
    """
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
            raise UsageError(f"--model.{name} {value}: the checkpoint {path} was made with {kept} and keeps it")


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
    """Whether a value agrees with what is kept; of a mapping, the keys that it has."""
    if isinstance(value, Mapping) and isinstance(kept, Mapping):
        return all(_says(part, kept.get(key)) for key, part in value.items())
    if isinstance(value, list) and isinstance(kept, list | tuple):
        return value == list(kept)
    return bool(value == kept)
