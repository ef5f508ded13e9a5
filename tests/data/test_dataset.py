import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import CLIP, Prepared, mel_of, write_clip
from torch.utils.data import DataLoader

from cmmd_lightning.codecs import CodecConfig, build_frame_codec
from cmmd_lightning.data import (
    NEGATIVE_KINDS,
    Cache,
    ClipDataset,
    ClipSpec,
    NegativeSpec,
    Source,
    StreamSampler,
    of_split,
    prepare,
)
from cmmd_lightning.media import write_video

T, L = CLIP.num_frames, CLIP.mel_frames
Example = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def dataset(prepared: Prepared) -> ClipDataset:
    return ClipDataset(of_split(prepared.sources, "train"), prepared.cache, negatives=NegativeSpec(3), seed=1)


def assert_same(first: Example, second: Example) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def whole(dataset: ClipDataset, source: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (C, F, h, w) and log-Mel (M, L) of a whole source."""
    length = int(dataset.lengths[source])
    mean, _ = dataset.cache.read_latents(dataset.keys[source], 0, length)
    return mean.float().transpose(0, 1), dataset.cache.read_mel(dataset.keys[source], 0, 8 * length)


def frames_from(dataset: ClipDataset, source: int, clip: torch.Tensor) -> list[int]:
    """For each frame of a clip of latents (C, T, h, w), the frames of a source that it equals."""
    latents, _ = whole(dataset, source)
    distance = (clip[:, :, None] - latents[:, None]).abs().amax(dim=(0, 3, 4))
    near = distance < 1e-4
    assert near.sum(1).eq(1).all() or not near.any(1).all()
    return near.float().argmax(1).tolist() if near.any(1).all() else []


def mel_frames_from(dataset: ClipDataset, source: int, clip: torch.Tensor) -> list[int]:
    _, mel = whole(dataset, source)
    near = (clip[:, :, None] - mel[:, None]).abs().amax(dim=0) < 1e-6
    return near.float().argmax(1).tolist() if near.any(1).all() else []


def test_shapes_and_types(dataset: ClipDataset) -> None:
    example = dataset[5, 2]
    described = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in example.items()}
    assert described == {
        "video_latents": ((48, T, 8, 8), torch.float32),
        "mel": ((16, L), torch.float32),
        "video_negatives": ((3, 48, T, 8, 8), torch.float32),
        "mel_negatives": ((3, 16, L), torch.float32),
        "video_negative_kinds": ((3,), torch.int64),
        "mel_negative_kinds": ((3,), torch.int64),
        "position": ((), torch.int64),
        "index": ((), torch.int64),
        "source": ((), torch.int64),
        "label": ((), torch.int64),
        "start": ((), torch.float32),
    }
    assert (int(example["position"]), int(example["index"])) == (5, 2)
    assert int(dataset[1]["position"]) == -1


def test_picture_and_sound_are_cut_from_the_same_span(dataset: ClipDataset) -> None:
    starts = set()
    for index in range(100):
        example = dataset[0, index]
        source = int(example["source"])
        first = round(float(example["start"]) * 10)
        latents, mel = whole(dataset, source)
        torch.testing.assert_close(example["video_latents"], latents[:, first : first + T], atol=1e-5, rtol=0)
        assert torch.equal(example["mel"], mel[:, 8 * first : 8 * first + L])
        starts.add((source, first))
    # Every source, and its first and last stretches, turn up.
    assert {source for source, _ in starts} == set(range(5))
    assert {first for source, first in starts if source == 0} == set(range(12 - T + 1))


def test_sources_are_drawn_by_their_length(prepared: Prepared) -> None:
    dataset = ClipDataset(of_split(prepared.sources, "train"), prepared.cache, negatives=NegativeSpec(0))
    drawn = np.array([int(dataset[position, 0]["source"]) for position in range(1000)])
    shares = np.bincount(drawn, minlength=5) / 1000
    np.testing.assert_allclose(shares, dataset.lengths / dataset.lengths.sum(), atol=0.05)


def test_every_negative_differs_and_is_of_the_kind_it_says(dataset: ClipDataset) -> None:
    seen: set[tuple[str, str]] = set()
    for position in range(60):
        example = dataset[position, 0]
        source, first = int(example["source"]), round(float(example["start"]) * 10)
        for k in range(3):
            clip = example["video_negatives"][k]
            assert not torch.allclose(clip, example["video_latents"], atol=1e-2)
            kind = NEGATIVE_KINDS[example["video_negative_kinds"][k]]
            check_kind(kind, [frames_from(dataset, s, clip) for s in range(5)], source, first, T, 2)
            seen.add(("video", kind))
            clip = example["mel_negatives"][k]
            assert not torch.allclose(clip, example["mel"], atol=1e-2)
            kind = NEGATIVE_KINDS[example["mel_negative_kinds"][k]]
            check_kind(kind, [mel_frames_from(dataset, s, clip) for s in range(5)], source, 8 * first, L, 16)
            seen.add(("mel", kind))
    assert seen == {(modality, kind) for modality in ("video", "mel") for kind in ("shift", "swap", "substitution")}


def check_kind(kind: str, frames: list[list[int]], source: int, first: int, length: int, least: int) -> None:
    """``frames`` says, per source, which of its frames a negative is made of; [] where it is not."""
    itself = list(range(first, first + length))
    (origin,) = [number for number, found in enumerate(frames) if found]
    taken = frames[origin]
    if kind == "substitution":
        assert origin != source
        assert taken == list(range(taken[0], taken[0] + length))
        return
    assert origin == source
    if kind == "swap":
        assert sorted(taken) == itself
        assert taken != itself
    elif taken == list(range(taken[0], taken[0] + length)):
        assert abs(taken[0] - first) >= least
    else:  # the source was too short for a shift
        roll = taken[0] - first
        assert taken == itself[roll:] + itself[:roll]
        assert least <= roll <= length - least


def test_video_and_sound_negatives_are_drawn_independently(dataset: ClipDataset) -> None:
    examples = [dataset[position, 0] for position in range(150)]
    pairs = {(int(e["video_negative_kinds"][0]), int(e["mel_negative_kinds"][0])) for e in examples}
    assert len(pairs) == 9


def test_one_kind_alone_and_reversal(prepared: Prepared) -> None:
    train = of_split(prepared.sources, "train")
    only = ClipDataset(train, prepared.cache, negatives={"num_negatives": 2, "kinds": ["reversal"]})
    for position in range(10):
        example = only[position, 0]
        assert example["video_negative_kinds"].tolist() == [3, 3]
        torch.testing.assert_close(example["video_negatives"][1], example["video_latents"].flip(1), atol=1e-5, rtol=0)
        assert torch.equal(example["mel_negatives"][0], example["mel"].flip(1))


def test_no_negatives(prepared: Prepared) -> None:
    none = ClipDataset(of_split(prepared.sources, "train"), prepared.cache, negatives=NegativeSpec(0))
    batch = next(iter(DataLoader(none, batch_size=2, sampler=StreamSampler(2))))
    assert batch["video_negatives"].shape == (2, 0, 48, T, 8, 8)
    assert batch["mel_negatives"].shape == (2, 0, 16, L)
    assert batch["video_negative_kinds"].shape == (2, 0)
    with_three = ClipDataset(of_split(prepared.sources, "train"), prepared.cache, negatives=NegativeSpec(3))
    assert torch.equal(with_three[4, 1]["video_latents"], none[4, 1]["video_latents"])
    assert torch.equal(with_three[4, 1]["mel"], none[4, 1]["mel"])


def test_periods_are_avoided(prepared: Prepared) -> None:
    sources = [replace(source, period=0.5) for source in of_split(prepared.sources, "train")]
    shifts = ClipDataset(sources, prepared.cache, negatives=NegativeSpec(4, kinds=("shift",)))
    offsets = set()
    for position in range(60):
        example = shifts[position, 0]
        source, first = int(example["source"]), round(float(example["start"]) * 10)
        for clip in example["mel_negatives"]:
            taken = mel_frames_from(shifts, source, clip)
            if taken == list(range(taken[0], taken[0] + L)):
                offsets.add(taken[0] // 8 - first)
    assert offsets
    assert {offset % 5 for offset in offsets} == {2, 3}


def test_a_curriculum_brings_the_shifts_closer(prepared: Prepared) -> None:
    """At every step the examples are those of its longest shift; validation has the last."""
    limits = {"kinds": ("shift",), "min_shift_seconds": 0.1}
    train = of_split(prepared.sources, "train")

    def shifts(**settings: float) -> ClipDataset:
        return ClipDataset(train, prepared.cache, negatives=NegativeSpec(2, **limits, **settings), seed=1)

    taught = shifts(max_shift_seconds=0.8, curriculum_steps=20)
    for position, longest in ((0, 0.8), (10, 0.4), (20, 0.2), (500, 0.2)):
        for index in range(5):
            assert_same(taught[position, index], shifts(max_shift_seconds=longest)[position, index])
    for index in range(len(taught)):
        assert_same(taught[index], shifts(max_shift_seconds=0.2)[index])
    assert not torch.equal(taught[0, 0]["mel_negatives"], shifts(max_shift_seconds=0.2)[0, 0]["mel_negatives"])
    late = [offsets_of(taught, taught[position, 0]) for position in range(20, 60)]
    assert {abs(offset) for offsets in late for offset in offsets} == {1, 2}


def offsets_of(dataset: ClipDataset, example: Example) -> list[int]:
    """Frames by which the sounds of another stretch are shifted; those that were rolled are left out."""
    taken = [mel_frames_from(dataset, int(example["source"]), clip) for clip in example["mel_negatives"]]
    first = round(float(example["start"]) * 10)
    return [frames[0] // 8 - first for frames in taken if frames == list(range(frames[0], frames[0] + L))]


def test_one_source_has_no_substitute_but_a_shift(prepared: Prepared) -> None:
    one = ClipDataset([prepared.sources[3]], prepared.cache, negatives=NegativeSpec(4, kinds=("substitution",)))
    for position in range(5):
        assert one[position, 0]["video_negative_kinds"].tolist() == [0] * 4


def test_content_that_is_there_twice_is_no_substitute(prepared: Prepared) -> None:
    twice = [prepared.sources[3], replace(prepared.sources[3], key="again"), prepared.sources[2]]
    dataset = ClipDataset(twice, prepared.cache, negatives=NegativeSpec(2, kinds=("substitution",)))
    for position in range(40):
        example = dataset[position, 0]
        for kind, clip in zip(example["video_negative_kinds"], example["video_negatives"], strict=True):
            if kind == NEGATIVE_KINDS.index("substitution"):
                origin = 2 if int(example["source"]) < 2 else 0
                assert frames_from(dataset, origin, clip)


def silent_and_still(folder: Path) -> list[Source]:
    """A source whose picture stands still in silence, and one that moves and sounds."""
    write_video(
        folder / "still.mp4", torch.full((75, 3, 32, 32), 90, dtype=torch.uint8), 25.0, torch.zeros(48000), 16000
    )
    write_clip(folder / "moving.mp4", 3.0, 5)
    return [Source(str(folder / f"{name}.mp4"), name, "train") for name in ("still", "moving")]


def test_a_negative_that_equals_its_positive_is_replaced(tmp_path: Path) -> None:
    codec, mel = build_frame_codec(CodecConfig()), mel_of(CLIP)
    sources = silent_and_still(tmp_path)
    prepare(sources, CLIP, codec, mel, str(tmp_path / "cache"), num_workers=0, progress=False)
    cache = Cache(str(tmp_path / "cache"), CLIP, codec, mel)
    dataset = ClipDataset(sources, cache, negatives=NegativeSpec(2, kinds=("shift", "swap")))
    kinds: dict[int, set[int]] = {0: set(), 1: set()}
    for position in range(40):
        example = dataset[position, 0]
        for modality, positive in (("mel", "mel"), ("video", "video_latents")):
            for negative in example[f"{modality}_negatives"]:
                assert float((negative - example[positive]).abs().max()) > 1e-3
        kinds[int(example["source"])] |= set(example["mel_negative_kinds"].tolist())
    assert kinds == {0: {NEGATIVE_KINDS.index("substitution")}, 1: {0, 1}}
    alone = ClipDataset(sources[:1], cache, negatives=NegativeSpec(1))
    assert torch.equal(alone[0, 0]["mel_negatives"][0], alone[0, 0]["mel"])  # nothing else is to be had


def test_an_example_follows_from_seed_position_and_index_alone(prepared: Prepared, dataset: ClipDataset) -> None:
    fresh = ClipDataset(
        of_split(prepared.sources, "train"),
        Cache(str(prepared.cache.cache_dir), CLIP, prepared.codec, prepared.mel),
        negatives=NegativeSpec(3),
        seed=1,
    )
    torch.manual_seed(5)
    late = fresh[30, 3]
    for position in range(5):
        assert_same(fresh[position, 3], dataset[position, 3])
    assert_same(dataset[30, 3], late)
    reseeded = ClipDataset(of_split(prepared.sources, "train"), prepared.cache, negatives=NegativeSpec(3), seed=2)
    firsts = [dataset[30, 3], dataset[30, 2], dataset[31, 3], reseeded[30, 3]]
    starts = {(int(e["source"]), float(e["start"]), e["video_negatives"].sum().item()) for e in firsts}
    assert len(starts) == 4


def test_workers_and_ranks_see_the_same_examples(dataset: ClipDataset) -> None:
    def batches(size: int, ranks: int, rank: int, workers: int) -> list[Example]:
        sampler = StreamSampler(size, num_replicas=ranks, rank=rank, start=lambda: 7)
        return list(islice(DataLoader(dataset, batch_size=size, sampler=sampler, num_workers=workers), 4))

    reference = batches(4, 1, 0, 0)
    for other in (batches(4, 1, 0, 1), batches(4, 1, 0, 2)):
        for first, second in zip(reference, other, strict=True):
            assert_same(first, second)
    ranks = [batches(2, 2, rank, 2 * rank) for rank in (0, 1)]
    for expected, *parts in zip(reference, *ranks, strict=True):
        assert_same(expected, {name: torch.cat([part[name] for part in parts]) for name in expected})


def test_spawned_workers_see_the_same_examples(prepared: Prepared, dataset: ClipDataset) -> None:
    loader = DataLoader(dataset, batch_size=2, sampler=StreamSampler(2), num_workers=1, multiprocessing_context="spawn")
    assert_same(next(iter(loader)), next(iter(DataLoader(dataset, batch_size=2, sampler=StreamSampler(2)))))


def test_validation_clips_are_fixed_and_cover_the_sources(prepared: Prepared) -> None:
    train = of_split(prepared.sources, "train")

    def clips(count: int | None) -> list[tuple[int, int]]:
        dataset = ClipDataset(train, prepared.cache, clips_per_source=count)
        return [(int(e["source"]), round(float(e["start"]) * 10)) for e in (dataset[i] for i in range(len(dataset)))]

    assert sorted(clips(1)) == [(source, 0) for source in range(5)]
    # the first of them are spread over all sources
    assert clips(None)[:5] == [(0, 0), (4, 16), (2, 22), (3, 32), (1, 12)]
    # 12, 20, 30, 40 and 24 frames: 1, 2, 3, 5 and 3 stretches of 8.
    assert sorted(clips(None)) == [
        *[(0, 0), (1, 0), (1, 12), (2, 0), (2, 11), (2, 22), (3, 0), (3, 8), (3, 16), (3, 24), (3, 32)],
        *[(4, 0), (4, 8), (4, 16)],
    ]
    assert sorted(clips(2)) == [(0, 0), (1, 0), (1, 12), (2, 0), (2, 22), (3, 0), (3, 32), (4, 0), (4, 16)]
    dataset = ClipDataset(train, prepared.cache, clips_per_source=None)
    assert_same(dataset[3], dataset[3])
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_sources_that_are_not_prepared_are_left_out_and_named(
    prepared: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_clip(tmp_path / "new.mp4", 1.0, 9)
    extra = [Source(str(tmp_path / name), name, "train") for name in ("new.mp4", "absent.mp4")]
    with caplog.at_level(logging.WARNING):
        dataset = ClipDataset([*prepared.sources[:2], *extra], prepared.cache)
    assert [source.key for source in dataset.sources] == ["train/clip_0.mp4", "train/clip_1.mp4"]
    (message,) = caplog.messages
    assert "for each of 4 sources, got none for 2" in message
    assert str(tmp_path / "new.mp4") in message
    for nothing in (extra, []):
        with pytest.raises(ValueError, match=f"for each of {len(nothing)} sources, got none"):
            ClipDataset(nothing, prepared.cache)
    longer = Cache(str(prepared.cache.cache_dir), replace(CLIP, num_frames=35), prepared.codec, prepared.mel)
    assert [source.key for source in ClipDataset(prepared.sources, longer).sources] == ["train/clip_3.mp4"]


def test_clips_of_one_frame_have_no_negatives(prepared: Prepared) -> None:
    single = Cache(str(prepared.cache.cache_dir), replace(CLIP, num_frames=1), prepared.codec, prepared.mel)
    with pytest.raises(ValueError, match="2 frames or more for negatives, got 1"):
        ClipDataset(prepared.sources, single)
    assert ClipDataset(prepared.sources, single, negatives=NegativeSpec(0))[0]["video_latents"].shape[1] == 1


@pytest.mark.parametrize(("fps", "hop"), [(10.0, 100), (12.5, 100), (25.0, 100), (29.97, 90)])
def test_flash_and_click_stay_together_in_every_slice(fps: float, hop: int, tmp_path: Path) -> None:
    """A white frame and a click at the same time: wherever a clip begins, both are where that time falls in it."""
    clip = ClipSpec(6, fps, 32, 32, "crop", 8000, 256, hop, 16)
    event = 1.4
    frames = torch.zeros(75, 3, 32, 32, dtype=torch.uint8)
    frames[35] = 255  # shown from 1.40 s, at 25 frames per second
    sound = torch.zeros(48000)
    sound[round(event * 16000)] = 0.9
    write_video(tmp_path / "a.mp4", frames, 25.0, sound, 16000)
    codec, mel = build_frame_codec(CodecConfig()), mel_of(clip)
    sources = [Source(str(tmp_path / "a.mp4"), "a", "train")]
    prepare(sources, clip, codec, mel, str(tmp_path / "cache"), num_workers=0, progress=False)
    dataset = ClipDataset(sources, Cache(str(tmp_path / "cache"), clip, codec, mel), negatives=NegativeSpec(0))
    checked = 0
    for position in range(150):
        example = dataset[position, 0]
        start = float(example["start"])
        brightness = example["video_latents"].mean(dim=(0, 2, 3))
        inside = event - start
        # The frames whose nearest frame of the source is the white one.
        shown = [i for i in range(6) if abs(i / fps - inside) < 0.02 - 1e-4]
        assert (brightness > 0).nonzero().flatten().tolist() == shown
        loudest = int(example["mel"].exp().sum(0).argmax())
        if 2 * hop / 8000 < inside < clip.duration - 2 * hop / 8000:
            # Half a Mel frame for the rounding of its place, and half a one for that of the slice's beginning.
            assert abs(loudest * hop / 8000 - inside) <= hop / 8000 + 1e-6
            checked += 1
    assert checked > 5


def test_all_of_it_through_prepare_with_workers(prepare_into: Callable[..., Prepared], tmp_path: Path) -> None:
    made = prepare_into(tmp_path, num_workers=2)
    dataset = ClipDataset(of_split(made.sources, "val"), made.cache)
    assert len(dataset) == 2
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    assert batch["video_latents"].shape == (2, 48, T, 8, 8)
    assert batch["index"].tolist() == [0, 1]
