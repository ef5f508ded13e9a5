"""How far a speaker's mouth is open, by MediaPipe's face mesh: a judge of talking faces that was trained on none."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Points of the face mesh: inner edge of the upper and of the lower lip, outer corners of the eyes.
_LIPS = (13, 14)
_EYES = (33, 263)
# The face detector misses faces in smaller pictures.
_SMALLEST_SIDE = 384


def mouth_opening(frames: Tensor) -> Tensor:
    """Distance between the lips (T,) in distances between the eyes, of uint8 (T, 3, H, W); NaN without a face."""
    height, width = frames.shape[-2:]
    scale = max(1.0, _SMALLEST_SIDE / min(height, width))
    size = (round(height * scale), round(width * scale))
    with _face_mesh() as mesh:
        openings = []
        for frame in frames:
            large = functional.interpolate(frame[None].float(), size=size, mode="bilinear", align_corners=False)
            picture = large[0].round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().cpu().numpy()
            found = mesh.process(picture).multi_face_landmarks
            openings.append(_opening(found[0].landmark, size) if found else float("nan"))
    return torch.tensor(openings)


def mouth_correlation(estimate: Tensor, reference: Tensor) -> float:
    """Pearson correlation of two mouths' opening (T,); NaN where fewer than three frames have both, or one never moves.

    Example:
        >>> mouth_correlation(torch.tensor([0.1, 0.2, torch.nan, 0.4]), torch.tensor([0.0, 0.1, 0.2, 0.3]))
        1.0
    """
    if estimate.shape != reference.shape or estimate.ndim != 1:
        raise ValueError(
            f"mouth_correlation: expected two series of one length, got {tuple(estimate.shape)} "
            f"and {tuple(reference.shape)}"
        )
    both = torch.stack([estimate, reference]).double()
    both = both[:, torch.isfinite(both).all(dim=0)]
    if both.shape[1] < 3 or bool((both.std(dim=1) == 0).any()):
        return float("nan")
    return round(float(torch.corrcoef(both)[0, 1]), 6)


def _face_mesh() -> Any:
    try:
        from mediapipe import solutions
    except ImportError as error:
        raise ImportError(
            "mouth opening needs the package mediapipe, below 0.10.22 and without what it pins: "
            "pip install --no-deps 'mediapipe<0.10.22' 'protobuf<5' flatbuffers absl-py attrs opencv-python-headless"
        ) from error
    return solutions.face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1)


def _opening(points: Any, size: tuple[int, int]) -> float:
    """Of landmarks, whose places are shares of the picture's size."""

    def distance(pair: tuple[int, int]) -> float:
        first, second = (np.array([points[i].x * size[1], points[i].y * size[0]]) for i in pair)
        return float(np.linalg.norm(first - second))

    return distance(_LIPS) / max(distance(_EYES), 1e-6)
