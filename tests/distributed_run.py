"""A short run on some processes; arguments: clips, output folder, processes. `test_distributed` starts it."""

import json
import sys
from pathlib import Path

import torch
from tiny_training import Losses, build_data, build_model, build_trainer

GLOBAL_BATCH = 4
STEPS = 4


def main(clips: Path, folder: Path, devices: int) -> None:
    losses = Losses()
    strategy = {"strategy": "ddp"} if devices > 1 else {}
    settings = {"max_steps": STEPS, "every": STEPS, "val_check_interval": 2, "devices": devices, **strategy}
    trainer = build_trainer(folder, losses, **settings)
    data = build_data(clips, batch_size=GLOBAL_BATCH // devices)
    # negatives measured on half of the examples: not the same number on each process
    trainer.fit(build_model(objective={"contrastive_share": 0.5, "contrastive_weight": 0.5}), datamodule=data)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    result = {"train": losses.train, "val": losses.val, "world": trainer.world_size, "logged": logged}
    (folder / f"losses-{trainer.global_rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
