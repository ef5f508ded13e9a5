"""`benchmarks/reproduce.py`: what it reads from the real pages, its rule, and its stages with faked commands."""

import importlib.util
import json
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cmmd_lightning.studies.ablation.results import read_results
from cmmd_lightning.studies.ablation.summary import arms, base_of, difference, interval

ROOT = Path(__file__).resolve().parents[1]
W, SHARE = "model.objective.contrastive_weight", "model.objective.contrastive_share"
# A command that writes what the test says: `answers` has a file's text by the words that a command must contain.
FAKE = """
import json, pathlib, sys
here, words = pathlib.Path(__file__).parent, sys.argv[1:]
line = " ".join(words)
with (here / "ran").open("a") as file:
    file.write(line + "\\n")
for part, (name, text) in json.loads((here / "answers").read_text()).items():
    if part in line:
        if name == "fail":
            sys.exit(text)
        if name == "print":
            print(text)
            continue
        path = pathlib.Path(words[words.index(name) + 1] if name.startswith("--") else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
"""


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "benchmarks/reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake(script, tmp_path, monkeypatch):
    """Run the script with flags; its status, what it printed, and the commands that were run."""
    (tmp_path / "fake.py").write_text(FAKE)
    for program in ("cmmd", "python", "cp"):
        monkeypatch.setitem(script.PROGRAMS, program, [sys.executable, str(tmp_path / "fake.py")])

    def call(answers, *flags):
        (tmp_path / "answers").write_text(json.dumps(answers))
        (tmp_path / "ran").write_text("")
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *flags, "--output_dir", str(tmp_path / "runs")])
        status = script.main()
        (table,) = (tmp_path / "runs").glob("*/table.md")
        return status, table.read_text().splitlines()[2:], (tmp_path / "ran").read_text().splitlines()

    return call


def entry(value, low, high):
    return {"value": value, "ci95": [low, high]}


def row_with(rows, *words):
    (row,) = [row for row in rows if all(word in row for word in words)]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_pages_state_what_lies_beside_the_shipped_checkpoint(script):
    """Every number that the pages have of it is that of demo.json, rounded."""
    about = script.scores(script.SHIPPED["scores"])
    pages = [*script.stated("shipped", "README.md", "demo.md")]
    assert {(page, key[0]) for page, key, _ in pages} == {
        (page, task) for page in ("README.md", "demo.md") for task in ("video_to_audio", "audio_to_video")
    }
    for _, key, number in pages:
        assert number == pytest.approx(about[*key[:2], "", "value"], abs=0.0051), key


def test_numbers_of_the_other_models_are_read(script):
    demo = {(page, *key[:2]) for page, key, _ in script.stated("demo", "README.md", "demo.md")}
    for page in ("README.md", "demo.md"):
        assert {(page, task, "event_f1@100ms") for task in ("video_to_audio", "audio_to_video")} <= demo
    grid = {key: number for _, key, number in script.stated("grid", "README.md", "grid.md")}
    assert all(measure for _, measure, _, _ in grid)
    assert grid["video_to_audio", "linear_sync_lag", "4", "value"] == pytest.approx((0.029, 0.016, 0.045))
    assert grid["video_to_audio", "event_f1@100ms", "2", "difference"] == pytest.approx((0.066, 0.002, 0.131))
    assert grid["audio_to_video", "linear_sync", "2", "value"] == (0.338, 0.310, 0.363)
    assert ("", "PSNR", "", "value") in grid


def test_commands_of_the_pages_are_whole(script):
    for page, count in {"results.md": 20, "grid.md": 6}.items():
        found = script.page_commands(page)
        assert len(found) > count
        assert {words[0] for words in found} <= {"cmmd", "python", "cp"}
        assert not any("$" in word for words in found for word in words)
    assert script.page_commands("results.md")[1][:6] == [
        *("cmmd", "ablate", "--guidance_scales", "[3,5]", "--equal_compute", "false")
    ]


def test_empty_first_cells_are_those_of_the_row_above(script):
    text = "# One\n\n| a | b | c |\n|---|---|---|\n| x | y | 1 |\n| | z | |\n| | | 3 |\n"
    (table,) = script.tables(text)
    rows = [{"a": "x", "b": "y", "c": "1"}, {"a": "x", "b": "z", "c": ""}, {"a": "x", "b": "z", "c": "3"}]
    assert table == ("One", rows)


