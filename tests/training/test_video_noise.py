import pytest
import torch
from tiny_training import CLIP, NETWORK

from cmmd_lightning import CMMD, ClipSpec
from cmmd_lightning.prediction import latent_diffusion

NOISE = {"shared": 0.5, "persistence": 0.3}


@pytest.fixture(scope="module")
def model() -> CMMD:
    torch.manual_seed(0)
    return CMMD(clip=CLIP, network=NETWORK, video_noise=NOISE).eval()


def neighbours(noise: torch.Tensor) -> float:
    """Correlation of neighbouring frames of noise (B, C, T, H, W)."""
    return (noise[:, :, 1:] * noise[:, :, :-1]).mean().item()


EXPECTED = 0.5 + 0.5 * 0.3


def test_training_draws_it_for_the_video_only(model):
    clip = ClipSpec.of(CLIP)
    batch = {"video_latents": torch.zeros(8, *model.latent_shape[:1], clip.num_frames, *model.latent_shape[1:])}
    batch["mel"] = torch.zeros(8, clip.n_mels, clip.mel_frames)
    draws = model.drawing(batch)
    assert neighbours(draws.noise_video) == pytest.approx(EXPECTED, abs=0.05)
    assert neighbours(draws.noise_audio[:, :, None].transpose(2, 3)) == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize("windows", [1, 2])
def test_sampling_begins_with_it_and_guidance_and_fresh_noise_have_it_too(model, windows, monkeypatch):
    seen = {}

    def guided(denoiser, task, dropped, *rest):
        seen["dropped"] = dropped[0]
        return denoiser

    def sampler(denoiser, schedules, video, audio, task, steps, eta, noise, on_step):
        seen.update(start=video, fresh=noise(0)[0])
        return video, audio

    monkeypatch.setattr(latent_diffusion, "guided", guided)
    monkeypatch.setattr(latent_diffusion, "ddim_sample", sampler)
    frames = windows * ClipSpec.of(CLIP).num_frames
    names = [str(i) for i in range(4)]
    model.sample("joint", None, None, frames, names=names, guidance_scale=2.0, ddim_eta=0.5)
    assert set(seen) == {"dropped", "start", "fresh"}
    for noise in seen.values():
        assert noise.shape[2] == frames
        assert neighbours(noise) == pytest.approx(EXPECTED, abs=0.05)
    assert not torch.equal(seen["start"], seen["dropped"])


def test_checkpoints_keep_it_and_older_ones_have_none(model, tmp_path):
    assert model.hparams["video_noise"] == NOISE
    old = dict(model.hparams)
    del old["video_noise"]
    for name, settings, expected in (
        ("new", dict(model.hparams), NOISE),
        ("old", old, {"shared": 0.0, "persistence": 0.0}),
    ):
        checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": settings}
        torch.save(checkpoint | {"pytorch-lightning_version": "2.6.0"}, tmp_path / f"{name}.ckpt")
        assert CMMD.from_pretrained(str(tmp_path / f"{name}.ckpt")).video_noise.to_dict() == expected


def test_weights_are_not_taken_over_by_a_model_of_other_noise(model, tmp_path):
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save(checkpoint | {"pytorch-lightning_version": "2.6.0"}, tmp_path / "cmmd.ckpt")
    with pytest.raises(ValueError, match="video_noise"):
        CMMD(clip=CLIP, network=NETWORK).take_over(str(tmp_path / "cmmd.ckpt"))
