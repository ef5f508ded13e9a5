import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import CLIP, Prepared, mel_of, moments_of, write_entry

from cmmd_lightning.codecs import CodecConfig, build_frame_codec
from cmmd_lightning.data import Cache, Statistics, measure_statistics


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path), CLIP, build_frame_codec(CodecConfig()), mel_of(CLIP))


def filled(cache: Cache, lengths: tuple[int, ...]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Entries of random values; also all means, log-variances (per channel) and Mels, in float64."""
    generator = torch.Generator().manual_seed(0)
    keys, means, logvars, mels = [], [], [], []
    for number, length in enumerate(lengths):
        mean = (
            torch.randn(length, 3, 4, 4, generator=generator) * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1) + 2
        ).half()
        logvar = torch.randn(length, 3, 4, 4, generator=generator).half() - 1
        mel = torch.randn(16, 8 * length, generator=generator) * 2 - 5
        keys.append(f"{number:02x}")
        write_entry(cache, keys[-1], mean, logvar, mel)
        means.append(mean.double().transpose(0, 1).reshape(3, -1).numpy())
        logvars.append(logvar.double().transpose(0, 1).reshape(3, -1).numpy())
        mels.append(mel.double().flatten().numpy())
    return keys, np.concatenate(means, 1), np.concatenate(logvars, 1), np.concatenate(mels)


def test_statistics_equal_the_direct_computation(cache: Cache) -> None:
    keys, means, logvars, mels = filled(cache, (3, 50, 11))
    measured = measure_statistics(cache, keys)
    np.testing.assert_allclose(measured.latent_shift, means.mean(1), rtol=1e-12)
    # The variance of a posterior sample is the variance of the means and the mean of the variances.
    np.testing.assert_allclose(measured.latent_scale, np.sqrt(means.var(1) + np.exp(logvars).mean(1)), rtol=1e-12)
    assert measured.mel_mean == pytest.approx(mels.mean(), rel=1e-12)
    assert measured.mel_std == pytest.approx(mels.std(), rel=1e-12)
    assert measured.num_entries == 3


def test_the_order_does_not_change_the_last_digit(cache: Cache) -> None:
    keys, *_ = filled(cache, tuple(range(1, 30)))
    moments = [info.moments for key in keys if (info := cache.info(key))]
    reference = Statistics.of(moments)
    for seed in range(5):
        random.Random(seed).shuffle(moments)
        assert Statistics.of(moments) == reference
    random.Random(9).shuffle(keys)
    assert measure_statistics(cache, keys + keys[:3]) == reference


def test_statistics_are_stored_by_their_set_of_entries(cache: Cache) -> None:
    keys, *_ = filled(cache, (3, 5, 4))
    two, three = measure_statistics(cache, keys[:2]), measure_statistics(cache, keys)
    assert two != three
    files = sorted(cache.cache_dir.glob("statistics-*.json"))
    assert len(files) == 2
    assert {json.loads(file.read_text())["num_entries"] for file in files} == {2, 3}
    for key in keys:
        cache.path(key).unlink()
    cache.reload()
    assert measure_statistics(cache, reversed(keys)) == three
    with pytest.raises(ValueError, match="expected a cache entry, got none; run prepare first"):
        measure_statistics(cache, keys[1:])
    with pytest.raises(ValueError, match="at least one cache entry"):
        measure_statistics(cache, [])


def test_a_channel_that_never_changes_keeps_a_finite_scale() -> None:
    moments = moments_of(torch.full((2, 1, 4, 4), 0.3), torch.full((2, 1, 4, 4), -30.0), torch.zeros(4, 4))
    measured = Statistics.of([moments])
    assert measured.latent_shift[0] == pytest.approx(0.3)
    assert measured.latent_scale == (1e-5,)
    assert (measured.mel_mean, measured.mel_std) == (0.0, 1e-5)


def test_apply_brings_prepared_data_to_unit_variance(prepared: Prepared) -> None:
    keys = [prepared.cache.key(source) for source in prepared.sources]
    codec, mel = build_frame_codec(CodecConfig()), mel_of(CLIP)
    measure_statistics(prepared.cache, keys).apply(codec, mel)
    latents, mels = [], []
    for key in keys:
        info = prepared.cache.info(key)
        assert info is not None
        latents.append(codec.normalize(prepared.cache.read_latents(key, 0, info.num_frames)[0].float()))
        mels.append(mel.normalize(prepared.cache.read_mel(key, 0, info.mel_frames)).flatten())
    whole = torch.cat(latents).transpose(0, 1).flatten(1)
    torch.testing.assert_close(whole.mean(1), torch.zeros(48), atol=1e-4, rtol=0)
    torch.testing.assert_close(whole.std(1), torch.ones(48), atol=1e-3, rtol=0)
    assert float(torch.cat(mels).mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(torch.cat(mels).std()) == pytest.approx(1.0, abs=1e-3)
