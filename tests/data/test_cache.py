import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_fixtures import CLIP, mel_of, moments_of, write_entry
from safetensors.torch import load_file

from cmmd_lightning.codecs import CodecConfig, LogMel, build_frame_codec
from cmmd_lightning.data import Cache, Source
from cmmd_lightning.data.preprocess.content import ContentHashes

F, C, H, W, M, L = 20, 4, 3, 5, 16, 160


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"), CLIP, build_frame_codec(CodecConfig()), mel_of(CLIP))


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "mean": torch.randn(F, C, H, W, generator=generator).half(),
        "logvar": torch.randn(F, C, H, W, generator=generator).half(),
        "mel": torch.randn(M, L, generator=generator),
    }


def test_slices_equal_the_whole(cache: Cache, tensors: dict[str, torch.Tensor]) -> None:
    write_entry(cache, "ab12", **tensors, start=0.5)
    for first, length in ((0, F), (0, 1), (7, 8), (F - 1, 1)):
        mean, logvar = cache.read_latents("ab12", first, length)
        assert torch.equal(mean, tensors["mean"][first : first + length])
        assert torch.equal(logvar, tensors["logvar"][first : first + length])
    for first, length in ((0, L), (11, 64), (L - 1, 1)):
        assert torch.equal(cache.read_mel("ab12", first, length), tensors["mel"][:, first : first + length])
    # One Mel frame past the end repeats the last; more is an error.
    past = cache.read_mel("ab12", L - 4, 5)
    assert torch.equal(past[:, :4], tensors["mel"][:, -4:])
    assert torch.equal(past[:, 4], tensors["mel"][:, -1])
    with pytest.raises(ValueError, match="expected Mel frames"):
        cache.read_mel("ab12", L - 4, 6)
    with pytest.raises(ValueError, match="expected frames 15 to 21, got 5"):
        cache.read_latents("ab12", 15, 6)
    with pytest.raises(ValueError, match="expected frames -1"):
        cache.read_latents("ab12", -1, 1)


def test_header_times_and_reproducible_bytes(cache: Cache, tensors: dict[str, torch.Tensor]) -> None:
    assert cache.info("ab12") is None
    write_entry(cache, "ab12", **tensors, start=0.5)
    first = cache.path("ab12").read_bytes()
    info = cache.info("ab12")
    assert info is not None
    assert (info.num_frames, info.mel_frames, info.num_bytes) == (F, L, len(first))
    assert info.moments == moments_of(tensors["mean"], tensors["logvar"], tensors["mel"].t().contiguous())
    expected = 0.5 + torch.arange(F, dtype=torch.float64) / 10
    assert torch.equal(load_file(cache.path("ab12"))["times"], expected)
    write_entry(cache, "ab12", **tensors, start=0.5)
    assert cache.path("ab12").read_bytes() == first


