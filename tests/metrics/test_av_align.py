"""AV-Align against examples worked by hand."""

import pytest
import torch

from cmmd_lightning.metrics.functional.av_align import av_align, motion_peaks


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


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match="variant"):
        av_align([0.1], [0.1], 10.0, variant="2023")
    with pytest.raises(ValueError, match="fps"):
        av_align([0.1], [0.1], 0.0)
