"""The house of the design: who may import whom. Every import counts, in functions and for the type checker too."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cmmd_lightning

ROOT = Path(cmmd_lightning.__file__).parent
GROUND = ("codecs", "diffusion", "media", "models", "packaged", "version")
FLOORS = (  # from the top; rooms of one floor import nothing of each other
    ("cli",),
    ("studies",),
    ("training",),
    ("evaluation", "prediction"),
    ("data",),
    ("procedural",),
    ("metrics",),
    GROUND,
    ("checkpoints",),
)
FLOOR = {room: len(FLOORS) - i for i, rooms in enumerate(FLOORS) for room in rooms}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric", "jsonargparse"}
WITHOUT_LIGHTNING = (
    *GROUND,
    "metrics",
    "procedural",
    "data",
    "evaluation",
    "studies/calibration",
    "cli/commands.py",
    "cli/study_commands.py",
)
LONG = {  # files of more than 300 lines, and how many at most; only ever shorter
    "training/datamodule.py": 324,
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    parts = ["cmmd_lightning", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TOP = ROOT / "__init__.py"  # loads its names when they are asked for
FILES = sorted(set(ROOT.rglob("*.py")) - {TOP})
MODULES = {module_of(path): path for path in [TOP, *FILES]}


def imports_of(text: str, home: list[str]) -> Iterator[str]:
    """Modules that a file of a package imports from, wherever the import stands; of a package, the submodule meant."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            parts = home[: len(home) - node.level + 1] if node.level else []
            module = ".".join([*parts, *filter(None, [node.module])])
            for alias in node.names:
                yield f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module


def imported(path: Path) -> set[str]:
    return set(imports_of(path.read_text(), ["cmmd_lightning", *path.relative_to(ROOT).parts[:-1]]))


def test_imports_are_seen_wherever_they_stand():
    text = """
import a
if TYPE_CHECKING:
    from cmmd_lightning import media
def f():
    from ..data.clips import ClipSpec
    from . import draws
    from cmmd_lightning import CMMD
"""
    found = ["a", "cmmd_lightning.media", "cmmd_lightning.data.clips", "cmmd_lightning.diffusion.draws"]
    assert sorted(imports_of(text, ["cmmd_lightning", "diffusion"])) == sorted([*found, "cmmd_lightning"])


def test_every_room_is_on_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR)
    assert len(FLOOR) <= 19
    assert len(FLOORS) <= 10


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_downwards(path):
    own = [name for name in imported(path) if name.partition(".")[0] == "cmmd_lightning"]
    assert "cmmd_lightning" not in own  # the top is for users
    rooms = {name.split(".")[1] for name in own} - {room_of(path)}
    assert {room for room in rooms if FLOOR[room] >= FLOOR[room_of(path)]} == set()


def test_no_files_import_each_other_in_a_circle():
    graph = {module: imported(path) & set(MODULES) for module, path in MODULES.items() if path != TOP}
    assert set(TopologicalSorter(graph).static_order()) >= set(graph)  # raises CycleError


@pytest.mark.parametrize("place", WITHOUT_LIGHTNING)
def test_files_and_maths_know_nothing_of_lightning(place):
    chosen = [path for path in FILES if f"{name_of(path)}/".startswith((f"{place}/", f"{place}.py/"))]
    assert chosen
    for path in chosen:
        assert not {name.split(".")[0] for name in imported(path)} & LIGHTNING, name_of(path)


def test_every_module_imports():
    for module in pkgutil.walk_packages([str(ROOT)], "cmmd_lightning."):
        importlib.import_module(module.name)
    for name in cmmd_lightning.__all__:
        assert getattr(cmmd_lightning, name).__module__.startswith("cmmd_lightning.")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cmmd_lightning.nothing  # noqa: B018


def test_no_name_hides_a_submodule():
    for path in FILES:
        importlib.import_module(module_of(path))
    for name in MODULES:
        package, _, child = name.rpartition(".")
        assert not package or getattr(sys.modules[package], child) is sys.modules[name]


def test_the_ground_floor_needs_no_lightning_and_metrics_no_diffusers():
    """In a fresh process, room after room: what each of them has brought in so far."""
    script = f"""
import importlib, json, pkgutil, sys
heavy = ["lightning", "pytorch_lightning", "jsonargparse", "diffusers", "transformers", "vocos"]
found = {{}}
for room in {["", "cli", "metrics", *GROUND]!r}:
    name = "cmmd_lightning." + room if room else "cmmd_lightning"
    package = importlib.import_module(name)
    if room == "metrics":  # torchmetrics brings transformers where that is installed
        importlib.import_module("torchmetrics")
        heavy = [name for name in heavy if name not in sys.modules]
    if room not in ("", "cli"):
        for module in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."):
            importlib.import_module(module.name)
    found[room] = [name for name in [*heavy, *(["torch"] if room in ("", "cli") else [])] if name in sys.modules]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {room: [] for room in ["", "cli", "metrics", *GROUND]}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_house_rules(path):
    text = path.read_text()
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert path.name != "utils.py"
    assert len(text.splitlines()) <= LONG.get(name_of(path), 300)


def test_files_that_are_no_longer_long_are_not_excepted():
    assert [name for name in LONG if len((ROOT / name).read_text().splitlines()) <= 300] == []
