"""The cost card of a config: counted on the network itself, with no weights allocated and nothing downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from cmmd_lightning.codecs import CodecConfig, FrameCodec, build_frame_codec
from cmmd_lightning.codecs.frames import AutoencoderKLCodec
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.stream.negatives import NegativeSpec
from cmmd_lightning.diffusion.objective_spec import ObjectiveSpec
from cmmd_lightning.models.unet import JointUNet, NetworkSpec

_ADAMW_EMA_BYTES = 4 + 4 + 8 + 4  # weight, gradient, two moments, average: float32
_CHECKPOINT_BYTES = 4 + 8 + 4  # the same without the gradient
# Of the activations in float32, what is kept under bf16-mixed: convolutions keep half, norms stay in float32. Counted
# by shapes and types under the rules of CUDA's autocast; see docs/cost.md.
_MIXED_SHARE = 0.8
_MIXED_COPY_BYTES = 2  # a parameter, in bfloat16
_SUSTAINED = 100e12  # FLOP/s assumed for the hours

_STABLE_DIFFUSION_VAE: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
_OWN_VAE: dict[str, Any] = {
    **{"block_out_channels": [32, 64], "layers_per_block": 1, "latent_channels": 4},
    **{"norm_num_groups": 8, "mid_block_add_attention": False},
}


class _Kept(TorchFunctionMode):
    """Counts what autograd keeps, as a GPU would: of attention its inputs, and never the matrix of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self._alive: list[Any] = []  # or an address would be given again
        self._attending = False

    def add(self, tensor: Tensor) -> Tensor:
        if not self._attending:
            storage = tensor.untyped_storage()
            self.sizes[storage._cdata] = storage.nbytes()
            self._alive.append(storage)
        return tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._attending = True
        out = func(*args, **(kwargs or {}))
        self._attending = False
        for tensor in (*args[:3], out):
            self.add(tensor)
        return out


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
    with torch.device("meta"):
        network = JointUNet(channels, clip.n_mels, spec)
        inputs = (
            torch.empty(batch_size, channels, clip.num_frames, height, width),
            torch.empty(batch_size, clip.n_mels, clip.mel_frames),
            torch.empty(batch_size),
            torch.empty(batch_size),
        )
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    kept = _Kept()
    with ExitStack() as stack:
        forward = stack.enter_context(FlopCounterMode(display=False))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(kept.add, lambda x: x))
        stack.enter_context(kept)
        outputs = network(*inputs)
    with FlopCounterMode(display=False) as backward:
        (outputs[0].sum() + outputs[1].sum()).backward()
    streams = {
        name: sum(p.numel() for key, p in network.named_parameters() if name in key.split(".fusion.")[0])
        for name in ("video", "audio")
    }
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "video_parameters": streams["video"],
        "audio_parameters": streams["audio"],
        "forward_flops": forward.get_total_flops(),
        "training_flops": forward.get_total_flops() + backward.get_total_flops(),
        "activation_bytes": sum(size for key, size in kept.sizes.items() if key not in own),
    }


def codec_layout(config: CodecConfig) -> tuple[FrameCodec, str]:
    """The frame codec of a config, without weights, and what had to be assumed about it.

    Args:
        config: The config. Of a checkpoint its settings are read, of a diffusers folder or hub name the
            ``config.json``, the latter only where it lies in the hub's local cache; nothing is downloaded.

    Returns:
        The codec on PyTorch's meta device, and a note, empty where nothing was assumed.
    """
    note, kept = "", config
    found: Any = None
    if config.kind != "pixel_unshuffle" and config.path is not None:
        path = Path(config.path).expanduser()
        if path.is_file():
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["hyper_parameters"]["codec"]
            kept = CodecConfig(**{**stored, "path": None})
        elif path.suffix == ".ckpt":
            kept = CodecConfig(config.kind, None, 4, _OWN_VAE if config.kind == "autoencoder_kl" else None, True)
            note = f"{config.path} is not there yet, taken as FrameAutoencoderModule makes it by default"
        else:
            found = _diffusers_config(config.path)
            note = "" if found else f"{config.path} is not on this machine, taken as Stable Diffusion's VAE"
    with torch.device("meta"):
        if found is None and not note.endswith("Stable Diffusion's VAE"):
            return build_frame_codec(kept), note
        from diffusers import AutoencoderKL

        settings = found or {
            **_STABLE_DIFFUSION_VAE,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        }
        return AutoencoderKLCodec(AutoencoderKL.from_config(settings)), note


def _diffusers_config(path: str) -> dict[str, Any] | None:
    """The ``config.json`` of a diffusers folder, or of a hub name if it was downloaded before."""
    from diffusers import AutoencoderKL
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "vae/config.json"):
        file: Any = Path(path).expanduser() / name
        if not file.is_file() and path.count("/") == 1:
            file = try_to_load_from_cache(path, name)
        if isinstance(file, str | Path) and Path(file).is_file():
            return dict(AutoencoderKL.load_config(str(Path(file).parent)))
    return None


