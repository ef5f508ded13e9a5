import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from data_fixtures import CLIP, Prepared, entry_bytes, mel_of, write_clip

from cmmd_lightning.codecs import CodecConfig, LogMel, build_frame_codec
from cmmd_lightning.data import Cache, Folder, Source, measure_statistics, prepare
from cmmd_lightning.data.preprocess.decode import iter_mel
from cmmd_lightning.data.preprocess.entry import EntryWriter
from cmmd_lightning.media import MediaError, read_frames, read_sound, write_sound, write_video

Run = Callable[..., Prepared]

# A variational autoencoder small enough for a test, with attention, whose rounding depends on how it is batched.
TINY_VAE = CodecConfig(
    kind="autoencoder_kl",
    unshuffle=4,
    config={
        "block_out_channels": [16, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "layers_per_block": 1,
    },
)


@pytest.mark.parametrize("num_samples", [1, 100, 128, 129, 1000, 12345])
@pytest.mark.parametrize("piece", [1000000, 4096, 333, 57])
@pytest.mark.parametrize(("n_fft", "hop"), [(256, 100), (256, 200), (1024, 200)])
def test_mel_of_pieces_equals_mel_of_the_whole(num_samples: int, piece: int, n_fft: int, hop: int) -> None:
    mel = LogMel(8000, n_fft, hop, 16)
    sound = torch.randn(num_samples, generator=torch.Generator().manual_seed(0))
    whole = mel(sound[None])[0]
    pieces = torch.cat(list(iter_mel(iter(sound.split(piece)), mel, num_samples)), dim=1)
    assert pieces.shape == whole.shape
    torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=f"expected {num_samples + 1} samples, got {num_samples}"):
        list(iter_mel(iter(sound.split(piece)), mel, num_samples + 1))


def test_entries_hold_what_the_media_hold(prepared: Prepared) -> None:
    assert prepared.report.prepared == [source.key for source in prepared.sources]
    assert (prepared.report.reused, prepared.report.failed) == ([], [])
    assert prepared.report.media_seconds == pytest.approx(1.2 + 2.0 + 3.0 + 4.0 + 2.4 + 2.0 + 3.0)
    for source, seconds in zip(prepared.sources, (1.2, 2.0, 3.0, 4.0, 2.4, 2.0, 3.0), strict=True):
        key = prepared.cache.key(source)
        info = prepared.cache.info(key)
        assert info is not None
        count = round(seconds * 10)
        assert (info.num_frames, info.mel_frames) == (count, 8 * count)
        frames = read_frames(source.path, start=0.0, num_frames=count, fps=10.0, size=(32, 32)).float() / 127.5 - 1
        mean, logvar = prepared.codec.encode(frames)
        stored = prepared.cache.read_latents(key, 0, count)
        assert torch.equal(stored[0], mean.half())
        assert torch.equal(stored[1], logvar.half())
        sound = read_sound(source.path, start=0.0, num_samples=800 * count, sample_rate=8000)
        expected = prepared.mel(sound[None])[0]
        torch.testing.assert_close(prepared.cache.read_mel(key, 0, 8 * count), expected, atol=1e-4, rtol=0)


def test_a_span_of_a_file_is_a_source(prepared: Prepared, prepare_into: Run, tmp_path: Path) -> None:
    whole = prepared.sources[3]
    part = replace(whole, key="part", start=1.3, stop=2.75)
    made = prepare_into(tmp_path, [part])
    key = made.cache.key(part)
    info = made.cache.info(key)
    assert info is not None
    assert info.num_frames == 14
    frames = read_frames(whole.path, start=1.3, num_frames=14, fps=10.0, size=(32, 32)).float() / 127.5 - 1
    assert torch.equal(made.cache.read_latents(key, 0, 14)[0], made.codec.encode(frames)[0].half())
    # A span that runs on behind the end stops there.
    assert prepare_into(tmp_path, [replace(part, stop=99.0)]).report.media_seconds == pytest.approx(2.7)