@pytest.mark.parametrize(
    ("found", "inside"),
    [
        ((0.45, 0.44, 0.46), "yes"),
        ((0.7, 0.6, 0.8), "yes"),  # its interval reaches the stated one
        ((0.7, 0.61, 0.8), "no"),
        ((0.3, 0.2, 0.4), "yes"),
        ((0.3, 0.2, 0.39), "no"),
        (None, "skipped"),
    ],
)
def test_a_number_is_inside_where_the_intervals_meet(script, found, inside):
    stated = script.Number(0.5, 0.4, 0.6)
    assert script.check("a", "b", stated, found and script.Number(*found))[-1] == inside


def shipped_lines(script):
    """The commands that measure the shipped checkpoint."""
    return [line for line in script.SHIPPED["commands"] if line.split()[1] in ("render", "predict", "evaluate")]


def shipped_answers(script, **changed):
    """Reports that say what demo.json says."""
    answers = {}
    for line in shipped_lines(script):
        flags = dict(pairwise(line.split()))
        if "evaluate" in flags:
            name = "--report" if "--report" in flags else f"{flags['--generated']}/report.json"
            known = {**script.SHIPPED["scores"][flags["--task"]], **changed}
            answers[f"evaluate --task {flags['--task']}"] = name, json.dumps({"tasks": {flags["--task"]: known}})
    return answers


def test_a_stopped_run_goes_on(script, fake):
    answers, flags = shipped_answers(script), ("--quick", "--stages", "shipped")
    kinds = [line.split()[1] for line in shipped_lines(script)]
    last = len(kinds) - 1 - kinds[::-1].index("predict")
    failing = " ".join(shipped_lines(script)[last].split()[1:])
    status, rows, ran = fake({**answers, failing: ("fail", 3)}, *flags)
    assert status == 1
    assert [line.split()[0] for line in ran] == kinds[: last + 1]
    assert all(f"--num_clips {script.QUICK_CLIPS} " in line for line in ran if line.startswith("render"))
    (row,) = rows
    assert "expected exit status 0, got 3; the log is " in row
    log = Path(row.rpartition("the log is ")[2].split()[0])
    assert (log.parent.name, log.name[:8], log.is_file()) == ("shipped", "predict-", True)
    status, rows, ran = fake(answers, *flags)
    assert [line.split()[0] for line in ran] == kinds[last:]
    assert status == 0
    assert row_with(rows, "README.md", "video_to_audio", "event_f1@100ms")[-1] == "yes"
    assert all(row_with(rows, *row.split()[3:6])[-1] == "skipped" for row in rows if "distance[" in row)
    assert fake(answers, *flags) == (0, rows, [])


def test_after_ctrl_c_a_command_may_keep_what_is_done(script, tmp_path, monkeypatch, capsys):
    waits = iter([KeyboardInterrupt, None])

    class Process:
        """Told of Ctrl-C as well, it ends when it has kept what is done."""

        def __init__(self, *_, **__):
            pass

        def wait(self):
            if raised := next(waits):
                raise raised
            return 130

    monkeypatch.setattr(script.subprocess, "Popen", Process)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--stages", "shipped", "--output_dir", str(tmp_path)])
    assert script.main() == 130
    assert next(waits, "all") == "all"
    assert "the same command goes on" in capsys.readouterr().err
    assert [path.suffix for path in tmp_path.glob("*/shipped/*")] == [".log"]


def test_a_number_outside_fails_the_run(script, fake):
    answers = shipped_answers(script, **{"event_f1@50ms": entry(0.1, 0.05, 0.15)})
    status, rows, _ = fake(answers, "--quick", "--stages", "shipped", "demo")
    assert status == 1
    assert row_with(rows, "demo.json", "video_to_audio", "event_f1@50ms")[-2:] == ["0.1 [0.05, 0.15]", "no"]
    assert row_with(rows, "demo.json", "video_to_audio", "event_f1@100ms")[-1] == "yes"
    assert row_with(rows, "takes more than minutes")[0] == "demo"


