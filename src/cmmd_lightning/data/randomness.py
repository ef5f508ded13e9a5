"""Random generators that follow from (seed, position, index, purpose) and from nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def example_seed(seed: int, position: int, index: int, purpose: str) -> int:
    """A 63-bit seed for one use of randomness in one training example.

    The same on every machine and in every version of numpy and torch; different purposes give unrelated seeds.

    Args:
        seed: Seed of the run.
        position: Position in the training stream (the global step), or -1 for a fixed validation example.
        index: Index of the example in the global batch, or in the validation set.
        purpose: What the numbers are for, such as ``"clip"``.

    Returns:
        A whole number in [0, 2**63).

    Example:
        >>> example_seed(0, 7, 3, "clip") == example_seed(0, 7, 3, "clip")
        True
        >>> example_seed(0, 7, 3, "clip") == example_seed(0, 7, 3, "noise")
        False
    """
    text = f"{seed}/{position}/{index}/{purpose}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def example_rng(seed: int, position: int, index: int, purpose: str) -> np.random.Generator:
    """A numpy generator for choices (which clip, which kind); arguments as in ``example_seed``."""
    return np.random.Generator(np.random.PCG64(example_seed(seed, position, index, purpose)))


def example_generator(seed: int, position: int, index: int, purpose: str) -> torch.Generator:
    """A torch generator, on the CPU, for tensors of noise; arguments as in ``example_seed``."""
    return torch.Generator().manual_seed(example_seed(seed, position, index, purpose))
