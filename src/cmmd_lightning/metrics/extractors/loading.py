"""Weights from files: a path or a name on the Hub, read without running code, and loaded whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


def find_file(where: str) -> Path:
    """Path of a file given by its path, or by "owner/name/filename" on the Hub; ValueError if it is neither."""
    path = Path(where).expanduser()
    if path.is_file():
        return path
    match = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)/(\w.*)", where)
    if match is None or path.exists():
        raise ValueError(f"expected the path of an existing file, or owner/name/filename on the Hub, got {where!r}")
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(*match.groups()))


def read_weights(path: Path) -> dict[str, Tensor] | torch.jit.ScriptModule:
    """The state dict, or else the TorchScript module, of a file, on the CPU; ValueError if it is neither."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        try:
            return torch.jit.load(str(path), map_location="cpu")
        except Exception as error:
            raise ValueError(f"expected a state dict or TorchScript, got {path.name}, which is neither") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"expected a state dict (names and tensors) in {path.name}, got a {type(state).__name__}")
    return dict(state)


def load_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict that must fit exactly in names and shapes, but for batch norm's num_batches_tracked."""
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    wanted = {n: v.shape for n, v in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    faults = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unknown": sorted(state.keys() - wanted.keys()),
        "of another shape": sorted(n for n in wanted.keys() & state.keys() if wanted[n] != state[n].shape),
    }
    told = [f"{fault}: {_some(names)}" for fault, names in faults.items() if names]
    if told:
        raise ValueError(f"expected the state dict of {what}, got one with names {'; '.join(told)}")
    module.load_state_dict(state, strict=False)


def _some(names: Sequence[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
