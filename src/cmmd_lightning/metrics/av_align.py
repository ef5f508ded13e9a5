"""AV-Align as a torchmetrics.Metric, whose states sync across processes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from cmmd_lightning.metrics.functional.av_align import Variant, av_align
from cmmd_lightning.metrics.functional.events import Times, as_times


class AVAlign(Metric):
    """AV-Align of lists of peaks, by name of variant: the mean over clips.

    For published figures to compare, the peaks must be the original's: ``librosa_onsets`` of the sound and
    ``motion_peaks`` of ``flow_magnitude`` with ``LEAST_FLOW`` of the variant. A clip without any peaks counts as 0; how
    many there were is warned of when the value is computed.

    Args:
        fps: Frames per second of the videos.
        variant: Which code, see ``functional/av_align.py``.
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> metric = AVAlign(fps=10.0)
        >>> metric.update([[0.5, 1.0], [0.3]], [[0.52], [0.3]])
        >>> {name: float(value) for name, value in metric.compute().items()}
        {'av_align[tempotokens-2025]': 0.75}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound: float = 0.0

    total: Tensor
    clips: Tensor
    empty: Tensor

    def __init__(self, fps: float, variant: Variant = "tempotokens-2025", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        av_align([], [], fps, variant=variant)  # refuses bad settings here rather than at the first clip
        self.fps, self.variant = fps, variant
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("empty", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, audio_peaks: Sequence[Times], video_peaks: Sequence[Times]) -> None:
        """Count clips.

        Args:
            audio_peaks: For each clip, the peaks of its sound in seconds.
            video_peaks: For each clip, the peaks of its motion in seconds.

        Raises:
            ValueError: If there are not as many of both, or times are malformed.
        """
        if len(audio_peaks) != len(video_peaks):
            raise ValueError(
                f"expected as many clips of both, got {len(audio_peaks)} sounds, {len(video_peaks)} videos"
            )
        pairs = [(as_times(a), as_times(v)) for a, v in zip(audio_peaks, video_peaks, strict=True)]
        self.total += sum(av_align(a, v, self.fps, variant=self.variant) for a, v in pairs)
        self.clips += len(pairs)
        self.empty += sum(a.size == 0 and v.size == 0 for a, v in pairs)

    def compute(self) -> dict[str, Tensor]:
        """Mean over clips.

        Returns:
            ``av_align[variant]``; NaN before any clip.
        """
        if int(self.empty):
            warnings.warn(f"{int(self.empty)} clips without any peaks count as 0", stacklevel=2)
        return {f"av_align[{self.variant}]": (self.total / self.clips).float()}

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot the value.

        Args:
            val: What ``compute`` or ``forward`` gave, or a list of such; computed where None.
            ax: matplotlib axes to draw on; new ones where None.

        Returns:
            Figure and axes.
        """
        return self._plot(val, ax)
