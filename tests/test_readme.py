"""The README: its commands and its Python run, in order, at a size that takes seconds."""

import re
import shlex
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from command_line import SMALL_MODEL, SMALL_RUN, cmmd

from cmmd_lightning.media import read_sound, write_sound
from cmmd_lightning.packaged import packaged_configs

pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()

VAE = ["--model.block_out_channels", "[8,8]", "--model.norm_num_groups", "4"]
VAE_DATA = ["--data.clip.height", "16", "--data.clip.width", "16", "--data.clip.num_frames", "8"]
# What is appended to a command so that it takes seconds.
SHORTER = {
    ("fit", "quickstart.yaml"): [*SMALL_MODEL, *SMALL_RUN, "--data.source.render_clips", "[4,2,2]"],
    ("fit", "folder.yaml"): [*SMALL_MODEL, *SMALL_RUN],
    ("fit", "folder_vae.yaml"): [*VAE, *VAE_DATA, *SMALL_RUN],
    ("prepare", "folder.yaml"): [*SMALL_MODEL, *SMALL_RUN],
    ("describe", "folder.yaml"): SMALL_MODEL,
    ("predict", None): ["--generate.num_inference_steps", "2", "--generate.num_samples", "1"],
    ("evaluate", None): [],
    ("calibrate", None): ["--scenes", "none", "--fit", "null", "--video_events", "impacts"],
}
# What is replaced in Python, and how often it occurs.
SMALLER = {
    "max_steps=20_000": ("max_steps=2", 1),
    "height=64, width=64": ("height=16, width=16", 1),
    "num_inference_steps=50": ("num_inference_steps=2", 3),
    "batch_size=8": ("batch_size=2, num_workers=0", 1),
    "val_check_interval=500": ("val_check_interval=2, enable_progress_bar=False", 1),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[list[str]]:
    """Every line of every shell block, in words."""
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def shortened(words: list[str]) -> list[str]:
    config = words[words.index("--config") + 1] if "--config" in words else None
    return [*words[1:], *SHORTER[words[1], config]]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder in which all `cmmd` commands of the README were run, with the files that it speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    clip = ["--duration", 2.5, "--fps", 10, "--height", 32, "--width", 32, "--sample_rate", 8000, "--num_workers", 0]
    for seed, (split, count) in enumerate({"train": 4, "val": 2}.items()):
        assert (
            cmmd(
                "render", "bounce", f"MY_FOLDER/{split}", "--num_clips", count, "--seed", seed, *clip, cwd=folder
            ).status
            == 0
        )
    assert cmmd("render", "bounce", "silent", "--num_clips", 1, "--streams", "video", *clip, cwd=folder).status == 0
    (folder / "silent" / "clip_00000.mp4").rename(folder / "silent.mp4")
    sound = read_sound(folder / "MY_FOLDER/val/clip_00000.mp4", num_samples=32000, sample_rate=16000)
    write_sound(folder / "speech.wav", sound, 16000)
    for words in commands():
        if words[0] == "cmmd":
            done = cmmd(*shortened(words), cwd=folder)
            assert done.status == 0, f"{shlex.join(words)}\n{done.err}"
    return folder


def test_every_command_is_known():
    """`pip install` and `make` are not run here; what they name is there."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands():
        match words[0]:
            case "make":
                assert words[1] in targets
            case "pip":
                assert words == ["pip", "install", "."]
            case other:
                assert other == "cmmd"
    assert sum(words[0] == "cmmd" for words in commands()) >= 8


def test_the_commands_leave_what_the_readme_says(place):
    for checkpoint in ("quickstart/cmmd", "folder/cmmd", "folder/vae/vae"):
        assert torch.load(place / "runs" / f"{checkpoint}.ckpt", weights_only=True)["global_step"] == 2
    stored = torch.load(place / "runs/folder/cmmd.ckpt", weights_only=True)["hyper_parameters"]
    assert stored["codec"]["kind"] == "autoencoder_kl"
    made = sorted(path.name for path in (place / "with_sound").iterdir())
    assert made == [
        *("clip_00000.mp4", "clip_00000.wav", "clip_00001.mp4", "clip_00001.wav"),
        *("manifest.json", "silent.mp4", "silent.wav"),
    ]
    assert sorted(path.name for path in (place / "with_picture").iterdir()) == ["manifest.json", "speech.mp4"]
    assert (place / "report.html").is_file()
    assert (place / "runs/calibrate/calibration.png").is_file()


def test_the_python_runs_in_order(place):
    source = [*blocks("python")]
    for old, (new, count) in SMALLER.items():
        assert sum(block.count(old) for block in source) == count, old
        source = [block.replace(old, new) for block in source]
    printed = StringIO()
    names: dict[str, object] = {}
    with chdir(place), redirect_stdout(printed):
        for number, block in enumerate(source, 1):
            exec(compile(block, f"<Python {number} of the README>", "exec"), names)
    assert names["sound"].shape == (2, 6400)
    assert names["video"].shape == (2, 3, 8, 16, 16)
    assert names["latents"].shape == (1, 4, 16, 8, 8)
    assert names["mel"].shape == (1, 64, 128)
    assert (place / "mine.ckpt").is_file()
    assert "EventScores(precision=" in printed.getvalue()
    assert "mel-statistics-v1" in printed.getvalue()


def test_what_it_names_is_there():
    named = set(re.findall(r"\b\w+\.yaml\b", README))
    assert named <= set(packaged_configs())
    for path in re.findall(r"`((?:notebooks|docs|configs|benchmarks)/[\w./]+)`", README):
        assert (ROOT / path).exists()
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
    assert README.count("<!-- demo results -->") == 1


def test_the_calibration_table_is_that_of_the_calibration():
    """Every number of the README's table stands in the table that `cmmd calibrate` wrote."""
    sections = re.split(r"^## ", (ROOT / "docs/calibration.md").read_text(), flags=re.MULTILINE)[1:]
    known = {}
    for section in sections:
        heads, _, *rows = re.search(r"### Faults.*?\n\n(.*?)\n\n", section, re.DOTALL)[1].splitlines()
        columns = [cell.strip() for cell in heads.strip("|").split("|")]
        for row in rows:
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            known |= {(section.split()[0], cells[0], column): cell for column, cell in zip(columns, cells, strict=True)}
    table = re.search(r"<!-- calibration -->\n(.*?)\n<!--", README, re.DOTALL)[1].splitlines()[2:]
    sets = [(name, fault) for name in ("bounce", "dance") for fault in ("50 ms", "100 ms", "swapped partner")]
    sets += [("val", fault) for fault in ("100 ms", "200 ms", "swapped partner")]
    assert len(table) == 9
    for row in table:
        measure, *cells = (cell.strip(" `") for cell in row.strip("|").split("|"))
        assert cells == [known[name, measure, fault] for name, fault in sets], measure
