"""librosa, compiled by one process at a time."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock


def load_librosa(what: str) -> Any:
    """Import librosa with its peak picking and beat tracking compiled.

    numba keeps what it compiles in librosa's folder without a lock; two processes that compile together leave a cache
    on which every later process crashes.

    Args:
        what: What needs it, for the message.

    Raises:
        ModuleNotFoundError: Without librosa.
    """
    try:
        import librosa
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{what} need librosa: pip install 'cmmd-lightning[metrics]'") from error
    _compile()
    return librosa


@cache
def _compile() -> None:
    import librosa

    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    with FileLock(Path(tempfile.gettempdir()) / f"cmmd_lightning-{user}-librosa.lock"):
        for kind in (np.float32, np.float64):
            strength = np.zeros(200, kind)
            strength[20::40] = 1.0
            librosa.onset.onset_detect(onset_envelope=strength)
            librosa.beat.beat_track(onset_envelope=strength, bpm=120.0)
