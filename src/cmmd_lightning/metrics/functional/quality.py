"""Two sets of feature rows compared: Frechet distance of Gaussians, kernel distance, and coverage.

None means anything without the name of the feature extractor and the number of rows: see
:mod:`cmmd_lightning.metrics.quality`.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians of means (D,), covariances (D, D): as in FID, FVD, FAD.

    ``|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2))``, where the trace of the root is the sum of the singular values of
    ``A^(1/2) B^(1/2)``, so that it is real, and exact for singular covariances too. Source: Dowson and Landau, "The
    Frechet distance between multivariate normal distributions" (1982).
    """
    means, covs = [torch.as_tensor(mean_a), torch.as_tensor(mean_b)], [torch.as_tensor(cov_a), torch.as_tensor(cov_b)]
    shapes = [tuple(x.shape) for x in (*means, *covs)]
    size = means[0].numel()
    if shapes != [(size,)] * 2 + [(size, size)] * 2:
        raise ValueError(f"expected means (D,) and covariances (D, D) of one D, got shapes {shapes}")
    if not all(bool(torch.isfinite(x).all()) for x in (*means, *covs)):
        raise ValueError("expected finite means and covariances, got NaN or infinity")
    shift = (means[0].double() - means[1].double()).square().sum()
    root_a, root_b = (_root(cov.double()) for cov in covs)
    spread = root_a.square().sum() + root_b.square().sum() - 2 * torch.linalg.svdvals(root_a @ root_b).sum()
    return max(0.0, float(shift + spread))


def _root(cov: Tensor) -> Tensor:
    """Symmetric square root of a covariance (D, D), without what is only rounding."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    least = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return (vectors * torch.where(values > least, values, 0).sqrt()) @ vectors.T


def frechet_distance_of_features(a: Tensor, b: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to features (N, D) and (M, D), N and M well above D."""
    a, b = _checked(a, b)
    size = a.shape[1]
    covs = [torch.cov(x.T).reshape(size, size) for x in (a, b)]
    return frechet_distance(a.mean(0), covs[0], b.mean(0), covs[1])


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Kernel distance of features (N, D) and (M, D): the unbiased estimate of the squared maximum mean discrepancy.

    The kernel is KID's and KVD's, ``(x . y / D + 1)^3``, over all pairs of rows rather than over random subsets, so
    that the value is the same every time. Being unbiased, it can fall below 0 where the sets are alike.
    Source: Binkowski et al., "Demystifying MMD GANs" (ICLR 2018).
    """
    a, b = _checked(a, b)
    within = sum((_kernel_sum(x, x) - _kernel_diagonal(x)) / (len(x) * (len(x) - 1)) for x in (a, b))
    return float(within - 2 * _kernel_sum(a, b) / (len(a) * len(b)))


def coverage(real: Tensor, made: Tensor, *, neighbours: int = 5) -> float:
    """Share of the real samples (N, D) in whose neighbourhood a generated one (M, D) lies: how many modes are met.

    The neighbourhood reaches to the k-th nearest real neighbour. Two sets of one distribution, alike in size, have
    about 1 - 2^-k. Source: Naeem et al., "Reliable fidelity and diversity metrics for generative models" (ICML 2020).
    """
    real, made = _checked(real, made)
    if len(real) <= neighbours:
        raise ValueError(f"expected more than {neighbours} rows of real features, got {len(real)}")
    radius = torch.cdist(real, real).kthvalue(neighbours + 1, dim=1).values
    return float((torch.cdist(real, made).amin(1) <= radius).double().mean())


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """Sum of the kernel over all pairs, a block of rows at a time to bound the memory."""
    return sum(float((rows @ y.T / x.shape[1] + 1).pow(3).sum()) for rows in x.split(CHUNK))


def _kernel_diagonal(x: Tensor) -> float:
    return float((x.square().sum(1) / x.shape[1] + 1).pow(3).sum())


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of features in float64."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected features (N, D) and (M, D) of one D, got shapes {tuple(a.shape)}, {tuple(b.shape)}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"expected at least 2 rows of features in each set, got {len(a)} and {len(b)}")
    if not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
        raise ValueError("expected finite features, got NaN or infinity")
    return a.double(), b.double()
