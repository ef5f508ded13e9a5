"""Vocos: a neural vocoder that predicts a spectrum's magnitude and phase, frame by frame (Siuzdak 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cmmd_lightning.codecs.vocoders import Vocoder, extend, magnitude

# A frame none of whose bands lies further above the floor, in nats, is silence.
_SILENCE = 0.05
_LARGEST_MAGNITUDE = 1e2
_KERNEL = 7


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution over time and a two-layer perceptron over channels, added to the input.

    Args:
        dim: Channels, C.
        intermediate_dim: Channels between the perceptron's layers.
        scale: Initial value of the factor on what is added.
    """

    def __init__(self, dim: int, intermediate_dim: int, scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, _KERNEL, padding=_KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, intermediate_dim)
        self.pwconv2 = nn.Linear(intermediate_dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, L) to (B, C, L)."""
        inner = self.norm(self.dwconv(x).transpose(1, 2))
        inner = self.gamma * self.pwconv2(nn.functional.gelu(self.pwconv1(inner)))
        return x + inner.transpose(1, 2)


class VocosBackbone(nn.Module):
    """ConvNeXt blocks at the rate of the Mel frames.

    Args:
        n_mels: Mel bands, M.
        dim: Channels, C.
        intermediate_dim: Channels inside of a block.
        num_layers: Blocks.
    """

    def __init__(self, n_mels: int, dim: int, intermediate_dim: int, num_layers: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(n_mels, dim, _KERNEL, padding=_KERNEL // 2)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.convnext = nn.ModuleList(ConvNeXtBlock(dim, intermediate_dim, 1 / num_layers) for _ in range(num_layers))
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, L) to (B, L, C)."""
        x = self.norm(self.embed(x).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x = block(x)
        return self.final_layer_norm(x.transpose(1, 2))


class VocosHead(nn.Module):
    """Log-magnitude and phase of each frame's spectrum, and the inverse transform of them.

    Args:
        dim: Channels, C.
        n_fft: Window of the inverse transform in samples.
        hop_length: Step between frames in samples.
    """

    window: Tensor

    def __init__(self, dim: int, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.out = nn.Linear(dim, n_fft + 2)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, x: Tensor, audible: Tensor) -> Tensor:
        """Sound (B, (L - 1) * hop_length) of features (B, L, C); frames that are not ``audible`` (B, L) are zero."""
        magnitude, phase = self.out(x).float().transpose(1, 2).chunk(2, dim=1)
        magnitude = magnitude.exp().clamp(max=_LARGEST_MAGNITUDE) * audible[:, None]
        spectrum = torch.polar(magnitude, phase)
        return torch.istft(spectrum, self.n_fft, self.hop_length, window=self.window, center=True)


class Vocos(Vocoder):
    """The Vocos vocoder: one pass of a convolutional network, for exactly the Mel that it was trained on.

    Names of weights are those of the package ``vocos``, so published ones load. Frames with every band on the Mel's
    floor have no spectrum: silence is exact.

    Args:
        mel: Settings of the Mel that it takes, as `LogMel.settings` has them.
        dim: Channels of the network.
        intermediate_dim: Channels inside of its blocks.
        num_layers: Blocks.
        synthesis_n_fft: Window of the inverse transform in samples; None is the Mel's.
        feature_floor: Magnitude that the network takes for silence; None is the Mel's floor.

    Example:
        >>> from cmmd_lightning.codecs import LogMel
        >>> mel = LogMel(sample_rate=16000, n_fft=1024, hop_length=200, n_mels=80)
        >>> vocoder = Vocos(mel.settings, dim=32, intermediate_dim=64, num_layers=2)
        >>> vocoder(mel(torch.zeros(1, 3200)), num_samples=3200).abs().max().item()
        0.0
    """

    def __init__(
        self,
        mel: Mapping[str, Any],
        dim: int = 512,
        intermediate_dim: int = 1536,
        num_layers: int = 8,
        synthesis_n_fft: int | None = None,
        feature_floor: float | None = None,
    ) -> None:
        super().__init__(mel)
        n_fft = synthesis_n_fft or int(mel["n_fft"])
        self.feature_floor = self.floor if feature_floor is None else feature_floor
        self.init_args = {
            "mel": dict(mel),
            "dim": dim,
            "intermediate_dim": intermediate_dim,
            "num_layers": num_layers,
            "synthesis_n_fft": n_fft,
            "feature_floor": self.feature_floor,
        }
        self.backbone = VocosBackbone(self.n_mels, dim, intermediate_dim, num_layers)
        self.head = VocosHead(dim, n_fft, self.hop_length)
        self.context = (num_layers + 1) * (_KERNEL // 2) + math.ceil(n_fft / 2 / self.hop_length)

    def forward(self, log_mel: Tensor, num_samples: int) -> Tensor:
        """Sound (B, N) of a log-Mel (B, M, L); see `Vocoder.forward`."""
        self.check(log_mel, num_samples)
        # Frames are centred, so L of them span (L - 1) hops: one more reaches the end.
        log_mel = extend(log_mel, log_mel.shape[2] + 1)
        audible = (log_mel > math.log(self.floor) + _SILENCE).any(dim=1)
        features = magnitude(log_mel, self.floor).clamp(min=self.feature_floor).log()
        return self.head(self.backbone(features), audible)[:, :num_samples]
