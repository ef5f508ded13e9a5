"""Errors of the command line."""

import re

from cmmd_lightning.cli.signatures import arguments_of

POSITIONAL = ("render", "sync")
"""Commands whose arguments without a default stand by themselves, without their names."""
SOURCES = ("Folder", "Aist", "EpicSounds", "Grid", "Segments")


class UsageError(ValueError):
    """The command line asks for something that is not there."""


def with_successor(message: str) -> str:
    """Name what has taken the place of an option or a name that an error of the parser is about."""
    option = re.search(r"(?:^|--|: )data\.(\w+): ", message)
    if option:  # of the data module once, of its source now
        flag = {"segments": "table"}.get(option[1], option[1])
        known = {name: [one.name for one in arguments_of("cmmd_lightning.data.sources", name)] for name in SOURCES}
        owners = ", ".join(name for name in SOURCES if flag in known[name])
        what = re.sub(r": (did you mean|cmmd \w+ has no such setting).*", "", message)
        message = f"{what}: now --data.source.{flag}, of --data.source {owners}" if owners else message
    short = re.search(r"Expected a dot import path string: (\w+)$", message)
    name = short and short[1].title().replace("_", "")
    return f"{message}; with settings of its own: --data.source {name}" if name in SOURCES else message
