"""Entries of the same content: picture and sound alike, however they were encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.spatial import cKDTree

from cmmd_lightning.data.preprocess.entry import EntryInfo
from cmmd_lightning.data.preprocess.facts import BANDS, picture_vectors, sound_vectors

# Two entries are the same content if their sounds correlate so, ...
SOUND_CORRELATION = 0.975
# ... and their pictures differ (root mean square, of 255) by no more than encoding does: so much, and this share of
# what changes in them.
PICTURE_DIFFERENCE, PICTURE_SHARE = 0.6, 0.15
_BRIGHTNESS = 10.0  # of 255, largest difference of the mean brightness of a part
_LEAST_CHANGE = 0.3  # a sound whose level changes less (root mean square, in natural log) tells nothing apart
_CANDIDATE = 0.9  # correlation from which two sounds are compared more closely
_LENGTH, _FRAMES = 0.01, 2  # lengths may differ by this share, and by so many frames
_STRETCHES = 32  # in the longest fingerprint of a sound
_ROWS = 1 << 16  # pairs compared at once
_PARTS = 10  # of the picture, by which pairs are looked for


def same_content(infos: Sequence[EntryInfo]) -> Iterator[list[int]]:
    """Groups of entries of the same content, those that are alone too.

    Compared are the level of 12 bands of the sound, and the brightness of 6 x 6 parts of the picture, by stretches of
    time over the whole length. Both must agree, so neither two dances to one music nor one dance dubbed anew count; nor
    do copies that are cut, mirrored or sped up, and sounds that do not change are not compared at all.

    Args:
        infos: The entries.

    Yields:
        Numbers of the entries of a group, rising; groups in the order of their first entry.
    """
    leader = list(range(len(infos)))

    def first_of(number: int) -> int:
        while leader[number] != number:
            number = leader[number]
        return number

    for one, other in _pairs(infos):
        low, high = sorted((first_of(one), first_of(other)))
        leader[high] = low
    groups: dict[int, list[int]] = {}
    for number in range(len(infos)):
        groups.setdefault(first_of(number), []).append(number)
    yield from groups.values()


def compare(one: EntryInfo, other: EntryInfo) -> tuple[float, float, float]:
    """How two entries compare, over the stretches of time that both have.

    Returns:
        Correlation of the sounds; difference of the pictures, and change in the less lively of them, both the root mean
        square of 255 over what changes in time.
    """
    sounds = _changes(sound_vectors(one.facts), sound_vectors(other.facts))
    lengths = [float(np.linalg.norm(change)) for change in sounds]
    correlation = float((sounds[0] * sounds[1]).sum()) / max(lengths[0] * lengths[1], 1e-9)
    pictures = _changes(picture_vectors(one.facts), picture_vectors(other.facts))
    return correlation, _size(pictures[0] - pictures[1]), min(_size(change) for change in pictures)


def _same(one: EntryInfo, other: EntryInfo) -> bool:
    frames = one.num_frames, other.num_frames
    if abs(frames[0] - frames[1]) > max(_FRAMES, _LENGTH * max(frames)):
        return False
    brightness = [picture_vectors(info.facts).mean(axis=0) for info in (one, other)]
    if np.abs(brightness[0] - brightness[1]).max() > _BRIGHTNESS:
        return False
    correlation, difference, change = compare(one, other)
    return correlation > SOUND_CORRELATION and difference <= PICTURE_DIFFERENCE + PICTURE_SHARE * change


def _pairs(infos: Sequence[EntryInfo]) -> Iterator[tuple[int, int]]:
    units, known = np.zeros((len(infos), _STRETCHES * BANDS), np.float32), []
    for number, info in enumerate(infos):
        (changes,) = _changes(sound_vectors(info.facts))
        if len(changes) > 1 and info.facts.picture and _size(changes) >= _LEAST_CHANGE:
            units[number, : changes.size] = changes.ravel() / np.linalg.norm(changes)
            known.append(number)
    chosen = np.array(known, dtype=np.int64)
    if not known:
        return
    pairs = cKDTree(_places([infos[n] for n in known])).query_pairs(1.0, p=np.inf, output_type="ndarray")
    for start in range(0, len(pairs), _ROWS):
        one, other = chosen[pairs[start : start + _ROWS].T]
        near = (units[one] * units[other]).sum(axis=1) > _CANDIDATE
        yield from ((int(a), int(b)) for a, b in zip(one[near], other[near], strict=True) if _same(infos[a], infos[b]))


def _places(infos: Sequence[EntryInfo]) -> np.ndarray:
    """Where entries lie (N, D): those that could be the same differ by 1 at most in every dimension.

    These are the length, and the brightness of those parts of the picture in which the entries differ most.
    """
    lengths = np.log(np.maximum([info.num_frames for info in infos], _FRAMES / _LENGTH)) / -np.log1p(-_LENGTH)
    brightness = np.stack([picture_vectors(info.facts).mean(axis=0) for info in infos]) / _BRIGHTNESS
    parts = np.argsort(brightness.std(axis=0))[-_PARTS:]
    return np.concatenate([lengths[:, None], brightness[:, parts]], axis=1) * (1 - 1e-5)


def _changes(*vectors: np.ndarray) -> list[np.ndarray]:
    """What changes in time: without the mean over the stretches that all have."""
    count = min(len(vector) for vector in vectors)
    return [vector[:count] - vector[:count].mean(axis=0) if count else vector for vector in vectors]


def _size(changes: np.ndarray) -> float:
    return float(np.sqrt((changes**2).mean())) if changes.size else 0.0