def test_training_is_for_the_full_run(script, fake):
    made = {"video_to_audio": {}, "audio_to_video": {}}
    for _, (task, measure, *_), number in script.stated("demo", "README.md", "demo.md"):
        made[task][measure] = entry(*number)
    answers = shipped_answers(script) | {"runs/demo/report.json": ("--report", json.dumps({"tasks": made}))}
    status, rows, ran = fake(answers, "--stages", "retrained", "demo", "calibrate", "grid")
    recipe = (ROOT / "Makefile").read_text().partition("\ndemo:")[2].partition("\n\n")[0].count("\t$(CMMD) ")
    count = len(script.SHIPPED["commands"])
    assert (status, len(ran)) == (0, count + recipe)
    assert "--ckpt_path demo.ckpt" in ran[count - 1]  # what was trained, not what is shipped
    assert "--ckpt_path runs/demo/cmmd.ckpt" in ran[-1]
    assert not any("$" in line or "\t" in line for line in ran)
    assert {row.split(" | ")[0] for row in rows if row.endswith("yes |")} == {"| retrained", "| demo"}
    assert [row_with(rows, f"| {stage} |", "give --grid")[-1] for stage in ("calibrate", "grid")] == ["skipped"] * 2


def compared(script, page):
    """Answers of `cmmd compare` that hold a page's tables, and of the costs, that hold none."""
    text = "".join(line for line in page.splitlines(keepends=True) if "MiB" not in line)
    return {"compare": ("ablation/comparison.md", text), "dir guidance": ("guidance/comparison.md", "# None\n")}


def test_tables_of_results_are_held_to_the_digit(script, fake):
    page = script.PAGES["results.md"]
    costs = "".join(
        f"x {row['parameters']} parameters  {row['training FLOPs per example'][:-2]} GFLOPs"
        f"   {row['kept by autograd per example'][:-4]} MiB per example\n"
        for _, rows in script.tables(page)
        for row in rows
        if "parameters" in row
    )
    status, rows, _ = fake({**compared(script, page), "fusion.py": ("print", costs)}, "--stages", "results")
    said = [row.strip("| ").split(" | ")[-1] for row in rows]
    assert (status, said.count("skipped")) == (0, 3)
    assert said.count("yes") == len(said) - 3 >= 20


def test_one_digit_is_seen(script, fake):
    page = script.PAGES["results.md"]
    assert page.count("| 0.097 |") == 0
    answers = compared(script, page.replace("| 0.101 |", "| 0.097 |"))  # a floor of `bounce`
    status, rows, _ = fake(answers, "--stages", "results")
    assert status == 1
    assert row_with(rows, "bounce, audio to video")[2:] == ["5 rows", "4 rows", "no"]
    assert row_with(rows, "dance, video to audio")[-1] == "yes"
    assert row_with(rows, "Fusion", "0 rows")[-1] == "no"  # nothing was counted


def ranged(values, form):
    return "{:{form}} [{:{form}}, {:{form}}]".format(*values, form=form)


@pytest.mark.parametrize(("other", "alike"), [({"a": "1", "c": "3"}, True), ({"a": "2"}, False), ({"b": "2"}, False)])
def test_a_short_table_leaves_columns_out(script, other, alike):
    assert script.same({"a": "1", "b": ""}, other) is alike