@pytest.mark.parametrize("settings", [{"num_workers": 2}, {"batch_size": 5}])
def test_workers_and_batch_size_do_not_change_a_byte(
    prepared: Prepared, prepare_into: Run, tmp_path: Path, settings: dict[str, int]
) -> None:
    assert prepare_into(tmp_path, **settings).report.prepared == prepared.report.prepared
    assert entry_bytes(tmp_path) == entry_bytes(prepared.cache.cache_dir)


def test_company_in_a_batch_does_not_change_a_byte(media_folder: Path, tmp_path: Path) -> None:
    """Through a network: sources alone, together, and in the other order."""
    torch.manual_seed(0)
    codec, mel = build_frame_codec(TINY_VAE), mel_of(CLIP)
    sources = Folder().sources(str(media_folder))[:4]
    options = {"num_workers": 0, "progress": False, "batch_size": 16}
    prepare(sources, CLIP, codec, mel, str(tmp_path / "together"), **options)
    for source in reversed(sources):
        prepare([source], CLIP, codec, mel, str(tmp_path / "alone"), **options)
    renamed = [replace(source, key=str(9 - i)) for i, source in enumerate(sources)]
    prepare(renamed, CLIP, codec, mel, str(tmp_path / "turned"), **options)
    together = entry_bytes(tmp_path / "together")
    assert len(together) == 4
    assert entry_bytes(tmp_path / "alone") == together
    assert entry_bytes(tmp_path / "turned") == together


@pytest.mark.parametrize("error", [RuntimeError("power cut"), KeyboardInterrupt()])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_was_stopped_is_resumed(
    prepared: Prepared,
    prepare_into: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    num_workers: int,
) -> None:
    finish, written = Cache.finish, []

    def stop_at_the_fourth(self: Cache, writer: EntryWriter, **settings: Any) -> None:
        if len(written) == 3:
            raise error
        finish(self, writer, **settings)
        written.append(writer)

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "finish", stop_at_the_fourth)
        with pytest.raises(type(error)):
            prepare_into(tmp_path, num_workers=num_workers, batch_size=8)
    assert len(entry_bytes(tmp_path)) == 3
    assert list((tmp_path / "temporary").iterdir()) == []
    report = prepare_into(tmp_path).report
    assert (len(report.prepared), len(report.reused)) == (4, 3)
    assert sorted(report.prepared + report.reused) == prepared.report.prepared
    assert entry_bytes(tmp_path) == entry_bytes(prepared.cache.cache_dir)
    assert prepare_into(tmp_path).report.prepared == []


PREPARE = """
import sys
from data_fixtures import CLIP, mel_of
from cmmd_lightning.codecs import CodecConfig, build_frame_codec
from cmmd_lightning.data import Folder, prepare

prepare(
    Folder().sources(sys.argv[1]), CLIP, build_frame_codec(CodecConfig()), mel_of(CLIP), sys.argv[2], num_workers=2,
    batch_size=8, progress=False,
)
"""


def test_kill_nine_leaves_no_trace(media_folder: Path, prepare_into: Run, tmp_path: Path) -> None:
    """24 sources, 4 kills of the whole process group at random moments: the cache is that of an undisturbed run."""
    folder = tmp_path / "media"
    for number in range(24):
        write_clip(folder / f"clip_{number:02}.mp4", 1.0 + 0.1 * number, 50 + number)
    (folder / "broken.mp4").write_bytes((folder / "clip_20.mp4").read_bytes()[:3000])
    sources = Folder().sources(str(folder))
    whole = prepare_into(tmp_path / "whole", sources)
    cache, rng = tmp_path / "killed", random.Random(0)
    entries = cache / "entries"
    done: dict[str, int] = {}
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", PREPARE, str(folder), str(cache)], cwd=Path(__file__).parent, start_new_session=True
        )
        seen = len(done)
        while process.poll() is None and len(list(entries.rglob("*.safetensors"))) <= seen:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = {path.name: path.stat().st_mtime_ns for path in entries.rglob("*.safetensors")}
        assert done.items() <= found.items()  # nothing that was done is done again
        done = found
    assert entry_bytes(cache).items() <= entry_bytes(tmp_path / "whole").items()
    made = prepare_into(cache, sources)
    assert sorted(made.report.prepared + made.report.reused) == whole.report.prepared
    assert len(made.report.reused) >= len(done)
    assert list((cache / "temporary").iterdir()) == []
    assert entry_bytes(cache) == entry_bytes(tmp_path / "whole")
    assert (cache / "doctor.json").read_bytes() == (tmp_path / "whole" / "doctor.json").read_bytes()
    keys = [whole.cache.key(source) for source in sources if source.key in whole.report.prepared]
    assert measure_statistics(made.cache, keys) == measure_statistics(whole.cache, keys)


