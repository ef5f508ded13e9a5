"""Make the published tables again, and say which numbers lie where the pages say.

python benchmarks/reproduce.py [--quick] [--grid GRID] [--stages shipped results ...] [--output_dir runs/reproduce]

Runs the documented commands: of the shipped checkpoint's ``demo.json``, `make demo`, docs/results.md and docs/grid.md.
``--quick`` runs what takes minutes: the shipped checkpoint on few clips, the tables of docs/results.md from the results
that are published, and a cell of the ablation beside its plain one. GRID has ``train`` and ``val``.

A number is inside if its 95 % interval and the stated one meet: if it lies in the stated one after each end of that was
moved out by as far as its own reaches towards it. One stated without an interval has that of its last digit. Tables of
published results must be alike to the digit. Exit status 1 if a number is not inside.

A command that is done leaves a stamp beside its log, in a folder named by the hash of the package's files: the same
call goes on where it was stopped, and another version starts anew.
"""

import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

import cmmd_lightning
from cmmd_lightning.checkpoints import packaged_checkpoint
from cmmd_lightning.evaluation.rendering import Table, table_texts, write_whole
from cmmd_lightning.packaged import configs_folder
from cmmd_lightning.studies.ablation.report import SHOWN
from cmmd_lightning.studies.ablation.results import read_results
from cmmd_lightning.studies.ablation.summary import Arm, arms, base_of, difference, interval

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
SHIPPED = json.loads(packaged_checkpoint("demo").with_suffix(".json").read_text())
PROGRAMS = {"cmmd": [sys.executable, "-c", "from cmmd_lightning.cli import main; main()"], "python": [sys.executable]}
QUICK_CLIPS = "24"
QUICK_CELLS = """cmmd ablate --recipes '[plain,infonce+model.objective.contrastive_weight=0.2]' --scenes '[dance]' \
    --seeds '[0]' --guidance_scales '[3,5]' --equal_compute false"""
TABLE = re.compile(r"(?:^\|.*\|\n){3,}", re.MULTILINE)
NUMBER = re.compile(r"([+-]?\d[\d.]*)(?: (ms|dB))? \[([+-]?[\d.]+), ([+-]?[\d.]+)\]")
V2A, A2V = "video_to_audio", "audio_to_video"
TASKS = {"video to sound": V2A, "sound for silent video": V2A, "sound to video": A2V, "video for sound": A2V}
MEASURES = {  # what a page or a benchmark calls a measure, to its name in a report
    **{r"size of its lag|linear_sync_lag": "linear_sync_lag", r"(?:event F1 at|within) (\d+) ms": "event_f1@{}ms"},
    **{r"AV-Align \((.+?)\)": "av_align[{}]", r"Frechet distance, ([\w-]+)": "frechet_distance[{}]"},
    **{"motion against loudness": "motion_loudness_correlation", r"(?:^|`)([a-z]+_[\w@]+(?:\[[\w-]+\])?)": "{}"},
    **{"PSNR": "PSNR", "log-spectral distance": "log-spectral distance"},
}
Key = tuple[str, str, str, str]  # task, measure, guidance, and "value", "without" the term, or the "difference" to that
Check = tuple[str, str, str, str, str]  # a row of the table at the end
HEADS = ("stage", "number", "stated", "found", "inside")  # inside is yes, no or skipped


class Number(NamedTuple):
    """A number and the ends of its interval."""

    value: float
    low: float
    high: float


