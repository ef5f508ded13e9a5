"""The files around the code: the export's page runs; workflow, hooks and citation name what is there."""

import re
import runpy
import shlex
from configparser import ConfigParser
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from command_line import cmmd

from cmmd_lightning import __version__
from cmmd_lightning.procedural import render

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/export.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_export_runs_in_order(tmp_path):
    pytest.importorskip("onnxscript")
    settings = {"duration": 1.2, "fps": 20.0, "streams": "video", "num_workers": 0, "progress": False}
    render("bounce", tmp_path / "silent", 1, 99, **settings)
    (commands,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in commands.splitlines():
        done = cmmd(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.status == 0, done.err
    assert sorted(path.name for path in (tmp_path / "with_sound").iterdir()) == [
        *("clip_00000.mp4", "clip_00000.wav", "manifest.json"),
    ]
    names: dict = {}
    with chdir(tmp_path):
        for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
            exec(compile(block, "docs/export.md", "exec"), names)
    assert names["frames"].shape == (1, 3, 24, 64, 64)
    assert names["again"].hparams == names["model"].hparams
    files = set(re.findall(r"^\| `(\w+\.\w+)`", PAGE, re.MULTILINE))
    assert {path.name for path in (tmp_path / "exported").iterdir()} == files - {"vocoder.onnx"}


def test_the_workflow_calls_make_test_on_three_systems():
    job = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert {matrix["versions"][0], matrix["include"][0]["versions"]} == {"newest", "oldest"}
    assert job["steps"][-1]["run"].split()[:2] == ["make", "test"]


def test_the_oldest_versions_are_those_of_setup_cfg(capsys):
    runpy.run_path(str(ROOT / ".github/oldest.py"))
    oldest = dict(line.split("==") for line in capsys.readouterr().out.splitlines())
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    required = config["options"]["install_requires"].split()
    assert len(required) > 10
    for line in required:
        name, version = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line).groups()
        assert oldest[name] == version
    assert "pytest" not in oldest


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert citation["references"][0]["title"] in (ROOT / "README.md").read_text()


def test_the_hooks_run_what_make_test_runs():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (ROOT / "Makefile").read_text()
    for hook in repo["hooks"]:
        assert "$(VENV)/bin/" + hook["entry"].split()[0].removeprefix(".venv/bin/") in makefile
