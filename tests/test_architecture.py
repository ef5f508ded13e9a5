"""The house of the design: who may import whom."""

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
FLOORS = {
    "cli": 5,
    "lightning_cli": 5,
    "resume_flags": 5,
    "ablation": 4,
    "commands": 4,
    "cost": 4,
    "module": 3,
    "latent_diffusion": 3,
    "datamodule": 3,
    "generation": 3,
    "evaluation": 3,
    "autoencoder": 2,
    "vocoder": 2,
    "callbacks": 2,
    "ema": 2,
    "preemption": 2,
    "checkpoint": 2,
    "watch": 2,
    "data": 2,
    "procedural": 2,
    "diffusion": 1,
    "models": 1,
    "codecs": 1,
    "media": 1,
    "metrics": 1,
    "configs": 1,
    "checkpoints": 1,
}
GROUND = sorted(room for room, floor in FLOORS.items() if floor == 1)
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric", "jsonargparse"}
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    """Modules imported when the file runs, at the top or inside of functions; not those for the type checker only."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            home = ["cmmd_lightning", *path.relative_to(ROOT).parts[:-1]]
            parts = home[: len(home) - node.level + 1] if node.level else []
            module = ".".join([*parts, *filter(None, [node.module])])
            names = [alias.name for alias in node.names] if module == "cmmd_lightning" else []
            yield from (f"{module}.{name}" for name in names) if names else (module,)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(path.read_text()))


def rooms_of(path: Path) -> set[str]:
    """Rooms of this package that a file imports from."""
    names = (name.split(".") for name in imports_of(path))
    rooms = {parts[1] for parts in names if parts[0] == "cmmd_lightning" and len(parts) > 1}
    return rooms - {"__version__", room_of(path)}


def test_every_room_is_on_a_floor():
    assert {room_of(path) for path in FILES} - {"__init__"} <= set(FLOORS)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name != "__init__.py" or path.parent != ROOT], ids=name_of
)
def test_imports_run_downwards(path):
    floor = FLOORS[room_of(path)]
    assert {room: FLOORS[room] for room in rooms_of(path) if FLOORS[room] > floor} == {}
    if floor == 1:
        assert rooms_of(path) == set()


def test_rooms_import_each_other_in_one_direction():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        if room_of(path) in FLOORS and FLOORS[room_of(path)] < 5:
            graph.setdefault(room_of(path), set()).update(rooms_of(path))
    assert set(TopologicalSorter(graph).static_order()) >= set(graph)  # raises CycleError


@pytest.mark.parametrize("room", [*GROUND, "data", "procedural", "evaluation", "commands", "cli"])
def test_files_and_maths_know_nothing_of_lightning(room):
    for path in FILES:
        if room_of(path) == room:
            found = {name.split(".")[0] for name in imports_of(path)} & LIGHTNING
            assert found <= ({"jsonargparse"} if room == "cli" else set()), name_of(path)


def test_every_module_imports():
    for module in pkgutil.walk_packages([str(ROOT)], "cmmd_lightning."):
        importlib.import_module(module.name)
    for name in cmmd_lightning.__all__:
        assert getattr(cmmd_lightning, name).__module__.startswith("cmmd_lightning.")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cmmd_lightning.nothing  # noqa: B018


def test_the_ground_floor_needs_no_lightning_and_metrics_no_diffusers():
    """In a fresh process, room after room: what each of them has brought in so far."""
    script = f"""
import importlib, json, pkgutil, sys
heavy = ["lightning", "pytorch_lightning", "jsonargparse", "diffusers", "transformers", "vocos"]
found = {{}}
for room in {["", "metrics", *(room for room in GROUND if room != "metrics")]!r}:
    name = "cmmd_lightning." + room if room else "cmmd_lightning"
    package = importlib.import_module(name)
    if room == "metrics":  # torchmetrics brings transformers where that is installed
        importlib.import_module("torchmetrics")
        heavy = [name for name in heavy if name not in sys.modules]
    if room:
        for module in pkgutil.walk_packages(package.__path__, name + "."):
            importlib.import_module(module.name)
    found[room] = [name for name in heavy if name in sys.modules]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {room: [] for room in ["", *GROUND]}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_house_rules(path):
    text = path.read_text()
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert path.name != "utils.py"
    assert len(text.splitlines()) <= 400
