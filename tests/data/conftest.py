"""A small folder of clips, and the cache made of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from data_fixtures import CLIP, Prepared, mel_of, write_clip

from cmmd_lightning.codecs import CodecConfig, build_frame_codec
from cmmd_lightning.data import Cache, Folder, Source, prepare
from cmmd_lightning.procedural import render


@pytest.fixture(scope="session")
def media_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips of 1.2 to 4 s for training, two for validation."""
    folder = tmp_path_factory.mktemp("media")
    for number, seconds in enumerate((1.2, 2.0, 3.0, 4.0, 2.48)):
        write_clip(folder / "train" / f"clip_{number}.mp4", seconds, number)
    for number, seconds in enumerate((2.0, 3.0)):
        write_clip(folder / "val" / f"clip_{number}.mp4", seconds, 100 + number)
    return folder


@pytest.fixture(scope="session")
def prepare_into(media_folder: Path) -> Callable[..., Prepared]:
    """Prepares the media folder, or given sources, into a cache folder."""

    def run(cache_dir: Path, sources: list[Source] | None = None, **settings: object) -> Prepared:
        codec, mel = build_frame_codec(CodecConfig()), mel_of(CLIP)
        sources = Folder().sources(str(media_folder)) if sources is None else sources
        options = {"num_workers": 0, "progress": False, **settings}
        report = prepare(sources, CLIP, codec, mel, str(cache_dir), **options)  # type: ignore[arg-type]
        return Prepared(media_folder, sources, CLIP, codec, mel, Cache(str(cache_dir), CLIP, codec, mel), report)

    return run


@pytest.fixture(scope="session")
def prepared(prepare_into: Callable[..., Prepared], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The media folder, prepared."""
    return prepare_into(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rendered clip of 4 s, 32x32, without its sidecar."""
    folder = tmp_path_factory.mktemp("rendered")
    settings = {"duration": 4.0, "fps": 25.0, "height": 32, "width": 32}
    (path,) = render("dance", folder, 1, 0, num_workers=0, progress=False, **settings)  # type: ignore[arg-type]
    path.with_suffix(".json").unlink()
    return path
