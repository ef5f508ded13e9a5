import numpy as np
import pytest

from cmmd_lightning.data import NegativeSpec
from cmmd_lightning.data.stream.negatives import (
    Cut,
    Place,
    draw_kind,
    draw_reversal,
    draw_shift,
    draw_substitution,
    draw_swap,
)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def place(frame: int = 20, source_frames: int = 100, *, period: float | None = None, num_frames: int = 16) -> Place:
    return Place(3, frame, num_frames, source_frames, 10.0, period)


def test_shifts_cut_every_other_stretch_within_the_limits_and_no_other() -> None:
    spec = NegativeSpec(min_shift_seconds=0.3, max_shift_seconds=2.5)
    cuts = [draw_shift(spec, place(), rng(seed)) for seed in range(2000)]
    assert {(cut.kind, cut.source, cut.order) for cut in cuts} == {("shift", 3, None)}
    offsets = {cut.frame - 20 for cut in cuts}
    assert offsets == {offset for offset in range(-25, 26) if abs(offset) >= 3} - set(range(-25, -20))


def test_shifts_without_an_upper_limit_reach_all_of_the_source() -> None:
    frames = {draw_shift(NegativeSpec(), place(), rng(seed)).frame for seed in range(3000)}
    assert frames == set(range(0, 85)) - {19, 20, 21}


@pytest.mark.parametrize("period", [60 / 135, 60 / 80, 0.2, 1.0])
def test_shifts_avoid_whole_periods(period: float) -> None:
    cuts = [draw_shift(NegativeSpec(), place(period=period), rng(seed)) for seed in range(1000)]
    offsets = np.array(sorted({cut.frame - 20 for cut in cuts})) / 10
    distance = np.abs(offsets / period - np.round(offsets / period)) * period
    assert distance.min() >= min(0.2, period / 4) - 1e-6
    # All that may be drawn are drawn.
    every = np.arange(-20, 65) / 10
    off = np.abs(every / period - np.round(every / period)) * period
    allowed = (np.abs(every) >= 0.2 - 1e-6) & (off >= min(0.2, period / 4) - 1e-6)
    assert len(offsets) == allowed.sum()


def test_a_source_too_short_for_a_shift_is_rolled() -> None:
    cuts = [draw_shift(NegativeSpec(), place(0, 17), rng(seed)) for seed in range(300)]
    assert {cut.frame for cut in cuts} == {0}
    firsts = set()
    for cut in cuts:
        order = cut.indices(16, 16)
        firsts.add(order[0])
        assert (order == np.roll(np.arange(16), -order[0])).all()
    assert firsts == set(range(2, 15))


def test_rolls_avoid_whole_periods_for_both_of_their_parts() -> None:
    firsts = {draw_shift(NegativeSpec(), place(0, 16, period=1.0), rng(seed)).indices(16, 16)[0] for seed in range(300)}
    # Rolled by r frames, one part moves by r and the other by r - 16 frames: neither less than 2 from 0, 10 or 20.
    assert firsts == {2, 3, 4, 8, 12, 13, 14}


def test_a_clip_too_short_for_any_roll_is_rolled_by_half() -> None:
    cut = draw_shift(NegativeSpec(min_shift_seconds=5.0), place(0, 16), rng(0))
    assert cut.indices(16, 16).tolist() == [*range(8, 16), *range(8)]


@pytest.mark.parametrize("segments", [2, 4, 8, 99])
@pytest.mark.parametrize("num_frames", [2, 5, 16])
def test_swaps_permute_segments_and_always_change_something(segments: int, num_frames: int) -> None:
    for seed in range(100):
        cut = draw_swap(NegativeSpec(segments=segments), place(num_frames=num_frames), rng(seed))
        assert (cut.kind, cut.source, cut.frame) == ("swap", 3, 20)
        assert cut.order is not None
        assert len(cut.order) == min(segments, num_frames)
        order = cut.indices(num_frames, num_frames)
        assert sorted(order) == list(range(num_frames))
        assert (order != np.arange(num_frames)).any()


def test_swaps_displace_half_of_the_clip_off_whole_periods() -> None:
    for period in (None, 0.4):
        for seed in range(200):
            order = draw_swap(NegativeSpec(), place(period=period), rng(seed)).indices(16, 16)
            seconds = (order - np.arange(16)) / 10
            moved = np.abs(seconds) >= 0.2 - 1e-6
            if period:
                moved &= np.abs(seconds / period - np.round(seconds / period)) * period >= 0.1 - 1e-6
            assert moved.mean() >= 0.5


