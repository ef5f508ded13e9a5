"""What prediction leaves behind: the media files, and the manifest that says how each was made."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.diffusion.sampling import Task
from cmmd_lightning.media import mux, write_sound, write_video
from cmmd_lightning.media.container import written_whole
from cmmd_lightning.prediction.requests import PredictInput

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
Entry = dict[str, Any]


@dataclass(eq=False)
class Sample:
    """One generated sample.

    Args:
        stem: Name of its files, without suffix.
        frames: uint8 (T, 3, H, W) in chunks, where pictures were made.
        sound: (N,) in [-1, 1], on the CPU, where sound was made.
    """

    stem: str
    frames: Iterable[Tensor] | None = None
    sound: Tensor | None = None


@dataclass(eq=False)
class Generated:
    """What became of one input.

    Args:
        input: Which one.
        num_frames: Frames covered, T; 0 where it failed.
        samples: What was made.
        seconds: Time it took, its share of its batch.
        error: Why nothing was made, in one line; None where all went well.
        condition_error: How well the model knows what was given, see `condition_error`; None where nothing was.
    """

    input: PredictInput
    num_frames: int = 0
    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    condition_error: float | None = None


def write_sample(folder: str, task: Task, source: str | None, sample: Sample, num_frames: int, clip: ClipSpec) -> float:
    """Writes ``STEM.mp4`` and, where sound was made, ``STEM.wav``; each is there whole or not at all.

    Args:
        folder: Where to.
        task: What was generated. What was given is taken from the source, copied where it can be.
        source: The input; None for ``joint``.
        sample: What was generated.
        num_frames: Frames covered, from the source's beginning.
        clip: Rates of what was generated.

    Returns:
        By how much (dB) the highest peak of the sound was limited; 0 for not at all.

    Raises:
        MediaError: If the source cannot be read.
        ValueError: If the sample is no picture or no sound, such as NaN.
        OSError: If a file cannot be written.
    """
    path = os.path.join(folder, sample.stem)
    seconds = num_frames / clip.fps
    if task == "video_to_audio":
        limited = mux(
            f"{path}.mp4", seconds=seconds, video_from=source, sound=sample.sound, sample_rate=clip.sample_rate
        )
    elif task == "audio_to_video":
        limited = mux(f"{path}.mp4", seconds=seconds, frames=sample.frames, fps=clip.fps, audio_from=source)
    else:
        limited = write_video(f"{path}.mp4", sample.frames, clip.fps, sample.sound, clip.sample_rate)
    if sample.sound is not None:
        write_sound(f"{path}.wav", sample.sound, clip.sample_rate)
    return limited


def _read(path: str | Path) -> list[Entry]:
    """The entries of a manifest; none where there is no such file, or (with a warning) where it is damaged."""
    try:
        entries = json.loads(Path(path).read_text())
        if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
            return entries
        raise ValueError("something else")
    except FileNotFoundError:
        return []
    except ValueError as error:
        logger.warning("%s: expected a list of entries in JSON, got %s; begun anew", path, error)
        return []


def _write(path: str | Path, entries: Iterable[Entry]) -> None:
    """Writes a manifest, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(list(entries), indent=1) + "\n")


def source_state(source: str | None) -> Entry:
    """What tells whether a source has changed: its size in bytes and the time of its last change, in ns."""
    if source is None or not os.path.isfile(source):
        return {"source_bytes": None, "source_mtime_ns": None}
    state = os.stat(source)
    return {"source_bytes": state.st_size, "source_mtime_ns": state.st_mtime_ns}


