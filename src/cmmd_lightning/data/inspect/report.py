"""The data report: what is wrong with each source of a data set, and what is done about it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from cmmd_lightning.data.inspect.same import same_content
from cmmd_lightning.data.preprocess.cache import Cache
from cmmd_lightning.data.preprocess.entry import EntryInfo
from cmmd_lightning.data.preprocess.facts import BLACK_LEVEL, SILENT_DBFS, STILL_LEVEL
from cmmd_lightning.data.sources.source import SPLITS, Source

Unusable = Literal[
    "missing", "unreadable", "truncated", "no_sound", "no_picture", "short", "not_encoded", "not_prepared"
]
Flaw = Literal[
    "silent",
    "black",
    "frozen",
    "partly_silent",
    "partly_black",
    "partly_frozen",
    "different_start",
    "different_end",
    "variable_frame_rate",
    "low_frame_rate",
    "duplicate_across_splits",
    "duplicate",
]
FindingKind = Literal[Unusable, Flaw]
DEFAULT_EXCLUDE: tuple[FindingKind, ...] = ("silent", "black", "frozen", "duplicate_across_splits")

WHOLE = 0.98  # share of a source from which a run is all of it
LONG_RUN = 5.0  # seconds from which a run that is not all of it is worth telling
_KEPT = {
    "truncated": "kept: the stretch itself decodes",
    "different_start": "kept: silent, or still, until the later one starts",
    "different_end": "kept: what both cover is used",
    "variable_frame_rate": "kept: pictures are taken by their times",
    "low_frame_rate": "kept: pictures repeat",
}
_ENDS = re.compile(r"the picture (starts|ends) at ([\d.]+) s, the sound at ([\d.]+) s")
_RESCUED = "kept: its split would be empty without it"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a source.

    Args:
        kind: What.
        detail: In words, with numbers.
        action: What was done: ``excluded`` or ``kept``, and why or how.
    """

    kind: FindingKind
    detail: str
    action: str

    @property
    def excludes(self) -> bool:
        """Whether the source is left out because of it."""
        return self.action.startswith("excluded")


@dataclass(frozen=True)
class Inspection:
    """What is wrong with one source.

    Args:
        source: The source.
        findings: In the order of `FindingKind`.
        entry: Name of its cache entry; empty where there is none.
    """

    source: Source
    findings: tuple[Finding, ...] = ()
    entry: str = ""

    @property
    def kept(self) -> bool:
        """Whether the source enters the data sets."""
        return not any(finding.excludes for finding in self.findings)


def inspect_sources(
    sources: Sequence[Source],
    cache: Cache,
    *,
    exclude: Collection[FindingKind] = DEFAULT_EXCLUDE,
    contents: Mapping[str, str | None] | None = None,
) -> list[Inspection]:
    """Judges sources by what ``prepare`` left of them in the cache; their media are not decoded again.

    Sources that cannot be used are always excluded. A duplicate across splits is excluded from training in favour of
    validation, and from both in favour of the test split, unless nothing were left of its split then; of duplicates
    within a split, all but the first by key are. Copies count as duplicates if the files (and the stretches) are the
    same, or if picture and sound both are and only their encoding is not, see `same_content`.

    Args:
        sources: The sources of all splits.
        cache: The cache.
        exclude: Kinds of findings that exclude a source.
        contents: Hashes of the files' contents by path; None for a file that is not known yet, absent for one that
            cannot be read. Computed where this is not given.

    Returns:
        One inspection per source, sorted by key.

    Raises:
        ValueError: If there is no such kind.
    """
    unknown = sorted(set(exclude) - set(get_args(FindingKind)))
    if unknown:
        raise ValueError(f"exclude: expected kinds of {', '.join(get_args(FindingKind))}, got {', '.join(unknown)}")
    ordered = sorted(sources, key=lambda source: source.key)
    names = {source.key: entry_name(source, cache, contents) for source in ordered}
    found = cache.infos({name for name in names.values() if name})
    infos = {name: info for name, info in found if info.num_frames >= cache.clip.num_frames}
    findings: dict[str, list[Finding]] = {}
    for source in ordered:
        name = names[source.key]
        if name in infos:
            flaws = _flaws(source, infos[name], cache)
            findings[source.key] = [_judged(kind, detail, kind in exclude) for kind, detail in flaws]
        else:
            findings[source.key] = [_judged(*_unusable(name, cache), True)]
    usable = [source for source in ordered if names[source.key] in infos]
    for key, finding in _duplicates(usable, names, infos, exclude):
        findings[key].append(finding)
    _rescue(usable, findings)
    order = get_args(FindingKind)
    return [
        Inspection(
            source,
            tuple(sorted(findings[source.key], key=lambda finding: order.index(finding.kind))),
            (names[source.key] or "") if names[source.key] in infos else "",
        )
        for source in ordered
    ]


