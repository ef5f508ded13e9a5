"""Sound of several channels is as loud as the same sound in one; sound is opened by its content, whatever its name."""

import av
import numpy as np
import pytest
import soundfile
import torch
from media_clips import write_layout

from cmmd_lightning.media import downmix, iter_sound, mux, probe, read_sound, write_sound, write_video

RATE = 48000


def burst(frequency: float = 1500.0) -> np.ndarray:
    """float32: 2 s of silence with a burst at 1 s."""
    sound, k = np.zeros(2 * RATE, np.float32), np.arange(2880) / RATE
    sound[RATE : RATE + 2880] = 0.7 * np.sin(2 * np.pi * frequency * k) * np.exp(-k / 0.012)
    return sound


B, Z = burst(), burst() * 0
NOISE = np.random.default_rng(0).standard_normal((8, 2 * RATE)).astype(np.float32) * 0.1


def delayed(samples: int, frequency: float = 1500.0) -> list[np.ndarray]:
    return [burst(frequency), np.roll(burst(frequency), samples)]


CASES = {  # channels, their layout, what the note says
    "same": ([B, B], "stereo", None),
    "left alone": ([B, Z], "stereo", "silent channels: FR"),
    "right alone": ([Z, B], "stereo", "silent channels: FL"),
    "almost silent": ([B, 0.001 * NOISE[0]], "stereo", "silent channels: FR"),
    "opposite": ([B, -B], "stereo", "cancel out"),
    "almost opposite": ([B, -0.8 * B], "stereo", "cancel out"),
    "half a period late": (delayed(16), "stereo", "cancel out"),
    "a third late": (delayed(11), "stereo", "cancel out|keep the loudness"),
    "a quarter late": (delayed(8), "stereo", "keep the loudness"),
    "low and late": (delayed(48, 500.0), "stereo", "cancel out"),
    "5.1 centre": ([Z, Z, B, Z, Z, Z], "5.1", "silent channels: FL FR"),
    "5.1 front": ([B, B, Z, Z, Z, Z], "5.1", "silent channels: FC"),
    "5.1 all": ([B] * 6, "5.1", None),
    "5.1 boom": ([Z, Z, B, 3 * NOISE[1], Z, Z], "5.1", "silent channels"),
    "5.1 low only": ([Z, Z, Z, B, Z, Z], "5.1", "silent channels"),
    "7.1 side": ([Z, Z, Z, Z, Z, Z, B, B], "7.1", "silent channels"),
    "7.1 all": ([B] * 8, "7.1", None),
    "quad": ([Z, Z, B, Z], "quad", "silent channels"),
    "quad all": ([B] * 4, "quad", None),
    "2.1": ([B, B, 3 * NOISE[1]], "2.1", None),
    "3.0": ([Z, Z, B], "3.0", "silent channels"),
}


def level(path) -> float:
    """dB of the sound against the burst."""
    sound = read_sound(path, num_samples=2 * RATE, sample_rate=RATE).double()
    return float(10 * torch.log10(sound.square().sum() / np.square(B, dtype=np.float64).sum()))


@pytest.mark.parametrize("suffix", [".wav", ".mkv"])
@pytest.mark.parametrize("name", CASES)
def test_levels(tmp_path, caplog, name, suffix):
    channels, layout, note = CASES[name]
    if suffix == ".mkv" and layout == "2.1":
        pytest.skip("Matroska does not tell the places of plain samples' channels")
    path = tmp_path / f"sound{suffix}"
    write_layout(path, channels, layout)
    alone = np.square(burst(500.0) if name == "low and late" else B, dtype=np.float64).sum()
    assert level(path) == pytest.approx(10 * np.log10(alone / np.square(B, dtype=np.float64).sum()), abs=0.5)
    said = downmix(path).note or ""
    assert any(part in said for part in note.split("|")) if note else not said
    assert probe(path, verify=True).notes == ((said,) if said else ())
    assert [record.getMessage() for record in caplog.records] == ([f"{path}: {said}"] if "cancel out" in said else [])


def test_unnamed_channels(tmp_path):
    """A wav without places: six channels are 5.1, three are three alike."""
    for count, alone in ((6, 2), (3, 2), (4, 3), (8, 7)):
        sound = np.zeros((count, 2 * RATE), np.float32)
        sound[alone] = B
        soundfile.write(tmp_path / "sound.wav", sound.T, RATE)
        assert level(tmp_path / "sound.wav") == pytest.approx(0.0, abs=0.1)


