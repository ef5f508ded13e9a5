"""README and pages: their commands and their Python run, in the order of each page, at a size that takes seconds."""

import json
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
import yaml
from command_line import SMALL, SMALL_MODEL, SMALL_RUN, Done, cmmd

from cmmd_lightning.media import read_sound, write_sound
from cmmd_lightning.packaged import packaged_configs

pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *DOCS.rglob("*.md")]}
SNIPPET = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)

VAE = ["--model.block_out_channels", "[8,8]", "--model.norm_num_groups", "4"]
VAE_DATA = ["--data.clip.height", "16", "--data.clip.width", "16", "--data.clip.num_frames", "8"]
# What is appended to a command so that it takes seconds.
SHORTER = {
    ("fit", "quickstart.yaml"): SMALL,
    ("fit", "folder.yaml"): [*SMALL_MODEL, *SMALL_RUN],
    ("fit", "folder_vae.yaml"): [*VAE, *VAE_DATA, *SMALL_RUN],
    ("prepare", "folder.yaml"): [*SMALL_MODEL, *SMALL_RUN],
    ("describe", "folder.yaml"): SMALL_MODEL,
    ("predict", None): ["--generate.num_inference_steps", "2", "--generate.num_samples", "1"],
    ("render", None): ["--num_clips", "1"],
    ("evaluate", None): ["--examples", "1"],
    ("export", None): [],
    ("sync", None): [],
    ("calibrate", None): ["--scenes", "none", "--fit", "null", "--video_events", "impacts"],
}
# What is replaced in Python.
SMALLER = {
    "max_steps=20_000": "max_steps=2, enable_progress_bar=False, logger=False",
    "height=64, width=64": "height=16, width=16",
    "num_inference_steps=25": "num_inference_steps=2",
    "num_inference_steps=50": "num_inference_steps=2",
    "num_inference_steps=10": "num_inference_steps=2",
    "batch_size=8": "batch_size=2, num_workers=0",
    "val_check_interval=500": "val_check_interval=2",
}


def snippets(text: str, *languages: str) -> Iterator[tuple[str, str, str]]:
    """Language, file name and text of each block."""
    for language, title, block in SNIPPET.findall(text):
        if not languages or language in languages:
            yield language, title, block


def commands(block: str) -> Iterator[list[str]]:
    """Every line of a shell block, in words."""
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def shortened(words: list[str]) -> list[str]:
    config = words[words.index("--config") + 1] if "--config" in words else None
    if "--model.pretrained" in words:
        return [*words[1:], *SMALL_RUN]  # its sizes are those of the checkpoint
    return [*words[1:], *SHORTER[words[1], config]]


def smaller(source: str) -> str:
    for old, new in SMALLER.items():
        source = source.replace(old, new)
    return source


def runs(text: str) -> bool:
    return any(language in ("sh", "python") for language, _, _ in snippets(text))


def checked(done: Done, words: list[str]) -> None:
    assert done.status == 0, f"{shlex.join(words)}\n{done.err}"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A folder with what the pages speak of: clips, a silent one, a sound, a small checkpoint, generated files."""
    folder = tmp_path_factory.mktemp("pages")
    clip = ["--duration", 2.5, "--fps", 10, "--height", 32, "--width", 32, "--sample_rate", 8000, "--num_workers", 0]
    for line in (
        ["render", "bounce", "MY_FOLDER/train", "--num_clips", 4, "--seed", 0, *clip],
        ["render", "bounce", "MY_FOLDER/val", "--num_clips", 2, "--seed", 1, *clip],
        ["render", "bounce", "silent", "--num_clips", 1, "--streams", "video", *clip],
        ["fit", "--config", "folder.yaml", "--data.root", "MY_FOLDER", *SMALL_MODEL, *SMALL_RUN],
    ):
        checked(cmmd(*line, cwd=folder), list(map(str, line)))
    (folder / "silent" / "clip_00000.mp4").rename(folder / "silent.mp4")
    shutil.rmtree(folder / "silent")
    sound = read_sound(folder / "MY_FOLDER/val/clip_00000.mp4", num_samples=32000, sample_rate=16000)
    write_sound(folder / "speech.wav", sound, 16000)
    for name, suffix in {"with_sound": ".wav", "with_picture": ".mp4"}.items():
        (folder / name).mkdir()
        for path in (folder / "MY_FOLDER/val").glob("*.mp4"):
            if suffix == ".wav":
                write_sound(folder / name / f"{path.stem}.wav", sound, 16000)
            else:
                shutil.copy(path, folder / name)
    (folder / "docs").symlink_to(DOCS)  # results to read
    return folder


@pytest.fixture
def place(prepared, tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of its own for a page, whose modules can be imported until the page is done."""
    folder = tmp_path / "page"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def run_page(text: str, folder: Path) -> tuple[str, dict[str, object]]:
    """Run a page's blocks in order; what its Python printed, and its names."""
    printed, names = StringIO(), {}
    for number, (language, title, block) in enumerate(snippets(text), 1):
        if title:
            (folder / title).write_text(block)
        elif language == "sh":
            for words in commands(block):
                if words[0] == "cmmd":
                    checked(cmmd(*shortened(words), cwd=folder), words)
        elif language == "python":
            with chdir(folder), redirect_stdout(printed):
                exec(compile(smaller(block), f"<block {number}>", "exec"), names)
    return printed.getvalue(), names


