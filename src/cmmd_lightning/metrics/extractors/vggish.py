"""VGGish: the features of FAD.

Sources: Hershey et al., "CNN Architectures for Large-Scale Audio Classification" (ICASSP 2017); Kilgour et al.,
"Frechet Audio Distance" (Interspeech 2019).

**The variant is part of the number.** Here: the 128 values of the embedding layer, without the ReLU that some versions
put after it, and without the PCA and 8-bit quantisation of AudioSet's released embeddings, which is what FAD takes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmmd_lightning.metrics.extractors.inputs import sound_at
from cmmd_lightning.metrics.extractors.loading import find_file, load_state, read_weights

RATE = 16000
WINDOW, HOP, FFT = 400, 160, 512  # 25 ms, 10 ms
BANDS, LOWEST, HIGHEST = 64, 125.0, 7500.0
PATCH = 96  # frames: 0.96 s
MIN_SAMPLES = WINDOW + (PATCH - 1) * HOP


def mel_matrix() -> Tensor:
    """Weights (FFT / 2 + 1, BANDS) to Mel bands: slopes are straight in Mel, as VGGish's are; torchaudio's in Hz."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    bins = mel(torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64))[:, None]
    low, high = mel(torch.tensor([LOWEST, HIGHEST], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, BANDS + 2, dtype=torch.float64)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


class VGGish(nn.Module):
    """VGGish with the weights' names of torchvggish: one row of 128 values per 0.96 s of sound.

    Example:
        >>> MIN_SAMPLES / RATE
        0.975
    """

    name: str = "vggish"
    num_features: int = 128
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for block in ((64,), (128,), (256, 256), (512, 512)):
            for channels in block:
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
                width = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * (PATCH // 16) * (BANDS // 16), 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, self.num_features),
        )
        self.register_buffer("mel", mel_matrix(), persistent=False)

    def patches(self, sound: Tensor, sample_rate: int) -> Tensor:
        """Log-Mel patches (B, P, 96, 64) of sounds (B, N): P whole ones, no overlap, zeros added up to one."""
        sound = sound_at(sound, sample_rate, RATE)
        sound = nn.functional.pad(sound, (0, max(0, MIN_SAMPLES - sound.shape[1])))
        window = torch.hann_window(WINDOW, device=sound.device)
        magnitude = torch.fft.rfft(sound.unfold(1, WINDOW, HOP) * window, n=FFT).abs()
        log_mel = torch.log(magnitude @ self.mel + 0.01)
        count = log_mel.shape[1] // PATCH
        return log_mel[:, : count * PATCH].unflatten(1, (count, PATCH))

    def forward(self, sound: Tensor, sample_rate: int) -> Tensor:
        """Embeddings (B * P, 128) of sounds (B, N) in [-1, 1], the patches of the first sound first."""
        patches = self.patches(sound, sample_rate).flatten(0, 1)[:, None]
        # the embedding's weights expect channels last
        return self.embeddings(self.features(patches).permute(0, 2, 3, 1).flatten(1))


def load_vggish(where: str) -> VGGish:
    """VGGish from a state dict with torchvggish's names, by path or "owner/name/filename" on the Hub."""
    weights = read_weights(find_file(where))
    if not isinstance(weights, dict):
        raise ValueError(f"expected the state dict of VGGish (torchvggish), got a TorchScript file, {where!r}")
    network = VGGish()
    # the whole module's dict also has the PCA, which FAD does not use
    load_state(network, {k: v for k, v in weights.items() if not k.startswith("pproc.")}, "VGGish (torchvggish)")
    return network
