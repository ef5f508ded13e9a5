"""What every measure of clips is: one ``torchmetrics.Metric`` that says what its number needs to be read."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric


def build_measures(specs: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """Measures of one's own, each of ``{"class_path": "theirs.Measure", "init_args": {}}``; ValueError if it is none.

    Example:
        >>> build_measures([{"class_path": "cmmd_lightning.metrics.Flicker"}])
        [Flicker()]
    """
    found = []
    for spec in specs:
        path = str(spec.get("class_path"))
        module, _, name = path.rpartition(".")
        try:
            built = getattr(importlib.import_module(module), name)(**spec.get("init_args", {}))
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"measures: expected the class of a measure, got {path!r}: {error}") from error
        if not isinstance(built, Measure):
            raise ValueError(f"measures: expected a subclass of cmmd_lightning.metrics.Measure, got {path!r}")
        found.append(built)
    return found


class PlottedMetric(Metric):
    """A metric that does not differentiate, and is plotted as torchmetrics plots."""

    is_differentiable = False
    full_state_update = False

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot what ``compute`` or ``forward`` gave, or a list of such (None: computed); gives figure and axes."""
        return self._plot(val, ax)


class Measure(PlottedMetric):
    """One or several numbers of each clip, and their middle over clips.

    A measure of one's own names its numbers, says how it is read, and defines `score`; where it wants something of a
    clip that is not observed yet, it defines `features` too. `cmmd evaluate --measures` takes it by ``class_path``.

    Args:
        **kwargs: Of ``torchmetrics.Metric``.

    Example:
        >>> class Brightness(Measure):
        ...     names, unit, higher_is_better = ("brightness",), "8-bit steps", False
        ...     reference = estimate = "brightness"
        ...     def features(self, media):
        ...         return {} if media.frames is None else {"brightness": float(media.frames.float().mean())}
        ...     def score(self, estimate, reference):
        ...         return [abs(estimate - reference)]
        >>> metric = Brightness()
        >>> metric.update([10.0, 14.0], [10.0, 12.0])
        >>> float(metric.compute()["brightness"])
        1.0
    """

    names: tuple[str, ...] = ()
    """Of its numbers."""
    unit: str = "0 to 1"
    higher_is_better: bool = True
    bounds: tuple[float, float] = (-np.inf, np.inf)
    """Least and greatest value that there can be."""
    size_counts: bool = False
    """Whether a number is signed and better the smaller its size, such as a lag; its middle is then the median size."""
    statistic: str = "mean"
    """Over clips: ``mean`` or ``median``; clips without the number (NaN) are left out of it, and counted."""
    paired: bool = True
    """Whether another clip in the true one's place changes a number, and is its floor."""
    reference: str = "events"
    """What of a clip's reference side is compared."""
    estimate: str = "events"
    """What of its estimated side."""

    values: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # a process without any clips sends an empty list in this type, which must be that of the others
        self.set_dtype(torch.float64)
        self.add_state("values", [], dist_reduce_fx="cat")

    def features(self, media: Any) -> Mapping[str, Any]:
        """What it wants of a clip's media beside what is observed anyway: of the true clip and of the generated one.

        Args:
            media: With ``frames`` uint8 (T, 3, H, W), ``fps``, ``sound`` (N,), ``sample_rate`` and ``events``; what was
                not generated is None.
        """
        return {}

    def score(self, estimate: Any, reference: Any) -> Sequence[float]:
        """The numbers of one clip, in the order of the names; NaN where there is none."""
        raise NotImplementedError

    def scores(self, estimated: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of one observed clip by name; none where a side lacks what is compared."""
        if self.reference not in reference or self.estimate not in estimated:
            return {}
        found = self.score(estimated[self.estimate], reference[self.reference])
        return dict(zip(self.names, map(float, found), strict=True))

    def update(self, estimate: Sequence[Any], reference: Sequence[Any]) -> None:
        """Measure clips; ValueError if there are not as many of both, or one is malformed.

        Args:
            estimate: Of each clip, what is judged.
            reference: Of each clip, what it is held against.
        """
        if len(reference) != len(estimate):
            raise ValueError(
                f"expected as many clips of both, got {len(estimate)} estimates, {len(reference)} references"
            )
        rows = [list(self.score(est, ref)) for est, ref in zip(estimate, reference, strict=True)]
        assert isinstance(self.values, list)
        self.values.append(torch.tensor(rows, dtype=torch.float64, device=self.device).flatten())

    def compute(self) -> dict[str, Tensor]:
        """The middle over clips of each number by name; NaN where no clip has it."""
        table = self._table()
        if missing := int(table.isnan().any(dim=1).sum()):
            warnings.warn(f"{missing} clips have no {self.names[0]} and are left out of it", stacklevel=2)
        columns = zip(self.names, table.T.cpu().numpy(), strict=True)
        return {name: torch.tensor(self.middle(column), dtype=torch.float32) for name, column in columns}

    def clip_values(self) -> Tensor:
        """Numbers of each clip (N, names) float64, of all processes: where there are several, all must call this."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._table()

    def middle(self, values: np.ndarray) -> float:
        """The value over clips of one number of each (N,): without those that lack it, NaN where none has it."""
        found = values[~np.isnan(values)]
        if not len(found):
            return float("nan")
        found = np.abs(found) if self.size_counts else found
        return float(np.median(found) if self.size_counts or self.statistic == "median" else found.mean())

    def _table(self) -> Tensor:
        state: list[Tensor] | Tensor = self.values
        if not isinstance(state, Tensor):
            state = torch.cat(state) if state else torch.zeros(0, dtype=torch.float64)
        return state.reshape(-1, len(self.names))
