"""AV-Align against examples worked by hand, from lists of peaks and from pictures and sounds."""

import sys

import librosa
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from cmmd_lightning.metrics.functional.av_align import LEAST_FLOW, av_align, av_align_clip, librosa_onsets, motion_peaks
from cmmd_lightning.metrics.functional.flow import flow_magnitude
from cmmd_lightning.metrics.synchrony import AVAlign

FPS, RATE = 10.0, 22050


def picture(jumps: dict[int, int], count: int = 24) -> torch.Tensor:
    """A square that jumps by some pixels at some frames and rests between them, (T, 3, 64, 64)."""
    frames = torch.full((count, 3, 64, 64), 40, dtype=torch.uint8)
    left = 4
    for i in range(count):
        left += jumps.get(i, 0)
        frames[i, :, 16:48, left : left + 24] = 220
    return frames


def clicks(*times: float) -> torch.Tensor:
    t = torch.arange(round(2.4 * RATE)) / RATE
    since = [(t - time).clamp(min=0) for time in times]
    return sum(torch.exp(-x / 0.005) * torch.sin(3000 * x) for x in since)


@pytest.mark.parametrize(
    ("audio", "video", "new", "old"),
    [
        ([0.5], [0.5], 1.0, 1.0),
        ([0.5], [0.55], 1.0, 1.0),
        ([0.5], [0.65], 0.0, 0.0),  # more than a frame
        ([0.5, 1.5], [0.5], 0.5, 0.5),  # 1 / (2 + 1 - 1)
        ([0.45, 0.5], [0.5], 0.5, 2.0),  # old: one motion peak serves both, 2 / (2 + 1 - 2)
        ([0.45, 0.5], [0.5, 1.0], 1 / 3, 1.0),  # old: 2 / (2 + 2 - 2)
        ([0.5, 0.58], [0.44, 0.55], 1.0, 1.0),
        ([0.50, 0.58], [0.52, 0.41], 1.0, 1.0),  # 0.50 takes 0.41, the first free; 0.58 takes 0.52
        ([], [0.5], 0.0, 0.0),
        ([0.5], [], 0.0, 0.0),
        ([], [], 0.0, 0.0),
    ],
)
def test_examples_by_hand(audio, video, new, old):
    assert av_align(audio, video, 10.0) == pytest.approx(new)
    assert av_align(audio, video, 10.0, variant="tempotokens-2024") == pytest.approx(old)


def test_the_older_code_exceeds_one():
    assert av_align([0.49, 0.5, 0.51], [0.5], 10.0, variant="tempotokens-2024") == 3.0


def test_the_window_is_exclusive_and_follows_the_frame_rate():
    assert av_align([0.5], [0.75], 4.0) == 0.0
    assert av_align([0.5], [0.74], 4.0) == 1.0
    assert av_align([0.5], [0.54], 30.0) == 0.0


def test_peaks_are_above_both_neighbours_and_the_least_value():
    envelope = torch.tensor([3.0, 1.0, 2.0, 2.0, 1.0, 0.05, 0.08, 0.0, 5.0])
    assert motion_peaks(envelope, 10.0).tolist() == [0.6]
    assert motion_peaks(envelope, 10.0, least=0.1).tolist() == []


def test_flow_is_the_displacement_in_pixels_and_its_first_value_the_second_frame_s():
    texture = gaussian_filter(torch.rand(96, 96, generator=torch.Generator().manual_seed(0)).numpy(), 3)
    texture = torch.from_numpy(255 * (texture - texture.min()) / (texture.max() - texture.min())).to(torch.uint8)
    moved = [texture[16:80, 16 - step : 80 - step].expand(3, -1, -1) for step in (0, 2, 2, 5)]
    found = flow_magnitude(torch.stack(moved))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([2.0, 2.0, 0.0, 3.0], rel=0.02, abs=0.01)
    assert found[0] == found[1]


@pytest.mark.parametrize("count", [0, 1])
def test_without_two_frames_nothing_moves(count):
    frames = torch.zeros(count, 3, 16, 16, dtype=torch.uint8)
    assert flow_magnitude(frames).tolist() == [0.0] * count
    assert av_align_clip(frames, FPS, torch.zeros(0), RATE) == 0.0


def test_onsets_are_those_of_the_published_calls_on_a_file(tmp_path):
    sound = 0.5 * torch.nn.functional.interpolate(clicks(0.4, 1.1, 1.9)[None, None], scale_factor=2.0)[0, 0]
    soundfile.write(tmp_path / "a.wav", sound.numpy(), 44100, subtype="FLOAT")
    samples, rate = librosa.load(tmp_path / "a.wav")
    frames = librosa.onset.onset_detect(onset_envelope=librosa.onset.onset_strength(y=samples, sr=rate), sr=rate)
    expected = librosa.frames_to_time(frames, sr=rate)
    assert len(expected) == 3
    assert librosa_onsets(sound, 44100).tolist() == expected.tolist()
    assert librosa_onsets(torch.zeros(RATE), RATE).tolist() == []