def check_readme(folder: Path, printed: str, names: dict) -> None:
    assert torch.load(folder / "runs/folder/cmmd.ckpt", weights_only=True)["global_step"] == 2
    assert {path.name for path in (folder / "with_sound").iterdir()} >= {"manifest.json", "silent.mp4", "silent.wav"}
    assert (folder / "report.html").is_file()
    assert names["sound"].shape == (2, names["clip"].num_samples)
    assert names["video"].shape == (2, 3, 24, 64, 64)


def check_train(folder: Path, printed: str, names: dict) -> None:
    for checkpoint in ("runs/quickstart/cmmd", "runs/folder/cmmd", "runs/folder/vae/vae", "mine"):
        assert torch.load(folder / f"{checkpoint}.ckpt", weights_only=True)["global_step"] == 2
    stored = torch.load(folder / "runs/folder/cmmd.ckpt", weights_only=True)["hyper_parameters"]
    assert stored["codec"]["kind"] == "autoencoder_kl"


def check_generate(folder: Path, printed: str, names: dict) -> None:
    made = sorted(path.name for path in (folder / "with_picture").glob("speech*"))
    assert made == ["speech.mp4"]
    assert names["sound"].shape == (1, names["clip"].num_samples)
    assert names["latents"].shape == (1, 4, 16, 8, 8)
    assert names["mel"].shape == (1, 64, 128)
    assert "EventScores(precision=" in printed


def check_score(folder: Path, printed: str, names: dict) -> None:
    assert (folder / "runs/calibrate/calibration.png").is_file()
    assert "mel-statistics-v" in printed


def check_own_module(folder: Path, printed: str, names: dict) -> None:
    assert names["mine"].global_step == 2
    assert names["latents"].shape == (1, 4, 8, 4, 4)


def check_own_measure(folder: Path, printed: str, names: dict) -> None:
    report = json.loads((folder / "with_picture/report.json").read_text())["tasks"]["audio_to_video"]
    assert report["brightness"]["value"] == 0.0
    assert "flicker_ratio" not in report


def check_own_source(folder: Path, printed: str, names: dict) -> None:
    assert printed.splitlines()[0] == "6"
    for run, count in {"segments": 3, "takes": 4}.items():
        assert (folder / f"runs/{run}/cmmd.ckpt").is_file()
        assert len(list((folder / f"runs/{run}/cache").rglob("*.safetensors"))) == count


def check_export(folder: Path, printed: str, names: dict) -> None:
    assert (folder / "with_sound/silent.wav").is_file()
    assert names["frames"].shape == (1, 3, 24, 64, 64)
    assert names["again"].hparams == names["model"].hparams
    files = set(re.findall(r"^\| `(\w+\.\w+)`", PAGES["docs/export.md"], re.MULTILINE))
    assert {path.name for path in (folder / "exported").iterdir()} == files - {"vocoder.onnx"}


