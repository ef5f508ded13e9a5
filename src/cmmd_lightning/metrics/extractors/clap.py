"""CLAP's audio tower: features of FAD-CLAP, from any CLAP model in transformers' format.

Source: Wu et al., "Large-Scale Contrastive Language-Audio Pretraining" (ICASSP 2023).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cmmd_lightning.metrics.extractors.inputs import sound_at


class ClapAudio(nn.Module):
    """Projected audio embeddings of CLAP, of unit length: a row for every 10 s of sound.

    Sounds longer than the model's 10 s are cut into windows, the last one shorter, rather than cropped at random or
    fused as CLAP's preprocessing would; shorter ones are repeated and padded as it does. So a sound gives the same rows
    every time. ``where`` is a folder that ``save_pretrained`` wrote, or "owner/name" on the Hub.
    """

    name: str
    num_features: int

    def __init__(self, where: str) -> None:
        super().__init__()
        folder = Path(where).expanduser()
        if not folder.is_dir() and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", where):
            raise ValueError(f"expected the path of an existing folder, or owner/name on the Hub, got {where!r}")
        try:
            from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("CLAP needs transformers: pip install 'cmmd-lightning[metrics]'") from error
        source = str(folder) if folder.is_dir() else where
        self.name = f"clap:{folder.resolve().name if folder.is_dir() else where}"
        self.model = ClapAudioModelWithProjection.from_pretrained(source)
        self.preprocess = ClapFeatureExtractor.from_pretrained(source)
        self.num_features = self.model.config.projection_dim

    def forward(self, sound: Tensor, sample_rate: int) -> Tensor:
        """Embeddings (B * P, D) of sounds (B, N) in [-1, 1], the P windows of the first sound first."""
        rate = self.preprocess.sampling_rate
        device = next(self.model.parameters()).device
        sounds = sound_at(sound, sample_rate, rate).cpu()
        windows = [w.double().numpy() for one in sounds for w in one.split(self.preprocess.nb_max_samples)]
        inputs = self.preprocess(windows, sampling_rate=rate, return_tensors="np")["input_features"]
        # no window is longer than the model takes, but the preprocessing marks a random one so for fused models
        features = self.model(
            input_features=torch.from_numpy(np.asarray(inputs, dtype=np.float32)).to(device),
            is_longer=torch.zeros(len(windows), 1, dtype=torch.bool, device=device),
        ).audio_embeds
        return nn.functional.normalize(features, dim=-1)
