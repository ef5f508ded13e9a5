"""Latents of a long clip are decoded in chunks; no seam shows."""

import pytest
import torch

from cmmd_lightning import CMMD, ClipSpec, CodecConfig, NetworkSpec
from cmmd_lightning.prediction import generation
from cmmd_lightning.prediction.generation import DecodedFrames

SEES_NEIGHBOURS = CodecConfig("clip_autoencoder", config={"latent_channels": 4, "channels": [16, 16]})


@pytest.mark.parametrize("codec", [SEES_NEIGHBOURS, CodecConfig("pixel_unshuffle", unshuffle=8)])
def test_chunks_of_frames_are_those_of_the_whole_clip(codec, monkeypatch):
    torch.manual_seed(0)
    clip = ClipSpec(num_frames=8, fps=10.0, height=32, width=32, n_fft=512, n_mels=32)
    model = CMMD(
        clip=clip, codec=codec, network=NetworkSpec((16,), (16,), attention_levels=(), head_channels=16)
    ).eval()
    with torch.no_grad():
        for parameter in model.codec.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.codec.scale.fill_(0.3)
    latents = torch.randn(*model.latent_shape[:1], 30, *model.latent_shape[1:])
    whole = model.decode_latents(latents[None])[0].transpose(0, 1).add(1).mul(127.5)
    monkeypatch.setattr(generation, "_DECODE_CHUNK", 7)
    chunks = list(DecodedFrames(model, latents))
    assert [len(chunk) for chunk in chunks] == [7, 7, 7, 7, 2]
    assert (torch.cat(chunks).float() - whole).abs().max() <= 0.51  # rounding to 8 bits
    assert whole.std() > 10
