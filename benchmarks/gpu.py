"""What one GPU makes of the shipped networks, in one command of at most nine minutes.

python benchmarks/gpu.py [--out gpu.json] [--minutes 9] [--stages matmul,train_128] [--device cpu --quick]

Clips/s, TFLOP/s and their share of what the card's own matrix products reach in bfloat16, at 128x128 and 512x512, with
and without the contrastive term, with and without torch.compile, by batch size; peak memory; seconds to sample a clip
for the three tasks; frames/s of a codec; and how often a step waits for the device or copies over the bus. Each stage
is a process of its own with a time limit: what it measured before it failed or ran out of time counts, and the others
run.

It needs torch, torchaudio and lightning with what comes with it, no diffusers and no av: the codec is a
`ClipAutoencoderCodec` that has the latents' shape of the VAE in the configs. A training step is forward, backward and
AdamW under bfloat16 autocast (SGD in float32 on a CPU), its data and draws on the device beforehand; its FLOPs are
those of training/cost.py. A sampling is that of `cmmd predict` by default, 50 evaluations without guidance, with the
decoding of the frames and without the vocoder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import cmmd_lightning

# The package's own __init__ imports all that reads and writes files, which an image with torch alone cannot.
_data = ModuleType("cmmd_lightning.data")
_data.__path__ = [str(Path(cmmd_lightning.__file__).parent / "data")]
sys.modules["cmmd_lightning.data"] = _data

from cmmd_lightning.codecs.clip_autoencoder import ClipAutoencoderCodec, ClipAutoencoderSpec  # noqa: E402
from cmmd_lightning.data.clips import ClipSpec  # noqa: E402
from cmmd_lightning.diffusion.draws import TASKS, draw_batch  # noqa: E402
from cmmd_lightning.diffusion.objective import contrastive_loss, diffusion_loss, measure_errors  # noqa: E402
from cmmd_lightning.diffusion.objective_spec import ObjectiveSpec  # noqa: E402
from cmmd_lightning.diffusion.sampling import ddim_sample  # noqa: E402
from cmmd_lightning.diffusion.schedule import Schedules  # noqa: E402
from cmmd_lightning.models.unet import JointUNet, NetworkSpec  # noqa: E402
from cmmd_lightning.packaged import packaged_configs  # noqa: E402
from cmmd_lightning.training.cost import measure_network  # noqa: E402

CONFIGS = {"128": ("aist.yaml",), "512": ("aist.yaml", "512.yaml")}
TINY = {
    "clip": {"num_frames": 4, "height": 32, "width": 32, "n_fft": 512, "n_mels": 16},
    "network": {"video_channels": [16, 16], "audio_channels": [16, 16], "attention_levels": [], "head_channels": 16},
    "objective": {"contrastive_weight": 0.1, "contrastive_share": 0.25},
}
BATCHES = {"128": (4, 16, 64), "512": (1, 4, 16), "tiny": (2, 4)}
USUAL = {"128": 16, "512": 4, "tiny": 4}  # batch of the stages that take one
WAITS = ("_local_scalar_dense", "nonzero", "StreamSynchronize", "EventSynchronize", "DeviceSynchronize")
COPIES = ("Memcpy HtoD", "Memcpy DtoH")
# seconds; the order is that of what one wants most if time runs out
LIMITS = {
    **{"matmul": 40, "train_128": 70, "train_128_compiled": 130, "train_512": 70, "sample_128": 50, "syncs_128": 50},
    **{"sample_512": 60, "codec": 50, "train_512_compiled": 150},
}
QUICK = {"matmul": 120, "train_tiny": 200, "sample_tiny": 200, "codec": 200, "syncs_tiny": 200}
Row = dict[str, Any]


class Setting:
    """The network of a size on a device.

    Args:
        size: ``128``, ``512`` or ``tiny``.
        device: Where.
        quick: Few repeats.
    """

    def __init__(self, size: str, device: torch.device, quick: bool) -> None:
        init = TINY if size == "tiny" else _merged(*CONFIGS[size])
        self.size, self.device, self.quick = size, device, quick
        self.clip, self.spec = ClipSpec.of(init["clip"]), NetworkSpec.of(init["network"])
        self.objective = ObjectiveSpec.of(init["objective"])
        self.schedules = Schedules.from_shift(init.get("schedule_shift", 1.0))
        self.latents = (4, self.clip.height // 8, self.clip.width // 8)
        self.cost = measure_network(self.spec, self.clip, self.latents)
        torch.manual_seed(0)
        self.network = JointUNet(self.latents[0], self.clip.n_mels, self.spec).to(device)

    def precision(self) -> Any:
        """The autocast that training and sampling run under."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()

    def data(self, batch: int) -> tuple[Tensor, Tensor]:
        """Latents and log-Mel."""
        channels, height, width = self.latents
        video = torch.randn(batch, channels, self.clip.num_frames, height, width)
        return video.to(self.device), torch.randn(batch, self.clip.n_mels, self.clip.mel_frames).to(self.device)

    def training(self, batch: int, term: bool) -> tuple[Callable[[], None], int]:
        """A training step, and its FLOPs by training/cost.py."""
        video, mel = self.data(batch)
        generators = [torch.Generator().manual_seed(i) for i in range(batch)]
        shared = torch.Generator().manual_seed(batch)
        draws = draw_batch(shared, generators, self.objective, 0, range(batch), video.shape[1:], mel.shape[1:])
        draws = draws.to(self.device)
        negatives = (video.flip(0)[:, None], mel.flip(0)[:, None]) if term else None
        parameters = list(self.network.parameters())
        optimizer: torch.optim.Optimizer
        if self.device.type == "cuda":
            optimizer = torch.optim.AdamW(parameters, 1e-5, fused=True)
        else:  # AdamW reads its count of steps there, once a parameter
            optimizer = torch.optim.SGD(parameters, 1e-5)

        def step() -> None:
            with self.precision():
                errors = measure_errors(
                    self.network, self.schedules, (video, mel), negatives, draws, self.objective.form
                )
            loss = diffusion_loss(errors, draws)
            if term:
                loss = loss + self.objective.contrastive_weight * contrastive_loss(errors, draws, self.objective)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        rows = batch + (len(draws.rows) if term else 0)
        return step, self.cost["training_flops"] * rows

    def sampling(self, task: str, batch: int, evaluations: int) -> Callable[[], None]:
        """Samples a batch, and decodes its frames."""
        codec = ClipAutoencoderCodec(4, ClipAutoencoderSpec(self.latents[0])).to(self.device).eval()
        video, mel = self.data(batch)

        @torch.no_grad()
        def sample() -> None:
            with self.precision():
                drawn, _ = ddim_sample(self.network, self.schedules, video, mel, task, evaluations)  # type: ignore[arg-type]
                if task != "video_to_audio":
                    codec.decode_clips(codec.denormalize(drawn))

        return sample


