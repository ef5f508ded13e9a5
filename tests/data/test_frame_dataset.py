import logging
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from data_fixtures import CLIP
from torch.utils.data import DataLoader

from cmmd_lightning.data import Folder, FrameDataset, SoundDataset, Source, StreamSampler, of_split
from cmmd_lightning.media import MediaError, read_frames, read_sound, write_sound


@pytest.fixture
def sources(media_folder: Path) -> list[Source]:
    return of_split(Folder().sources(str(media_folder)), "train")


def test_items_are_stretches_of_the_media(sources: list[Source]) -> None:
    dataset = FrameDataset(sources[:1], CLIP, frames_per_item=4, seed=3)
    item = dataset[0, 0]["frames"]
    assert (item.shape, item.dtype) == ((4, 3, 32, 32), torch.float32)
    assert -1 <= float(item.min()) < float(item.max()) <= 1
    whole = read_frames(sources[0].path, start=0.0, num_frames=30, fps=25.0, size=(32, 32)).float() / 127.5 - 1
    distance = (item[:, None] - whole).abs().amax(dim=(2, 3, 4))
    assert float(distance.amin(1).max()) == 0
    # Frames 0.1 s apart, in a source of 25 frames per second: 2 or 3 of its frames from one to the next.
    steps = distance.argmin(1).diff().tolist()
    assert set(steps) <= {2, 3}
    assert sum(steps) in (7, 8)


def test_spans_are_kept_to(sources: list[Source]) -> None:
    span = Source(sources[3].path, "a", "train", start=1.0, stop=1.6)
    dataset = FrameDataset([span], CLIP, frames_per_item=4)
    inside = read_frames(span.path, start=1.0, num_frames=15, fps=25.0, size=(32, 32)).float() / 127.5 - 1
    for position in range(20):
        distance = (dataset[position, 0]["frames"][:, None] - inside).abs().amax(dim=(2, 3, 4))
        assert float(distance.amin(1).max()) == 0


def test_an_example_follows_from_seed_position_and_index_alone(sources: list[Source]) -> None:
    dataset = FrameDataset(sources, CLIP, frames_per_item=2, seed=3)

    def batches(workers: int) -> list[torch.Tensor]:
        loader = DataLoader(dataset, batch_size=3, sampler=StreamSampler(3, start=lambda: 4), num_workers=workers)
        return [batch["frames"] for batch in islice(loader, 4)]

    for first, second in zip(batches(0), batches(2), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(FrameDataset(sources, CLIP, frames_per_item=2, seed=3)[4, 1]["frames"], batches(0)[0][1])
    assert not torch.equal(dataset[4, 1]["frames"], dataset[5, 1]["frames"])
    assert not torch.equal(FrameDataset(sources, CLIP, frames_per_item=2)[4, 1]["frames"], dataset[4, 1]["frames"])


def test_fixed_items_are_one_per_source(sources: list[Source]) -> None:
    dataset = FrameDataset(sources, CLIP, frames_per_item=2)
    assert len(dataset) == 5
    for number, source in enumerate(sources):
        item = dataset[number]["frames"]
        assert torch.equal(item, dataset[number]["frames"])
        whole = read_frames(source.path, start=0.0, num_frames=28, fps=25.0, size=(32, 32)).float() / 127.5 - 1
        if number == 0:
            assert float((item[:, None] - whole).abs().amax(dim=(2, 3, 4)).amin(1).max()) == 0
    with pytest.raises(IndexError):
        dataset[5]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_replaced_with_one_warning_each(
    sources: list[Source], tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture, workers: int
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    shutil.copy(sources[0].path, tmp_path / "short.mp4")
    bad = [Source(str(tmp_path / f"{name}.mp4"), name, "train") for name in ("text", "empty", "absent")]
    bad.append(Source(str(tmp_path / "short.mp4"), "short", "train", stop=0.1))
    dataset = FrameDataset([*bad, *sources[:2]], CLIP, frames_per_item=2)
    loader = DataLoader(dataset, batch_size=4, sampler=StreamSampler(4), num_workers=workers)
    with caplog.at_level(logging.WARNING):
        batches = [batch["frames"] for batch in islice(loader, 6)]
    assert dataset._warned.tolist() == [True] * 4 + [False] * 2
    if workers == 0:
        assert sorted(Path(message.split(": expected")[0]).name for message in caplog.messages) == [
            "absent.mp4",
            "empty.mp4",
            "short.mp4",
            "text.mp4",
        ]
    again = FrameDataset([*bad, *sources[:2]], CLIP, frames_per_item=2)
    assert torch.equal(batches[2][1], again[2, 1]["frames"])
    assert again[0]["frames"].shape == (2, 3, 32, 32)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    dataset = FrameDataset([Source(str(tmp_path / "text.mp4"), "text", "train")], CLIP)
    with pytest.raises(MediaError, match="expected a readable file among 32 that were drawn, got none"):
        dataset[0, 0]
    with pytest.raises(ValueError, match="expected sources and frames_per_item >= 1"):
        FrameDataset([], CLIP)


def test_stretches_of_sound(sources: list[Source]) -> None:
    dataset = SoundDataset(sources[:1], CLIP, frames_per_item=4, seed=3)
    whole = read_sound(sources[0].path, start=0.0, num_samples=CLIP.sample_rate, sample_rate=CLIP.sample_rate)
    item = dataset[0, 0]["sound"]
    assert item.shape == (CLIP.samples_of(4),)
    windows = whole.unfold(0, len(item), 1)
    assert float((windows - item).abs().amax(1).min()) < 1e-3 < float(item.abs().max())
    assert not torch.equal(dataset[1, 0]["sound"], item)
    assert torch.equal(SoundDataset(sources[:1], CLIP, frames_per_item=4, seed=3)[0, 0]["sound"], item)


def test_sound_files_are_sources_of_sound(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write_sound(tmp_path / f"{name}.wav", torch.full((8000,), 0.1 * (number + 1)), 8000)
    with pytest.raises(ValueError, match="expected video files"):
        Folder().sources(str(tmp_path))
    sources = Folder(val_fraction=0, sound_files=True).sources(str(tmp_path))
    dataset = SoundDataset(sources, CLIP, frames_per_item=2)
    assert [round(float(dataset[i]["sound"].mean()), 2) for i in range(2)] == [0.1, 0.2]
    assert len(of_split(sources, "train")) == 2