class Run(NamedTuple):
    """Where a run leaves its files, and what it is to do."""

    folder: Path
    quick: bool
    grid: Path | None

    def __call__(self, stage: str, words: list[str]) -> str:
        """What a command printed; it is run in the stage's folder unless that is done."""
        folder, line = self.folder / stage, shlex.join(words)
        log = folder / f"{Path(words[1]).stem}-{hashlib.sha256(line.encode()).hexdigest()[:8]}.log"
        folder.mkdir(parents=True, exist_ok=True)
        if not log.with_suffix(".done").exists():
            print(f"{stage}: {line}", flush=True)
            words = [str(ROOT / word) if word.startswith("benchmarks/") else word for word in words]
            with log.open("w") as file:
                program = [*PROGRAMS.get(words[0], words[:1]), *words[1:]]
                process = subprocess.Popen(program, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
                try:
                    process.wait()
                finally:  # Ctrl-C was told to it too: it keeps what is done
                    status = process.wait()
            if status:
                raise RuntimeError(f"{line}: expected exit status 0, got {status}; the log is {log}")
            log.with_suffix(".done").touch()
        return log.read_text()


def tables(text: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Each table with the heading above it, its rows by their heads; empty first cells are those of the row above."""
    for match in TABLE.finditer(text):
        heads, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in match[0].splitlines())
        for above, row in pairwise(rows):
            filled = next(i for i, cell in enumerate(row) if cell)
            row[:filled] = above[:filled]
        heading = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)[-1]
        yield heading, [dict(zip(heads, row, strict=True)) for row in rows]


def commands(text: str) -> Iterator[list[str]]:
    """Commands of a shell text in words, its variables filled in."""
    known: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(Template(line).safe_substitute(known), comments=True)
        if words and (match := re.fullmatch(r"(\w+)=(.*)", words[0])):
            known[match[1]] = match[2]
        elif words:
            yield words


def page_commands(name: str, *programs: str) -> list[list[str]]:
    """The commands of a page's ``text`` blocks; of ``cmmd`` only those that are asked for, if any are."""
    blocks = re.findall(r"^```text\n(.*?)^```", PAGES[name], re.MULTILINE | re.DOTALL)
    return [words for words in commands("".join(blocks)) if not programs or words[1] in programs]


def named(text: str, names: dict[str, str], other: str = "") -> str:
    """The name that stands for the first pattern that is found in a text."""
    found = ((re.search(pattern, text), name) for pattern, name in names.items())
    return next((name.format(*match.groups()) for match, name in found if match), other)


def number_in(text: str) -> Number | None:
    """The first number with an interval, in seconds where it is in ms."""
    match = NUMBER.search(text)
    return match and Number(*(float(match[i]) * (1e-3 if match[2] == "ms" else 1.0) for i in (1, 3, 4)))


def stated(wanted: str, *names: str) -> Iterator[tuple[str, Key, Number]]:
    """The page, the key and the value of each number with an interval that pages have of a model."""
    for name in names:
        task = ""
        for heading, rows in tables(PAGES[name]):
            for row in rows:
                about = " ".join(f"{head} {cell}" for head, cell in row.items() if not number_in(cell))
                task = named(about, TASKS, task)
                model = named(f"{name} {heading} {about}", {"grid.md|GRID": "grid", "ship": "shipped"}, "demo")
                for head, cell in row.items():
                    side = head if head in ("without", "difference") else "value"
                    if model == wanted and (number := number_in(cell)):
                        yield name, (task, named(f"{about} {head}", MEASURES), row.get("guidance", ""), side), number


def scores(tasks: dict[str, Any], guidance: str = "", side: str = "value") -> dict[Key, Number]:
    """The numbers with an interval of a report's tasks."""
    every = [(task, name, entry) for task, found in tasks.items() for name, entry in found.items()]
    kept = [row for row in every if isinstance(row[2], dict) and row[2].get("ci95")]
    return {(task, name, guidance, side): Number(entry["value"], *entry["ci95"]) for task, name, entry in kept}


def check(stage: str, label: str, stated: Number, found: Number | None, why: str = "not measured now") -> Check:
    """Whether the intervals of two numbers meet."""
    said, got = ("{:.4g} [{:.4g}, {:.4g}]".format(*number) if number else why for number in (stated, found))
    meet = found and stated.low <= found.high and found.low <= stated.high
    return stage, label, said, got, "yes" if meet else "no" if found else "skipped"


def evaluated(run: Run, stage: str, model: str, lines: Iterable[list[str]]) -> Iterator[Check]:
    """Run commands, and check the reports of those that evaluate."""
    found: dict[Key, Number] = {}
    for words in lines:
        run(stage, words)
        if words[1] == "evaluate":
            flags = dict(pairwise(words))
            path = run.folder / stage / flags.get("--report", f"{flags['--generated']}/report.json")
            found |= scores({flags["--task"]: json.loads(path.read_text())["tasks"][flags["--task"]]})
    every = [*stated(model, "README.md", "demo.md")]
    every += [("demo.json", *item) for item in scores(SHIPPED["scores"]).items() if model == "shipped"]
    for name, (task, measure, *_), number in every:
        label, here = f"{name} {task} {measure}", found.get((task, measure, "", "value"))
        few = (None, "depends on the number of clips") if run.quick and "distance[" in measure else (here,)
        yield check(stage, label, number, *few)


def shipped(run: Run) -> Iterator[Check]:
    """Generate with the shipped checkpoint, and evaluate."""
    lines = [words for words in map(shlex.split, SHIPPED["commands"]) if words[1] in ("render", "predict", "evaluate")]
    for words in lines:
        if run.quick and "--num_clips" in words:
            words[words.index("--num_clips") + 1] = QUICK_CLIPS
    yield from evaluated(run, "shipped", "shipped", lines)


def retrained(run: Run) -> Iterator[Check]:
    """Train the shipped checkpoint again, generate and evaluate."""
    lines = [["demo.ckpt" if word == "demo" else word for word in shlex.split(line)] for line in SHIPPED["commands"]]
    yield from evaluated(run, "retrained", "shipped", lines)


def demo(run: Run) -> Iterator[Check]:
    """Run what `make demo` runs."""
    text = (ROOT / "Makefile").read_text()
    recipe, folder = (re.search(pattern, text)[1] for pattern in (r"\ndemo:.*\n((?:\t.*\n)+)", r"\nRUN := (.*)"))
    lines = commands(recipe.replace("$(CMMD)", "cmmd").replace("$(RUN)", folder))
    yield from evaluated(run, "demo", "demo", (words for words in lines if words[0] == "cmmd"))


def results(run: Run) -> Iterator[Check]:
    """Make the tables of docs/results.md from the published results; count again what a fusion costs."""
    printed = run("results", ["python", "benchmarks/fusion.py", "--rounds", "1"])
    costs = re.findall(r"([\d,]+) param\w+ +([\d.]+) GFLOPs +([\d.]+) MiB", printed)
    heads = ("parameters", "training FLOPs per example", "kept by autograd per example")
    made = [dict(zip(heads, (count, f"{flops} G", f"{kept} MiB"), strict=True)) for count, flops, kept in costs]
    for name in ("ablation", "guidance"):
        path = f"[{ROOT}/docs/results/{name}.jsonl.gz]"
        run("results", ["cmmd", "compare", "--results", path, "--output_dir", name])
        text = (run.folder / "results" / name / "comparison.md").read_text()
        made += [row for _, rows in tables(text.replace("model.objective.", "")) for row in rows]
    for heading, rows in tables(PAGES["results.md"].replace("model.objective.", "")):
        kept = [{head: cell for head, cell in row.items() if head not in ("fusion", "time per step")} for row in rows]
        alike = f"{sum(any(same(row, other) for other in made) for row in kept)} rows"
        inside = "yes" if alike == f"{len(rows)} rows" else "no"
        if not {"steps", "parameters"} & set(rows[0]):
            alike, inside = "made of the others, see tests/test_reproduce.py", "skipped"
        yield "results", f"results.md {heading}", f"{len(rows)} rows", alike, inside


def same(row: dict[str, str], other: dict[str, str]) -> bool:
    """Whether another row has every cell of a row, which may leave out columns and leave empty what the other lacks."""
    return all(other.get(head, "") == cell for head, cell in row.items())


def cells(run: Run) -> Iterator[Check]:
    """Train cells of the ablation, and check their F1 and differences against the published results."""
    for words in commands(QUICK_CELLS) if run.quick else page_commands("results.md"):
        run("cells", words)
    last = "runs/ablation/results.jsonl"
    for name, path in ({"ablation": last} if run.quick else {"ablation": "before.jsonl", "guidance": last}).items():
        now, before = (read_results(x) for x in (run.folder / "cells" / path, ROOT / f"docs/results/{name}.jsonl.gz"))
        trained = {(line["scene"], line["recipe"], line["step"]) for line in now}
        before = [line for line in before if (line["scene"], line["recipe"], line["step"]) in trained]
        f1, stated = f1_of(arms(now)), f1_of(arms(before))
        yield from (check("cells", label, stated[label], f1[label]) for label in f1 if label in stated)


def f1_of(found: list[Arm]) -> dict[str, Number]:
    """F1 of arms, and what they gain over plain."""
    made = {}
    for arm, name in product(found, SHOWN):
        label = f"{arm.scene} {arm.task}, {arm.name} after {arm.step}, {name}"
        made[label] = Number(arm.scores[name].mean(), *interval(arm.scores[name]))
        for equal, base in base_of(arm, found, "plain").items():
            made[f"{label}, difference at equal {equal}"] = Number(*difference(arm, base, name))
    return made


def calibrate(run: Run) -> Iterator[Check]:
    """Calibrate on GRID, and if not in haste on rendered clips; check every AUROC of docs/calibration.md."""
    (words,) = page_commands("grid.md", "calibrate")
    words = [word.replace("GRID", str(run.grid)) for word in words]
    run("calibrate", words if run.quick else [word if word != "none" else "both" for word in words])
    sets = json.loads((run.folder / "calibrate/runs/calibrate/calibration.json").read_text())["sets"]
    for part in re.split("^## ", PAGES["calibration.md"], flags=re.MULTILINE)[1:]:
        name = part.split()[0]
        for heading, rows in tables(part):
            forms = ("{}", "offset +{}", "offset -{}")
            forms = ("{}, offset +100 ms", "{}, offset -100 ms") if "rates" in heading else forms
            inside = []
            known = [(row["measure"], *item) for row in rows if name in sets for item in row.items()]
            for measure, head, cell in known:
                entry = sets[name]["measures"][measure]
                if faults := {form.format(head) for form in forms} & set(entry["auroc"]):  # the worse way of an offset
                    low, high = entry["ci95"][min(faults, key=entry["auroc"].get)]
                    inside.append(low - 0.005 <= float(re.findall(r"[\d.]+", cell)[-1]) <= high + 0.005)
            said = "skipped" if not inside else "yes" if all(inside) else "no"
            told = f"{len(inside)} AUROCs", f"{sum(inside)} inside", said
            yield "calibrate", f"calibration.md {name}: {heading}", *told


def grid(run: Run) -> Iterator[Check]:
    """Train on GRID with and without the term, generate and evaluate at each guidance of docs/grid.md."""

    def made(words: Iterable[str], about: tuple[str, str, str] = ("", "2", "value"), **new: str) -> dict[Key, Number]:
        """Run a command; the numbers that it printed, a measure a line."""
        text = run("grid", [new.get(word, word).replace("GRID", str(run.grid)) for word in words])
        numbers = {named(line, MEASURES): number_in(line) for line in text.splitlines()}
        return {(about[0], measure, *about[1:]): number for measure, number in numbers.items() if measure and number}

    for words in page_commands("grid.md", "fit", "calibrate"):
        made(words)
    every = [*stated("grid", "README.md", "grid.md")]
    found = made(["python", "benchmarks/round_trip.py", "runs/grid/cmmd.ckpt", "GRID/val"])
    for task, scale in sorted({(key[0], key[2]) for _, key, _ in every if key[0] and key[2]}):
        reports = [f"runs/{name}/report-{scale}.json" for name in ("grid", "ncmmd")]
        for name, side, report in zip(("grid", "ncmmd"), ("value", "without"), reports, strict=True):
            new = {V2A: task, "2": scale, f"runs/grid/{V2A}": f"runs/{name}/{task}-{scale}"}
            new |= {"runs/grid/report.json": report, "runs/grid/cmmd.ckpt": f"runs/{name}/cmmd.ckpt"}
            for words in page_commands("grid.md", "predict", "evaluate"):
                made(words, **new)
            found |= scores(json.loads((run.folder / "grid" / report).read_text())["tasks"], scale, side)
        found |= made(["python", "benchmarks/paired_reports.py", *reports, "--task", task], (task, scale, "difference"))
    for name, (task, measure, scale, side), number in every:
        key = task, measure, scale or "2", side  # where a page does not say, it is the guidance of its commands
        yield check("grid", " ".join([name, *filter(None, key)]), number, found.get(key))


STAGES = {stage.__name__: stage for stage in (shipped, retrained, results, cells, demo, calibrate, grid)}


def outcome(name: str, run: Run) -> list[Check]:
    """The checks of a stage, or why there are none."""
    if name in ("calibrate", "grid") and run.grid is None:
        return [(name, "all", "", "give --grid, a folder of GRID", "skipped")]
    if name in ("retrained", "demo", "grid") and run.quick:
        return [(name, "all", "", "takes more than minutes", "skipped")]
    try:
        rows = list(STAGES[name](run))
    except RuntimeError as error:
        print(f"{name}: error: {error}", file=sys.stderr, flush=True)
        return [(name, "all", "", str(error), "no")]
    return rows if {row[-1] for row in rows} - {"skipped"} else [*rows, (name, "all", "some numbers", "none", "no")]


def version() -> str:
    """Hash of the package's files."""
    files = [*Path(cmmd_lightning.__file__).parent.rglob("*"), *configs_folder().rglob("*.yaml")]
    kept = sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)
    return hashlib.sha256(b"".join(path.read_bytes() for path in kept)).hexdigest()[:8]


def main() -> int:
    """Run the stages, and print the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only what takes minutes")
    parser.add_argument("--grid", type=Path, help="a folder of GRID, with train and val")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs/reproduce")
    args = parser.parse_args()
    if args.grid and not (args.grid / "val").is_dir():
        parser.error(f"--grid {args.grid}: expected a folder with train and val, got none")
    folder = args.output_dir.resolve() / f"{'quick' if args.quick else 'full'}-{version()}"
    run = Run(folder, args.quick, args.grid and args.grid.resolve())
    try:
        rows = [row for name in args.stages for row in outcome(name, run)]
    except KeyboardInterrupt:
        print("interrupted; what is done is kept, and the same command goes on", file=sys.stderr)
        return 130
    counts = [f"{sum(row[-1] == inside for row in rows)} {inside}" for inside in ("yes", "no", "skipped")]
    write_whole(folder / "table.md", table_texts([Table(HEADS, rows)])[".md"])
    print(f"{(folder / 'table.md').read_text()}\ninside: {', '.join(counts)}; written: {folder / 'table.md'}")
    return int(any(row[-1] == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
