"""MM-Diffusion and ours side by side: the same machine, the same process, the same minute.

python benchmarks/side_by_side.py --peer MM-DIFFUSION [--config aist.yaml] [--repeats 3] [--out FILE]

MM-DIFFUSION is your own checkout of https://github.com/researchmm/MM-Diffusion. Of it only the network and its
diffusion are imported, with the settings of its scripts (16 frames of 64x64, 25,600 samples), in float32. Its
`dist_util` asks for mpi4py and blobfile when it is imported: where they are not installed, empty modules stand in their
place, since nothing that is timed here uses them. Both networks have fresh random weights; no time depends on them.

Measured in turn, batch 1: a denoising step; a guided conditional step (theirs by the gradient of the reconstruction,
`conditional_p_sample_loop_progressive_scale`; ours by one batch of two forwards); forward and backward of the training
loss; and ours from file to file, through what `cmmd predict` runs. Their whole clip is the step times the evaluations
of their samplers, which the output says: 20 of DPM-Solver for a joint clip, 1,000 guided ones for a condition. Memory
is the peak of the process above what it held before the stage, and the weights. The JSON is written anew after each
stage. A machine that has other work changes the seconds; the ratios are what to quote.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer

from cmmd_lightning import CMMD, ClipSpec, CodecConfig, NetworkSpec, ObjectiveSpec
from cmmd_lightning.cli.dispatch import resolve_config
from cmmd_lightning.diffusion.draws import draw_batch
from cmmd_lightning.diffusion.objective import contrastive_loss, diffusion_loss, measure_errors
from cmmd_lightning.diffusion.sampling import guided
from cmmd_lightning.media import write_video
from cmmd_lightning.prediction.inputs import InputLoader
from cmmd_lightning.prediction.requests import GenerationSpec, plan_inputs
from cmmd_lightning.prediction.writer import PredictionWriter
from cmmd_lightning.training.cost import measure_network

STEP, GUIDED, TRAINING = "denoising step", "guided conditional step", "forward and backward"
CONTRASTIVE = "forward and backward, a negative"
PEER_EVALUATIONS = {"joint": (STEP, 20), "video_to_audio": (GUIDED, 1000)}
PEER_TRAINING_BYTES = 11 * 2**30  # what theirs needs for one clip
# Stable Diffusion's, as the hub's VAE that the configs name; here with random weights, and nothing is downloaded
VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}


def resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def available() -> float:
    """Bytes of memory that are free; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


class Peak:
    """The most that the process holds while the context lasts, above what it held before: ``bytes``."""

    def __enter__(self) -> Peak:
        self._before, self._done, self.bytes = resident(), threading.Event(), 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, resident() - self._before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def peer_steps(path: Path) -> tuple[dict[str, Callable[[], Any]], int]:
    """What is timed of MM-Diffusion, and its number of parameters."""
    if not (path / "mm_diffusion" / "multimodal_unet.py").is_file():
        raise SystemExit(f"{path}: expected a checkout of MM-Diffusion, found no mm_diffusion/multimodal_unet.py")
    missing = [name for name in ("mpi4py", "blobfile") if importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name])["MPI"] = None
    sys.path.insert(0, str(path))
    util = importlib.import_module("mm_diffusion.multimodal_script_util")
    for name in missing:  # or Lightning would take them for the real ones
        del sys.modules[name]
    shapes = {"video": (16, 3, 64, 64), "audio": (1, 25600)}
    settings = util.model_and_diffusion_defaults() | {
        **{"video_size": list(shapes["video"]), "audio_size": list(shapes["audio"])},
        **{"num_head_channels": 64, "resblock_updown": True},
    }
    network, diffusion = util.create_model_and_diffusion(**settings)
    batch = {name: torch.randn(1, *shape) for name, shape in shapes.items()}
    middle = torch.tensor([500])

    @torch.no_grad()
    def step() -> None:
        network(batch["video"], batch["audio"], middle)

    def conditional() -> None:
        sampler = diffusion.conditional_p_sample_loop_progressive_scale(
            network,
            {name: (1, *shape) for name, shape in shapes.items()},
            use_fp16=False,
            model_kwargs={"video": batch["video"]},
            device=torch.device("cpu"),
            class_scale=3.0,
        )
        next(sampler)

    def training() -> None:
        diffusion.multimodal_training_losses(network, batch, middle)["loss"].mean().backward()
        network.zero_grad()

    return {STEP: step, GUIDED: conditional, TRAINING: training}, sum(p.numel() for p in network.parameters())


