"""Which weights an extractor or an encoder has."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def weights_hash(module: nn.Module) -> str:
    """Hash of a module's weights: the same for the same names, types, shapes and values.

    Args:
        module: Any module; where its weights are kept does not matter.

    Returns:
        SHA-256 (64 hexadecimal digits) over the state dict in order of names; "none" where it is empty.

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