def _merged(*names: str) -> dict[str, Any]:
    """The model's settings of stacked configs."""
    settings: dict[str, Any] = {}
    for name in names:
        init = yaml.safe_load(packaged_configs()[name].read_text())["model"]["init_args"]
        for key, value in init.items():
            settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
    return settings


def timed(run: Callable[[], None], device: torch.device, repeats: int, warm_up: int = 3) -> Row:
    """Seconds of a run, median and extremes, and the peak of the device's memory."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    for _ in range(warm_up):
        run()
    wait()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {"seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds), "peak_gib": peak}


def matmul(device: torch.device, quick: bool) -> Iterator[Row]:
    """What matrix products reach: the best of some sizes."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    for size in (256, 512) if quick else (4096, 8192, 16384):
        a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
        took = timed(lambda a=a, b=b: torch.mm(a, b), device, 5 if quick else 20)  # type: ignore[misc]
        yield {"matmul": size, "tflops": 2 * size**3 / took["fastest"] / 1e12, "dtype": str(kind), **took}


def train(setting: Setting, compiled: bool) -> Iterator[Row]:
    """Training steps by batch size, with the term and without it; compiled at one size only."""
    if compiled:
        setting.network.compile()
    for batch in (USUAL[setting.size],) if compiled else BATCHES[setting.size]:
        for term in (True, False):
            _forget(setting.device)
            step, flops = setting.training(batch, term)
            row: Row = {"batch": batch, "term": term, "compiled": compiled, "flops": flops}
            if setting.quick:
                with FlopCounterMode(display=False) as counter:
                    step()
                row["flops_counted"] = counter.get_total_flops()
            try:
                took = timed(step, setting.device, 3 if setting.quick else 10)
            except torch.cuda.OutOfMemoryError:
                yield {**row, "failed": "out of memory"}
                return
            yield {**row, **took, "clips_per_s": batch / took["seconds"], "tflops": flops / took["seconds"] / 1e12}


def sample(setting: Setting) -> Iterator[Row]:
    """Seconds per clip of the three tasks."""
    batch, evaluations = USUAL[setting.size], 2 if setting.quick else 50
    for task in TASKS:
        _forget(setting.device)
        took = timed(setting.sampling(task, batch, evaluations), setting.device, 2, 1)
        flops = setting.cost["forward_flops"] * batch * evaluations
        rates = {"s_per_clip": took["seconds"] / batch, "tflops": flops / took["seconds"] / 1e12}
        yield {"task": task, "batch": batch, "evaluations": evaluations, **took, **rates}


