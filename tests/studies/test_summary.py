"""What is concluded from results whose truth is known, as they were made up."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from cmmd_lightning.evaluation.rendering import table_texts
from cmmd_lightning.studies.ablation.report import SHOWN, table, write_comparison
from cmmd_lightning.studies.ablation.results import read_results
from cmmd_lightning.studies.ablation.summary import (
    MEASURES,
    arms,
    at_best_guidance,
    base_of,
    clip_scores,
    difference,
    interval,
)
from cmmd_lightning.studies.ablation.sweeps import by_correlation, by_weight

CLIPS = 40
TRUE = [[0.3 + 0.01 * i] for i in range(CLIPS)]


def lines(recipe, seed, step=100, flops=1e9, off=0.0, scales=(1.0, 3.0), wrong_every=None, away="dropped"):
    """A cell whose sounds are ``off`` seconds late at guidance 3, and 0.3 s more at guidance 1."""
    about = {"recipe": recipe, "scene": "bounce", "seed": seed, "step": step, "flops": flops}
    gaps = {"video_to_audio": {"true": [0.1, 0.2, 0.3], "shift": [0.1, 0.5, 0.4]}}
    truth = {"events": TRUE, "heard": TRUE, "seen": [[] for _ in TRUE]}
    found = [{**about, "gaps": gaps, "truth": truth}]
    for scale in scales:
        late = off + (0.3 if scale == 1.0 else 0.0)
        events = [
            [times[0] + late + (0.15 if wrong_every and i % wrong_every == seed else 0)] for i, times in enumerate(TRUE)
        ]
        sampling = {"task": "video_to_audio", "guidance_scale": scale, "guidance_from": away}
        sampling["num_inference_steps"] = 15
        quality = {"frechet[audio]": 10.0 + seed, "coverage[spectrum]": 0.5, "rank": [0.75] * CLIPS}
        found.append({**about, "sampling": sampling, "events": events, **quality})
    return found


def test_clip_scores():
    found = clip_scores([[0.5, 1.0], [0.5], []], [[0.53, 1.0], [0.9], []])
    assert list(found) == list(MEASURES)
    assert found["F1@25ms"].tolist() == [0.5, 0.0, 1.0]
    assert found["F1@50ms"].tolist() == [1.0, 0.0, 1.0]
    assert found["F1@mean"].tolist() == pytest.approx([0.875, 0.0, 1.0])
    assert found["lag"][1] == pytest.approx(0.4, abs=0.02)


def test_guidance_is_chosen_on_the_other_half():
    """A scale that is best by luck on the clips that chose it does not profit from that."""
    lucky = {"F1@mean": np.array([1.0, 0.2] * 10), "lag": np.zeros(20)}
    other = {"F1@mean": np.array([0.4, 0.6] * 10), "lag": np.ones(20)}
    scores, chosen = at_best_guidance({"1": lucky, "3": other})
    assert chosen == ["3", "1"]  # the even clips were given what the odd ones like best
    assert scores["F1@mean"].mean() == pytest.approx((0.4 + 0.2) / 2)
    assert scores["lag"].tolist() == [1.0, 0.0] * 10


def test_interval_covers_seeds_and_clips():
    rng = np.random.default_rng(0)
    clips = np.tile(rng.normal(0, 1, (1, 400)), (3, 1))
    low, high = interval(clips)
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.1)
    seeds = np.tile(np.array([[-1.0], [0.0], [1.0]]), (1, 400))  # what differs by seed is no better known by many clips
    low, high = interval(seeds)
    assert (low, high) == (-1.0, 1.0)


def test_interval_holds_what_it_promises():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        values = rng.normal(0, 1, (1, 60))
        low, high = interval(values, seed=trial)
        hits += low <= 0 <= high
    assert 88 <= hits <= 100


def test_arms_hold_each_recipe_at_its_best():
    found = arms([line for seed in (0, 1, 2) for line in lines("plain", seed)])
    (arm,) = found
    assert (arm.recipe, arm.step, arm.seeds, arm.scales) == ("plain", 100, [0, 1, 2], ["3"] * 6)
    assert arm.scores["F1@25ms"].shape == (3, CLIPS)
    assert arm.scores["F1@25ms"].mean() == 1.0
    assert arm.by_scale["1"]["F1@200ms"] == 0.0
    assert arm.sets.pop("error") == pytest.approx([0.2] * 3)
    assert arm.sets == {"frechet[audio]": [10.0, 11.0, 12.0], "coverage[spectrum]": [0.5] * 3, "rank": [0.75] * 3}
    assert arm.gaps["shift"].tolist() == [pytest.approx([0.0, 0.3, 0.1])] * 3
    assert arm.ceiling["F1@25ms"] == 1.0
    # of 40 clips 10 ms apart, about 2 x 25 in 400 ms lie within 25 ms of a clip's own event
    assert 0 < arm.floor["F1@25ms"] < 0.3


def test_what_is_drawn_jointly_is_held_against_itself():
    """Its sounds are 20 ms after its pictures, both far from any true event."""
    joint = lines("plain", 0)
    joint[0]["truth"]["seen"] = [[times[0] + 0.06] for times in TRUE]
    for line in joint[1:]:
        line["sampling"]["task"] = "joint"
        line["seen"] = [[5.0 + 0.3 * i] for i in range(CLIPS)]
        line["events"] = [[times[0] + 0.02] for times in line["seen"]]
    (arm,) = arms(joint)
    assert (arm.scores["F1@25ms"] == 1.0).all()
    assert arm.sets["shuffled F1@100ms"] == [0.0]
    assert (arm.ceiling["F1@50ms"], arm.ceiling["F1@100ms"]) == (0.0, 1.0)


def test_a_seed_that_is_not_measured_to_its_end_does_not_count():
    (arm,) = arms([*lines("plain", 0), *lines("plain", 1, scales=(1.0,))])
    assert arm.seeds == [0]
    assert arm.sets["rank"] == [0.75]


def test_results_of_different_inference_steps_are_not_mixed():
    mixed = lines("plain", 0)
    mixed[-1]["sampling"]["num_inference_steps"] = 50
    with pytest.raises(
        ValueError, match=r"plain, bounce, 100 steps: expected one number of inference steps, got \[15, 50\]"
    ):
        arms(mixed)


def test_differences_are_paired():
    """The same clips fail under both recipes, and one more of ten under the second: the interval sees only that."""
    ours = [line for seed in (0, 1) for line in lines("plain", seed, wrong_every=4)]
    theirs = [line for seed in (0, 1) for line in lines("infonce", seed, wrong_every=2)]
    plain, infonce = arms(ours + theirs)
    value, low, high = difference(infonce, plain, "F1@100ms")
    assert value == pytest.approx(-0.25)
    assert low < value < high < 0
    same = arms(ours + [line for seed in (0, 1) for line in lines("target", seed, wrong_every=4)])
    assert difference(same[1], same[0], "F1@100ms") == (0.0, 0.0, 0.0)


def test_equal_steps_and_equal_compute_are_two_comparisons():
    found = arms(
        [
            *lines("plain", 0, step=100, flops=100.0),
            *lines("infonce", 0, step=75, flops=99.0),
            *lines("infonce", 0, step=100, flops=132.0),
        ]
    )
    plain, cheap, whole = found
    assert base_of(plain, found, "plain") == {}
    assert base_of(cheap, found, "plain") == {"compute": plain}
    assert base_of(whole, found, "plain") == {"steps": plain}


def test_other_guidance_is_held_against_the_usual_one():
    found = arms([*lines("plain", 0), *lines("plain", 0, off=0.04, scales=(3.0,), away="shifted")[1:]])
    usual, away = found
    assert away.name == "plain, guidance from shifted"
    assert base_of(away, found, "plain") == {"guidance": usual}
    assert difference(away, usual, "F1@25ms")[0] == -1.0


def test_comparison_is_written(tmp_path):
    every = [
        line for seed in (0, 1) for r, off in (("plain", 0.06), ("infonce", 0.0)) for line in lines(r, seed, off=off)
    ]
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in every))
    written = write_comparison([results], tmp_path / "made")
    assert [path.suffix for path in written] == [".md", ".html", ".csv", ".tex", *[".png"] * 4]
    assert all(path.stat().st_size > 0 for path in written)
    text = written[0].read_text()
    assert "| infonce | 100 | 1.00 | 2 | 3 | 1.000 | 1.000 | 1.000 |" in text
    assert "| steps, compute | +1.000 [+1.000, +1.000] | +1.000 [+1.000, +1.000] | +0.000 [+0.000, +0.000] |" in text
    heads, rows, _ = table(arms(every), "plain")
    assert {len(row) for row in rows} == {len(heads)}
    assert (tmp_path / "made" / "comparison.html").read_text().count("<table>") == 1
    few = write_comparison([results], tmp_path / "few", baseline="infonce", recipes=["infonce"])[0].read_text()
    assert "| infonce | 100 |" in few
    assert "plain" not in few
    with pytest.raises(ValueError, match="recipes: expected some of plain, infonce, got target"):
        write_comparison([results], tmp_path / "made", recipes=["plain", "target"])
    for nothing in ("", json.dumps(every[0]) + "\n"):  # the second was interrupted before anything was drawn
        results.write_text(nothing)
        with pytest.raises(ValueError, match=r"results\.jsonl: expected results of cmmd ablate, got none"):
            write_comparison([results], tmp_path / "made")


def test_what_is_swept_has_a_figure(tmp_path):
    weights = ["infonce", "infonce+shift", *(f"infonce+model.objective.contrastive_weight={w}" for w in (1.0, 0.2))]
    every = [line for recipe in ("plain", *weights, "of_my_own") for line in lines(recipe, 0)]
    less = [{**line, "scene": "bounce@0.5"} for line in lines("plain", 0, off=0.2)]
    found = arms([*less, *every])
    here = [arm for arm in found if arm.scene == "bounce"]
    assert {form: [weight for weight, _ in points] for form, points in by_weight(here).items()} == {
        "infonce, 100 steps": [0.05, 0.2, 1.0]
    }
    (swept,) = by_correlation(found).values()
    assert {recipe: [x for x, _ in points] for recipe, points in swept.items()} == {"plain, 100 steps": [0.5, 1.0]}
    assert [arm.scores["F1@100ms"].mean() for _, arm in swept["plain, 100 steps"]] == [0.0, 1.0]
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in [*less, *every]))
    names = [path.name for path in write_comparison([results], tmp_path / "made")]
    assert {"bounce-video_to_audio-weight.png", "bounce-video_to_audio-correlation.png"} <= set(names)
    assert "bounce-0.5-video_to_audio-weight.png" not in names
    assert "(bounce-video_to_audio-weight.png)" in (tmp_path / "made" / "comparison.md").read_text()


def short_rows(found):
    """What the page's short tables say of arms of one scene and task: fewer columns, and shorter names."""
    for arm in found:
        f1 = [f"{arm.scores[name].mean():.3f}" for name in SHOWN]
        by_seed = " ".join(f"{value:.2f}" for value in arm.scores[SHOWN[-1]].mean(1))
        error = f"{np.mean(arm.sets['error']):.3g}" if "error" in arm.sets else ""
        about = [arm.name.replace("model.objective.", ""), str(arm.step), *f1, by_seed, error]
        compared = base_of(arm, found, "plain")
        for base in dict.fromkeys(compared.values()):
            equal = ", ".join(name for name, other in compared.items() if other is base)
            value, low, high = difference(arm, base, SHOWN[-1])
            yield [*about, equal, f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"]
        if not compared:
            yield [*about, "", ""]
    for name, scores in (("floor: wrong partners", found[0].floor), ("ceiling: true clips", found[0].ceiling)):
        yield [name, "", *(f"{scores[measure]:.3f}" for measure in SHOWN), "", "", "", ""]


def test_the_published_tables_are_those_of_the_published_results():
    docs = Path(__file__).resolve().parents[2] / "docs"
    text = (docs / "results.md").read_text()
    lines = text.splitlines()
    short = set()
    for name in ("ablation", "guidance"):
        found = arms(read_results(docs / "results" / f"{name}.jsonl.gz"))
        for scene, task in dict.fromkeys((arm.scene, arm.task) for arm in found):
            here = [arm for arm in found if (arm.scene, arm.task) == (scene, task)]
            short |= {"| " + " | ".join(row) + " |" for row in short_rows(here)}
            if name == "ablation":
                markdown = table_texts([table(here, "plain")])[".md"]
                assert f"### {scene}, {task.replace('_', ' ')}\n\n{markdown}" in text
    columns = ["recipe", "steps", *SHOWN, "by seed", "error", "equal", f"difference in {SHOWN[-1]}"]
    heads = [i for i, line in enumerate(lines) if line == "| " + " | ".join(columns) + " |"]
    assert len(heads) >= 9
    for head in heads:
        rows = list(itertools.takewhile(lambda line: line.startswith("| "), lines[head + 2 :]))
        assert rows
        assert set(rows) <= short