def our_model(config: str) -> CMMD:
    """The model of a config with random weights; its codec is Stable Diffusion's VAE where it names one of the hub."""
    init = yaml.safe_load(Path(resolve_config(config)).read_text())["model"]["init_args"]
    codec = CodecConfig(**init.get("codec") or {})
    if codec.path is not None:
        codec = CodecConfig("autoencoder_kl", None, 1, VAE)
    return CMMD(
        clip=ClipSpec.of(init.get("clip")),
        network=NetworkSpec.of(init.get("network")),
        codec=codec,
        objective=ObjectiveSpec.of(init.get("objective")),
        schedule_shift=init.get("schedule_shift", 1.0),
    ).eval()


def our_steps(model: CMMD) -> dict[str, Callable[[], Any]]:
    """What is timed of ours."""
    clip, network = model.clip, model.network
    channels, height, width = model.latent_shape
    video = torch.randn(1, channels, clip.num_frames, height, width)
    mel = torch.randn(1, clip.n_mels, clip.mel_frames)
    times = torch.zeros(1), torch.full((1,), 0.5)
    denoiser = guided(network, "video_to_audio", (video, mel), 2.0, 2.0)
    generators = [torch.Generator().manual_seed(0)]
    draws = draw_batch(
        torch.Generator().manual_seed(0), generators, model.objective, -1, [0], video.shape[1:], mel.shape[1:], True
    )

    def loss(negatives: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        errors = measure_errors(network, model.schedules, (video, mel), negatives, draws, model.objective.form)
        (diffusion_loss(errors, draws) + contrastive_loss(errors, draws, model.objective)).backward()
        network.zero_grad()

    return {
        STEP: torch.no_grad()(lambda: network(video, mel, *times)),
        GUIDED: torch.no_grad()(lambda: denoiser(video, mel, *times)),
        TRAINING: lambda: loss(None),
        CONTRASTIVE: lambda: loss((video[:, None].flip(3), mel[:, None].flip(3))),
    }


def our_clip(model: CMMD, task: str, folder: Path) -> None:
    """One clip from file to file, as `cmmd predict` does it by default."""
    source = folder / "source.mp4"
    if not source.is_file():
        clip = model.clip
        frames = torch.randint(0, 256, (clip.num_frames, 3, clip.height, clip.width), dtype=torch.uint8)
        write_video(source, frames, clip.fps, 0.1 * torch.randn(clip.samples_of(clip.num_frames)), clip.sample_rate)
    inputs = () if task == "joint" else (str(source),)
    spec = GenerationSpec(task, inputs, str(folder / f"{task}_{time.monotonic_ns()}"))  # type: ignore[arg-type]
    inputs = plan_inputs(spec)
    writer = PredictionWriter(spec, inputs)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[writer], enable_checkpointing=False, **quiet)  # type: ignore[arg-type]
    model.generation = spec
    trainer.predict(model, InputLoader(inputs, batch_size=1))
    if writer.failed:
        raise SystemExit(f"{task}: {writer.failed[0]}")


def summary(seconds: list[float], peak: int, parameters: int) -> dict[str, Any]:
    """Median, spread and memory of a stage."""
    return {
        "seconds": round(statistics.median(seconds), 3),
        "fastest": round(min(seconds), 3),
        "slowest": round(max(seconds), 3),
        "repeats": len(seconds),
        "peak_gib": round((peak + parameters * 4) / 2**30, 2),
    }


