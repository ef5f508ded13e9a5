"""Inception-I3D of Kinetics-400: the features of FVD.

Sources: Carreira and Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017); Unterthiner et al., "Towards Accurate
Generative Models of Video" (2018), for FVD.

**The variant is part of the number.** Here, as in FVD's own code:

- features are the 400 logits, before the softmax, averaged over time (not the 1024 values before them);
- every frame is stretched to 224 x 224 whatever its aspect, bilinear without antialiasing, sample points at the
  pixels' centres (FVD's TensorFlow code has them at the corners), and scaled to [-1, 1];
- all frames are used, at the rate they come: ``fps`` is checked but does not change anything;
- batch norm has epsilon 1e-3, with which the weights were trained.

VideoGPT and those that took its code run the same weights with epsilon 1e-5, on a centre crop of the frame scaled by
its shorter side, and at first on [-0.5, 0.5]; figures made so do not compare.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cmmd_lightning.metrics.extractors.inputs import check_frames
from cmmd_lightning.metrics.extractors.loading import find_file, load_state, read_weights

SIDE = 224
CLASSES = 400
MIN_FRAMES = 9  # fewer leave less than the two steps in time which the last pooling takes

# channels of the four branches: 1x1; 1x1 then 3x3; 1x1 then 3x3; pooled 1x1
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


def same_padded(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros around (B, C, T, H, W) for ceil(size / stride) steps (TensorFlow's "SAME"), the greater part last."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], reversed(kernel), reversed(stride), strict=True):
        total = max((math.ceil(size / s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads) if any(pads) else x


def max_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Largest values over windows of (B, C, T, H, W), padded as :func:`same_padded`."""
    return functional.max_pool3d(same_padded(x, kernel, stride), kernel, stride)


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU; the last of the network has a bias instead of the other two."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, last: bool = False) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, outputs, T / stride, H / stride, W / stride)."""
        x = self.conv3d(same_padded(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else functional.relu(self.bn(x))


class Mixed(nn.Module):
    """Inception's four branches side by side."""

    def __init__(self, inputs: int, channels: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.b0 = ConvUnit(inputs, channels[0])
        self.b1a = ConvUnit(inputs, channels[1])
        self.b1b = ConvUnit(channels[1], channels[2], 3)
        self.b2a = ConvUnit(inputs, channels[3])
        self.b2b = ConvUnit(channels[3], channels[4], 3)
        self.b3b = ConvUnit(inputs, channels[5])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, sum of the branches, T, H, W)."""
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class InceptionI3D(nn.Module):
    """Inception-I3D for RGB; names of the weights as in pytorch-i3d's files.

    Example:
        >>> sorted(InceptionI3D().state_dict())[:2]
        ['Conv3d_1a_7x7.bn.bias', 'Conv3d_1a_7x7.bn.num_batches_tracked']
    """

    name: str = "i3d-kinetics400-logits"
    num_features: int = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = ConvUnit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = ConvUnit(64, 64)
        self.Conv3d_2c_3x3 = ConvUnit(64, 192, 3)
        width = 192
        for stage, channels in MIXED.items():
            self.add_module(f"Mixed_{stage}", Mixed(width, channels))
            width = channels[0] + channels[2] + channels[4] + channels[5]
        self.logits = ConvUnit(width, CLASSES, last=True)

    def _mixed(self, x: Tensor, stages: str, level: int) -> Tensor:
        for stage in stages:
            x = self.get_submodule(f"Mixed_{level}{stage}")(x)
        return x

    def of_pixels(self, x: Tensor) -> Tensor:
        """Logits (B, 400), averaged over time, of pixels (B, 3, T, 224, 224) in [-1, 1], T at least 9."""
        x = max_pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        x = max_pool(self._mixed(x, "bc", 3), (3, 3, 3), (2, 2, 2))
        x = max_pool(self._mixed(x, "bcdef", 4), (2, 2, 2), (2, 2, 2))
        x = functional.avg_pool3d(self._mixed(x, "bc", 5), (2, 7, 7), 1)
        return self.logits(x).mean(dim=(2, 3, 4))

    def forward(self, frames: Tensor, fps: float) -> Tensor:
        """Features (B, 400) of frames uint8 (B, 3, T, H, W), T at least 9; ``fps`` is without effect."""
        check_frames(frames, fps, least=MIN_FRAMES)
        pictures = frames.transpose(1, 2).flatten(0, 1).float()
        pictures = functional.interpolate(pictures, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        pixels = pictures.unflatten(0, (len(frames), -1)).transpose(1, 2)
        return self.of_pixels(2 * pixels / 255 - 1)


class ScriptedI3D(nn.Module):
    """The TorchScript I3D of StyleGAN-V, which resizes and scales; ``digest``: the file's SHA-256, for the hash."""

    name: str = "i3d-kinetics400-logits-torchscript"
    num_features: int = CLASSES
    digest: Tensor

    def __init__(self, network: torch.jit.ScriptModule, digest: bytes) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))

    def forward(self, frames: Tensor, fps: float) -> Tensor:
        """Features of clips, as :meth:`InceptionI3D.forward`."""
        check_frames(frames, fps, least=MIN_FRAMES)
        return self.network(frames.float(), rescale=True, resize=True, return_features=True).reshape(len(frames), -1)


def load_i3d(where: str) -> nn.Module:
    """An I3D from a file in one of the field's two formats, by its path or as "owner/name/filename" on the Hub.

    A state dict with the names of pytorch-i3d (``rgb_imagenet.pt``, ``i3d_pretrained_400.pt``), or StyleGAN-V's
    ``i3d_torchscript.pt``; ValueError for another.
    """
    path = find_file(where)
    weights = read_weights(path)
    if not isinstance(weights, dict):
        return ScriptedI3D(weights, hashlib.sha256(path.read_bytes()).digest())
    network = InceptionI3D()
    load_state(network, weights, "Inception-I3D with 400 classes (pytorch-i3d)")
    return network
