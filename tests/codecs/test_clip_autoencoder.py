import pytest
import torch

from cmmd_lightning.codecs import CodecConfig, build_frame_codec, resolved
from cmmd_lightning.codecs.clip_autoencoder import ClipAutoencoderSpec
from cmmd_lightning.training.autoencoder import FrameAutoencoderModule

CONFIG = {"latent_channels": 6, "channels": [16, 24], "decoder_blocks": 2, "kernels": [3, 5]}


@pytest.fixture(scope="module")
def codec():
    made = build_frame_codec(CodecConfig("clip_autoencoder", None, 4, CONFIG))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # away from its zeros, as training would move it
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def latents_of(clips: int, frames: int) -> torch.Tensor:
    return torch.randn(clips, 6, frames, 4, 4, generator=torch.Generator().manual_seed(frames))


def test_frames_become_latents_one_by_one(codec):
    frames = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, logvar = codec.encode(frames)
    assert mean.shape == logvar.shape == (5, 6, 4, 4) == (5, *codec.latent_shape(32, 32))
    torch.testing.assert_close(codec.encode(frames[2:3])[0], mean[2:3], atol=1e-5, rtol=1e-5)


def test_a_decoded_frame_sees_its_neighbours_and_no_more_than_the_context(codec):
    latents = latents_of(1, 25)
    changed = latents.clone()
    changed[:, :, 12] += 1.0
    difference = (codec.decode_clips(latents) - codec.decode_clips(changed)).abs().amax((0, 1, 3, 4))
    seen = difference.gt(1e-6).nonzero().flatten().tolist()
    assert codec.context == 2 * (1 + 2)
    assert seen == list(range(12 - codec.context, 12 + codec.context + 1))


@pytest.mark.parametrize("max_frames", [1, 4, 7, 100])
def test_decoding_in_parts_is_decoding_at_once(codec, max_frames):
    latents = latents_of(2, 15)
    whole = codec.reconstruct_clips(latents).clamp(-1, 1)
    torch.testing.assert_close(codec.decode_clips(latents, max_frames), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(codec.decode_part(latents, 3, 5), whole[:, :, 3:8], atol=1e-5, rtol=1e-5)


def test_a_frame_by_itself_is_a_clip_of_one(codec):
    latents = latents_of(3, 1)
    torch.testing.assert_close(codec.decode(latents[:, :, 0]), codec.decode_clips(latents)[:, :, 0])


def test_it_is_rebuilt_from_plain_settings(codec):
    again = build_frame_codec(resolved(codec).to_dict())
    again.load_state_dict(codec.state_dict())
    assert again.fingerprint() == codec.fingerprint()
    with pytest.raises(ValueError, match="kernels must be odd"):
        ClipAutoencoderSpec(kernels=(2, 3))


def test_training_it_averages_errors_of_the_latents_away(tmp_path):
    """Noise on the latents of a still clip: after some steps it decodes calmer, and closer to the truth."""
    torch.manual_seed(0)
    module = FrameAutoencoderModule(
        kind="clip_autoencoder", block_out_channels=(16, 24), latent_noise=0.4, temporal_weight=0.5, mse_weight=5.0
    )
    frames = (
        (torch.rand(4, 1, 3, 4, 4) * 2 - 1).repeat_interleave(8, 3).repeat_interleave(8, 4).expand(-1, 6, -1, -1, -1)
    )
    latents = module.codec.encode(frames[:, 0])[0].detach()[:, :, None].expand(-1, -1, 12, -1, -1)
    spread = latents.std((0, 2, 3, 4), keepdim=True)
    noisy = latents + 0.3 * spread * torch.randn(latents.shape)

    def flicker() -> tuple[float, float]:
        with torch.no_grad():
            decoded = module.codec.reconstruct_clips(noisy)
        return decoded.std(2).mean().item(), (decoded[:, :, 0] - frames[:, 0]).abs().mean().item()

    module.codec.encoder_out.requires_grad_(False)
    optimizer, before = torch.optim.Adam(module.parameters(), 3e-3), flicker()
    for position in range(60):
        batch = {"frames": frames, "position": torch.full((4,), position), "index": torch.arange(4)}
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = flicker()
    assert after[0] < 0.9 * before[0]
    assert after[1] < 0.95 * before[1]


def test_units_that_were_pushed_below_zero_still_learn():
    """With ReLU and 2e-3 from the first step, all units of a decoder died, and the PSNR stood still ever after."""
    module = FrameAutoencoderModule(kind="clip_autoencoder", block_out_channels=[16, 24], latent_channels=6)
    codec = module.codec
    with torch.no_grad():
        codec.decoder_in.bias.fill_(-100.0)
        codec.decoder_up.bias.fill_(-100.0)
    codec.reconstruct_clips(latents_of(1, 3)).square().mean().backward()
    assert codec.decoder_out.weight.grad.abs().sum() > 0