def test_channels_that_differ_are_as_loud_as_one(tmp_path):
    """Unrelated noise: power is kept; sound that is mixed before keeps its balance."""
    for count, layout in ((2, "stereo"), (8, "7.1")):
        write_layout(tmp_path / "noise.wav", NOISE[:count], layout)
        read = read_sound(tmp_path / "noise.wav", num_samples=2 * RATE, sample_rate=RATE)
        assert read.std() == pytest.approx(0.1, rel=0.03)
    write_layout(tmp_path / "panned.wav", [B, 0.5 * B], "stereo")
    assert level(tmp_path / "panned.wav") == pytest.approx(20 * np.log10(0.75), abs=0.05)
    speech = [np.concatenate([B[:RATE], 0 * B[RATE:]]) + B, B]
    write_layout(tmp_path / "centre.wav", [*speech, Z][:2], "stereo")
    assert level(tmp_path / "centre.wav") == pytest.approx(0.0, abs=0.1)


def test_pieces_agree_and_a_broken_file_is_mixed_by_what_is_left(tmp_path):
    path = tmp_path / "sound.wav"
    write_layout(path, [B + 0.1 * NOISE[0], -B], "stereo")
    whole = read_sound(path, num_samples=2 * RATE, sample_rate=RATE)
    part = read_sound(path, start=0.99, num_samples=RATE // 2, sample_rate=RATE)
    assert torch.allclose(part, whole[round(0.99 * RATE) :][: RATE // 2], atol=1e-6)
    assert torch.equal(torch.cat(list(iter_sound(path, sample_rate=RATE, chunk=999))), whole)
    (tmp_path / "cut.wav").write_bytes(path.read_bytes()[:300_000])
    assert torch.equal(read_sound(tmp_path / "cut.wav", num_samples=RATE, sample_rate=RATE), whole[:RATE])


def test_a_given_sound_of_many_channels_keeps_its_loudness_in_what_is_written(tmp_path):
    write_layout(tmp_path / "sound.wav", [Z, Z, B, Z, Z, Z], "5.1")
    frames = torch.zeros(20, 3, 16, 16, dtype=torch.uint8)
    assert mux(tmp_path / "out.mp4", seconds=2.0, frames=frames, fps=10.0, audio_from=tmp_path / "sound.wav") == 0.0
    assert level(tmp_path / "out.mp4") == pytest.approx(0.0, abs=0.5)


def test_peaks_are_limited_and_told(tmp_path):
    sound = torch.zeros(RATE)
    sound[1000], sound[2000] = 2.0, -1.5
    frames = torch.zeros(10, 3, 16, 16, dtype=torch.uint8)
    told = [
        write_sound(tmp_path / "sound.wav", sound, RATE),
        write_video(tmp_path / "sound.mp4", None, sound=sound, sample_rate=RATE),
        mux(tmp_path / "out.mp4", seconds=1.0, frames=frames, fps=10.0, sound=sound, sample_rate=RATE),
    ]
    assert told == pytest.approx([6.02] * 3, abs=0.01)
    assert soundfile.read(tmp_path / "sound.wav")[0][[1000, 2000]] == pytest.approx([1.0, -1.0], abs=1e-4)
    assert write_sound(tmp_path / "sound.wav", sound / 2, RATE) == 0.0


BY_CONTENT = [
    ("m4a.wav", "aac", "ipod"),
    ("webm.wav", "libopus", "webm"),
    ("ogg.flac", "libopus", "ogg"),
    ("mp4.aiff", "alac", "mp4"),
    ("ac3 in riff.wav", "ac3", "wav"),
    ("aac in riff.wav", "aac", "wav"),
    ("mp3 in riff.wav", "libmp3lame", "wav"),
    ("adpcm in riff.wav", "adpcm_ms", "wav"),
    ("mulaw.wav", "pcm_mulaw", "wav"),
    ("float.wav", "pcm_f32le", "wav"),
    ("wav.mp3", "pcm_s16le", "wav"),
    ("flac.mp4", "flac", "flac"),
    ("aiff.bin", "pcm_s16be", "aiff"),
]


def encode(path, codec, container):
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=RATE, layout="mono")
        context = stream.codec_context
        context.open()
        to = av.AudioResampler(
            format=context.format.name, layout="mono", rate=RATE, frame_size=context.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(B[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        for part in [*to.resample(frame), *to.resample(None), None]:
            out.mux(stream.encode(part))


@pytest.mark.parametrize(("name", "codec", "container"), BY_CONTENT)
def test_sound_is_opened_by_its_content(tmp_path, name, codec, container):
    path = tmp_path / name
    encode(path, codec, container)
    with av.open(str(path)) as media:
        blocks = [frame.to_ndarray().ravel() for frame in media.decode(audio=0)]
    wanted = np.abs(np.concatenate(blocks).astype(np.float64) - 128 * (blocks[0].dtype == np.uint8)).argmax() / RATE
    read = torch.cat(list(iter_sound(path, sample_rate=RATE)))
    assert read.abs().argmax() / RATE == pytest.approx(wanted, abs=0.002)
    assert wanted == pytest.approx(1.0, abs=0.04)  # RIFF cannot mark an encoder's delay
    assert 10 * torch.log10(read.double().square().sum() / np.square(B).sum()) == pytest.approx(0.0, abs=0.5)
    assert probe(path, verify=True).problems == ("no picture",)
