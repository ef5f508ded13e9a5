"""Optical flow: how far the picture moves from frame to frame."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


def flow_magnitude(frames: Tensor) -> Tensor:
    """Mean magnitude of the optical flow into each frame, as AV-Align has it: (T,) float64 in pixels per frame.

    Farneback's dense flow ("Two-frame motion estimation based on polynomial expansion", SCIA 2003) of the grey frames
    of (T, 3, H, W) uint8, RGB, by OpenCV, with the published code's parameters: pyramid scale 0.5, 3 levels, window 15,
    3 iterations, polynomials over 5 pixels with sigma 1.2. The flow into the first frame is unknown and takes the
    second's.

    Example:
        >>> frames = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
        >>> frames[2:, :, 8:24, 8:24] = 255
        >>> [bool(value > 0) for value in flow_magnitude(frames)]
        [False, False, True, False]
    """
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames must be (T, 3, H, W) uint8, got {tuple(frames.shape)} {frames.dtype}")
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("optical flow needs OpenCV: pip install 'cmmd-lightning[metrics]'") from error
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames.cpu().permute(0, 2, 3, 1).contiguous().numpy()]
    values = []
    for before, after in pairwise(grey):
        flow = np.zeros((*before.shape, 2), dtype=np.float32)
        flow = cv2.calcOpticalFlowFarneback(before, after, flow, 0.5, 3, 15, 3, 5, 1.2, 0)
        values.append(float(np.hypot(flow[..., 0], flow[..., 1]).mean(dtype=np.float64)))
    first = values[:1] or [0.0] * len(grey)
    return torch.tensor(first + values, dtype=torch.float64)