class Derived:
    """The page's tables that are made of arms, row by row as they are made now."""

    def __init__(self, lines):
        self.lines = lines
        self.arms = {(arm.scene, arm.name, arm.step): arm for arm in arms(lines) if arm.task == "video_to_audio"}

    def drawn(self, scene, recipe, step, scale, name):
        """What a recipe's seeds have at a guidance."""
        wanted = {"task": "video_to_audio", "guidance_scale": scale, "guidance_from": "dropped"}
        cells = [line for line in self.lines if (line["scene"], line["recipe"], line["step"]) == (scene, recipe, step)]
        return [line[name] for line in cells if wanted.items() <= line.get("sampling", {}).items() and name in line]

    def gain(self, row):
        """F1 without the term, and the differences that it makes."""
        recipe = "infonce" + (f"+{W}={row['weight']}" if row["weight"] != "0.05" else "")
        recipe += f"+{SHARE}={float(Fraction(row['share']))}" if row["share"] != "1/4" else ""
        plain, measure = self.arms[row["scene"].strip("`"), "plain", 600], "F1@" + row["within"].replace(" ", "")
        made = {"without the term": f"{plain.scores[measure].mean():.2f}"}
        made |= {f"difference at equal {equal}": "" for equal in ("compute", "steps")}
        for arm in (arm for arm in self.arms.values() if (arm.scene, arm.name) == (plain.scene, recipe)):
            for equal, base in base_of(arm, list(self.arms.values()), "plain").items():
                if base is plain:
                    made[f"difference at equal {equal}"] = ranged(difference(arm, base, measure), "+.2f")
        return made

    def form(self, row):
        """F1, error and coverage of a form of the term at a weight."""
        names = f"{row['form'].lower()}+{W}={row['weight']}", row["form"].lower()
        arm = next(self.arms["dance", name, 600] for name in names if ("dance", name, 600) in self.arms)
        plain, covered = self.arms["dance", "plain", 600], self.drawn("dance", arm.name, 600, 5.0, "coverage[spectrum]")
        error = np.mean(arm.sets["error"])
        ratio = error / np.mean([plain.sets["error"][plain.seeds.index(seed)] for seed in arm.seeds])
        return {
            "seeds": str(len(arm.seeds)),
            "F1@100ms": f"{arm.scores['F1@100ms'].mean():.2f}",
            "difference to plain": "" if arm is plain else ranged(difference(arm, plain, "F1@100ms"), "+.2f"),
            "error": f"{error:,.0f}" if error >= 1000 else f"{error:.3g}",
            "against plain": f"{ratio:,.0f}" if ratio >= 1000 else f"{ratio:.2f}",
            "coverage[spectrum]": f"{np.mean(covered):.2f}" if covered else "",
        }

    def meaning(self, row):
        """Rank and pitch after longer training."""
        recipe = {"the mix": "infonce", "shifts alone": "infonce+shift"}.get(row["recipe"], row["recipe"])
        rank, plain = (np.array(self.drawn("bounce", name, 2000, 3.0, "rank")) for name in (recipe, "plain"))
        more = rank - plain
        return {
            "`rank`": ranged((rank.mean(), *interval(rank)), ".3f"),
            "against plain, paired": "" if recipe == "plain" else ranged((more.mean(), *interval(more)), "+.3f"),
            "`pitch` by seed": " ".join(f"{x:.2f}" for x in self.drawn("bounce", recipe, 2000, 3.0, "pitch")),
        }


def test_tables_that_are_made_of_the_published_arms(script):
    """What the script passes over, since no command makes it."""
    derived = Derived(read_results(ROOT / "docs/results/ablation.jsonl.gz"))
    kinds = {"without the term": derived.gain, "form": derived.form, "`rank`": derived.meaning}
    found = dict.fromkeys(kinds, 0)
    for _, rows in script.tables(script.PAGES["results.md"]):
        for kind in set(kinds) & set(rows[0]):
            found[kind] += len(rows)
            for row in rows:
                assert row | kinds[kind](row) == row
    assert found == {"without the term": 12, "form": 18, "`rank`": 3}


def test_a_cell_is_held_against_the_published_ones(script, fake):
    """One of the published seeds is inside; plain under another name is not."""
    names = "plain", "infonce+model.objective.contrastive_weight=0.2"
    lines = [
        line
        for line in read_results(ROOT / "docs/results/ablation.jsonl.gz")
        if (line["scene"], line["step"], line["seed"]) == ("dance", 600, 0) and line["recipe"] in names
    ]
    lines += [{**line, "recipe": "infonce+shift"} for line in lines if line["recipe"] == "plain"]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    status, rows, ran = fake({"ablate": ("runs/ablation/results.jsonl", text)}, "--quick", "--stages", "cells")
    assert (status, len(ran)) == (1, 1)
    gain = row_with(rows, "=0.2 after 600", "F1@100ms, difference at equal steps")
    assert gain[2].startswith("0.41")
    assert gain[-1] == "yes"
    assert row_with(rows, ", plain after 600", "F1@25ms |")[-1] == "yes"
    assert row_with(rows, "+shift after 600", "F1@100ms, difference at equal steps")[-2:] == ["0 [0, 0]", "no"]


def calibration(script, name, shift=0.0):
    """What `cmmd calibrate` would have written of a set, read from the page; both ways of an offset alike."""
    (part,) = [part for part in script.PAGES["calibration.md"].split("\n## ") if part.startswith(name)]
    found = {}
    for heading, rows in script.tables(part):
        for row in rows:
            entry = found.setdefault(row.pop("measure"), {"auroc": {}, "ci95": {}})
            for head, cell in row.items():
                if head in ("resolves", "steady", "bias", "in sync"):
                    continue
                value = float(cell.rpartition("(")[2].strip(")"))
                forms = ["{}"] if "(" in cell or not head.endswith("ms") else ["offset +{}", "offset -{}"]
                forms = ["{}, offset +100 ms", "{}, offset -100 ms"] if "rates" in heading else forms
                for form in forms:
                    entry["auroc"][form.format(head)] = value + shift
                    entry["ci95"][form.format(head)] = [value + shift - 0.01, value + shift + 0.01]
    return {"measures": found}


