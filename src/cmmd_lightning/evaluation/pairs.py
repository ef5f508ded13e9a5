"""Which generated file belongs to which reference file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from cmmd_lightning.media import find_media, is_video

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Pair:
    """A generated file and its reference, which is None for a clip that needs none (joint generation)."""

    stem: str
    generated: Path
    reference: Path | None


@dataclass
class Pairing:
    """Pairs in the order of their stems, names of files without a partner, and a line for each name twice claimed."""

    pairs: list[Pair] = field(default_factory=list)
    unpaired_generated: list[str] = field(default_factory=list)
    unpaired_reference: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def pair_folders(generated: PathLike, reference: PathLike | None, *, as_sets: bool = False) -> Pairing:
    """Pair the media files of two folder trees by stem; MediaError if one does not exist.

    Where one folder has a stem twice with different suffixes (``clip.mp4`` and ``clip.wav``, as predict writes them),
    the file with a picture counts. A generated ``STEM_0`` (one of several samples) is paired with ``STEM`` where no
    ``STEM_0`` exists. ``as_sets``: in the order of the stems, whatever they are, as many as there are of both; the
    generated files that are left over have no reference.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("made/a.mp4", "made/a.wav", "made/b.wav", "true/a.mkv"):
        ...     (root / name).parent.mkdir(exist_ok=True)
        ...     (root / name).touch()
        >>> pairing = pair_folders(root / "made", root / "true")
        >>> [(pair.generated.name, pair.reference.name) for pair in pairing.pairs], pairing.unpaired_generated
        ([('a.mp4', 'a.mkv')], ['b.wav'])
    """
    pairing = Pairing()
    made = _by_stem(generated, pairing.errors)
    if reference is None:
        pairing.pairs = [Pair(stem, path, None) for stem, path in made.items()]
        return pairing
    true = _by_stem(reference, pairing.errors)
    if as_sets:
        partners = [*true.values(), *[None] * len(made)]
        pairing.pairs = [
            Pair(stem, path, partner) for (stem, path), partner in zip(made.items(), partners, strict=False)
        ]
        pairing.unpaired_reference = [path.name for path in list(true.values())[len(made) :]]
        return pairing
    used = set()
    for stem, path in made.items():
        partner = stem if stem in true else re.sub(r"_\d+$", "", stem)
        if partner in true:
            used.add(partner)
            pairing.pairs.append(Pair(stem, path, true[partner]))
        else:
            pairing.unpaired_generated.append(path.name)
    pairing.unpaired_reference = [path.name for stem, path in true.items() if stem not in used]
    return pairing


def require_media(generated: PathLike, reference: PathLike | None = None) -> None:
    """Refuse folders without media before anything is loaded."""
    for folder in (generated, reference):
        if folder is not None and not find_media(folder):
            held = sorted({path.suffix or path.name for path in Path(folder).rglob("*") if path.is_file()})
            got = f"only {', '.join(held[:5])}" if held else "an empty folder"
            raise ValueError(f"{os.fspath(folder)}: expected media files, got {got}; nothing was written")


def _by_stem(folder: PathLike, errors: list[str]) -> dict[str, Path]:
    """The file of each stem in a folder tree, by stem; stems that several places claim are left out, with a line."""
    found: dict[str, list[Path]] = {}
    for path in find_media(folder):
        found.setdefault(path.stem, []).append(path)
    chosen = {}
    for stem in sorted(found):
        paths = sorted(found[stem], key=lambda path: (not is_video(path), path.suffix))
        places = {path.parent for path in paths}
        if len(places) > 1:
            names = ", ".join(map(str, paths))
            errors.append(f"{os.fspath(folder)}: expected one place for the name {stem!r}, got {names}")
        else:
            chosen[stem] = paths[0]
    return chosen
