"""Bringing a decoded picture to the wanted size and shape, as RGB."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from torch import Tensor

_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED


def orientation(frame: Any) -> tuple[bool, bool, bool]:
    """How a decoded picture is to be laid: rows and columns swapped, then mirrored left to right, then upside down.

    Read from its display matrix, which takes (x, y) to (a x + c y, b x + d y) with y pointing down.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if swapped else (a, d)
    return swapped, across < 0, down < 0


class Fitter:
    """Turns decoded frames into RGB tensors of one size.

    The picture is turned and mirrored as its display matrix says (phone videos). With a size given, non-square pixels
    are made square, and the picture is scaled inside FFmpeg (area averaging down, bicubic up) until it covers the size
    (``crop``, whose overhang is cut evenly) or fits in it (``letterbox``, whose rest is black). A frame given twice
    is converted once.

    Args:
        size: (height, width) in pixels, or None to keep the stored pixels (of the first picture).
        fit: ``crop`` or ``letterbox``.
        pixel_aspect: Width of a stored pixel over its height; None or 0, unknown, is taken for 1.
    """

    def __init__(
        self,
        size: tuple[int, int] | None,
        fit: Literal["crop", "letterbox"] = "crop",
        pixel_aspect: Fraction | None = None,
    ) -> None:
        if fit not in ("crop", "letterbox"):
            raise ValueError(f"fit: expected 'crop' or 'letterbox', got {fit!r}")
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size: expected (height, width) of at least 1 pixel or None, got {size!r}")
        self.size, self.fit, self.pixel_aspect = size, fit, float(pixel_aspect or 1)
        self._reformatter = VideoReformatter()
        self._last: tuple[Any, Tensor] | None = None
        self._stored: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> Tensor:
        """uint8 (3, H, W) of one ``av.VideoFrame``."""
        if self._last is None or self._last[0] is not frame:
            self._last = frame, self._convert(frame)
        return self._last[1]

    def _convert(self, frame: Any) -> Tensor:
        swapped, across, down = orientation(frame)
        height, width = self._scaled(frame, swapped)
        smaller = height * width < frame.height * frame.width
        unknown_hd = frame.colorspace == _UNSPECIFIED and frame.height > 576 and "rgb" not in frame.format.name
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=Colorspace.ITU709 if unknown_hd else None,
            interpolation=Interpolation.AREA if smaller else Interpolation.BICUBIC,
            threads=1,
        )
        picture = rgb.to_ndarray().transpose((2, 1, 0) if swapped else (2, 0, 1))
        picture = picture[:, :: -1 if down else 1, :: -1 if across else 1]
        return torch.from_numpy(np.ascontiguousarray(self._shaped(picture)))

    def _scaled(self, frame: Any, swap: bool) -> tuple[int, int]:
        """(height, width) to scale the stored picture to, before it is turned (``swap``: rows for columns)."""
        if self.size is None:  # the size of the first picture, should it change
            self._stored = self._stored or (frame.height, frame.width)
            return self._stored
        height, width = self.size[::-1] if swap else self.size
        shape = frame.width * self.pixel_aspect, frame.height
        scales = width / shape[0], height / shape[1]
        scale = max(scales) if self.fit == "crop" else min(scales)
        limit = max if self.fit == "crop" else min
        return max(1, limit(height, round(shape[1] * scale))), max(1, limit(width, round(shape[0] * scale)))

    def _shaped(self, picture: np.ndarray) -> np.ndarray:
        """(3, h, w) cut or padded about its centre to (3, H, W)."""
        if self.size is None or picture.shape[1:] == tuple(self.size):
            return picture
        gaps = [have - want for have, want in zip(picture.shape[1:], self.size, strict=True)]
        if self.fit == "crop":
            top, left = (gap // 2 for gap in gaps)
            return picture[:, top : top + self.size[0], left : left + self.size[1]]
        return np.pad(picture, [(0, 0)] + [(-gap // 2, -gap - (-gap // 2)) for gap in gaps])
