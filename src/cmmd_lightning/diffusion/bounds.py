"""Bounds of the contrastive term: what is made of the error with the true partner and the errors with wrong ones."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Bound = Literal["linear", "hinge", "infonce", "preference"]


def contrastive_bound(
    error: Tensor,
    error_negative: Tensor,
    bound: Bound,
    temperature: float = 0.1,
    margin: float = 0.1,
    beta: float = 20.0,
    reference: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The contrastive term of each example, lower where wrong partners do worse than the true one.

    - ``linear``: -mean_k e_neg, the paper's and CDCD's subtraction;
    - ``hinge``: mean_k max(0, margin + e - e_neg);
    - ``infonce``: -log softmax of -e / temperature over the true and the K wrong partners (van den Oord et al., arXiv
      1807.03748);
    - ``preference``: mean_k -log sigmoid(-beta ((e - e_neg) - (e_ref - e_ref_neg))), where e_ref and e_ref_neg are the
      errors of a frozen reference network on the same inputs (Wallace et al., "Diffusion-DPO", arXiv 2311.12908; for
      true and wrong partners SyncDPO, arXiv 2605.12179).

    Args:
        error: e with the true partner, (N,).
        error_negative: e_neg with each wrong partner, (N, K).
        bound: Which of the four.
        temperature: For ``infonce``.
        margin: For ``hinge``.
        beta: For ``preference``.
        reference: For ``preference``: e_ref and e_ref_neg, (N,) and (N, K).

    Returns:
        (N,).

    Raises:
        ValueError: If ``preference`` has no reference.
    """
    if bound == "linear":
        return -error_negative.mean(1)
    if bound == "hinge":
        return F.relu(margin + error[:, None] - error_negative).mean(1)
    if bound == "infonce":
        logits = -torch.cat([error[:, None], error_negative], dim=1) / temperature
        return -F.log_softmax(logits, dim=1)[:, 0]
    if reference is None:
        raise ValueError("bound 'preference': expected the errors of a reference network, got none")
    gap, reference_gap = error[:, None] - error_negative, reference[0][:, None] - reference[1]
    return F.softplus(beta * (gap - reference_gap)).mean(1)  # softplus(x) = -log sigmoid(-x)
