"""A model, data and trainer that are small enough to be run many times, for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from cmmd_lightning import CMMD, AudioVideoDataModule, ClipSpec
from cmmd_lightning.training.ema import EMA

CLIP = ClipSpec(num_frames=8, fps=10.0, height=32, width=32, sample_rate=8000, n_fft=256, hop_length=100, n_mels=16)
NETWORK = {
    "video_channels": [16],
    "audio_channels": [16],
    "attention_levels": [],
    "head_channels": 16,
    "embedding_channels": 16,
}


def build_model(weights_seed: int = 0, **changes: Any) -> CMMD:
    """A model; every call with one seed gives the same weights."""
    torch.manual_seed(weights_seed)
    settings = {"clip": CLIP, "network": NETWORK, "learning_rate": 1e-3, "warmup_steps": 3, **changes}
    return CMMD(**settings)


def build_data(folder: Path, **changes: Any) -> AudioVideoDataModule:
    """The clips of ``folder``, see the fixture ``clip_folder``."""
    return AudioVideoDataModule(**{"root": str(folder), "clip": CLIP, "batch_size": 4, "num_workers": 0, **changes})


class Losses(Callback):
    """Every training loss, and every validation loss, by step."""

    def __init__(self) -> None:
        self.train: list[tuple[int, float]] = []
        self.val: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.train.append((int(batch["position"][0]), outputs["loss"].item()))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.val.append((trainer.global_step, trainer.callback_metrics["val/loss"].item()))


def build_trainer(folder: Path, *callbacks: Callback, every: int = 4, **changes: Any) -> Trainer:
    """A trainer on the CPU with averaging and checkpoints ``step=N.ckpt`` in ``folder``; ``callbacks`` come first."""
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1, save_on_exception=True)
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": -1,
        "max_steps": 8,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "gradient_clip_val": 1.0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "callbacks": [*callbacks, EMA(decay=0.8), saver],
        **changes,
    }
    return Trainer(**settings)
