"""Judges of speech and of talking faces; what needs the packages of the extra runs where they are installed."""

import math
from dataclasses import dataclass

import pytest
import torch

from cmmd_lightning.metrics import speech
from cmmd_lightning.metrics.functional.mouth import mouth_correlation, mouth_opening
from cmmd_lightning.metrics.functional.words import hear_sentence, sentence_of, words_right


def test_names_of_clips_are_sentences():
    assert sentence_of("lwbsza") == ("lay", "white", "by", "s", "zero", "again")
    assert sentence_of("PGID6P") == ("place", "green", "in", "d", "six", "please")
    assert sentence_of("srwi9s") == ("set", "red", "with", "i", "nine", "soon")
    # no letter w in GRID; too short; too long
    assert [sentence_of(stem) for stem in ("srww9s", "srwi9", "srwi9ss", "")] == [None] * 4


def test_words_count_in_their_places():
    said = sentence_of("bbaf2n")
    assert words_right(said, said) == 1.0
    assert words_right((), said) == 0.0
    assert words_right(said[:3], said) == 0.5
    assert words_right(said[1:], said) == 0.0
    assert words_right(sentence_of("bbas3n"), said) == pytest.approx(4 / 6)


def test_silence_says_nothing():
    pytest.importorskip("pocketsphinx")
    assert words_right(hear_sentence(torch.zeros(16000)), sentence_of("bbaf2n")) <= 1 / 3


def test_correlation_is_pearsons_where_both_have_a_face():
    first, second = torch.rand(2, 40, generator=torch.Generator().manual_seed(0))
    expected = torch.corrcoef(torch.stack([first, second]))[0, 1].item()
    assert mouth_correlation(first, second) == pytest.approx(expected, abs=1e-5)
    holes = first.clone()
    holes[5:9] = torch.nan
    kept = torch.cat([torch.arange(5), torch.arange(9, 40)])
    expected = torch.corrcoef(torch.stack([first[kept], second[kept]]))[0, 1].item()
    assert mouth_correlation(holes, second) == pytest.approx(expected, abs=1e-5)
    assert mouth_correlation(2 * first + 1, -first) == -1.0


def test_correlation_of_what_never_moves_is_not_a_number():
    moving = torch.arange(5.0)
    assert math.isnan(mouth_correlation(torch.ones(5), moving))
    assert math.isnan(mouth_correlation(torch.full((5,), torch.nan), moving))
    with pytest.raises(ValueError, match=r"one length, got \(4,\) and \(5,\)"):
        mouth_correlation(moving[:4], moving)


def test_pictures_without_a_face_have_no_mouth():
    pytest.importorskip("mediapipe")
    assert torch.isnan(mouth_opening(torch.zeros(3, 3, 64, 64, dtype=torch.uint8))).all()


@dataclass(frozen=True)
class Clip:
    """What a measure may want of one clip."""

    name: str = "clip_00000"
    frames: torch.Tensor | None = None
    fps: float = 25.0
    sound: torch.Tensor | None = None
    sample_rate: int = 16000


def test_words_are_those_of_the_files_name(monkeypatch):
    monkeypatch.setattr(speech, "hear_sentence", lambda sound, rate: ("bin", "red", "at", "f", "two", "now"))
    metric = speech.WordsRight()
    true, made = metric.features(Clip("bbaf2n")), metric.features(Clip("bbaf2n", sound=torch.zeros(9)))
    assert metric.scores(made, true) == {"words_right": pytest.approx(5 / 6)}
    assert metric.features(Clip("holiday", sound=torch.zeros(9))) == {}
    assert metric.scores(metric.features(Clip("holiday")), true) == {}


def test_mouths_are_compared_at_the_lower_of_two_rates(monkeypatch):
    monkeypatch.setattr(speech, "mouth_opening", lambda frames: frames.float().mean((1, 2, 3)))
    level = torch.tensor([0, 90, 30, 200, 10, 60, 0, 250])
    frames = level.byte()[:, None, None, None].expand(-1, 3, 4, 4)
    metric = speech.MouthOpening()
    slow, fast = Clip(frames=frames, fps=10.0), Clip(frames=frames.repeat_interleave(2, 0), fps=20.0)
    for made, true in ((slow, fast), (fast, slow), (fast, fast)):
        assert metric.scores(metric.features(made), metric.features(true)) == {"mouth_opening": 1.0}
    opposite = Clip(frames=255 - frames, fps=10.0)
    assert metric.scores(metric.features(opposite), metric.features(fast))["mouth_opening"] == -1.0
    assert metric.features(Clip()) == {}
