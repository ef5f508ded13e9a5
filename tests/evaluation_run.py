"""A short test on some processes; arguments: clips, output folder, processes. `test_module` starts it."""

import json
import sys
from pathlib import Path

import torch
from tiny_training import build_data, build_model, build_trainer
from torch.utils.data import DataLoader, Subset

from cmmd_lightning.evaluation.generated import EvaluationSpec

CLIPS = 5  # odd: of two processes' samplers, one repeats a clip


def main(clips: Path, folder: Path, devices: int) -> None:
    strategy = {"strategy": "ddp"} if devices > 1 else {}
    data, model = build_data(clips), build_model()
    data.setup("fit")
    model.evaluation = EvaluationSpec(("joint", "video_to_audio"), num_inference_steps=2)
    loader = DataLoader(Subset(data.datasets["train"], range(CLIPS)), batch_size=3)
    trainer = build_trainer(folder, devices=devices, **strategy)
    found = trainer.test(model, loader, verbose=False)[0]
    (folder / f"logged-{trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
