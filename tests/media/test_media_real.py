"""The files that people have: GRID's MPEG-1 originals, a web clip, and the cut GRID corpus."""

import csv

import numpy as np
import pytest
import torch

from cmmd_lightning.media import find_media, iter_frames, iter_sound, mux, probe, read_frames, read_sound

FORGIVEN = 0.05  # seconds


@pytest.fixture(scope="module")
def samples(shared):
    return find_media(shared / "data" / "media_samples")


def test_media_samples_as_they_are(samples):
    assert [path.suffix for path in samples] == [".mpg"] * 5 + [".mp4"]
    for path in samples[:5]:
        info = probe(path, verify=True)
        assert (info.height, info.width, info.fps, info.sample_rate, info.channels) == (288, 360, 25.0, 44100, 2)
        assert (info.video_codec, info.audio_codec, info.problems) == ("mpeg1video", "mp2", ())
        assert info.video_duration == pytest.approx(3.0, abs=1e-6)
        assert info.audio_duration == pytest.approx(114 * 1152 / 44100, abs=1e-4)
    info = probe(samples[5], verify=True)
    assert (info.height, info.width, info.fps, info.sample_rate, info.audio_codec) == (180, 320, 25.0, 8000, "aac")
    assert (info.video_duration, info.audio_duration) == (13.0, 13.056)


def test_every_sample_reads_to_its_end(samples):
    for path in samples:
        info = probe(path)
        frames = torch.cat(list(iter_frames(path, fps=12.5, size=(32, 32))))
        sound = torch.cat(list(iter_sound(path, sample_rate=16000)))
        assert len(frames) == int(info.video_duration * 12.5 + 0.01)
        assert len(sound) == round(info.audio_duration * 16000)
        assert sound.abs().max() > 0.05
        for start in (0.0, 0.72, 1.6):
            part = read_frames(path, start=start, num_frames=10, fps=12.5, size=(32, 32))
            assert torch.equal(part, frames[round(start * 12.5) :][:10])
            part = read_sound(path, start=start, num_samples=16000, sample_rate=16000)
            assert torch.allclose(part, sound[round(start * 16000) :][:16000], atol=2e-4)


def test_mpg_and_its_mp4_hear_and_see_the_same(shared, samples):
    """The GRID mp4s were cut from such mpgs: the same clip must lie at the same times in both."""
    cuts = {path.stem: path for path in find_media(shared / "data" / "grid_s1")}
    pairs = [
        (path, cuts[path.stem.removeprefix("grid_s1_")])
        for path in samples[:5]
        if path.stem.removeprefix("grid_s1_") in cuts
    ]
    for original, cut in pairs:
        a, b = (read_sound(path, num_samples=47000, sample_rate=16000).numpy() for path in (original, cut))
        correlation = np.fft.irfft(np.fft.rfft(a, 1 << 17) * np.fft.rfft(b, 1 << 17).conj())
        assert abs((correlation.argmax() + (1 << 16)) % (1 << 17) - (1 << 16)) <= 16
        seen = read_frames(original, num_frames=74, fps=25.0)[:, :, 24:280, 22:278].float()
        seen = torch.nn.functional.interpolate(seen, (128, 128), mode="area")
        other = read_frames(cut, num_frames=74, fps=25.0).float()
        gaps = [(seen[2 + lag : 70 + lag] - other[2:70]).abs().mean().item() for lag in (-2, -1, 0, 1, 2)]
        assert int(np.argmin(gaps)) == 2


def test_grid_lengths(shared):
    """Frames and samples of a spread of clips are those that the corpus's own index lists."""
    folder = shared / "data" / "grid_s1"
    with open(folder / "index.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    short = [row for row in rows if int(row["frames"]) != 75]
    assert {row["frames"] for row in short} == {"74"}
    for row in rows[::90] + short:
        info = probe(folder / row["split"] / f"{row['clip']}.mp4", verify=True)
        assert info.problems == ()
        assert round(info.video_duration * 25) == int(row["frames"])
        assert abs(round(info.audio_duration * 16000) - int(row["audio_samples_16k"])) <= 16
        sound = read_sound(info.path, num_samples=round(info.video_duration * 16000), sample_rate=16000)
        assert torch.isfinite(sound).all()


def test_samples_under_a_new_sound(samples, tmp_path):
    sound = torch.sin(torch.arange(16000 * 13) * 0.1) * 0.3
    for path in (samples[0], samples[5]):
        info = probe(path)
        out = tmp_path / f"{path.stem}.mp4"
        for seconds in (1.6, info.video_duration):
            mux(out, seconds=seconds, video_from=path, sound=sound, sample_rate=16000)
            made = probe(out, verify=True)
            assert (made.video_codec, made.audio_codec, made.fps) == ("h264", "aac", info.fps)
            assert (made.height, made.width) == (info.height, info.width)
            assert abs(made.video_duration - seconds) <= 1 / 25 + 1e-3
            assert abs(made.audio_duration - seconds) <= 1e-3
            count = int(made.video_duration * 25 + 0.01)
            gap = (
                read_frames(out, num_frames=count, fps=25.0).float()
                - read_frames(path, num_frames=count, fps=25.0).float()
            )
            assert gap.abs().mean() < 3
