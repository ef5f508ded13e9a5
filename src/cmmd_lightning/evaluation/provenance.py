"""Where numbers come from: command, version, seed, machine."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from cmmd_lightning.version import __version__


def provenance(command: str | None, seed: int) -> dict[str, Any]:
    """What a report says of its making; ``command`` is by default this process's, its program by name only."""
    if command is None:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "version": __version__, "seed": seed, "machine": machine()}


def machine() -> str:
    """The machine in words: system, processor kind and cores, accelerator, Python and torch."""
    parts = [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"Python {platform.python_version()}", f"torch {torch.__version__}"])
