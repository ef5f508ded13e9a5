"""Arguments of classes and functions, read from their sources: neither torch nor Lightning is imported for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Argument:
    """One argument.

    Args:
        name: Its name.
        kind: Its type, as a help page has it.
        default: As written; None where it has to be given.
        text: What the docstring says of it.
        parts: Of a dataclass, its fields.
    """

    name: str
    kind: str
    default: str | None
    text: str
    parts: tuple[Argument, ...] = ()


@cache
def arguments_of(module: str, name: str) -> tuple[Argument, ...]:
    """Arguments of a function, of a dataclass or of a class's constructor, in their order.

    Args:
        module: Where it is, or where it is imported.
        name: Its name.
    """
    module, node = _find(module, name)
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    texts = _documented(ast.get_docstring(node) or "")
    found = []
    for key, annotation, default in _signature(node):
        kind, parts = _kind(annotation, module)
        value = None if default is None else "" if parts else _value(default, module)
        found.append(Argument(key, kind, value, texts.get(key, ""), parts))
    return tuple(found)


def summary_of(module: str, name: str) -> str:
    """The first paragraph of a docstring, as plain text."""
    _, node = _find(module, name)
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return _plain((ast.get_docstring(node) or "").partition("\n\n")[0])


def home_of(name: str) -> str | None:
    """The module of a class that the package itself names."""
    _, homes = _find("cmmd_lightning", "_HOMES")
    assert isinstance(homes, ast.Dict)
    found = ast.literal_eval(homes).get(name)
    return found and f"cmmd_lightning.{found}"


def _signature(node: ast.ClassDef | ast.FunctionDef) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Names, annotations and defaults."""
    if isinstance(node, ast.ClassDef):
        made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        if not made:
            fields = [
                part for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            ]
            yield from ((part.target.id, part.annotation, part.value) for part in fields)  # type: ignore[union-attr]
            return
        node = made[0]
    given = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(given) - len(node.args.defaults)) + list(node.args.defaults)
    for argument, default in [
        *zip(given, defaults, strict=True),
        *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
    ]:
        if argument.arg != "self":
            yield argument.arg, argument.annotation, default


def _kind(annotation: ast.expr | None, module: str) -> tuple[str, tuple[Argument, ...]]:
    """The type in words, and the parts where it is a dataclass of this package."""
    if annotation is None:
        return "", ()
    if isinstance(annotation, ast.BinOp):
        kinds = [_kind(side, module) for side in (annotation.left, annotation.right)]
        return " | ".join(kind for kind, _ in kinds if kind != "null"), next((parts for _, parts in kinds if parts), ())
    text = ast.unparse(annotation)
    if text == "None":
        return "null", ()
    if isinstance(annotation, ast.Subscript) and text.startswith("Literal["):
        values = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        told = [
            str(one.value) if isinstance(one, ast.Constant) else _kind(one, module)[0].strip("{}") for one in values
        ]
        return "{" + ",".join(told) + "}", ()
    if isinstance(annotation, ast.Name) and module.startswith("cmmd_lightning"):
        try:
            home, node = _find(module, annotation.id)
        except KeyError:
            return text, ()
        if isinstance(node, ast.ClassDef):
            parts = arguments_of(home, node.name)
            return "" if parts else node.name, parts
        return _kind(node, home) if isinstance(node, ast.expr) else (text, ())
    return text, ()


def _value(default: ast.expr, module: str) -> str:
    """A default as one would type it."""
    if isinstance(default, ast.Name):
        try:
            _, node = _find(module, default.id)
            default = node if isinstance(node, ast.expr) else default
        except KeyError:
            pass
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return ast.unparse(default)
    return "null" if value is None else ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


@cache
def _find(module: str, name: str) -> tuple[str, ast.AST]:
    """Where a name is defined, and its class, its function or the value that it is given.

    Raises:
        KeyError: If it comes from elsewhere.
    """
    statements = _tree(module).body
    inside = [one for statement in statements if isinstance(statement, ast.If) for one in statement.body]
    for statement in [*statements, *inside]:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return module, statement
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return module, statement.value
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("cmmd_lightning"):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return _find(str(statement.module), alias.name)
    raise KeyError(name)


@cache
def _tree(module: str) -> ast.Module:
    package, *parts = module.split(".")
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))


def _documented(docstring: str) -> dict[str, str]:
    """The entries below ``Args:``."""
    _, _, rest = docstring.partition("Args:\n")
    found: dict[str, str] = {}
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        entry = re.match(r" {4}(\w+): (.*)", line)
        if entry:
            found[name := entry[1]] = entry[2]
        elif found and line:
            found[name] += " " + line.strip()
    return {name: _plain(text) for name, text in found.items()}


def _plain(text: str) -> str:
    return " ".join(re.sub(r"``?", "", text).split())
