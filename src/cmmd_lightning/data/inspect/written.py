"""The data report as files, and in the index, where it stays until something it depends on changes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from cmmd_lightning.data.inspect.report import (
    DEFAULT_EXCLUDE,
    LONG_RUN,
    WHOLE,
    Finding,
    FindingKind,
    Inspection,
    entry_name,
    inspect_sources,
)
from cmmd_lightning.data.preprocess.cache import Cache
from cmmd_lightning.data.preprocess.facts import BLACK_LEVEL, SILENT_DBFS, STILL_LEVEL
from cmmd_lightning.data.preprocess.index import Index
from cmmd_lightning.data.preprocess.leftovers import write_text
from cmmd_lightning.data.sources.source import Source


def keep_report(
    sources: Sequence[Source],
    cache: Cache,
    *,
    exclude: Collection[FindingKind] = DEFAULT_EXCLUDE,
    contents: Mapping[str, str | None] | None = None,
) -> list[Inspection]:
    """Inspect sources as `inspect_sources` does, unless the index has it already; keep it there and in the report.

    Writes ``doctor.json`` and ``doctor.md`` to the cache's folder.
    """
    sources = sorted(sources, key=lambda source: source.key)
    fingerprint = fingerprint_of(sources, cache, exclude, contents)
    there = (cache.cache_dir / "doctor.md").exists()
    rows = zip(sources, cache.index.report(fingerprint) if there else (), strict=False)
    inspections = [Inspection(source, _findings(found), entry) for source, (_, entry, found) in rows]
    if not inspections or len(inspections) < len(sources):
        inspections = inspect_sources(sources, cache, exclude=exclude, contents=contents)
        found = [(i, [asdict(finding) for finding in i.findings]) for i in inspections]
        cache.write_index(fingerprint, [(json.dumps(vars(i.source)), i.entry, json.dumps(f)) for i, f in found])
        write_text(cache.cache_dir / "doctor.json", to_json(inspections))
        write_text(cache.cache_dir / "doctor.md", to_table(inspections))
    return inspections


def kept_report(cache: Cache) -> list[Inspection]:
    """Read the report that `keep_report` left, whatever it is of; empty where there is none."""
    return [
        Inspection(Source(**json.loads(source)), _findings(found), entry)
        for source, entry, found in cache.index.report()
    ]


def recorded_sources(cache_dir: str) -> list[Source]:
    """Read the sources that the index of a cache knows; none where there is no index."""
    rows = Index(Path(cache_dir).expanduser() / "index.sqlite").report()
    return [Source(**json.loads(source)) for source, *_ in rows]


def _findings(text: str) -> tuple[Finding, ...]:
    return () if text == "[]" else tuple(Finding(**finding) for finding in json.loads(text))


def fingerprint_of(
    sources: Sequence[Source], cache: Cache, exclude: Collection[str], contents: Mapping[str, str | None] | None
) -> str:
    """Hash everything that a report depends on: sources (sorted by key), their entries, what excludes."""
    digest = hashlib.blake2b(repr((sorted(exclude), cache.clip.num_frames)).encode(), digest_size=16)
    for source in sources:
        name = entry_name(source, cache, contents)
        state = name and (cache.entry(name) or cache.failure(name))
        digest.update(repr((*vars(source).values(), name, state)).encode(errors="backslashreplace"))
    return digest.hexdigest()


def summary(inspections: Sequence[Inspection]) -> str:
    """One line: how many sources are kept, and the counts of what was found."""
    kept = sum(inspection.kept for inspection in inspections)
    counts = ", ".join(f"{count} {kind}{note}" for kind, count, note in _counted(inspections)) or "nothing found"
    return f"data report: {kept} of {len(inspections)} sources kept; {counts}"


def to_json(inspections: Sequence[Inspection]) -> str:
    """A list with one entry per source, sorted by key: ``path``, ``key``, ``split``, the stretch, ``findings``."""
    entries = [
        {name: getattr(inspection.source, name) for name in ("path", "key", "split", "start", "stop")}
        | {"findings": [asdict(finding) for finding in inspection.findings]}
        for inspection in inspections
    ]
    return json.dumps(entries, indent=1) + "\n"


def to_table(inspections: Sequence[Inspection]) -> str:
    """Counts by kind, and the sources with findings, as Markdown."""
    lines = ["# Data report", "", summary(inspections), ""]
    lines += [
        f"Silent: below {SILENT_DBFS:g} dBFS. Black: no part brighter than {BLACK_LEVEL:g} of 255. Frozen: no part "
        f"changes by more than {STILL_LEVEL:g} of 255. All of a source: {WHOLE:.0%} of it; a part: {LONG_RUN:g} s.",
        "",
        "| finding | sources | of these excluded |",
        "|---|---|---|",
    ]
    excluded = Counter(f.kind for inspection in inspections for f in inspection.findings if f.excludes)
    lines += [f"| {kind} | {count} | {excluded[kind]} |" for kind, count, _ in _counted(inspections)]
    lines += ["", "| source | split | finding | detail | what was done |", "|---|---|---|---|---|"]
    for inspection in inspections:
        for finding in inspection.findings:
            cells = (inspection.source.key, inspection.source.split, finding.kind, finding.detail, finding.action)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _counted(inspections: Sequence[Inspection]) -> Iterator[tuple[FindingKind, int, str]]:
    """Kinds that were found, how often, and a note where none or only some were excluded."""
    found = Counter(finding.kind for inspection in inspections for finding in inspection.findings)
    excluded = Counter(f.kind for inspection in inspections for f in inspection.findings if f.excludes)
    for kind in get_args(FindingKind):
        if found[kind]:
            out = excluded[kind]
            yield kind, found[kind], " (excluded)" if out == found[kind] else f" ({out} excluded)" if out else " (kept)"
