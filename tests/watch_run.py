"""Two processes, one of which is struck; arguments: clips, output folder, ``nan`` or ``sigterm``."""

import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from tiny_training import build_data, build_model, build_trainer

from cmmd_lightning.training.checkpoint import StepCheckpoint
from cmmd_lightning.training.watch import Watch


class Strike(Callback):
    """At position 3, on the second process."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if int(batch["position"][0]) != 3 or trainer.global_rank != 1:
            return
        if self.how == "nan":
            batch["mel"][1] = math.nan
        else:
            os.kill(os.getpid(), signal.SIGTERM)


def main(clips: Path, folder: Path, how: str) -> None:
    settings = {"max_steps": 30, "devices": 2, "strategy": "ddp", "val_check_interval": 100}
    trainer = build_trainer(folder, Strike(how), Watch(every_n_steps=1), **settings)
    trainer.callbacks[-1] = StepCheckpoint(str(folder), every_n_train_steps=100)
    try:
        trainer.fit(build_model(), datamodule=build_data(clips, batch_size=2))
    except BaseException as error:
        (folder / f"stop-{trainer.global_rank}.txt").write_text(str(error))
        raise


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
