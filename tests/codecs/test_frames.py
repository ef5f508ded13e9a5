import pytest
import torch

from cmmd_lightning.codecs import (
    AutoencoderKLCodec,
    CodecConfig,
    FrameCodec,
    PixelUnshuffleCodec,
    build_frame_codec,
    resolved,
    sample_posterior,
)
from cmmd_lightning.codecs.blocks import block_basis

SMALL = {"block_out_channels": [8, 16], "norm_num_groups": 4, "latent_channels": 3, "layers_per_block": 1}


def small_vae(seed: int = 0, unshuffle: int = 4) -> FrameCodec:
    torch.manual_seed(seed)
    return build_frame_codec(CodecConfig("autoencoder_kl", unshuffle=unshuffle, config=dict(SMALL)))


def random_frames(n: int = 2, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_pixel_unshuffle_is_exact_and_has_no_spread():
    codec = PixelUnshuffleCodec(4)
    frames = random_frames()
    mean, logvar = codec.encode(frames)
    assert mean.shape == (2, 48, 8, 12) == (2, *codec.latent_shape(32, 48))
    assert torch.equal(codec.decode(mean), frames)
    assert torch.equal(logvar, torch.full_like(mean, -30.0))
    # Channel 16 c + 4 i + j of cell (y, x) is pixel (4 y + i, 4 x + j) of colour c.
    assert mean[1, 16 * 2 + 4 * 3 + 1, 5, 7] == frames[1, 2, 4 * 5 + 3, 4 * 7 + 1]
    assert torch.allclose(sample_posterior(mean, logvar), mean, atol=1e-5)


def test_decode_clamps_and_reconstruct_does_not():
    codec = PixelUnshuffleCodec(2)
    latents = torch.full((1, 12, 2, 2), 3.0)
    assert codec.decode(latents).max() == 1.0
    assert codec.reconstruct(latents).max() == 3.0


@pytest.mark.parametrize("codec", [PixelUnshuffleCodec(8), small_vae()], ids=["unshuffle", "vae"])
def test_sizes_that_do_not_divide_are_refused(codec: FrameCodec):
    assert codec.downsample == 8
    assert codec.latent_shape(64, 24)[1:] == (8, 3)
    with pytest.raises(ValueError, match=r"multiples of 8 .* got 36 x 32"):
        codec.latent_shape(36, 32)
    with pytest.raises(ValueError, match="got 32 x 36"):
        codec.encode(torch.zeros(1, 3, 32, 36))


def test_normalize_is_per_channel_and_denormalize_its_inverse():
    codec = PixelUnshuffleCodec(1)
    codec.shift.copy_(torch.tensor([1.0, -2.0, 0.5]))
    codec.scale.copy_(torch.tensor([2.0, 4.0, 0.25]))
    latents = torch.randn(2, 3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    normal = codec.normalize(latents)
    assert torch.allclose(normal[:, 1], (latents[:, 1] + 2.0) / 4.0)
    assert torch.allclose(codec.denormalize(normal), latents, atol=1e-6)
    assert codec.normalize(latents[:, :, 0]).shape == (2, 3, 4, 6)
    unit = PixelUnshuffleCodec(1)
    assert torch.equal(unit.normalize(latents), latents)


def test_vae_agrees_with_diffusers_behind_the_unshuffle():
    codec = small_vae()
    assert isinstance(codec, AutoencoderKLCodec)
    frames = random_frames()
    mean, logvar = codec.encode(frames)
    posterior = codec.vae.encode(torch.nn.functional.pixel_unshuffle(frames, 4)).latent_dist
    assert mean.shape == (2, 3, 4, 6)
    assert torch.allclose(mean, posterior.mean, atol=1e-5)
    assert torch.allclose(logvar, posterior.logvar, atol=1e-5)
    pixels = torch.nn.functional.pixel_shuffle(codec.vae.decode(mean).sample, 4)
    assert torch.allclose(codec.decode(mean), pixels.clamp(-1, 1), atol=1e-5)
    assert not any(weights.requires_grad for weights in codec.parameters())
    assert not codec.training


def test_block_basis_is_orthonormal_and_coarse_first():
    patterns, gains = block_basis(8, 4)
    flat = patterns.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(8), atol=1e-6)
    # Flat luma and two flat colours, then luma rising along x, then along y.
    assert torch.allclose(patterns[0], torch.tensor(48.0**-0.5))
    assert torch.allclose(patterns[1:3].sum(dim=1), torch.zeros(2, 4, 4), atol=1e-6)
    assert torch.allclose(patterns[3, 0], patterns[3, 0, :1].expand(4, 4))
    assert torch.allclose(patterns[4], patterns[3].transpose(1, 2))
    assert gains[0].item() == pytest.approx(1 / 4)
    everything = block_basis(48, 4)[0].flatten(1)
    assert torch.allclose(everything.T @ everything, torch.eye(48), atol=1e-5)
    with pytest.raises(ValueError, match="at most 12 latent channels for blocks of 2, got 13"):
        block_basis(13, 2)


def test_shortcut_runs_a_linear_codec_beside_the_network():
    plain = small_vae()
    codec = build_frame_codec(CodecConfig("autoencoder_kl", config=dict(SMALL), shortcut=True))
    codec.load_state_dict(plain.state_dict())
    frames = random_frames()
    patterns, gains = block_basis(3, 8)
    blocks = frames.unflatten(3, (6, 8)).unflatten(2, (4, 8))
    coefficients = torch.einsum("ncyixj,kcij->nkyx", blocks, patterns) * gains.view(1, 3, 1, 1)
    (mean, logvar), (plain_mean, plain_logvar) = codec.encode(frames), plain.encode(frames)
    assert torch.allclose(mean, plain_mean + coefficients, atol=1e-5)
    assert torch.equal(logvar, plain_logvar)
    # The shortcut alone gives a picture that is one colour its colour back.
    flat = torch.tensor([0.5, -0.25, 0.1]).view(1, 3, 1, 1).expand(1, 3, 32, 48)
    latents = codec.encode(flat)[0] - plain.encode(flat)[0]
    assert torch.allclose(codec.reconstruct(latents) - plain.reconstruct(latents), flat, atol=1e-5)
    assert resolved(codec).shortcut
    assert codec.fingerprint() != plain.fingerprint()


def test_sample_posterior_has_the_stated_moments_and_follows_the_generator():
    mean, logvar = torch.full((40000,), 2.0), torch.full((40000,), 2 * torch.tensor(0.5).log())
    sample = sample_posterior(mean, logvar, torch.Generator().manual_seed(3))
    assert abs(sample.mean().item() - 2.0) < 0.02
    assert abs(sample.std().item() - 0.5) < 0.02
    assert torch.equal(sample, sample_posterior(mean, logvar, torch.Generator().manual_seed(3)))
    assert not torch.equal(sample, sample_posterior(mean, logvar, torch.Generator().manual_seed(4)))


def test_resolved_config_rebuilds_the_codec_without_a_file():
    for codec in (small_vae(), PixelUnshuffleCodec(2)):
        config = resolved(codec)
        assert config.path is None
        again = build_frame_codec(config.to_dict())
        again.load_state_dict(codec.state_dict())
        assert again.fingerprint() == codec.fingerprint()
        assert torch.equal(again.encode(random_frames())[0], codec.encode(random_frames())[0])


def test_fingerprint_sees_kind_architecture_and_weights_but_not_the_scaling():
    codec = small_vae()
    first = codec.fingerprint()
    codec.shift.fill_(1.0)
    codec.scale.fill_(7.0)
    assert codec.fingerprint() == first
    assert small_vae(seed=1).fingerprint() != first
    assert small_vae(unshuffle=2).fingerprint() != first
    assert PixelUnshuffleCodec(2).fingerprint() != PixelUnshuffleCodec(4).fingerprint()
    with torch.no_grad():
        next(codec.parameters())[0, 0, 0, 0] += 1e-3
    assert codec.fingerprint() != first


def test_fingerprint_is_the_same_on_every_machine():
    codec = small_vae()
    for weights in codec.parameters():
        weights.fill_(0.5)
    assert PixelUnshuffleCodec(4).fingerprint() == "9c0ccb296f2e77e2cd0e271690c822a73daafcd361cb671ca1082a8afbc1e64a"
    assert codec.fingerprint() == "79268afb88568b67e086dde1d6a3757c44169ea523d0732d6db4d1743f390c17"


def test_a_folder_of_another_class_or_with_weights_missing_never_gets_random_ones(tmp_path):
    from diffusers import AutoencoderTiny
    from safetensors.torch import load_file, save_file

    channels = {f"{part}_block_out_channels": (8, 8) for part in ("encoder", "decoder")}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    AutoencoderTiny(**channels, **blocks).save_pretrained(tmp_path / "t")
    with pytest.raises(ValueError, match="AutoencoderKL folder, or a hub name, got one of AutoencoderTiny"):
        build_frame_codec({"kind": "autoencoder_kl", "path": str(tmp_path / "t")})
    small_vae(unshuffle=1).vae.save_pretrained(tmp_path / "k")
    (weights,) = (tmp_path / "k").glob("*.safetensors")
    save_file({k: v for k, v in load_file(weights).items() if not k.startswith("decoder")}, weights)
    with pytest.raises(ValueError, match=r"got weights with \d+ missing keys, such as decoder"):
        build_frame_codec({"kind": "autoencoder_kl", "path": str(tmp_path / "k")})


@pytest.mark.parametrize("inside", [".", "vae"])
def test_diffusers_folder_loads(tmp_path, inside):
    codec = small_vae(unshuffle=1)
    codec.vae.save_pretrained(tmp_path / inside)
    loaded = build_frame_codec({"kind": "autoencoder_kl", "path": str(tmp_path)})
    assert loaded.fingerprint() == codec.fingerprint()
    assert (loaded.config.unshuffle, loaded.downsample, loaded.latent_channels) == (1, 2, 3)
    assert torch.equal(loaded.encode(random_frames())[0], codec.encode(random_frames())[0])


def test_hub_name_is_asked_for_and_its_pipeline_folder_too(monkeypatch):
    from diffusers import AutoencoderKL

    asked = []
    vae = small_vae(unshuffle=1).vae

    def from_pretrained(name, subfolder=None, **_):
        asked.append((name, subfolder))
        if subfolder is None:
            raise OSError("no config.json at the top")
        return vae, {"missing_keys": []}

    monkeypatch.setattr(AutoencoderKL, "load_config", lambda name, subfolder=None: {})
    monkeypatch.setattr(AutoencoderKL, "from_pretrained", from_pretrained)
    loaded = build_frame_codec({"kind": "autoencoder_kl", "path": "somebody/some-pipeline"})
    assert asked == [("somebody/some-pipeline", None), ("somebody/some-pipeline", "vae")]
    assert loaded.latent_channels == 3


def test_what_does_not_load_is_named_in_one_line(tmp_path):
    text = tmp_path / "vae.ckpt"
    text.write_text("not a checkpoint")
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    (tmp_path / "empty").mkdir()
    for path, got in [
        (tmp_path / "missing.ckpt", "does not exist"),
        (tmp_path / "missing", "does not exist"),
        (text, "a file that is none"),
        (foreign, "hyper_parameters"),
        (tmp_path / "empty", "a folder without config.json"),
    ]:
        with pytest.raises(ValueError, match=got) as caught:
            build_frame_codec({"kind": "autoencoder_kl", "path": str(path)})
        assert str(caught.value).startswith(f"{path}: expected a checkpoint with a frame codec")
        assert "\n" not in str(caught.value)


def test_configurations_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match=r"kind must be .* got 'vqvae'"):
        CodecConfig(kind="vqvae")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        CodecConfig(unshuffle=0)
    with pytest.raises(ValueError, match="expected a path or a config"):
        build_frame_codec(CodecConfig("autoencoder_kl"))
    with pytest.raises(ValueError, match=r"expected 48 in_channels .* got 3 and 48"):
        build_frame_codec(CodecConfig("autoencoder_kl", unshuffle=4, config={**SMALL, "in_channels": 3}))
    with pytest.raises(ValueError, match="unexpected keyword argument 'depth'"):
        build_frame_codec(CodecConfig("autoencoder_kl", config={**SMALL, "depth": 3}))