def measure(steps: dict[str, Callable[[], Any]], parameters: dict[str, int], repeats: int) -> dict[str, Any]:
    """Runs the contenders in turn, and gives each one's summary; the quick one has a first run that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks = dict.fromkeys(steps, 0)
    if "ours" in steps:
        steps["ours"]()
    for _ in range(repeats):
        for name, step in steps.items():
            with Peak() as peak:
                began = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - began)
            peaks[name] = max(peaks[name], peak.bytes)
    return {name: summary(seconds[name], peaks[name], parameters[name]) for name in steps}


def machine() -> dict[str, Any]:
    """What it ran on."""
    names = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "processor": next(names, platform.processor()).split(":")[-1].strip() if os.name == "posix" else "",
        "cores": os.cpu_count(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def with_ratios(stages: dict[str, Any]) -> None:
    """Adds to each stage how many times longer theirs takes, and how far that may be off by the spread."""
    for stage in stages.values():
        if {"peer", "ours"} <= stage.keys():
            peer, ours = stage["peer"], stage["ours"]
            stage["ratio"] = round(peer["seconds"] / ours["seconds"], 1)
            if "fastest" in peer:
                stage["ratio_range"] = [
                    round(peer["fastest"] / ours["slowest"], 1),
                    round(peer["slowest"] / ours["fastest"], 1),
                ]


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures all stages, writing and printing as it goes."""
    theirs, count = peer_steps(arguments.peer)
    model = our_model(arguments.config)
    ours = our_steps(model)
    parameters = {"peer": count, "ours": sum(p.numel() for p in model.network.parameters())}
    flops = measure_network(model.network.spec, model.clip, model.latent_shape)["forward_flops"]
    report = {"machine": machine(), "config": arguments.config, "parameters": parameters, "our_forward_flops": flops}
    stages: dict[str, Any] = {}
    report["stages"] = stages

    def note(name: str, found: dict[str, Any]) -> None:
        stages[name] = found
        with_ratios({name: found})
        Path(arguments.out).write_text(json.dumps(report, indent=2) + "\n")
        print(f"{name}: {json.dumps(found)}", flush=True)

    for name in (STEP, GUIDED, TRAINING):
        pair = {"peer": theirs[name], "ours": ours[name]}
        if name != STEP and available() < PEER_TRAINING_BYTES:
            print(f"{name}: theirs needs {PEER_TRAINING_BYTES / 2**30:.0f} GiB, {available() / 2**30:.1f} are free")
            del pair["peer"]
        note(name, measure(pair, parameters, arguments.repeats if name == STEP else arguments.heavy_repeats))
    note(CONTRASTIVE, measure({"ours": ours[CONTRASTIVE]}, parameters, arguments.heavy_repeats))
    with tempfile.TemporaryDirectory() as folder:
        for task, (stage, evaluations) in PEER_EVALUATIONS.items():
            found = {"ours": summary(clip_seconds(model, task, Path(folder), arguments.clip_repeats), 0, 0)}
            del found["ours"]["peak_gib"]
            found["ours"]["evaluations"] = GenerationSpec().num_inference_steps
            if "peer" in stages[stage]:
                step = stages[stage]["peer"]["seconds"]
                how = f"{evaluations} evaluations x the median {stage}, not run"
                found["peer"] = {"seconds": round(step * evaluations, 1), "evaluations": evaluations, "how": how}
            note(f"whole clip, {task}", found)
    return report


def clip_seconds(model: CMMD, task: str, folder: Path, repeats: int) -> list[float]:
    """Seconds of each of some whole clips."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        our_clip(model, task, folder)
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--config", default="aist.yaml")
    parser.add_argument("--repeats", type=int, default=3, help="of a denoising step")
    parser.add_argument("--heavy_repeats", type=int, help="of the guided and the training step; by default as many")
    parser.add_argument("--clip_repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    parser.add_argument("--out", default="side_by_side.json")
    arguments = parser.parse_args()
    arguments.heavy_repeats = arguments.heavy_repeats or arguments.repeats
    torch.set_num_threads(arguments.threads)
    run(arguments)


if __name__ == "__main__":
    main()
