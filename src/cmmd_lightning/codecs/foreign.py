"""Codecs and vocoders from outside of this package: named by class path, trusted only where the user names them too."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Mapping
from typing import Any

from cmmd_lightning.codecs.config import CodecConfig

_CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def class_path_of(vocoder: Any) -> str | None:
    """The class path that a vocoder is given by, or None where it is one of the built-in ones.

    Raises:
        ValueError: If it is neither a name nor a mapping.
    """
    path = vocoder.get("class_path") if isinstance(vocoder, Mapping) else vocoder
    if not isinstance(vocoder, Mapping | str) or not isinstance(path, str | None):
        raise ValueError(
            f"vocoder: expected a name, a class path, or class_path and init_args, got {type(vocoder).__name__}; "
            "a vocoder that is built already is assigned: model.vocoder = ..."
        )
    return path if path and not path.endswith(".ckpt") and _CLASS_PATH.fullmatch(path) else None


def import_class(path: str, base: type, what: str) -> Any:
    """The class of a path ``module.Class``, a subclass of ``base``.

    Raises:
        ValueError: If there is none; one line that says what was looked for.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{what} {path}: expected the path of a class, got none ({error})") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{what} {path}: expected a class derived from {base.__name__}, got {found!r}")
    return found


def foreign_classes(settings: Mapping[str, Any]) -> list[str]:
    """Class paths from outside of this package that a model's settings name."""
    named = [CodecConfig.of(settings.get("codec")).kind, class_path_of(settings.get("vocoder") or "") or ""]
    return [path for path in named if "." in path and not path.startswith("cmmd_lightning.")]


def refuse_foreign(stored: Mapping[str, Any], trusted: Collection[str], path: object) -> None:
    """Refuse settings of a checkpoint that would import a class which the user did not name.

    Raises:
        ValueError: If there is one.
    """
    for name in foreign_classes(stored):
        if name not in trusted:
            raise ValueError(
                f"{path}: expected classes of cmmd_lightning, got {name}, not imported unless you name it too: "
                f"from_pretrained(..., trust=[{name!r}]), or by flag --model.codec.kind or --model.vocoder"
            )