def test_sound_is_reordered_as_the_picture_is() -> None:
    cut = Cut("swap", 0, 0, ((4, 16), (0, 4)))
    assert cut.indices(16, 16).tolist() == [*range(4, 16), *range(4)]
    assert cut.indices(128, 16).tolist() == [*range(32, 128), *range(32)]
    assert cut.indices(101, 16).tolist() == [*range(25, 101), *range(25)]
    assert draw_reversal(place()).indices(128, 16).tolist() == list(range(127, -1, -1))
    assert Cut(None, 0, 0).indices(5, 16).tolist() == list(range(5))
    for seed in range(50):
        order = draw_swap(NegativeSpec(segments=5), place(), rng(seed)).indices(101, 16)
        assert sorted(order) == list(range(101))


def test_substitutions_come_from_anywhere_in_the_other_source() -> None:
    cuts = [draw_substitution(place(), 7, 20, rng(seed)) for seed in range(200)]
    assert {(cut.kind, cut.source, cut.order) for cut in cuts} == {("substitution", 7, None)}
    assert {cut.frame for cut in cuts} == set(range(5))
    assert draw_substitution(place(), 7, 16, rng(0)).frame == 0


def test_kinds_are_drawn_by_their_weights() -> None:
    def shares(spec: NegativeSpec) -> dict[str, float]:
        generator = rng(0)
        drawn = [draw_kind(spec, generator) for _ in range(20000)]
        return {kind: drawn.count(kind) / 20000 for kind in spec.kinds}

    assert shares(NegativeSpec()) == pytest.approx({"shift": 1 / 3, "swap": 1 / 3, "substitution": 1 / 3}, abs=0.02)
    weighted = NegativeSpec(kinds=("swap", "reversal", "shift"), weights=(3.0, 1.0, 0.0))
    assert shares(weighted) == pytest.approx({"swap": 0.75, "reversal": 0.25, "shift": 0.0}, abs=0.02)


def test_the_longest_shift_falls_geometrically_to_twice_the_shortest() -> None:
    spec = NegativeSpec(min_shift_seconds=0.1, max_shift_seconds=3.2, curriculum_steps=40)
    longest = [spec.at(step).max_shift_seconds for step in range(60)]
    assert longest[:40] == pytest.approx([3.2 * (1 / 16) ** (step / 40) for step in range(40)])
    assert longest[:41:10] == pytest.approx([3.2, 1.6, 0.8, 0.4, 0.2])
    assert set(longest[40:]) == {longest[40]}
    # no step but the curriculum's length and the limits counts; validation clips have the end of it
    assert spec.at(-1) == spec.at(40) == spec.at(10**9)
    plain = NegativeSpec(min_shift_seconds=0.1, max_shift_seconds=longest[7])
    assert spec.at(7) == plain
    assert spec.at(7).at(30) == plain


def test_a_curriculum_that_begins_at_its_end_stays_there() -> None:
    spec = NegativeSpec(min_shift_seconds=0.3, max_shift_seconds=0.5, curriculum_steps=10)
    assert {spec.at(step).max_shift_seconds for step in (-1, 0, 5, 10, 99)} == {0.5}


def test_without_a_curriculum_a_spec_is_itself_at_every_step() -> None:
    for spec in (NegativeSpec(), NegativeSpec(max_shift_seconds=2.0)):
        assert spec.at(0) is spec.at(7) is spec.at(-1) is spec


def test_plain_form_and_back() -> None:
    spec = NegativeSpec(num_negatives=2, kinds=("swap", "shift"), weights=(1.0, 2.0), max_shift_seconds=3.0)
    plain = spec.to_dict()
    assert plain["kinds"] == ["swap", "shift"]
    assert NegativeSpec.of(plain) == spec
    assert NegativeSpec.of(None) == NegativeSpec()
    assert NegativeSpec.of(spec) is spec


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("warp",)}, "must be some of shift, swap, substitution, reversal"),
        ({"kinds": ()}, "must be some of"),
        ({"num_negatives": -1}, "must not be negative"),
        ({"segments": 1}, "at least 2"),
        ({"weights": (1.0,)}, "one number >= 0 per kind"),
        ({"weights": (0.0, 0.0, 0.0)}, "not all 0"),
        ({"min_shift_seconds": 0.0}, "must be positive"),
        ({"max_shift_seconds": 0.1}, "at least min_shift_seconds"),
        ({"curriculum_steps": -1}, "curriculum_steps must not be negative, got -1"),
        ({"curriculum_steps": 5}, "curriculum_steps needs max_shift_seconds to begin with, got None"),
    ],
)
def test_settings_are_checked(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NegativeSpec(**settings)
