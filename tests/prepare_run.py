"""One process of several that prepare a folder together; arguments: folder, cache, processes. `test_distributed`."""

import json
import sys
from pathlib import Path

import torch
from tiny_training import build_data, build_model, build_trainer

from cmmd_lightning.data import Cache


def main(folder: Path, cache_dir: Path, devices: int) -> None:
    written = []
    finish = Cache.finish

    def record(self, writer, **settings):
        finish(self, writer, **settings)
        written.append(writer.path.name)

    Cache.finish = record
    trainer = build_trainer(cache_dir.parent, max_steps=1, limit_val_batches=0, devices=devices, strategy="ddp")
    trainer.fit(build_model(), datamodule=build_data(folder, cache_dir=str(cache_dir), batch_size=1))
    (cache_dir.parent / f"written-{trainer.global_rank}.json").write_text(json.dumps(written))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
