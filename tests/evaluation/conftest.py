"""A small folder of rendered clips with sidecars, made once."""

from pathlib import Path

import pytest

from cmmd_lightning.procedural.render import render

CLIPS = 8
SECONDS = 1.6


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """``bounce`` clips of 1.6 s, 64 x 64 at 10 frames per second, with sidecars."""
    folder = tmp_path_factory.mktemp("clips")
    render("bounce", folder, CLIPS, 11, duration=SECONDS, fps=10.0, num_workers=0, progress=False)
    return folder
