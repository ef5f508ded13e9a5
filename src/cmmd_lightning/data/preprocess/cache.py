"""The cache: one safetensors file per source, with the latents of its frames and the log-Mel of its sound."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cmmd_lightning.codecs import FrameCodec, LogMel
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.preprocess.content import ContentHashes
from cmmd_lightning.data.preprocess.entry import EntryInfo, EntryWriter, Moments, entry_bytes, with_tuples
from cmmd_lightning.data.preprocess.facts import Facts
from cmmd_lightning.data.preprocess.index import Entry, Index
from cmmd_lightning.data.preprocess.leftovers import machine, remove_leftovers, write_text
from cmmd_lightning.data.sources.source import Source

__all__ = ["FORMAT_VERSION", "Cache", "EntryInfo", "FailureRecord", "Moments"]

FORMAT_VERSION = 2

_MEL_SETTINGS = ("sample_rate", "n_fft", "hop_length", "n_mels", "f_min", "f_max", "floor")
# Files kept open (mapped into memory) per process.
_OPEN_FILES = 512


@dataclass(frozen=True)
class FailureRecord:
    """Why the media behind an entry's name cannot be used.

    Args:
        kind: In one word, as the data report has it.
        reason: In one line, without the file's name.
    """

    kind: str
    reason: str


class Cache:
    """Entries of one format in one folder.

    An entry holds, for F frames at the clip's rate (frame i is the source's frame nearest to ``source.start + i /
    fps``): ``latent_mean`` and ``latent_logvar`` (F, C, h, w) float16 in the codec's raw units, ``mel_by_frame`` (L,
    M) float32 (the raw log-Mel of the whole span, time first so that a stretch is one piece of the file), and
    ``times`` (F,) float64 in seconds from the start of the media. The name of its file is a hash of the media's
    content, the span, the codec, the rates, the sizes, the Mel's settings and the format's version. Its header has the
    sums for the statistics and what was measured of the media; nothing else is in the file, so equal inputs give equal
    bytes. Media that cannot be used leave a small file in ``failures``, so that they are not tried again. Several
    processes may read and write one folder.

    Args:
        cache_dir: The folder; made when something is written.
        clip: Rates and sizes. The clip's length plays no part: one cache serves clips of any length.
        codec: The frame codec; only its fingerprint is kept.
        mel: The log-Mel; only its settings are kept.

    Raises:
        ValueError: If ``clip`` and ``mel`` disagree.
    """

    def __init__(self, cache_dir: str, clip: ClipSpec, codec: FrameCodec, mel: LogMel) -> None:
        self.cache_dir = Path(cache_dir).expanduser()
        self.clip = clip
        mel_settings = {name: getattr(mel, name) for name in _MEL_SETTINGS}
        for name in ("sample_rate", "n_fft", "hop_length", "n_mels"):
            if mel_settings[name] != getattr(clip, name):
                raise ValueError(
                    f"Cache: expected LogMel.{name} {getattr(clip, name)} as in ClipSpec, got {mel_settings[name]}"
                )
        self._format: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "codec": codec.fingerprint(),
            "frames": [clip.fps, clip.height, clip.width, clip.fit],
            "mel": mel_settings,
        }
        self._contents = ContentHashes(self.cache_dir / "contents.jsonl")
        self.index = Index(self.cache_dir / "index.sqlite")
        self._headers: dict[str, tuple[Entry, str]] = {}  # read by this process, and not in the index
        self._seen: dict[str, Entry] = {}  # entries whose files this process has looked at
        self._names: dict[tuple[str, float, float | None], str] = {}  # by content or path, and span
        self._open: OrderedDict[str, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Open files, and what was read of entries, stay behind when a cache travels to another process by pickling."""
        return self.__dict__ | {"_open": OrderedDict(), "_seen": {}, "_headers": {}}

    def content(self, path: str) -> str:
        """Hash (hex) of a file's content.

        Raises:
            OSError: If the file cannot be read.
        """
        return self._contents.of(path)

    def known_content(self, path: str) -> str | None:
        """Like `content` where the hash is on record, else None: the file is not read.

        Raises:
            OSError: If there is no such file.
        """
        return self._contents.known(path)

    def key(self, source: Source, content: str | None = None) -> str:
        """Name of the source's entry: a hash (hex) of everything the entry depends on.

        Args:
            source: The source.
            content: Hash of its file's content, where that is known already.

        Raises:
            OSError: If the media file cannot be read.
        """
        name = self._names.get((content or source.path, source.start, source.stop))
        if name is None:
            content = content or self.content(source.path)
            described = self._format | {"content": content, "span": [source.start, source.stop]}
            name = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()
            self._names[content, source.start, source.stop] = name
        return name

    def path(self, key: str) -> Path:
        """File of an entry."""
        return self.cache_dir / "entries" / key[:2] / f"{key}.safetensors"

    def info(self, key: str) -> EntryInfo | None:
        """Read what the entry's header says; None where there is no such entry, or the file is damaged."""
        return next((info for _, info in self.infos([key])), None)

    def infos(self, keys: Iterable[str]) -> Iterator[tuple[str, EntryInfo]]:
        """Give names of entries and what their headers say, in no particular order, without those that are damaged."""
        entries = {key: entry for key in keys if (entry := self.entry(key)) is not None}
        own = [(key, self._headers[key][1]) for key in entries if key in self._headers]
        for key, text in chain(own, self.index.headers(entries.keys() - self._headers.keys())):
            with suppress(ValueError, KeyError, TypeError):
                yield key, EntryInfo.parse(text, entries[key].size)

    def moments(self, keys: Iterable[str]) -> Iterator[tuple[str, Moments]]:
        """Give names of entries and the sums in their headers: as `infos`, in a fraction of the time."""
        there = {key for key in keys if self.entry(key)}
        yield from ((key, info.moments) for key, info in self.infos(there & self._headers.keys()))
        for key, text in self.index.headers(there - self._headers.keys(), "$.moments"):
            yield key, Moments(**with_tuples(json.loads(text)))

    def entry(self, key: str) -> Entry | None:
        """Find size and length of an entry; None where there is none, or the file is damaged.

        The file is looked at once until `reload`, and its header read if it is another than the index has seen.
        """
        if key in self._seen:
            return self._seen[key]
        path = f"{self.cache_dir}/entries/{key[:2]}/{key}.safetensors"  # as `path`, which takes as long as all the rest
        try:
            status = os.stat(path)
            known = self._headers[key][0] if key in self._headers else self.index.entries.get(key)
            if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
                with safe_open(path, framework="pt") as file:
                    text = file.metadata()["entry"]
                known = Entry(status.st_size, status.st_mtime_ns, json.loads(text)["num_frames"])
                self._headers[key] = known, text
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        self._seen[key] = known
        return known

    def adopt(self, names: Mapping[Source, str]) -> None:
        """Take the names of sources' entries as they are: their media need not be there any more."""
        self._names = {(source.path, source.start, source.stop): name for source, name in names.items()}

    def write_index(self, fingerprint: str, report: Iterable[tuple[str, str, str]]) -> None:
        """Write the index: what was read of headers since, and the data report."""
        self.index.write(self._headers, fingerprint, report)
        self._headers.clear()

    def num_bytes(self, num_frames: int, latent_shape: tuple[int, int, int]) -> int:
        """Size of an entry of so many frames."""
        mel_frames = self.clip.mel_frames_of(self.clip.samples_of(num_frames))
        return entry_bytes(num_frames, mel_frames, latent_shape, self.clip.n_mels)

    def writer(self, key: str, num_frames: int, mel_frames: int, latent_shape: tuple[int, int, int]) -> EntryWriter:
        """Begins an entry, which is written piece by piece and appears when it is finished.

        Args:
            key: Its name.
            num_frames: Frames that will come.
            mel_frames: Mel frames that will come.
            latent_shape: (C, h, w).
        """
        described = {"version": FORMAT_VERSION, "fps": self.clip.fps}
        temporary = self._temporary_dir() / f"{key}.{machine()}.{os.getpid()}"
        return EntryWriter(self.path(key), temporary, num_frames, mel_frames, latent_shape, self.clip.n_mels, described)

    def finish(self, writer: EntryWriter, *, start: float, facts: Facts) -> None:
        """Puts an entry in its place, whole.

        Args:
            writer: The entry, complete.
            start: Time of frame 0, in seconds from the start of the media.
            facts: What was measured of the media.
        """
        times = start + torch.arange(writer.num_frames, dtype=torch.float64) / self.clip.fps
        writer.finish(times, facts)

    def write_failure(self, key: str, failure: FailureRecord) -> None:
        """Records that the media behind a name cannot be used."""
        text = json.dumps(asdict(failure) | {"num_frames": self.clip.num_frames}, sort_keys=True)
        write_text(self._failure_path(key), text)

    def failure(self, key: str) -> FailureRecord | None:
        """What `write_failure` recorded; None where there is nothing, or it was too short for longer clips."""
        try:
            stored = json.loads(self._failure_path(key).read_text())
            if stored["kind"] == "short" and stored["num_frames"] != self.clip.num_frames:
                return None
            return FailureRecord(stored["kind"], stored["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def reload(self) -> None:
        """Learn what other processes have recorded and written since, and what was removed."""
        self._contents.reload()
        self.index.reload()
        self._seen.clear()

    def read_latents(self, key: str, frame: int, num_frames: int) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance of ``num_frames`` frames from ``frame`` on; only those are read.

        Returns:
            Two tensors (num_frames, C, h, w), float16.

        Raises:
            ValueError: If the entry has fewer frames.
        """
        span = slice(frame, frame + num_frames)
        mean, logvar = self._tensor(key, "latent_mean")[span], self._tensor(key, "latent_logvar")[span]
        if frame < 0 or len(mean) != num_frames:
            raise ValueError(
                f"{self.path(key)}: expected frames {frame} to {frame + num_frames}, got {len(mean)} of them"
            )
        return mean, logvar

    def read_mel(self, key: str, first: int, mel_frames: int) -> Tensor:
        """``mel_frames`` frames of the raw log-Mel from ``first`` on; only those are read.

        A stretch whose first Mel frame was rounded up may pass the end by one frame, which then repeats the last.

        Returns:
            (M, mel_frames) float32.

        Raises:
            ValueError: If the entry has fewer frames.
        """
        mel = self._tensor(key, "mel_by_frame")[first : first + mel_frames]
        if first < 0 or not 0 <= mel_frames - len(mel) <= 1 or not len(mel):
            raise ValueError(
                f"{self.path(key)}: expected Mel frames {first} to {first + mel_frames}, got {len(mel)} of them"
            )
        if len(mel) < mel_frames:
            mel = torch.cat([mel, mel[-1:]])
        return mel.t().contiguous()

    def remove_leftovers(self) -> None:
        """Remove temporary files of writers that were killed."""
        remove_leftovers(self._temporary_dir())

    def _failure_path(self, key: str) -> Path:
        return self.cache_dir / "failures" / key[:2] / f"{key}.json"

    def _temporary_dir(self) -> Path:
        folder = self.cache_dir / "temporary"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _tensor(self, key: str, name: str) -> Any:
        """A view of a tensor of an entry, which reads what is sliced out of it."""
        file = self._open.get(key)
        if file is None:
            file = self._open[key] = safe_open(self.path(key), framework="pt")
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(key)
        return file.get_slice(name)