@pytest.mark.parametrize(
    ("jumps", "sounds", "new", "old"),
    [
        ({5: 6, 10: 6, 15: 6}, (0.5, 1.0, 1.5), 1.0, 1.0),
        # jumps at 0.5, 1.0, 1.5, 1.8 s; 0.5 and 1.0 sound, and so does 1.25: 2 / (3 + 4 - 2)
        ({5: 6, 10: 6, 15: 6, 18: 6}, (0.5, 1.0, 1.25), 0.4, 0.4),
        # both sounds are within a frame of the one jump: 1 / (2 + 1 - 1), and 2 / (2 + 1 - 2)
        ({5: 6}, (0.43, 0.53), 0.5, 2.0),
        # a jump of the first frame has no peak, since its flow stands twice
        ({1: 6, 10: 6}, (1.0,), 1.0, 1.0),
        ({}, (0.5,), 0.0, 0.0),
        ({5: 6}, (0.9,), 0.0, 0.0),
    ],
)
def test_clips_by_hand(jumps, sounds, new, old):
    frames, sound = picture(jumps), clicks(*sounds)
    assert av_align_clip(frames, FPS, sound, RATE) == pytest.approx(new)
    assert av_align_clip(frames, FPS, sound, RATE, variant="tempotokens-2024") == pytest.approx(old)


def test_small_motion_counts_in_the_older_code_only():
    frames = torch.full((10, 3, 96, 96), 40, dtype=torch.uint8)
    frames[5:, :, 31:33, 31:33] = 220
    flow = flow_magnitude(frames)
    assert 0 < float(flow[5]) < LEAST_FLOW["tempotokens-2025"]
    sound = clicks(0.5)
    assert av_align_clip(frames, FPS, sound, RATE) == 0.0
    assert av_align_clip(frames, FPS, sound, RATE, variant="tempotokens-2024") == 1.0


def test_the_value_does_not_depend_on_the_sample_rate():
    sound = torch.nn.functional.interpolate(clicks(0.5, 1.0, 1.25)[None, None], scale_factor=2.0)[0, 0]
    assert av_align_clip(picture({5: 6, 10: 6, 15: 6, 18: 6}), FPS, sound, 2 * RATE) == pytest.approx(0.4)


peaks = st.lists(st.integers(0, 60).map(lambda k: k / 16), max_size=8)  # floats that differ exactly


@settings(max_examples=100, deadline=None)
@given(peaks, peaks, st.integers(0, 20))
def test_the_newer_code_is_at_most_the_older_and_one_and_moves_with_both(audio, video, shift):
    new, old = (av_align(audio, video, 8.0, variant=variant) for variant in LEAST_FLOW)
    assert 0 <= new <= min(1.0, old)
    moved = [[time + shift / 16 for time in times] for times in (audio, video)]
    assert av_align(*moved, 8.0) == new
    assert av_align(audio, audio, 8.0) == float(bool(audio))


def test_the_metric_is_the_mean_under_the_name_of_its_variant():
    metric = AVAlign(fps=10.0, variant="tempotokens-2024")
    metric.update([[0.45, 0.5], [0.5]], [[0.5], [0.5]])
    metric.update([[0.1]], [[0.9]])
    values = metric.compute()
    assert list(values) == ["av_align[tempotokens-2024]"]
    assert float(values["av_align[tempotokens-2024]"]) == pytest.approx((2 + 1 + 0) / 3)
    metric.reset()
    metric.update([[0.5]], [torch.tensor([0.5])])
    assert float(metric.compute()["av_align[tempotokens-2024]"]) == 1.0
    assert metric.plot()[0].axes


def test_clips_without_peaks_count_as_0():
    metric = AVAlign(fps=10.0)
    metric.update([[], [0.5]], [[], [0.5]])
    assert float(metric.compute()["av_align[tempotokens-2025]"]) == 0.5


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_before_any_clip_the_metric_is_nan():
    assert bool(AVAlign(fps=10.0).compute()["av_align[tempotokens-2025]"].isnan())


def test_a_malformed_clip_leaves_the_metric_as_it_was():
    metric = AVAlign(fps=10.0)
    metric.update([[0.5]], [[0.5]])
    with pytest.raises(ValueError, match="finite"):
        metric.update([[0.1], [float("nan")]], [[0.9], [0.5]])
    assert float(metric.compute()["av_align[tempotokens-2025]"]) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: av_align([0.1], [0.1], 10.0, variant="2023"), "variant must be one of .*2025.*got '2023'"),
        (lambda: av_align([0.1], [0.1], 0.0), "fps"),
        (lambda: av_align([0.1], [0.1], float("nan")), "fps"),
        (lambda: av_align([float("nan")], [0.1], 10.0), "finite"),
        (lambda: av_align([0.1], [[0.1]], 10.0), "one dimension"),
        (lambda: motion_peaks(torch.zeros(2, 5), 10.0), "one dimension"),
        (lambda: motion_peaks(torch.full((5,), float("nan")), 10.0), "finite"),
        (lambda: motion_peaks(torch.zeros(5), -1.0), "fps"),
        (lambda: flow_magnitude(torch.zeros(4, 3, 8, 8)), "uint8"),
        (lambda: flow_magnitude(torch.zeros(4, 8, 8, 3, dtype=torch.uint8)), r"\(T, 3, H, W\)"),
        (lambda: librosa_onsets(torch.zeros(2, 100), RATE), "one dimension"),
        (lambda: librosa_onsets(torch.tensor([float("inf")]), RATE), "finite"),
        (lambda: librosa_onsets(torch.zeros(100), 0), "sample_rate"),
        (lambda: av_align_clip(torch.zeros(4), 10.0, torch.zeros(9), RATE, variant="x"), "variant"),
        (lambda: AVAlign(fps=0.0), "fps"),
        (lambda: AVAlign(fps=10.0, variant="2023"), "variant"),
        (lambda: AVAlign(fps=10.0).update([[0.1]], []), "as many clips"),
    ],
)
def test_malformed_input_raises(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("library", ["cv2", "librosa"])
def test_a_missing_library_is_named_with_the_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cmmd-lightning\[metrics\]'"):
        av_align_clip(picture({5: 6}), FPS, clicks(0.5), RATE)
