"""Checkpoint files: written whole or not at all, and recognised where they are not."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer


class CheckpointError(OSError):
    """A checkpoint could not be written; the message says what was kept."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk and renames, so that the former file stays until the new is whole.

    Lightning (2.6.6) writes in the system's temporary folder, and copies over the former file where that is on another
    file system: a kill or a full disk meanwhile leaves neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; to a remote path as Lightning does."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_whole(checkpoint, path)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, a link to one too."""
        if Path(path).is_symlink():
            Path(path).unlink()
        else:
            super().remove_checkpoint(path)


def install(trainer: Trainer) -> None:
    """Let all checkpoints of a trainer be written whole, unless it was given a way of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()


def write_whole(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint file whole or not at all.

    Args:
        checkpoint: What ``torch.save`` takes.
        path: The file; its folder is made.

    Raises:
        CheckpointError: If it cannot be written; what was there is kept.
    """
    path, outer = Path(path), sys.exception()
    temporary = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = error  # torch hides what went wrong, Ctrl-C too, behind a RuntimeError
        while isinstance(cause, RuntimeError) and cause.__context__ not in (None, outer):
            cause = cause.__context__
        if not isinstance(cause, OSError | RuntimeError):
            raise cause from None
        reason = getattr(cause, "strerror", None) or " ".join(str(cause).split())[:120]
        kept = "the former one is kept, and --ckpt_path last goes on from it" if path.exists() else "there is none yet"
        raise CheckpointError(f"{path}: the checkpoint could not be written ({reason}); {kept}") from error


def link(path: str | Path, name: str | Path) -> None:
    """Give a file a second name, in place of what has that name, without a moment at which it names nothing.

    A hard link: while the file is written anew, the second name still has the former one. Where the file system has
    none, a symbolic one, or a copy.
    """
    path, name = Path(path), Path(name)
    temporary = name.with_name(f"{name.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        try:
            temporary.symlink_to(os.path.relpath(path, name.parent))
        except OSError:
            shutil.copy(path, temporary)
    os.replace(temporary, name)


def fault_of(path: str | Path) -> str | None:
    """What is wrong with a checkpoint file, such as the rest of a writing that was cut short; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as file:
            torn = file.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        return f"cut short, or no checkpoint ({error})"
    return None if torn is None else f"damaged in {torn}"


def _flush_folder(folder: Path) -> None:
    """The renaming too survives a loss of power, where folders can be flushed."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
