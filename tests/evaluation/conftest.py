"""A small folder of rendered clips with sidecars, made once."""

from pathlib import Path

import pytest
import torch

from cmmd_lightning.media import read_sound, write_sound
from cmmd_lightning.procedural.rendering import render

CLIPS = 8
SECONDS = 1.6
SAMPLES = 25600


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """``bounce`` clips of 1.6 s, 64 x 64 at 10 frames per second, with sidecars."""
    folder = tmp_path_factory.mktemp("clips")
    render("bounce", folder, CLIPS, 11, duration=SECONDS, fps=10.0, num_workers=0, progress=False)
    return folder


@pytest.fixture
def delayed(clips, tmp_path):
    """A function that writes the clips' sounds as wavs, rolled by some milliseconds."""

    def make(milliseconds: int) -> Path:
        folder = tmp_path / f"delayed_{milliseconds}"
        for path in sorted(clips.glob("*.mp4")):
            sound = read_sound(path, start=0.0, num_samples=SAMPLES, sample_rate=16000)
            write_sound(folder / f"{path.stem}.wav", torch.roll(sound, milliseconds * 16), 16000)
        return folder

    return make