class Manifest:
    """The manifest of a run: ``manifest.json`` in the folder, one entry per input, in the order of the inputs.

    Entries of an earlier run stay where they are of other inputs, and their files are there and will not be
    overwritten; and where they stand for just what this run would make: same settings, source unchanged, all files
    there. Of several processes each writes a part, which the first one merges.

    Args:
        folder: Where the files go.
        inputs: The inputs of this run, of all processes.
        settings: What every entry of this run states, ``task`` among it, and what must agree for an entry to stand.
        part: Number of this process; None where there is one only.

    Attributes:
        entries: Entries of this run's inputs so far, by the inputs' stems.
    """

    def __init__(self, folder: str, inputs: Iterable[PredictInput], settings: Entry, part: int | None = None) -> None:
        self.folder, self.inputs, self.settings, self.part = folder, list(inputs), settings, part
        self.path = Path(folder) / MANIFEST
        self.entries: dict[str, Entry] = {}
        self._foreign: list[Entry] = []
        self._made: list[Entry] = []
        self._next_save = 0.0

    @property
    def failed(self) -> list[str]:
        """The status of each input that failed, in one line each."""
        return [entry["status"] for entry in self._in_order() if entry["status"] != "ok"]

    def refuse_other_run(self) -> None:
        """Refuse to replace what a run with other settings made.

        Raises:
            ValueError: If there is such a file.
        """
        ours = {path for item in self.inputs for path in output_paths(item, self.settings["task"], self.folder)}
        for entry in [entry for path in [self.path, *self._parts()] for entry in _read(path)]:
            other = {key: entry.get(key) for key in self.settings if entry.get(key) != self.settings[key]}
            there = [path for path in entry.get("outputs") or () if path in ours and os.path.isfile(path)]
            if other and there:
                key, was = next(iter(other.items()))
                raise ValueError(
                    f"{there[0]}: expected a new file, got one of a run with {key} {was} (now {self.settings[key]}); "
                    "give another generate.output_dir, or --generate.overwrite true"
                )

    def begin(self) -> None:
        """Takes over the manifest of an earlier run, with the parts that it left when it was interrupted."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        parts = self._parts()
        entries = [entry for path in [self.path, *parts] for entry in _read(path)]
        self._take_over({tuple(entry.get("outputs") or ()): entry for entry in entries}.values())
        self._write_all()
        for path in parts:
            path.unlink()

    def join(self) -> None:
        """Takes over what another process has begun with."""
        self._take_over(_read(self.path))

    def add(self, entry: Entry) -> None:
        """Adds the entry of an input, and saves unless, with very many inputs, that took over a tenth of the time."""
        self.entries[entry["name"]] = entry
        self._made.append(entry)
        if time.monotonic() >= self._next_save:
            self.save()

    def save(self) -> None:
        """Writes the manifest, or this process's part of it."""
        began = time.monotonic()
        if self.part is None:
            self._write_all()
        else:
            _write(self.path.with_name(f"manifest.part{self.part}.json"), self._made)
        ended = time.monotonic()
        self._next_save = ended + 9 * (ended - began)

    def merge(self) -> None:
        """Brings the parts of all processes together."""
        parts = self._parts()
        for path in parts:
            self.entries.update({entry["name"]: entry for entry in _read(path)})
        self._write_all()
        for path in parts:
            path.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob("manifest.part*.json"))

    def _in_order(self) -> list[Entry]:
        return [self.entries[item.stem] for item in self.inputs if item.stem in self.entries]

    def _write_all(self) -> None:
        _write(self.path, self._foreign + self._in_order())

    def _take_over(self, entries: Iterable[Entry]) -> None:
        task = self.settings["task"]
        planned = {tuple(output_paths(item, task, self.folder)): item for item in self.inputs}
        taken = {path for paths in planned for path in paths}
        sources = {item.source for item in self.inputs}
        for entry in entries:
            outputs = tuple(entry.get("outputs") or ())
            if entry.get("status") != "ok" or not outputs or not all(map(os.path.isfile, outputs)):
                continue
            item = planned.get(outputs)
            if item is None and entry.get("source") not in sources and taken.isdisjoint(outputs):
                self._foreign.append(entry)
            if item is not None and _says(entry, {**self.settings, "source": item.source, **source_state(item.source)}):
                self.entries[item.stem] = entry


def output_paths(item: PredictInput, task: Task, folder: str) -> list[str]:
    """The files to be made of an input."""
    return [os.path.join(folder, name) for name in item.outputs(task)]


def _says(entry: Entry, wanted: Entry) -> bool:
    return all(key in entry and entry[key] == value for key, value in wanted.items())
