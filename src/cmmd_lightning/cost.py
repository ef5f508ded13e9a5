"""The cost card of a model: counted on the network itself, with no weights allocated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.models.unet import JointUNet, NetworkSpec
from cmmd_lightning.module import CMMD

_ADAMW_EMA_BYTES = 4 + 4 + 8 + 4  # weight, gradient, two moments, average: float32


def measure_network(
    spec: NetworkSpec, clip: ClipSpec, latent_shape: tuple[int, int, int], batch_size: int = 1
) -> dict[str, int]:
    """Parameters, FLOPs and activation memory of the joint network, from a dry run on PyTorch's meta device.

    Args:
        spec: The network.
        clip: Lengths.
        latent_shape: (C, h, w).
        batch_size: Examples.

    Returns:
        ``parameters``, ``video_parameters``, ``audio_parameters``, ``forward_flops``, ``training_flops`` (forward and
        backward), and ``activation_bytes``, what autograd keeps in float32.
    """
    channels, height, width = latent_shape
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        storages.append(tensor.untyped_storage())
        return tensor

    storages: list[Any] = []
    with torch.device("meta"):
        network = JointUNet(channels, clip.n_mels, spec)
        inputs = (
            torch.empty(batch_size, channels, clip.num_frames, height, width),
            torch.empty(batch_size, clip.n_mels, clip.mel_frames),
            torch.empty(batch_size),
            torch.empty(batch_size),
        )
    own = {id(p.untyped_storage()) for p in network.parameters()}
    with FlopCounterMode(display=False) as forward, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        outputs = network(*inputs)
    with FlopCounterMode(display=False) as backward:
        (outputs[0].sum() + outputs[1].sum()).backward()
    streams = {
        name: sum(p.numel() for key, p in network.named_parameters() if name in key) for name in ("video", "audio")
    }
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "video_parameters": streams["video"],
        "audio_parameters": streams["audio"],
        "forward_flops": forward.get_total_flops(),
        "training_flops": forward.get_total_flops() + backward.get_total_flops(),
        "activation_bytes": sum(size for key, size in kept.items() if key not in own),
    }


def cost_card(model: CMMD) -> dict[str, str]:
    """What a model costs, each line said how it was derived.

    Args:
        model: The model.

    Returns:
        Name and value of each line.
    """
    clip, spec, shape = model.clip, model.network.spec, model.latent_shape
    cost = measure_network(spec, clip, shape)
    contrastive = model.objective.contrastive_weight > 0 and model.objective.form == "condition"
    extra = model.objective.contrastive_share * (1 + model.objective.task_probabilities[0]) if contrastive else 0.0
    latent = shape[0] * shape[1] * shape[2]
    hourly = 3600 * clip.fps * latent * 2 * 2 + 3600 * clip.sample_rate / clip.hop_length * clip.n_mels * 4
    codec = sum(p.numel() for p in model.codec.parameters())
    fixed = cost["parameters"] * _ADAMW_EMA_BYTES
    per_example = cost["activation_bytes"] * (1 + extra)
    return {
        "clip": f"{clip.num_frames} frames {clip.height}x{clip.width} at {clip.fps:g} fps, {clip.duration:g} s, "
        f"{clip.sample_rate} Hz",
        "latents; Mel": f"{shape[0]}x{clip.num_frames}x{shape[1]}x{shape[2]}; {clip.n_mels}x{clip.mel_frames}",
        "network parameters": f"{cost['parameters'] / 1e6:.2f} M (video {cost['video_parameters'] / 1e6:.2f} M, "
        f"sound {cost['audio_parameters'] / 1e6:.2f} M)",
        "codec parameters": f"{codec / 1e6:.2f} M",
        "forward, one clip": f"{cost['forward_flops'] / 1e9:.2f} GFLOP (counted by operator)",
        "training step, one clip": f"{cost['training_flops'] * (1 + extra) / 1e9:.2f} GFLOP "
        f"(with {extra:.2f} further forwards and backwards for the contrastive term)",
        "weights, AdamW, average": f"{fixed / 2**30:.3f} GiB (20 bytes a parameter, float32)",
        "activations, one clip": f"{per_example / 2**30:.3f} GiB (kept by autograd, float32)",
        **{
            f"training memory, batch {batch}": f"{(fixed + batch * per_example) / 2**30:.2f} GiB float32, about "
            f"{(fixed + batch * per_example / 2) / 2**30:.2f} GiB bf16-mixed"
            for batch in (4, 16, 64)
        },
        "cache, an hour of media": f"{hourly / 1e9:.3f} GB (float16 latents with their variance, float32 Mel)",
    }
