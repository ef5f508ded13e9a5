"""The command ``cmmd``."""

from cmmd_lightning.cli.dispatch import main

__all__ = ["main"]