def test_a_damaged_entry_is_made_again(prepared: Prepared, prepare_into: Run, tmp_path: Path) -> None:
    made = prepare_into(tmp_path)
    path = made.cache.path(made.cache.key(made.sources[2]))
    path.write_bytes(path.read_bytes()[:1000])
    assert prepare_into(tmp_path).report.prepared == [made.sources[2].key]
    assert entry_bytes(tmp_path) == entry_bytes(prepared.cache.cache_dir)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_shards_are_disjoint_and_complete(prepared: Prepared, prepare_into: Run, tmp_path: Path, count: int) -> None:
    done: list[str] = []
    for index in range(1, count + 1):
        report = prepare_into(tmp_path, shard=(index, count)).report
        assert report.reused == []
        assert not set(done) & set(report.prepared)
        done += report.prepared
    assert sorted(done) == prepared.report.prepared
    assert entry_bytes(tmp_path) == entry_bytes(prepared.cache.cache_dir)


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (-1, 1)])
def test_shards_count_from_one(prepare_into: Run, tmp_path: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected a shard"):
        prepare_into(tmp_path, shard=shard)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_files_are_named_in_one_line_each_and_the_others_go_on(
    prepare_into: Run, media_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, num_workers: int
) -> None:
    folder = tmp_path / "media"
    shutil.copytree(media_folder, folder)
    good = Folder().sources(str(folder))
    train = folder / "train"
    (train / "text.mp4").write_text("this is no video\n" * 50)
    (train / "empty.mp4").write_bytes(b"")
    (train / "hollow.mp4").write_bytes(b"")
    whole = (train / "clip_3.mp4").read_bytes()
    (train / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    write_clip(train / "short.mp4", 0.6, 7)
    frames = read_frames(train / "clip_1.mp4", start=0.0, num_frames=25, fps=25.0)
    write_video(train / "silent.mp4", frames, 25.0, None, None)
    write_sound(tmp_path / "sound.wav", torch.zeros(16000), 16000)
    shutil.copy(tmp_path / "sound.wav", train / "blind.mp4")
    sources = Folder().sources(str(folder))
    sources.append(Source(str(train / "absent.mp4"), "train/absent.mp4", "train"))
    with caplog.at_level(logging.WARNING):
        report = prepare_into(tmp_path / "cache", sources, num_workers=num_workers).report
    assert report.prepared == [source.key for source in good]
    reasons = {Path(failure.path).name: failure.reason for failure in report.failed}
    assert sorted(reasons) == [
        f"{name}.mp4" for name in ("absent", "blind", "empty", "hollow", "short", "silent", "text", "truncated")
    ]
    for name, reason in reasons.items():
        assert reason.startswith(str(train / name))
        assert "\n" not in reason
        assert caplog.messages.count(reason) == 1
    assert reasons["short.mp4"].endswith(
        "expected at least 0.8 s of picture and sound (8 frames at 10 fps), got 0.600 s"
    )
    assert reasons["silent.mp4"].endswith("expected picture and sound, got picture only")
    assert "0 bytes" in reasons["empty.mp4"]
    assert "0 bytes" in reasons["hollow.mp4"]
    assert "No such file" in reasons["absent.mp4"]
    assert "failed 8" in report.summary()
    again = prepare_into(tmp_path / "cache", sources, num_workers=num_workers).report
    assert (again.prepared, again.reused, again.failed) == ([], report.prepared, report.failed)


def test_an_entry_that_is_too_short_for_longer_clips_is_not_reused(
    prepared: Prepared, prepare_into: Run, tmp_path: Path
) -> None:
    prepare_into(tmp_path)
    longer = replace(CLIP, num_frames=25)
    report = prepare(
        prepared.sources, longer, prepared.codec, prepared.mel, str(tmp_path), num_workers=0, progress=False
    )
    assert report.reused == ["train/clip_2.mp4", "train/clip_3.mp4", "val/clip_1.mp4"]
    assert [Path(failure.path).name for failure in report.failed] == [f"clip_{i}.mp4" for i in (0, 1, 4, 0)]
    assert all("expected at least 2.5 s" in failure.reason for failure in report.failed)


def test_files_of_equal_content_share_an_entry(prepare_into: Run, media_folder: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.mp4" for name in "ab"]
    for path in paths:
        shutil.copy(media_folder / "train" / "clip_0.mp4", path)
    made = prepare_into(tmp_path / "cache", Folder(val_fraction=0.0).sources(str(tmp_path)))
    assert made.report.prepared == ["a.mp4", "b.mp4"]
    assert len(entry_bytes(tmp_path / "cache")) == 1


def test_latents_that_are_not_finite_are_not_stored(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = build_frame_codec(CodecConfig())
    encode = codec.encode
    monkeypatch.setattr(codec, "encode", lambda frames: tuple(x * float("nan") for x in encode(frames)))
    report = prepare(prepared.sources[:1], CLIP, codec, prepared.mel, str(tmp_path), num_workers=0, progress=False)
    assert [failure.reason for failure in report.failed] == [
        f"{prepared.sources[0].path}: expected finite latents from the codec, got NaN or infinity"
    ]
    assert entry_bytes(tmp_path) == {}


def test_whatever_a_decoder_raises_the_other_files_go_on(
    prepared: Prepared, prepare_into: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmmd_lightning.data.preprocess import decode

    iter_frames = decode.iter_frames

    def fails_midway(path: str, **settings: object) -> object:
        for number, frames in enumerate(iter_frames(path, **{**settings, "chunk": 4})):  # type: ignore[arg-type]
            if path.endswith("clip_2.mp4") and number == 2:
                raise ZeroDivisionError("inside\na decoder")
            if path.endswith("clip_4.mp4") and number == 3:
                raise MediaError(path, "more", "less")
            yield frames

    monkeypatch.setattr(decode, "iter_frames", fails_midway)
    report = prepare_into(tmp_path, batch_size=7).report
    assert [failure.reason.split(".mp4: ")[1] for failure in report.failed] == [
        "ZeroDivisionError: inside a decoder",
        "expected more, got less",
    ]
    expected = entry_bytes(prepared.cache.cache_dir)
    for number in (2, 4):
        del expected[prepared.cache.path(prepared.cache.key(prepared.sources[number])).name]
    assert entry_bytes(tmp_path) == expected


def test_sizes_and_keys_are_checked_before_anything_is_done(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        prepare(prepared.sources, replace(CLIP, width=30), prepared.codec, prepared.mel, str(tmp_path / "x"))
    with pytest.raises(ValueError, match=r"unique source keys, got 'train/clip_0.mp4' twice"):
        prepare([prepared.sources[0]] * 2, CLIP, prepared.codec, prepared.mel, str(tmp_path / "x"), progress=False)
    assert prepare([], CLIP, prepared.codec, prepared.mel, str(tmp_path / "x"), progress=False).summary() == (
        "prepared 0 sources (0.00 h of media), reused 0, failed 0, in 0 s"
    )
