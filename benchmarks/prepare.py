"""What `cmmd prepare` does with a folder of clips: its speed, its memory, and whether kill -9 leaves a trace.

python benchmarks/prepare.py FOLDER OUT [--codec CKPT] [--size 128] [--kills 20] [--num_workers 2]
python benchmarks/prepare.py --memory CLIP OUT

The first prints clips per second and where the time goes, then prepares the folder again while it is killed with
kill -9 at random moments, and compares the two caches byte by byte. The second prints the peak memory of preparing a
file of one minute and one of twenty, both made by repeating a clip.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from cmmd_lightning import AudioVideoDataModule, ClipSpec
from cmmd_lightning.codecs import CodecConfig, LogMel, build_frame_codec
from cmmd_lightning.data import Cache, measure_statistics


def data_of(root: str, cache_dir: str, codec: str | None, num_workers: int, size: int) -> AudioVideoDataModule:
    """The clips of a folder, at the paper's rates."""
    config = CodecConfig(kind="autoencoder_kl", path=codec) if codec else CodecConfig()
    clip = ClipSpec(num_frames=16, fps=10.0, height=size, width=size)
    return AudioVideoDataModule(root=root, cache_dir=cache_dir, clip=clip, codec=config, num_workers=num_workers)


def contents(cache_dir: Path) -> dict[str, str]:
    """Hash of every file that a finished cache holds, but for the record of content hashes."""
    files = (path for path in sorted(cache_dir.rglob("*")) if path.is_file() and path.name != "contents.jsonl")
    return {str(path.relative_to(cache_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def prepare_in(arguments: argparse.Namespace, cache_dir: Path) -> subprocess.Popen[bytes]:
    """Starts preparing in a process group of its own."""
    command = [sys.executable, __file__, arguments.folder, str(cache_dir), "--only"]
    command += ["--num_workers", str(arguments.num_workers), "--size", str(arguments.size)]
    command += ["--codec", arguments.codec] if arguments.codec else []
    with open(cache_dir.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)


def once(arguments: argparse.Namespace) -> None:
    """Prepares, and prints what it took as JSON."""
    data = data_of(arguments.folder, arguments.out, arguments.codec, arguments.num_workers, arguments.size)
    report = data.prepare()
    cache = Cache(arguments.out, data.clip, build_frame_codec(data.codec), LogMel(*data.clip.mel_settings))
    measure_statistics(cache, [cache.key(d.source) for d in report.inspections if d.kept and d.source.split == "train"])
    names = ("media_seconds", "work_seconds", "decode_seconds", "encode_seconds", "write_seconds")
    counts = {"prepared": len(report.prepared), "reused": len(report.reused), "failed": len(report.failed)}
    print(json.dumps({**counts, **{name: getattr(report, name) for name in names}}))


def speed(arguments: argparse.Namespace, cache_dir: Path) -> float:
    """Prepares undisturbed and prints where the time goes; gives the seconds it took."""
    prepare_in(arguments, cache_dir).wait()
    took = json.loads(cache_dir.with_suffix(".log").read_text().splitlines()[-1])
    size = sum(path.stat().st_size for path in (cache_dir / "entries").rglob("*.safetensors"))
    seconds = took["work_seconds"]
    print(
        f"{took['prepared']} clips, {took['media_seconds']:.0f} s of media, in {seconds:.1f} s: "
        f"{took['prepared'] / seconds:.1f} clips/s; {size / 1e6:.0f} MB"
    )
    shares = {name: took[f"{name}_seconds"] for name in ("decode", "encode", "write")}
    total = sum(shares.values())
    print("work, all processes: " + ", ".join(f"{name} {s:.1f} s ({s / total:.0%})" for name, s in shares.items()))
    return seconds


def killed(arguments: argparse.Namespace, cache_dir: Path, seconds: float) -> None:
    """Prepares while being killed at random moments, until it is done."""
    random.seed(arguments.seed)
    times: dict[str, int] = {}
    repeated, kills = 0, 0
    while kills < arguments.kills:
        before = set(cache_dir.rglob("*.*"))
        process = prepare_in(arguments, cache_dir)
        # The first second or so is the start of Python: the clock runs from the first sign of work.
        while process.poll() is None and set(cache_dir.rglob("*.*")) <= before:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 1.6 * seconds / arguments.kills))
        if process.poll() is not None:
            print(f"done after {kills} kills")
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        found = {path.name: path.stat().st_mtime_ns for path in (cache_dir / "entries").rglob("*.safetensors")}
        repeated += sum(found.get(name) != when for name, when in times.items())
        left = len(list((cache_dir / "temporary").iterdir())) if (cache_dir / "temporary").exists() else 0
        print(f"kill {kills}: {len(found)} entries whole, {left} files in hand", flush=True)
        times = found
    prepare_in(arguments, cache_dir).wait()
    print(f"{kills} kills, {repeated} entries written twice")


def memory(clip: str, out: Path, codec: str | None, size: int) -> None:
    """Peak memory of preparing one minute and twenty."""
    import av

    for minutes in (1, 20):
        folder = out / f"{minutes}_min"
        folder.mkdir(parents=True, exist_ok=True)
        with av.open(clip) as source, av.open(str(folder / "long.mp4"), "w") as target:
            streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
            packets = [packet for packet in source.demux() if packet.dts is not None]
            base = {stream.index: stream.time_base for stream in source.streams}
            spans = {i: [p for p in packets if p.stream_index == i] for i in streams}
            seconds = max(
                float((max(p.pts + p.duration for p in span) - min(p.dts for p in span)) * base[i])
                for i, span in spans.items()
            )
            for turn in range(round(minutes * 60 / seconds)):
                for packet in packets:
                    index = packet.stream_index
                    shift = round(turn * seconds / base[index])
                    copy = av.Packet(bytes(packet))
                    copy.pts, copy.dts = packet.pts + shift, packet.dts + shift
                    copy.duration, copy.time_base, copy.is_keyframe = packet.duration, base[index], packet.is_keyframe
                    copy.stream = streams[index]
                    target.mux(copy)
        code = (
            "import resource; from benchmarks.prepare import data_of; "
            f"data_of({str(folder)!r}, {str(out / f'{minutes}_cache')!r}, {codec!r}, 0, {size}).prepare(); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        entry = sum(path.stat().st_size for path in (out / f"{minutes}_cache").rglob("*.safetensors"))
        print(f"{minutes} min: peak memory {done.stdout.split()[-1]} MiB, entry {entry / 2**20:.0f} MiB")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("out")
    parser.add_argument("--codec")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", metavar="CLIP")
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out = Path(arguments.out)
    if arguments.only:
        once(arguments)
    elif arguments.memory:
        memory(arguments.memory, out, arguments.codec, arguments.size)
    else:
        whole, broken = out / "undisturbed", out / "killed"
        for folder in (whole, broken):
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".log").unlink(missing_ok=True)
            folder.mkdir(parents=True)
        seconds = speed(arguments, whole)
        killed(arguments, broken, seconds)
        first, second = contents(whole), contents(broken)
        print(f"{len(first)} files; byte for byte the same: {first == second}")


if __name__ == "__main__":
    main()