# What a page must have left behind.
CHECKS = {
    "README.md": check_readme,
    "docs/train.md": check_train,
    "docs/export.md": check_export,
    "docs/generate.md": check_generate,
    "docs/score.md": check_score,
    "docs/own_module.md": check_own_module,
    "docs/own_measure.md": check_own_measure,
    "docs/own_source.md": check_own_source,
}


@pytest.mark.parametrize("name", sorted(name for name, text in PAGES.items() if runs(text)))
def test_a_page_runs(name, place):
    left = run_page(PAGES[name], place)
    if name in CHECKS:
        CHECKS[name](place, *left)


def test_every_command_is_known():
    """What is not run here, `pip`, `make` and others, names what is there."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for text in PAGES.values():
        for _, _, block in snippets(text, "sh"):
            for words in commands(block):
                match words[0]:
                    case "make":
                        assert words[1] in targets
                    case "pip":
                        assert words == ["pip", "install", "."]
                    case "export":
                        assert words == ["export", "PYTHONPATH=$PWD"]
                    case other:
                        assert other == "cmmd"


def test_every_replacement_is_of_use():
    source = "\n".join(block for text in PAGES.values() for _, _, block in snippets(text, "python"))
    assert [old for old in SMALLER if old not in source] == []
    for text in PAGES.values():
        for _, _, block in snippets(text, "python"):
            compile(textwrap.dedent(block), "<block>", "exec")


def test_the_readme_is_short_and_shows_both_ways_early():
    lines = README.splitlines()
    assert len(lines) <= 140
    assert max(lines.index("```sh"), lines.index("```python")) < 40
    assert README.count("<!-- demo results -->") == README.count("<!-- end of demo results -->") == 1


@pytest.mark.parametrize("name", sorted(PAGES))
def test_what_a_page_names_is_there(name):
    """Packaged configs, files of the checkout, and pages and headings that links of the README go to."""
    text, folder = PAGES[name], (ROOT / name).parent
    named = set(re.findall(r"(?<![\w/.])\w+\.yaml\b", text))
    assert named <= {Path(config).name for config in packaged_configs()} | {"NAME.yaml"}
    for path in re.findall(r"`((?:notebooks|docs|configs|benchmarks|tests)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    for link, anchor in re.findall(r"\]\((?!\w+:)([^)#]+)(?:#([^)]*))?\)", text):
        assert (folder / link).exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)$", (folder / link).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}


def test_files_that_the_architecture_names_are_there():
    text = PAGES["docs/architecture.md"]
    for path in re.findall(r"`(\w+/[\w./]*)`", text):
        assert (ROOT / "src/cmmd_lightning" / path).exists() or (ROOT / path).exists(), path


def test_every_page_is_in_the_navigation():
    class Plain(yaml.SafeLoader):
        """mkdocs has tags of its own."""

    found = re.findall(r"[\w/]+\.md", str(yaml.load((ROOT / "mkdocs.yml").read_text(), Plain)["nav"]))
    assert sorted(found) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_the_calibration_table_is_that_of_the_calibration():
    """Every number of the table of the measures stands in the table that `cmmd calibrate` wrote."""
    sections = re.split(r"^## ", PAGES["docs/calibration.md"], flags=re.MULTILINE)[1:]
    known = {}
    for section in sections:
        heads, _, *rows = re.search(r"### Faults.*?\n\n(.*?)\n\n", section, re.DOTALL)[1].splitlines()
        columns = [cell.strip() for cell in heads.strip("|").split("|")]
        for row in rows:
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            known |= {(section.split()[0], cells[0], column): cell for column, cell in zip(columns, cells, strict=True)}
    table = re.search(r"<!-- calibration -->\n(.*?)\n<!--", PAGES["docs/measures.md"], re.DOTALL)[1].splitlines()[2:]
    sets = [(name, fault) for name in ("bounce", "dance") for fault in ("50 ms", "100 ms", "swapped partner")]
    sets += [("val", fault) for fault in ("100 ms", "200 ms", "swapped partner")]
    assert len(table) == 9
    for row in table:
        measure, *cells = (cell.strip(" `") for cell in row.strip("|").split("|"))
        assert cells == [known[name, measure, fault] for name, fault in sets], measure
