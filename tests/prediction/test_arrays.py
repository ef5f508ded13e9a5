"""What numpy, soundfile and image libraries give."""

import numpy as np
import pytest
import torch

from cmmd_lightning.prediction.arrays import as_frames, as_sound


def test_frames_of_every_plain_form_are_the_same():
    pixels = torch.randint(0, 256, (2, 3, 5, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    true = pixels.float() / 127.5 - 1
    last = pixels.permute(0, 2, 3, 4, 1)
    for given in (pixels, pixels.numpy(), true, true.double(), last, last.numpy()):
        assert torch.allclose(as_frames(given, 8, 6), true, atol=1e-6)
    assert torch.allclose(as_frames(true.half(), 8, 6), true, atol=1e-3)
    assert torch.equal(as_frames(last[0].numpy(), 8, 6), true[:1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(1, 5, 3, 8, 6), r"expected \(B, 3, T, 8, 6\) .* got \(1, 5, 3, 8, 6\)"),
        (torch.full((1, 3, 5, 8, 6), 255.0), "got a peak of 255"),
        (torch.full((1, 3, 5, 8, 6), torch.nan), "got a peak of nan"),
        (torch.zeros(1, 3, 5, 8, 6, dtype=torch.int64), "got torch.int64"),
    ],
)
def test_other_frames_are_refused_in_one_line(given, said):
    with pytest.raises(ValueError, match=said):
        as_frames(given, 8, 6)


def test_sound_of_every_plain_form_is_the_same():
    true = 0.5 * torch.sin(torch.arange(100) * 0.3)[None]
    ints = (true * 32768).round()
    for given in (
        true,
        true[0],
        true[:, None],
        true.double().numpy(),
        ints.to(torch.int16),
        ints.numpy().astype(np.int16),
    ):
        assert torch.allclose(as_sound(given), true, atol=1e-4)
    for given in (torch.zeros(1, 2, 9), true * torch.nan, ints):
        with pytest.raises(ValueError, match="sound: expected"):
            as_sound(given)
