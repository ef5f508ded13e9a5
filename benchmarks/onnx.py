"""Time of whole samples by onnxruntime against torch, alternating: python benchmarks/onnx.py demo EXPORT_DIR."""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from cmmd_lightning import CMMD
from cmmd_lightning.prediction.onnx_runtime import use_onnx


def main() -> None:
    """Print, for each task, seconds of processor time of both, their ratio, and the largest difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ckpt_path")
    parser.add_argument("onnx_dir")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance_scale", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    models = {name: CMMD.from_pretrained(args.ckpt_path) for name in ("torch", "onnx")}
    use_onnx(models["onnx"], args.onnx_dir)
    clip = models["torch"].clip
    frames, sound = models["torch"].joint(num_inference_steps=args.steps)
    given = {"video_to_audio": (frames,), "audio_to_video": (sound[:, : clip.num_samples],), "joint": ()}
    for task, inputs in given.items():
        seconds: dict[str, list[float]] = {"torch": [], "onnx": []}
        made = {}
        for name in [*models] * args.repeats:
            began = time.process_time()
            result = getattr(models[name], task)(
                *inputs, num_inference_steps=args.steps, guidance_scale=args.guidance_scale
            )
            seconds[name].append(time.process_time() - began)
            made[name] = result if isinstance(result, tuple) else (result,)
        torch_time, onnx_time = (statistics.median(times) for times in seconds.values())
        difference = max(float((a - b).abs().max()) for a, b in zip(*made.values(), strict=True))
        print(
            f"{task}: torch {torch_time:.2f} s, onnx {onnx_time:.2f} s, ratio {onnx_time / torch_time:.2f}, "
            f"largest difference {difference:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
