"""Measures of talking faces, by judges that were trained on other data; given to ``--measures``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmmd_lightning.metrics.functional.motion import at_rate
from cmmd_lightning.metrics.functional.mouth import mouth_correlation, mouth_opening
from cmmd_lightning.metrics.functional.words import hear_sentence, sentence_of, words_right
from cmmd_lightning.metrics.measure import Measure


class WordsRight(Measure):
    """Share of the words of a GRID sentence that pocketsphinx hears in their places; the mean over clips.

    What was said is known from GRID's name of the true file (``bbaf2n``); by chance 0.19 are right. Needs the extra
    ``speech``.

    Example:
        >>> metric = WordsRight()
        >>> metric.update([("bin", "red", "at", "f", "two", "now")], [("bin", "blue", "at", "f", "two", "now")])
        >>> round(float(metric.compute()["words_right"]), 3)
        0.833
    """

    names = ("words_right",)
    bounds = (0.0, 1.0)
    reference, estimate = "sentence", "words"

    def features(self, media: Any) -> Mapping[str, Any]:
        """The sentence of the file's name, and the words heard in its sound."""
        found: dict[str, Any] = {}
        if (said := sentence_of(media.name)) is not None:
            found[self.reference] = said
            if media.sound is not None:
                found[self.estimate] = hear_sentence(media.sound, media.sample_rate)
        return found

    def score(self, estimate: Sequence[str], reference: Sequence[str]) -> Sequence[float]:
        """The share in one clip."""
        return [words_right(estimate, reference)]


class MouthOpening(Measure):
    """Correlation of the mouth's opening with the true clip's, by MediaPipe's face mesh; the mean over clips.

    Clips without a face in three frames have none. Needs ``mediapipe<0.10.22``.

    Example:
        >>> import torch
        >>> metric = MouthOpening()
        >>> metric.update([torch.tensor([0.1, 0.3, 0.2])], [torch.tensor([0.0, 0.4, 0.2])])
        >>> round(float(metric.compute()["mouth_opening"]), 3)
        1.0
    """

    names = ("mouth_opening",)
    unit = "correlation"
    bounds = (-1.0, 1.0)
    reference = estimate = "mouth"

    def features(self, media: Any) -> Mapping[str, Any]:
        """Of videos."""
        return {} if media.frames is None else {self.estimate: (mouth_opening(media.frames), media.fps)}

    def score(self, estimate: Any, reference: Any) -> Sequence[float]:
        """The correlation in one clip, over the frames that both cover at the lower of their rates."""
        sides = (one if isinstance(one, tuple) else (one, 1.0) for one in (estimate, reference))
        (first, rate), (second, other) = sides
        lower = min(rate, other)
        first, second = at_rate(first, rate, lower), at_rate(second, other, lower)
        count = min(len(first), len(second))
        return [mouth_correlation(first[:count], second[:count])]
