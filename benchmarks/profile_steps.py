"""Where a training step and a sampling step spend their time.

python benchmarks/profile_steps.py [--config demo.yaml] [--batch_size 16] [--threads 2]

Prints, for the network of a config on random latents, the median step time of several variants measured in turn (so
that a machine that drifts does not favour one), and the operators on which a step spends its time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from cmmd_lightning import CMMD, ClipSpec, NetworkSpec, ObjectiveSpec
from cmmd_lightning.cli.dispatch import resolve_config
from cmmd_lightning.diffusion.draws import draw_batch
from cmmd_lightning.diffusion.objective import contrastive_loss, diffusion_loss, measure_errors
from cmmd_lightning.diffusion.sampling import guided
from cmmd_lightning.models.unet import JointUNet


def training_step(model: CMMD, network: JointUNet, shape: tuple[int, int, int], batch: int, weight: float) -> Callable:
    """A step of the objective on random data: forward, backward, AdamW."""
    clip = model.clip
    video = torch.randn(batch, shape[0], clip.num_frames, *shape[1:])
    mel = torch.randn(batch, clip.n_mels, clip.mel_frames)
    spec = model.objective
    generators = [torch.Generator().manual_seed(i) for i in range(batch)]
    shared = torch.Generator().manual_seed(batch)
    draws = draw_batch(shared, generators, spec, 0, range(batch), video.shape[1:], mel.shape[1:])
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        negatives = (video.flip(0)[:, None], mel.flip(0)[:, None]) if weight else None
        errors = measure_errors(network, model.schedules, (video, mel), negatives, draws)
        loss = diffusion_loss(errors, draws) + weight * contrastive_loss(errors, draws, spec)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sampling_step(model: CMMD, network: JointUNet, shape: tuple[int, int, int], batch: int, scale: float) -> Callable:
    """One guided denoiser evaluation."""
    clip = model.clip
    video = torch.randn(batch, shape[0], clip.num_frames, *shape[1:])
    mel = torch.randn(batch, clip.n_mels, clip.mel_frames)
    denoiser = guided(network, "video_to_audio", (video, mel), scale, scale)
    times = torch.zeros(batch), torch.full((batch,), 0.5)

    @torch.no_grad()
    def step() -> None:
        denoiser(video, mel, *times)

    return step


def compare(steps: dict[str, Callable], rounds: int) -> None:
    """Medians, the variants taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    first = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        median = statistics.median(values)
        spread = f"{min(values) * 1000:.0f} to {max(values) * 1000:.0f}"
        print(f"{name:<48} {median * 1000:8.0f} ms   {median / first:5.2f} x   ({spread})")


def top(name: str, step: Callable, rows: int = 8) -> None:
    """Operators by their own time."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print(f"\n{name}")
    for event in events[:rows]:
        print(f"  {event.key:<52} {100 * event.self_cpu_time_total / total:5.1f} %   {event.count} calls")


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="demo.yaml")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--latent_channels", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    init = yaml.safe_load(Path(resolve_config(args.config)).read_text())["model"]["init_args"]
    clip, spec = ClipSpec.of(init["clip"]), NetworkSpec.of(init["network"])
    model = CMMD(clip=clip, objective=ObjectiveSpec.of(init["objective"]), schedule_shift=init["schedule_shift"])
    shape = (args.latent_channels, clip.height // 8, clip.width // 8)
    network = JointUNet(shape[0], clip.n_mels, spec)
    weight = model.objective.contrastive_weight
    steps = {
        "training step, no contrastive term": training_step(model, network, shape, args.batch_size, 0.0),
        "training step, contrastive share as configured": training_step(model, network, shape, args.batch_size, weight),
        "sampling step, unguided": sampling_step(model, network, shape, args.batch_size, 1.0),
        "sampling step, guided": sampling_step(model, network, shape, args.batch_size, 2.0),
    }
    compare(steps, args.rounds)
    top(
        "training step with the contrastive term, own time by operator",
        steps["training step, contrastive share as configured"],
    )
    top("guided sampling step, own time by operator", steps["sampling step, guided"])


if __name__ == "__main__":
    main()
