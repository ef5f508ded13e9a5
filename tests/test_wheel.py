"""The wheel, installed elsewhere: it has what it needs, and trains without the checkout and without a network."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cmmd_lightning

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("src", "configs", "setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def run(*words: object, cwd: Path, **environment: str) -> str:
    """What a program writes; it must succeed."""
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    clutter = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        source, target = ROOT / name, folder / "sources" / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=clutter)
        else:
            shutil.copy(source, target)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "sources", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    run(*pip, "--target", target, wheel, cwd=target)
    return target


def test_the_wheel_has_every_module_the_configs_and_the_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src" / "cmmd_lightning"
    wanted = [*package.rglob("*.py"), package / "py.typed", *(package / "checkpoints").glob("demo.*")]
    wanted += (package / "prediction/page").iterdir()
    assert {path.relative_to(package.parent).as_posix() for path in wanted} <= names
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert len(configs) >= 5
    assert {name.removeprefix("cmmd_lightning/") for name in names if name.endswith(".yaml")} == configs
    assert [name for name in names if name.endswith("licenses/LICENSE")]
    assert not [name for name in names if name.startswith(("tests", "notebooks")) or name.endswith(".pyc")]


def test_its_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    assert f"Version: {cmmd_lightning.__version__}" in lines
    assert "License-Expression: Apache-2.0" in lines
    assert "Provides-Extra: speech" in lines
    assert "# cmmd_lightning" in lines  # the README is the description


def test_the_installed_wheel_trains_offline_from_a_bare_config_name(installed, tmp_path):
    where = {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    program = "import cmmd_lightning, sys; sys.stderr.write(cmmd_lightning.__file__)"
    assert run(sys.executable, "-c", program, cwd=tmp_path, **where) == str(
        installed / "cmmd_lightning" / "__init__.py"
    )
    line = ["fit", "--config", "quickstart.yaml", "--trainer.fast_dev_run", "true"]
    smaller = ["--data.source.render_clips", "[4,2,2]", "--data.num_workers", "0"]
    output = run(sys.executable, installed / "bin" / "cmmd", *line, *smaller, cwd=tmp_path, **where)
    assert "`Trainer.fit` stopped: `max_steps=1` reached" in output
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert len(list((tmp_path / "runs/quickstart/data/train").glob("*.mp4"))) == 4
