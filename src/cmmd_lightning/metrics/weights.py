"""Which weights an extractor or an encoder has."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def weights_hash(module: nn.Module) -> str:
    """SHA-256 (hexadecimal) over a state dict's names, types, shapes and values, in order of names; "none" if empty.

    Example:
        >>> weights_hash(nn.Identity())
        'none'
        >>> len(weights_hash(nn.Linear(2, 3)))
        64
    """
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest() if state else "none"