def codec(device: torch.device, quick: bool) -> Iterator[Row]:
    """Frames per second of a `ClipAutoencoderCodec`, there and back."""
    model = ClipAutoencoderCodec(4, ClipAutoencoderSpec(4)).to(device).eval()
    for size in (32,) if quick else (128, 512):
        frames = torch.rand(16, 3, size, size, device=device) * 2 - 1
        with torch.no_grad():
            latents = model.encode(frames)[0].transpose(0, 1)[None]
            for way, run in {
                "encode": lambda frames=frames: model.encode(frames),
                "decode": lambda latents=latents: model.decode_clips(latents),
            }.items():
                _forget(device)
                took = timed(run, device, 3 if quick else 20)  # type: ignore[arg-type]
                yield {"way": way, "pixels": size, "frames_per_s": len(frames) / took["seconds"], **took}


def syncs(setting: Setting) -> Iterator[Row]:
    """Waits and copies of one step: what twice as many steps have more, as the profiler counts them."""
    batch, few = USUAL[setting.size], 1 if setting.quick else 5
    step, _ = setting.training(batch, True)
    step()
    yield {"of": "training step", **_more(lambda n: [step() for _ in range(n)], few)}
    yield {"of": "sampling step", **_more(lambda n: setting.sampling("joint", 1, n)(), few)}


def _more(run: Callable[[int], Any], few: int) -> Row:
    counts = []
    for number in (few, 2 * few):
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        with profile(activities=activities) as profiler:
            run(number)
        counts.append({event.key: event.count for event in profiler.key_averages()})

    def rate(kinds: tuple[str, ...]) -> float:
        found = [sum(n for key, n in count.items() if any(kind in key for kind in kinds)) for count in counts]
        return (found[1] - found[0]) / few

    return {"waits": rate(WAITS), "copies": rate(COPIES)}


def _forget(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def stage_rows(name: str, device: torch.device, quick: bool) -> Iterator[Row]:
    """Rows of a stage by its name."""
    kind, _, rest = name.partition("_")
    size, _, compiled = rest.partition("_")
    if kind in ("matmul", "codec"):
        return matmul(device, quick) if kind == "matmul" else codec(device, quick)
    setting = Setting(size, device, quick)
    if kind == "train":
        return train(setting, bool(compiled))
    return sample(setting) if kind == "sample" else syncs(setting)


def child(name: str, arguments: argparse.Namespace, seconds: float) -> tuple[list[Row], str | None]:
    """Runs a stage in a process of its own; gives its rows and, in one line, why it has no more."""
    command = [sys.executable, __file__, "--stage", name, "--device", arguments.device]
    command += ["--quick"] if arguments.quick else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    failure = None
    try:
        out, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, said = process.communicate()
        failure = f"stopped after {seconds:.0f} s"
    if failure is None and process.returncode:
        failure = ([line for line in said.splitlines() if line.strip()] or [f"exit {process.returncode}"])[-1][:160]
    rows = []
    for line in out.splitlines():
        with suppress(json.JSONDecodeError):  # what was cut off in the middle
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)], failure


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report as lines of a table."""
    yield f"{report['device']}, torch {report['torch']}; matrix products {report['peak_tflops'] or 0:.3g} TFLOP/s"
    hidden = {"stage", "flops", "flops_counted", "fastest", "slowest", "dtype"}
    for row in report["rows"]:
        shown = {key: value for key, value in row.items() if key not in hidden and value is not None}
        values = (
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()
        )
        yield f"{row['stage']:<20} " + "  ".join(values)
    for name, why in report["failures"].items():
        yield f"{name:<20} {why}"


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs all stages, writing the report anew after each."""
    limits = QUICK if arguments.quick else LIMITS
    names = arguments.stages.split(",") if arguments.stages else list(limits)
    end = time.monotonic() + 60 * arguments.minutes
    cuda = arguments.device == "cuda"
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda and torch.cuda.is_available() else arguments.device,
        **{"torch": torch.__version__, "peak_tflops": None, "rows": [], "failures": {}, "seconds": {}},
    }
    for name in names:
        began = time.monotonic()
        rows, failure = child(name, arguments, max(min(limits.get(name, 60), end - began), 1))
        if name == "matmul":
            report["peak_tflops"] = max((row["tflops"] for row in rows), default=None)
        elif report["peak_tflops"]:
            for row in rows:
                row |= {"share": row["tflops"] / report["peak_tflops"]} if "tflops" in row else {}
        report["rows"] += [{"stage": name, **row} for row in rows]
        report["failures"] |= {name: failure} if failure else {}
        report["seconds"][name] = round(time.monotonic() - began, 1)
        Path(arguments.out).write_text(json.dumps(report, indent=2) + "\n")
        print(f"{name}: {len(rows)} rows in {report['seconds'][name]} s{f'; {failure}' if failure else ''}", flush=True)
    return report


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks, few repeats; to see that it runs")
    parser.add_argument("--stages", help="names, by commas; by default all: " + ", ".join(LIMITS))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", default="gpu.json")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        for row in stage_rows(arguments.stage, torch.device(arguments.device), arguments.quick):
            print(json.dumps(row), flush=True)
        return
    print("\n".join(table(run(arguments))))


if __name__ == "__main__":
    main()
