import math

import pytest
import torch

from cmmd_lightning.codecs import LogMel, Vocos, build_vocoder
from cmmd_lightning.codecs.spectral import multi_resolution_distance

MEL = LogMel(8000, 256, 100, 16, floor=0.01)


@pytest.fixture(scope="module")
def vocoder() -> Vocos:
    """Random weights, of which each frame's sound depends on all within its context."""
    torch.manual_seed(0)
    vocoder = Vocos(MEL.settings, dim=16, intermediate_dim=32, num_layers=2, synthesis_n_fft=250).eval()
    for name, values in vocoder.named_parameters():
        if name.endswith("weight") and "norm" not in name:
            torch.nn.init.normal_(values, std=0.3)
    return vocoder.requires_grad_(False)


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 4000, 4057])
def test_it_gives_exactly_the_samples_asked_for(vocoder, samples):
    sound = vocoder(MEL(noise(samples)), samples)
    assert sound.shape == (2, samples)
    assert torch.isfinite(sound).all()


def test_silence_is_exact_and_sound_is_where_the_mel_has_some(vocoder):
    sound = noise(6000)
    sound[:, 1500:4500] = 0.0
    again = vocoder(MEL(sound), 6000)
    # Mel frames see half a window (128 samples), their spectra sound half of one (125), and frames are 100 apart.
    assert torch.equal(again[:, 1900:4100], torch.zeros(2, 2200))
    assert (again[:, :1400].abs().amax(dim=1) > 1e-2).all()
    assert (again[:, 4600:].abs().amax(dim=1) > 1e-2).all()
    assert torch.equal(vocoder(torch.full((1, 16, 20), math.log(0.01) - 1.0), 2000), torch.zeros(1, 2000))


def test_the_sound_of_a_frame_depends_on_its_context_and_on_no_more(vocoder):
    mel = MEL(noise(8000))
    other = mel.clone()
    other[:, :, 40] += 1.0
    changed = (vocoder(mel, 8000) != vocoder(other, 8000)).any(dim=0).nonzero().flatten()
    assert vocoder.context == 3 * 3 + 2
    assert 4000 - vocoder.context * 100 <= int(changed.min()) < 4000 - 300
    assert 4000 + 300 < int(changed.max()) < 4000 + (vocoder.context + 1) * 100


def test_settings_rebuild_it(vocoder):
    again = build_vocoder(vocoder.init_args, MEL)
    again.load_state_dict(vocoder.state_dict())
    assert not any(values.requires_grad for values in again.parameters())
    mel = MEL(noise(2000))
    assert torch.equal(again(mel, 2000), vocoder(mel, 2000))


def test_distance_of_spectra_is_what_its_formula_says():
    sound = noise(5000)
    assert multi_resolution_distance(sound, sound).item() == 0.0
    assert multi_resolution_distance(-sound, sound).item() == pytest.approx(0.0, abs=1e-6)
    # half as loud: convergence 1/2, and ln 2 in each value
    assert multi_resolution_distance(0.5 * sound, sound).item() == pytest.approx(0.5 + math.log(2), rel=1e-3)
    # silence against silence, and windows longer than the sound, are no trouble
    assert multi_resolution_distance(torch.zeros(1, 300), torch.zeros(1, 300)).item() == 0.0


def test_distance_of_spectra_weighs_each_example_alike():
    loud, quiet = noise(4000, 1)[:1], 0.01 * noise(4000, 2)[:1]
    alone = [multi_resolution_distance(0.7 * sound, sound, [512]) for sound in (loud, quiet)]
    both = torch.cat([loud, quiet])
    assert multi_resolution_distance(0.7 * both, both, [512]).item() == pytest.approx((sum(alone) / 2).item(), rel=1e-5)
