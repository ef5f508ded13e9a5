"""Seconds and memory that a start takes with a made-up cache of many entries, whose media are not there.

    python benchmarks/start.py --entries 100000

Each entry has a header of the usual size in the index, and a file of zeros: a start that opened one would fail.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from cmmd_lightning import AudioVideoDataModule
from cmmd_lightning.data import Source
from cmmd_lightning.data.inspect.written import fingerprint_of
from cmmd_lightning.data.preprocess.entry import Moments
from cmmd_lightning.data.preprocess.facts import Facts
from cmmd_lightning.data.preprocess.index import Entry

FRAMES, SIZE = 32, 60_000


def make_up(data: AudioVideoDataModule, root: Path, count: int, each: int) -> None:
    """Write the index, the record of content hashes and empty entries of ``count`` sources, ``each`` of one video."""
    cache = data.cache
    moments = Moments((1.0,) * 4, (2.0,) * 4, 8192, -100.0, 900.0, 20480)
    facts = Facts(fps=25.0, level=-12.3, picture="A" * 880, sound="A" * 560)
    described = {"num_frames": FRAMES, "mel_frames": 256, "moments": asdict(moments), "facts": asdict(facts)}
    header = json.dumps(described, sort_keys=True)
    sources, headers, rows, lines = [], {}, [], set()
    for number in range(count):
        path = str(root / f"P{number // 5000:02d}" / f"video_{number // each:06d}.mp4")
        source = Source(
            path, f"segment_{number:07d}", "val" if number % 20 == 0 else "train", number % each, group=path
        )
        content = f"{number // each:032x}"
        name = cache.key(source, content)
        entry = cache.path(name)
        entry.parent.mkdir(parents=True, exist_ok=True)
        with open(entry, "wb") as file:
            file.truncate(SIZE)  # sparse: it takes no room
        headers[name] = Entry(SIZE, entry.stat().st_mtime_ns, FRAMES), header
        sources.append(source)
        rows.append((json.dumps(asdict(source)), name, "[]"))
        lines.add(json.dumps({"path": path, "size": 1, "mtime_ns": 1, "hash": content}))
    (cache.cache_dir / "contents.jsonl").write_text("\n".join(sorted(lines)) + "\n")
    (cache.cache_dir / "doctor.md").touch()
    cache.index.write(headers, "", rows)
    cache.reload()
    cache.index.write({}, fingerprint_of(sources, cache, data.exclude, None), rows)


def main() -> None:
    """Make the cache up in a process of its own, and measure a start in this one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=100, help="entries of one video")
    parser.add_argument("--cache_dir", help="a cache that was made up before; by default a new one")
    args = parser.parse_args()
    if args.cache_dir is None:
        import subprocess

        with tempfile.TemporaryDirectory() as folder:
            data = AudioVideoDataModule(f"{folder}/media", f"{folder}/cache", num_workers=0)
            make_up(data, Path(folder, "media"), args.entries, args.each)
            subprocess.run([sys.executable, __file__, "--cache_dir", f"{folder}/cache"], check=True)
        return
    data = AudioVideoDataModule(str(Path(args.cache_dir).parent / "media"), args.cache_dir, num_workers=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    data.prepare_data()
    prepared = time.perf_counter()
    data.setup("fit")
    ended = time.perf_counter()
    result = {
        "entries": sum(len(dataset.sources) for dataset in data.datasets.values()),
        "prepare_seconds": round(prepared - began, 2),
        "setup_seconds": round(ended - prepared, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "peak_gb_before": round(before / 2**20, 3),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
