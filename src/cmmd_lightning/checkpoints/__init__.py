"""Packaged checkpoints, found by bare name (`cmmd predict --ckpt_path demo`), and beside each how it was made."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def packaged_checkpoint(name: str) -> Path | None:
    """The file of a packaged checkpoint.

    Args:
        name: Its bare name, such as ``demo``.

    Returns:
        The file; None where there is none of that name.

    Example:
        >>> packaged_checkpoint("nothing") is None
        True
    """
    path = Path(str(resources.files(__name__))) / f"{name}.ckpt"
    return path if name.isidentifier() and path.is_file() else None
