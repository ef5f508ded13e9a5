"""What tells two models apart."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn


def fingerprint(module: nn.Module) -> str:
    """Hash (hex) of a module's weights and hyperparameters: what its predictions follow from."""
    settings = json.dumps(dict(getattr(module, "hparams", {})), sort_keys=True, default=str)
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for name, values in sorted(module.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