def test_an_entry_is_written_whole_or_not_at_all(
    cache: Cache, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        write_entry(cache, "ab12", **tensors)
    assert cache.info("ab12") is None
    assert [path for path in cache.cache_dir.rglob("*") if path.is_file()] == []


def test_a_damaged_entry_is_no_entry(cache: Cache, tensors: dict[str, torch.Tensor]) -> None:
    write_entry(cache, "ab12", **tensors)
    whole = cache.path("ab12").read_bytes()
    for damaged in (b"", b"nonsense", whole[:100], whole[:-1]):
        cache.path("ab12").write_bytes(damaged)
        assert cache.info("ab12") is None


def test_an_entry_is_looked_at_once_until_the_cache_is_reloaded(
    cache: Cache, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_entry(cache, "ab12", **tensors)
    looked: list[str] = []
    monkeypatch.setattr(os, "stat", lambda path, real=os.stat, **how: looked.append(str(path)) or real(path, **how))
    infos = [cache.info("ab12"), *(info for _, info in cache.infos(["ab12", "absent"]))]
    assert infos[0] == infos[1]
    assert dict(cache.moments(["ab12"])) == {"ab12": infos[0].moments}
    assert looked.count(str(cache.path("ab12"))) == 1
    cache.path("ab12").unlink()
    cache.reload()
    assert cache.info("ab12") is None


def test_leftovers_of_killed_writers_are_removed_and_those_of_live_ones_kept(cache: Cache) -> None:
    folder = cache.cache_dir / "temporary"
    folder.mkdir(parents=True)
    (folder / "old").write_bytes(b"x")
    (folder / "new").write_bytes(b"x")
    os.utime(folder / "old", (0, 0))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = Path(cache.writer("ab12", 1, 1, (1, 1, 1)).temporary)
    dead = own.with_name(f"{own.name.rpartition('.')[0]}.{ended.pid}")
    elsewhere = own.with_name(f"ab12.another-machine.{ended.pid}")
    for path in (dead, elsewhere):
        path.write_bytes(b"x")
    cache.remove_leftovers()
    assert {path.name for path in folder.iterdir()} == {"new", own.name, elsewhere.name}


def test_the_key_follows_content_span_codec_rates_and_mel_and_nothing_else(tmp_path: Path) -> None:
    codec, mel = build_frame_codec(CodecConfig()), mel_of(CLIP)
    cache_dir = str(tmp_path / "cache")
    file = tmp_path / "a.mp4"
    file.write_bytes(b"first")
    source = Source(str(file), "a", "train")
    key = Cache(cache_dir, CLIP, codec, mel).key(source)
    copy = tmp_path / "b.mp4"
    copy.write_bytes(b"first")
    same = Source(str(copy), "b", "val", label="x", period=0.4)
    assert Cache(cache_dir, CLIP, codec, mel).key(same) == key
    assert Cache(cache_dir, replace(CLIP, num_frames=99), codec, mel).key(source) == key
    codec.shift.fill_(3.0)  # statistics are not part of the raw latents
    assert Cache(cache_dir, CLIP, codec, mel).key(source) == key

    others = {
        Cache(cache_dir, CLIP, codec, mel).key(replace(source, **span)) for span in ({"start": 0.1}, {"stop": 1.0})
    }
    clips = [replace(CLIP, **change) for change in ({"fps": 12.5}, {"height": 64}, {"width": 64}, {"fit": "letterbox"})]
    others |= {Cache(cache_dir, clip, codec, mel).key(source) for clip in clips}
    mels = [
        replace(CLIP, **change)
        for change in ({"sample_rate": 8001}, {"n_fft": 300}, {"hop_length": 80}, {"n_mels": 20})
    ]
    others |= {Cache(cache_dir, clip, codec, mel_of(clip)).key(source) for clip in mels}
    others.add(Cache(cache_dir, CLIP, codec, LogMel(8000, 256, 100, 16, f_min=20.0)).key(source))
    others.add(Cache(cache_dir, CLIP, codec, LogMel(8000, 256, 100, 16, f_max=3000.0)).key(source))
    others.add(Cache(cache_dir, CLIP, build_frame_codec(CodecConfig(unshuffle=8)), mel).key(source))
    file.write_bytes(b"other")
    others.add(Cache(cache_dir, CLIP, codec, mel).key(source))
    assert len(others | {key}) == 2 + 4 + 4 + 2 + 1 + 1 + 1


def test_clip_and_mel_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected LogMel.hop_length 100 as in ClipSpec, got 80"):
        Cache(str(tmp_path), CLIP, build_frame_codec(CodecConfig()), LogMel(8000, 256, 80, 16))


def test_content_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, file = tmp_path / "index" / "contents.jsonl", tmp_path / "a.mp4"
    file.write_bytes(b"first")
    os.utime(file, ns=(10**18, 10**18))
    first = ContentHashes(index).of(file)
    # A line that a killed writer left unfinished, and one of another program, do no harm.
    with open(index, "a") as stream:
        stream.write('[1]\n{"path": "unfini')
    other = tmp_path / "b.mp4"
    other.write_bytes(b"second")
    os.utime(other, ns=(10**18, 10**18))
    second = ContentHashes(index).of(other)
    assert first != second
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", None)
        again = ContentHashes(index)
        assert (again.of(file), again.of(str(other))) == (first, second)
    file.write_bytes(b"third")
    assert ContentHashes(index).of(file) not in (first, second)


def test_a_file_that_has_just_changed_is_hashed_but_not_remembered(tmp_path: Path) -> None:
    index, file = tmp_path / "contents.jsonl", tmp_path / "a.mp4"
    file.write_bytes(b"first")
    os.utime(file, (time.time(), time.time()))
    ContentHashes(index).of(file)
    assert not index.exists()
    with pytest.raises(OSError, match="No such file"):
        ContentHashes(index).of(tmp_path / "absent.mp4")


def test_pickling_leaves_open_files_and_what_was_read_behind(cache: Cache, tensors: dict[str, torch.Tensor]) -> None:
    write_entry(cache, "ab12", **tensors)
    cache.read_mel("ab12", 0, 1)
    assert cache.info("ab12") is not None
    travelled = pickle.dumps(cache)
    assert len(travelled) < 1500
    assert torch.equal(pickle.loads(travelled).read_mel("ab12", 3, 5), tensors["mel"][:, 3:8])


def test_header_is_json_in_one_entry(cache: Cache, tensors: dict[str, torch.Tensor]) -> None:
    """Several metadata entries would be written in no fixed order, and bytes would differ from run to run."""
    write_entry(cache, "ab12", **tensors)
    content = cache.path("ab12").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == ["entry"]
    assert json.loads(header["__metadata__"]["entry"])["num_frames"] == F