def cost_card(
    settings: Mapping[str, Any],
    *,
    negatives: NegativeSpec = NegativeSpec(),
    batch_size: int = 16,
    max_steps: int = -1,
) -> dict[str, str]:
    """What a model costs, each line said how it was derived.

    Args:
        settings: The arguments of `CMMD`, in plain types.
        negatives: Wrong partners of each example.
        batch_size: Examples per process and step.
        max_steps: Steps; below 1 for no limit.

    Returns:
        Name and value of each line.
    """
    clip, spec = ClipSpec.of(settings.get("clip")), NetworkSpec.of(settings.get("network"))
    objective = ObjectiveSpec.of(settings.get("objective"))
    codec, note = codec_layout(CodecConfig(**settings.get("codec") or {}))
    shape = codec.latent_shape(clip.height, clip.width)
    cost = measure_network(spec, clip, shape)
    extra, frozen = contrastive_forwards(objective, negatives.num_negatives)
    cells = shape[0] * shape[1] * shape[2]
    hourly = 3600 * clip.fps * cells * 2 * 2 + 3600 * clip.sample_rate / clip.hop_length * clip.n_mels * 4
    weights = sum(p.numel() for p in codec.parameters())
    step = cost["training_flops"] * (1 + extra) + cost["forward_flops"] * frozen
    card = {
        "clip": f"{clip.num_frames} frames {clip.height}x{clip.width} at {clip.fps:g} fps, {clip.duration:g} s, "
        f"{clip.sample_rate} Hz",
        "latents; Mel": f"{shape[0]}x{clip.num_frames}x{shape[1]}x{shape[2]}; {clip.n_mels}x{clip.mel_frames}",
        "network parameters": f"{cost['parameters'] / 1e6:.2f} M (video {cost['video_parameters'] / 1e6:.2f} M, "
        f"sound {cost['audio_parameters'] / 1e6:.2f} M, fusion and times the rest)",
        "codec parameters": f"{weights / 1e6:.2f} M, frozen{note and f' ({note})'}",
        "forward, one clip": f"{cost['forward_flops'] / 1e9:.2f} GFLOP (counted by operator)",
        "training step, one clip": f"{step / 1e9:.2f} GFLOP (forward and backward, and {extra:.2f} times as much again "
        f"for the contrastive term{f', and {frozen:.2f} forwards of the reference' if frozen else ''})",
        **_memory(cost, extra, weights, batch_size, spec.gradient_checkpointing),
        "checkpoint": f"{(cost['parameters'] * _CHECKPOINT_BYTES + weights * 4) / 1e9:.2f} GB (weights, moments, "
        "average; the codec)",
        "cache, an hour of media": f"{hourly / 1e9:.3f} GB (float16 latents with their variance, float32 Mel)",
    }
    if max_steps > 0:
        total = max_steps * batch_size * step
        card[f"{max_steps} steps of {batch_size} clips"] = (
            f"{total / 1e18:.3g} EFLOP on each GPU: {total / _SUSTAINED / 3600:.3g} hours at "
            f"{_SUSTAINED / 1e12:g} TFLOP/s sustained (assumed, not measured)"
        )
    return card


def contrastive_forwards(objective: ObjectiveSpec, num_negatives: int) -> tuple[float, float]:
    """What the contrastive term adds to the one forward of an example, on average.

    Args:
        objective: Settings.
        num_negatives: K.

    Returns:
        Forwards of the network with negatives, and forwards of the reference of the bound ``preference``.

    Example:
        >>> contrastive_forwards(ObjectiveSpec(contrastive_share=0.25), 2)
        (0.5, 0.0)
    """
    if objective.contrastive_weight == 0 or num_negatives == 0:
        return 0.0, 0.0
    share = objective.contrastive_share
    negative = share * num_negatives if objective.form == "condition" else 0.0
    return negative, share + negative if objective.bound == "preference" else 0.0


def step_flops(settings: Mapping[str, Any], data: Mapping[str, Any]) -> float:
    """Expected FLOPs of one training step, the contrastive term included.

    Args:
        settings: The arguments of `CMMD`, in plain types.
        data: Of the data's arguments, ``negatives`` and ``batch_size``.

    Returns:
        FLOPs, counted by operator as `measure_network` does.
    """
    clip = ClipSpec.of(settings.get("clip"))
    codec, _ = codec_layout(CodecConfig(**settings.get("codec") or {}))
    cost = measure_network(NetworkSpec.of(settings.get("network")), clip, codec.latent_shape(clip.height, clip.width))
    count = NegativeSpec.of(data.get("negatives")).num_negatives
    negative, frozen = contrastive_forwards(ObjectiveSpec.of(settings.get("objective")), count)
    return (cost["training_flops"] * (1 + negative) + cost["forward_flops"] * frozen) * data.get("batch_size", 16)


def _memory(cost: Mapping[str, int], extra: float, codec: int, batch_size: int, recomputes: bool) -> dict[str, str]:
    """Lines on memory."""
    fixed = cost["parameters"] * _ADAMW_EMA_BYTES + codec * 4
    mixed = fixed + cost["parameters"] * _MIXED_COPY_BYTES
    example = cost["activation_bytes"] * (1 + extra)
    batches = sorted({1, 4, 16, 64, batch_size})
    return {
        "weights, AdamW, average, codec": f"{fixed / 2**30:.3f} GiB (20 bytes a parameter; the codec; float32)",
        "activations, one clip": f"{example / 2**30:.3f} GiB (kept by autograd, float32"
        f"{', with gradient checkpointing' if recomputes else ''}; {_MIXED_SHARE:g} of it in bf16-mixed)",
        **{
            f"training memory, batch {batch}": f"{(fixed + batch * example) / 2**30:.2f} GiB float32, about "
            f"{(mixed + batch * example * _MIXED_SHARE) / 2**30:.2f} GiB bf16-mixed"
            for batch in batches
        },
    }
