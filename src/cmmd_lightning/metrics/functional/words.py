"""Words of GRID's sentences that a recogniser hears: a judge of speech that was trained on none of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

SAMPLE_RATE = 16000

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SLOTS: tuple[dict[str, str], ...] = (
    {word[0]: word for word in ("bin", "lay", "place", "set")},
    {word[0]: word for word in ("blue", "green", "red", "white")},
    {word[0]: word for word in ("at", "by", "in", "with")},
    {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},
    dict(zip("z123456789", _DIGITS, strict=True)),
    {word[0]: word for word in ("again", "now", "please", "soon")},
)
"""Of each of a sentence's six places, the words by the letter that stands for them in a file's name."""


def sentence_of(stem: str) -> tuple[str, ...] | None:
    """The sentence that GRID's name of a clip stands for, None where it is no such name.

    Example:
        >>> sentence_of("bbaf2n")
        ('bin', 'blue', 'at', 'f', 'two', 'now')
        >>> sentence_of("holiday") is None
        True
    """
    letters = stem.lower()
    if len(letters) != len(_SLOTS) or any(letter not in slot for letter, slot in zip(letters, _SLOTS, strict=True)):
        return None
    return tuple(slot[letter] for letter, slot in zip(letters, _SLOTS, strict=True))


def hear_sentence(sound: Tensor, sample_rate: int = SAMPLE_RATE) -> tuple[str, ...]:
    """The six words (fewer where nothing fits) of GRID's grammar that pocketsphinx hears in a sound (N,) in [-1, 1]."""
    if sample_rate != SAMPLE_RATE:
        import torchaudio

        sound = torchaudio.functional.resample(sound, sample_rate, SAMPLE_RATE)
    pcm = (sound.detach().cpu().float().clamp(-1.0, 1.0) * 32767.0).round().to(torch.int16)
    decoder = _decoder()
    decoder.start_utt()
    decoder.process_raw(pcm.numpy().tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    heard = "" if hypothesis is None else hypothesis.hypstr
    return tuple(re.sub(r"\(\d+\)", "", heard).split())


def words_right(heard: Sequence[str], said: Sequence[str]) -> float:
    """Share of the words that were said which were heard in their place."""
    right = sum(first == second for first, second in zip(heard, said, strict=False))
    return right / len(said)


@lru_cache(maxsize=1)
def _decoder() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise ImportError("words need the package pocketsphinx: pip install 'cmmd-lightning[speech]'") from error
    places = " ".join(f"( {' | '.join(slot.values())} )" for slot in _SLOTS)
    decoder = Decoder(samprate=SAMPLE_RATE, lm=None, loglevel="FATAL")
    decoder.add_jsgf_string("sentence", f"#JSGF V1.0; grammar grid; public <sentence> = {places} ;")
    decoder.activate_search("sentence")
    return decoder