def test_calibration_is_held_against_its_page(script, fake, tmp_path):
    sets = {name: calibration(script, name, shift) for name, shift in {"bounce": 0.03, "val": 0.01}.items()}
    (tmp_path / "val").mkdir()
    answers = {"calibrate": ("runs/calibrate/calibration.json", json.dumps({"sets": sets}))}
    status, rows, ran = fake(answers, "--quick", "--stages", "calibrate", "--grid", str(tmp_path))
    assert status == 1
    assert f"--real {tmp_path}/val --fit {tmp_path}/train" in ran[0]
    assert row_with(rows, "bounce: Faults")[2:] == ["180 AUROCs", "0 inside", "no"]
    assert row_with(rows, "val: Faults")[2:] == ["120 AUROCs", "120 inside", "yes"]
    assert row_with(rows, "val: 100 ms at other")[2:] == ["72 AUROCs", "72 inside", "yes"]
    assert row_with(rows, "dance: Faults")[-1] == "skipped"


def test_grid_is_trained_and_measured_at_every_guidance(script, fake, tmp_path):
    """Each number that the pages have is found where its command leaves it."""
    known = {key: number for _, key, number in script.stated("grid", "grid.md")}
    (tmp_path / "val").mkdir()
    answers = {}
    for name, side in (("grid", "value"), ("ncmmd", "without")):
        for scale in "124":
            tasks = {"video_to_audio": {}, "audio_to_video": {}}
            for (task, measure, guidance, of), number in known.items():
                if task and (guidance, of) == (scale, side):
                    tasks[task][measure] = entry(*number)
            answers[f"report runs/{name}/report-{scale}.json"] = "--report", json.dumps({"tasks": tasks})
    for (task, measure, scale, side), number in known.items():
        if side == "difference":
            line = "{} 0.4 against 0.3: {:+.3f} [{:+.3f}, {:+.3f}], 50 clips".format(measure, *number)
            part = f"report-{scale}.json runs/ncmmd/report-{scale}.json --task {task}"
            answers[part] = "print", answers.get(part, ("", ""))[1] + line + "\n"
    lines = ("frames, PSNR 33.72 dB [33.40, 34.01], worst 30.9, 50 clips", "sound, log-spectral distance 9 dB [8, 10]")
    answers["round_trip.py"] = "print", "\n".join(lines)
    status, rows, ran = fake(answers, "--stages", "grid", "--grid", str(tmp_path))
    assert f"--data.root {tmp_path} " in ran[0]
    assert [line.split()[0] for line in ran[:4]] == ["fit", "fit", "calibrate", "fit"]
    assert any("--ckpt_path runs/ncmmd/cmmd.ckpt" in line and "--generate.guidance_scale 4" in line for line in ran)
    assert [row_with(rows, "log-spectral distance")[-1], row_with(rows, "PSNR")[-1]] == ["no", "yes"]
    outside = [row for row in rows if not row.rstrip(" |").endswith("yes")]
    assert (status, len(outside)) == (1, 1)
    assert len(rows) == len([*script.stated("grid", "README.md", "grid.md")])


def test_nothing_to_check_is_a_failure(fake):
    report = json.dumps({"tasks": {"video_to_audio": {}, "audio_to_video": {}, "joint": {}}})
    answers = {f"evaluate --task {task}": (f"{task}/report.json", report) for task in json.loads(report)["tasks"]}
    status, rows, _ = fake(answers, "--quick", "--stages", "shipped")
    assert status == 1
    assert row_with(rows, "some numbers")[-2:] == ["none", "no"]


def test_a_folder_that_is_not_grid_is_refused(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--grid", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert f"--grid {tmp_path}: expected a folder with train and val, got none" in capsys.readouterr().err


def test_make_hands_its_flags_over():
    assert (
        "benchmarks/reproduce.py $(if $(QUICK),--quick) $(if $(GRID),--grid $(GRID))" in (ROOT / "Makefile").read_text()
    )
