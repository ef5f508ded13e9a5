"""The flags of each command: which there are, and what was meant by one that there is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import yaml

from cmmd_lightning.cli.signatures import Argument, arguments_of, home_of
from cmmd_lightning.cli.usage import UsageError

GROUPS = {
    "model": ("cmmd_lightning.training.module", "CMMD"),
    "data": ("cmmd_lightning.training.datamodule", "AudioVideoDataModule"),
    "trainer": ("lightning.pytorch.trainer.trainer", "Trainer"),
    "generate": ("cmmd_lightning.prediction.requests", "GenerationSpec"),
    "evaluation": ("cmmd_lightning.evaluation.generated", "EvaluationSpec"),
}
OF_COMMAND = {
    "fit": ("model", "data", "trainer"),
    "validate": ("model", "data", "trainer"),
    "test": ("evaluation", "model", "data", "trainer"),
    "predict": ("generate", "data", "model", "trainer"),
    "prepare": ("data", "model", "trainer"),
    "describe": ("model", "data", "trainer"),
}
_COMMON = ("config", "c", "help", "h", "help_all", "print_config", "seed_everything", "ckpt_path", "weights_only")
_FURTHER = {"prepare": ["shard"], "predict": ["return_predictions"], "validate": ["verbose"], "test": ["verbose"]}
_WORDS = {"checkpoint": "ckpt_path", "gpu": "devices", "gpus": "devices", "out": "output_dir"}


def function_arguments(command: str) -> tuple[Argument, ...]:
    """Those of a command that is a function."""
    return arguments_of("cmmd_lightning.cli.commands", command)


def group_arguments(group: str, class_path: str | None = None) -> tuple[Argument, ...] | None:
    """Those of a group such as ``model``; None of a class that is not of this package.

    Args:
        group: One of `GROUPS`.
        class_path: Of ``model``: which one.
    """
    if class_path is None or group != "model":
        return arguments_of(*GROUPS[group])
    package, _, name = class_path.rpartition(".")
    home = home_of(name) if package in ("", "cmmd_lightning") else None
    return None if home is None else arguments_of(home, name)


def names_of(arguments: Iterable[Argument], prefix: str) -> Iterator[str]:
    """Dotted names of arguments and their parts."""
    for argument in arguments:
        name = f"{prefix}.{argument.name}"
        yield name
        yield from names_of(argument.parts, name)


def check_flags(command: str, args: list[str]) -> None:
    """Refuses flags, and settings in configs, that the command does not have.

    Args:
        command: One of the commands.
        args: What follows it, with the paths of configs.

    Raises:
        UsageError: If there is one; with the nearest that there is.
    """
    typed = [arg[2:].partition("=")[0].removesuffix("+") for arg in args if arg.startswith("--") and len(arg) > 2]
    if command not in OF_COMMAND:
        known = [*_COMMON, *(argument.name for argument in function_arguments(command))]
        for name in typed:
            if name.partition(".")[0] not in known:
                raise UsageError(_unknown(f"--{name}", name, known, command))
        return
    configs = {path: _settings(path) for path in _values(args, "config")}
    classes = [one.get("model", {}).get("class_path") for one in configs.values() if isinstance(one.get("model"), dict)]
    classes += [*_values(args, "model.class_path"), *(name for name in _values(args, "model") if "{" not in name)]
    class_path = next((name for name in reversed(classes) if name), None)
    groups = {group: group_arguments(group, class_path) for group in OF_COMMAND[command]}
    known = [*_COMMON, *_FURTHER.get(command, ())]
    known += [name for group, found in groups.items() for name in [group, *names_of(found or (), group)]]
    for name in typed:
        if not _is_known(name.split("."), groups, known):
            raise UsageError(_unknown(f"--{name}", name, known, command))
    for path, settings in configs.items():
        for name in _keys(settings, groups, known):
            raise UsageError(_unknown(f"{path}: {name}", name, known, command))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The flag that was meant, if one is near enough.

    Example:
        >>> nearest("model.lr", ["model.learning_rate", "model.decay"]), nearest("task", ["generate.task", "data.root"])
        ('model.learning_rate', 'generate.task')
    """
    found = max((one for one in known if len(one) > 1), key=lambda one: (_likeness(name, one), -len(one)), default="")
    return found if found and _likeness(name, found) >= 0.7 else None


def _likeness(typed: str, flag: str) -> float:
    group, _, last = typed.rpartition(".")
    other_group, _, other = flag.rpartition(".")
    last = _WORDS.get(last, last)
    words, others = last.split("_"), other.split("_")
    if last == other:
        score = 1.0
    elif last == "".join(word[0] for word in others) or last.replace("_", "") == other.replace("_", ""):
        score = 0.95
    elif set(words) <= set(others):
        score = 0.8
    else:
        score = SequenceMatcher(None, last, other).ratio()
    return score + 0.1 * SequenceMatcher(None, group, other_group).ratio()


def _unknown(what: str, name: str, known: Iterable[str], command: str) -> str:
    found = nearest(name, known)
    meant = f"did you mean {'--' * what.startswith('--')}{found}?" if found else f"cmmd {command} has no such setting;"
    return f"{what}: {meant} cmmd {command} --help lists them"


def _is_known(parts: list[str], groups: Mapping[str, tuple[Argument, ...] | None], known: Sequence[str]) -> bool:
    group, *rest = parts
    if group not in groups or not rest:
        return group in known or not group
    arguments = groups[group]
    while rest and arguments:
        if rest[0] in ("init_args", "dict_kwargs"):
            rest = rest[1:]
            continue
        if rest[0] in ("class_path", "help"):
            return True
        found = [argument for argument in arguments if argument.name == rest[0]]
        if not found:
            return False
        arguments, rest = found[0].parts, rest[1:]
    return True


def _keys(
    settings: Any, groups: Mapping[str, Any], known: Sequence[str], before: tuple[str, ...] = ()
) -> Iterator[str]:
    """Dotted names of settings that are not known."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        parts = (*before, str(key))
        if not _is_known(list(parts), groups, known):
            yield ".".join(part for part in parts if part != "init_args")
        elif parts[0] in groups:
            yield from _keys(value, groups, known, parts)


def _values(args: list[str], name: str) -> list[str]:
    """What was typed for a flag, each time."""
    return [
        following if arg == f"--{name}" else arg.partition("=")[2]
        for arg, following in zip(args, [*args[1:], ""], strict=False)
        if arg == f"--{name}" or arg.startswith(f"--{name}=")
    ]


def _settings(path: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: expected a config in YAML, got text that is none ({error})") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected a config with model, data or trainer in it, got {type(found).__name__}")
    return found
