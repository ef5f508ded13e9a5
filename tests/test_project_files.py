"""The files around the code: workflow, hooks and citation name what is there."""

import re
import runpy
from configparser import ConfigParser
from pathlib import Path

import yaml

from cmmd_lightning import __version__

ROOT = Path(__file__).resolve().parents[1]


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
