"""Folder trees named as corpora name theirs: every file is a link to one rendered clip."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from data_fixtures import CLIP

from cmmd_lightning import AudioVideoDataModule


def lay_out(root: Path, names: Iterable[str], clip: Path) -> Path:
    """Links to ``clip`` at the given paths below ``root``."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(clip, path)
    return root


def first_batches(root: Path, **settings: Any) -> tuple[AudioVideoDataModule, dict[str, dict[str, torch.Tensor]]]:
    """The DataModule of a tree, prepared and set up, and the first batch of every split it has."""
    data = AudioVideoDataModule(
        root=str(root), cache_dir=str(root.parent / f"{root.name}_cache"), clip=CLIP, num_workers=0, **settings
    )
    assert not data.prepare().failed
    splits = {source.split for source in data.sources()}
    data.setup("fit" if "train" in splits else "validate")
    batches = {}
    if "train" in splits:
        batches["train"] = next(iter(data.train_dataloader()))
    if "val" in splits:
        batches["val"] = next(iter(data.val_dataloader()))
    return data, batches
