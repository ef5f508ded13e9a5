"""Settings of the objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from cmmd_lightning.diffusion.bounds import Bound

Form = Literal["condition", "target"]


@dataclass(frozen=True)
class ObjectiveSpec:
    """Settings of the objective.

    Args:
        contrastive_weight: The paper's eta, relative to the diffusion loss under the same reduction; 0 is nCMMD. With
            ``infonce``, 0.2 syncs sooner than the default, at more error with the true condition (``docs/results.md``).
        form: ``condition``: the condition is replaced by a negative, a second forward gives e_neg. ``target``: the same
            prediction is held against the velocity of a negative of what is generated, no second forward.
        bound: ``linear`` (the paper's subtraction, unbounded below in condition form), ``hinge``, ``infonce``, or
            ``preference``, which holds the network against a frozen one, ``CMMD(pretrained=...)``.
        temperature: Temperature of ``infonce``, in units of e.
        margin: Margin of ``hinge``, in units of e.
        contrastive_share: Share of the examples that the contrastive term is measured on, in (0, 1]; of a batch as many
            as come closest, and at least one. The weight means the same for any share.
        task_probabilities: Of joint, video_to_audio and audio_to_video, in this order.
        drop_probability: How often an example loses its condition, for classifier-free guidance.
        contrastive_times: The contrastive term is measured only on examples whose diffusion time t, that of the
            generated modality, lies within, 0 <= low < high <= 1. What is left out counts as 0: unlike the share, this
            is not made up for, so a narrow range takes weight from the term.
        beta: Steepness of ``preference``, in units of 1 / e.

    Raises:
        ValueError: If a value is outside of its range.
    """

    contrastive_weight: float = 0.05
    form: Form = "condition"
    bound: Bound = "infonce"
    temperature: float = 0.1
    margin: float = 0.1
    contrastive_share: float = 1.0
    task_probabilities: tuple[float, float, float] = (0.34, 0.33, 0.33)
    drop_probability: float = 0.1
    contrastive_times: tuple[float, float] = (0.0, 1.0)
    beta: float = 20.0

    def __post_init__(self) -> None:
        for name in ("task_probabilities", "contrastive_times"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        times = self.contrastive_times
        checks = {
            "contrastive_weight": self.contrastive_weight >= 0,
            "form": self.form in ("condition", "target"),
            "bound": self.bound in get_args(Bound),
            "temperature": self.temperature > 0,
            "contrastive_share": 0 < self.contrastive_share <= 1,
            "task_probabilities": len(self.task_probabilities) == 3
            and min(self.task_probabilities) >= 0
            and sum(self.task_probabilities) > 0,
            "drop_probability": 0 <= self.drop_probability < 1,
            "contrastive_times": len(times) == 2 and 0 <= times[0] < times[1] <= 1,
            "beta": self.beta > 0,
        }
        for name, good in checks.items():
            if not good:
                raise ValueError(f"ObjectiveSpec.{name} is out of range: {getattr(self, name)!r}")

    @classmethod
    def of(cls, spec: ObjectiveSpec | Mapping[str, Any] | None) -> ObjectiveSpec:
        """An ObjectiveSpec from itself, from its plain-dict form, or the default from None."""
        return spec if isinstance(spec, ObjectiveSpec) else cls(**(spec or {}))

    def to_dict(self) -> dict[str, Any]:
        """Plain-dict form, lists for tuples, as stored in checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