def entry_name(source: Source, cache: Cache, contents: Mapping[str, str | None] | None) -> str | None:
    """Name of a source's entry; None where its content is not known yet, empty where its file cannot be read."""
    try:
        content = cache.content(source.path) if contents is None else contents.get(source.path, "")
    except OSError:
        return ""
    return cache.key(source, content) if content else content


def _unusable(name: str | None, cache: Cache) -> tuple[FindingKind, str]:
    if name == "":
        return "missing", "no such file, or it cannot be read"
    failure = cache.failure(name) if name else None
    kind: FindingKind | None = next((k for k in get_args(Unusable) if failure and k == failure.kind), None)
    if failure is None or kind is None:
        return "not_prepared", "not prepared yet, or its decoder failed for reasons of its own"
    return kind, failure.reason


def _judged(kind: FindingKind, detail: str, excluded: bool) -> Finding:
    return Finding(kind, detail, "excluded" if excluded else _KEPT.get(kind, "kept"))


def _flaws(source: Source, info: EntryInfo, cache: Cache) -> Iterator[tuple[FindingKind, str]]:
    """What is wrong with a source that has an entry, by what was measured of it."""
    facts, seconds = info.facts, info.num_frames / cache.clip.fps
    loudest = f"the loudest 0.1 s has {facts.level:g} dBFS"
    runs: dict[tuple[FindingKind, FindingKind], tuple[float, str]] = {
        ("silent", "partly_silent"): (facts.silence, f"below {SILENT_DBFS:g} dBFS; {loudest}"),
        ("black", "partly_black"): (facts.black, f"no part brighter than {BLACK_LEVEL:g} of 255"),
        ("frozen", "partly_frozen"): (facts.still, f"no part changes by more than {STILL_LEVEL:g} of 255"),
    }
    for (whole, part), (run, what) in runs.items():
        if run >= WHOLE * seconds:
            yield whole, f"{seconds:g} s: {what}"
        elif run >= LONG_RUN:
            yield part, f"{run:g} of {seconds:g} s: {what}"
    for problem in facts.problems:
        yield from _header_flaw(problem, source)
    if 0 < facts.fps < 0.99 * cache.clip.fps:
        yield "low_frame_rate", f"{facts.fps:g} pictures per second, expected at least {cache.clip.fps:g}"


def _header_flaw(problem: str, source: Source) -> Iterator[tuple[FindingKind, str]]:
    """A problem of the file, if it touches the stretch that the source is."""
    ends = _ENDS.search(problem)
    if ends is not None:
        times = float(ends[2]), float(ends[3])
        if ends[1] == "starts" and source.start < max(times):
            yield "different_start", problem
        if ends[1] == "ends" and (source.stop is None or source.stop > min(times)):
            yield "different_end", problem
    elif problem.startswith("variable frame rate"):
        yield "variable_frame_rate", problem.removeprefix("variable frame rate: ")
    elif "truncated" in problem:
        yield "truncated", problem


def _duplicates(
    usable: Sequence[Source],
    names: Mapping[str, str | None],
    infos: Mapping[str, EntryInfo],
    exclude: Collection[FindingKind],
) -> Iterator[tuple[str, Finding]]:
    """Keys and findings of sources of the same content."""
    of_name: dict[str | None, list[Source]] = {}
    for source in usable:
        of_name.setdefault(names[source.key], []).append(source)
    entries = sorted(infos)
    for group in same_content([infos[name] for name in entries]):
        members = sorted((s for number in group for s in of_name[entries[number]]), key=lambda s: s.key)
        first = {split: next(s for s in members if s.split == split) for split in SPLITS if split in _splits(members)}
        best = [split for split in SPLITS if split in first][-1]  # test before val before train

        def like(source: Source, other: Source) -> str:
            same = names[source.key] == names[other.key]
            return f"{'the same as' if same else 'the same picture and sound, encoded anew, as'} {other.key}"

        for source in members:
            if len(first) > 1:
                other = first[best] if source.split != best else next(s for s in first.values() if s.split != best)
                out = source.split != best and "duplicate_across_splits" in exclude
                detail = f"{like(source, other)} of {other.split}"
                yield source.key, _judged("duplicate_across_splits", detail, out)
            if source is not first[source.split]:
                yield source.key, _judged("duplicate", like(source, first[source.split]), "duplicate" in exclude)


def _splits(sources: Sequence[Source]) -> set[str]:
    return {source.split for source in sources}


def _rescue(usable: Sequence[Source], findings: dict[str, list[Finding]]) -> None:
    """Keeps the duplicates of a split that would have nothing left but for them."""
    for split in _splits(usable):
        members = [findings[source.key] for source in usable if source.split == split]
        others = [[f for f in found if f.excludes and f.kind != "duplicate_across_splits"] for found in members]
        if not all(any(finding.excludes for finding in found) for found in members) or all(others):
            continue
        for found in members:
            found[:] = [
                Finding(f.kind, f.detail, _RESCUED) if f.kind == "duplicate_across_splits" and f.excludes else f
                for f in found
            ]
