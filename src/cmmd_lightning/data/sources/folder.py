"""Any folder of videos as a source; a procedural scene fills it where it is empty."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.sources.source import (
    SPLITS,
    DataSource,
    Source,
    check_fractions,
    counts_by_split,
    hashed_splits,
    media_folder,
    stated_period,
    videos_below,
)
from cmmd_lightning.media import find_media
from cmmd_lightning.procedural import render

logger = logging.getLogger(__name__)


class Folder(DataSource):
    """Every video file of a folder tree.

    Subfolders ``train``, ``val`` and ``test`` give the splits where at least one of them holds media. Otherwise each
    file falls into a split by a seeded hash of its path relative to ``root``: the split of a file does not change
    when others are added. Where no file fell into ``val`` although ``val_fraction`` is positive, the file with the
    lowest hash goes there. A sidecar ``STEM.json`` next to a file may state its ``period`` in seconds.

    Args:
        val_fraction: Share of the files for validation, where there are no subfolders.
        test_fraction: Share of the files for testing, where there are no subfolders.
        render_scene: A procedural scene that is rendered into ``root`` where that holds no media: ``bounce``,
            ``dance``, or a class of one's own, see `procedural.Scene`.
        render_clips: Clips rendered for train, val and test.
        sound_files: Whether files of sound alone are sources too.

    Raises:
        ValueError: If the fractions leave nothing for training.
    """

    def __init__(
        self,
        val_fraction: float = 0.05,
        test_fraction: float = 0.0,
        render_scene: str | dict[str, Any] | None = None,
        render_clips: tuple[int, int, int] = (48, 8, 8),
        sound_files: bool = False,
    ) -> None:
        check_fractions(val_fraction, test_fraction)
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.render_scene, self.render_clips, self.sound_files = render_scene, render_clips, sound_files

    def provide(self, root: str, clip: ClipSpec = ClipSpec(), seed: int = 0) -> None:
        """Render the scene, if one was asked for and there are no media."""
        if self.render_scene is None or (Path(root).is_dir() and find_media([root])):
            return
        for i, (split, count) in enumerate(zip(SPLITS, self.render_clips, strict=True)):
            render(
                self.render_scene,
                Path(root) / split,
                count,
                seed + i,
                duration=2.5 * clip.duration,
                fps=clip.fps,
                height=clip.height,
                width=clip.width,
                sample_rate=clip.sample_rate,
            )

    def sources(self, root: str, clip: ClipSpec = ClipSpec(), seed: int = 0) -> list[Source]:
        """Find the videos; keys are paths relative to ``root`` with forward slashes."""
        folder = media_folder(root)
        found = videos_below(folder, self.sound_files)
        names = {path: path.relative_to(folder).as_posix() for path in found}
        split_of = {path: split for path, name in names.items() for split in SPLITS if name.startswith(f"{split}/")}
        if split_of:
            how = "by subfolder"
        else:
            val, test = self.val_fraction, self.test_fraction
            splits = hashed_splits(names.values(), val_fraction=val, test_fraction=test, seed=seed)
            split_of = {path: splits[name] for path, name in names.items()}
            how = f"by hash of the relative path, seed {seed}, val {val:g}, test {test:g}"
        if not split_of:
            kind = "media" if self.sound_files else "video"
            raise ValueError(f"{root}: expected {kind} files (.mp4, .mkv, .mov, ...), got none")
        sources = [
            Source(str(path), names[path], split, period=stated_period(path)) for path, split in split_of.items()
        ]
        logger.info("%s: %s (split %s)", root, counts_by_split(sources), how)
        return sorted(sources, key=lambda source: source.key)
