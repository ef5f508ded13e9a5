"""The command ``cmmd``: Lightning's subcommands on LightningCLI, the others dispatched before it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from argparse import ArgumentError
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from cmmd_lightning.cli.flags import OF_COMMAND, check_flags, nearest
from cmmd_lightning.cli.help import FUNCTIONS, LIGHTNING, overview, page
from cmmd_lightning.cli.messages import is_input_error, one_line
from cmmd_lightning.cli.usage import POSITIONAL, UsageError, with_successor
from cmmd_lightning.packaged import packaged_configs
from cmmd_lightning.version import __version__

CONFIG_FLAGS = ("--config", "-c")
# What Lightning warns of in every run of ours: the frozen codec, callbacks of training that prediction does not need.
_EXPECTED_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*module\(s\) in eval mode.*",
    r".*callbacks used to create the checkpoint.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*does not have many workers.*",
    r".*resuming from a checkpoint that ended before the epoch ended.*",
    r".*LightningCLI's args parameter is intended.*",
    r".*recommended to use `self.log\(.*sync_dist=True\)`.*",
)


def resolve_config(name: str) -> str:
    """Path of a config: a file as it is, else a packaged config of that name.

    Raises:
        UsageError: If there is neither; the known names are listed.
    """
    if Path(name).is_file():
        return name
    known = packaged_configs()
    found = known.get(name) or known.get(f"{name}.yaml")
    if found is None:
        raise UsageError(f"{name}: expected a config file or one of {', '.join(known)}; found no such file")
    return str(found)


def resolve_config_flags(args: list[str]) -> list[str]:
    """The arguments with every ``--config NAME`` resolved by `resolve_config`."""
    out = list(args)
    for i, arg in enumerate(args):
        if arg in CONFIG_FLAGS and i + 1 < len(args):
            out[i + 1] = resolve_config(args[i + 1])
        elif arg.startswith("--config="):
            out[i] = "--config=" + resolve_config(arg.removeprefix("--config="))
    return out


def run(args: list[str]) -> int:
    """Runs one command.

    Args:
        args: The arguments after ``cmmd``.

    Returns:
        The exit status: 0 if everything asked for was done.

    Raises:
        UsageError: If there is no such command, or it has no such flag.
    """
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(overview() + "\n")
        return 0 if args else 2
    if args[0] == "--version":
        sys.stdout.write(f"cmmd_lightning {__version__}\n")
        return 0
    command, rest = args[0], args[1:]
    if command not in (*LIGHTNING, *FUNCTIONS):
        meant = nearest(command, (*LIGHTNING, *FUNCTIONS))
        hint = f"; did you mean {meant}?" if meant else ""
        raise UsageError(f"{command}: expected a command of {', '.join([*LIGHTNING, *FUNCTIONS])}{hint}")
    if {"-h", "--help"} & set(rest):
        sys.stdout.write(page(command) + "\n")
        return 0
    rest = resolve_config_flags(_with_options_behind_classes(rest))
    check_flags(command, rest)
    rest = ["--help" if arg == "--help_all" else arg for arg in rest]
    if command in OF_COMMAND:
        from cmmd_lightning.cli.lightning_cli import run_lightning, run_with_config

        return run_lightning([command, *rest]) if command in LIGHTNING else run_with_config(command, rest)
    from jsonargparse import auto_cli

    from cmmd_lightning.cli.commands import COMMANDS

    positional = command in POSITIONAL
    options: dict[str, Any] = {"as_positional": positional, "exit_on_error": False, "prog": f"cmmd {command}"}
    return int(auto_cli(COMMANDS[command], args=rest, **options) or 0)


def _with_options_behind_classes(args: list[str]) -> list[str]:
    """The arguments with those such as ``--data.source.table`` behind ``--data.source``, where they have a meaning."""
    starts = [0, *(i for i, arg in enumerate(args) if i and arg.startswith("--")), len(args)]
    options = [args[start:stop] for start, stop in pairwise(starts)]
    names = [option[0].partition("=")[0] if option else "" for option in options]
    last = {name: place for place, name in enumerate(names)}

    def place_of(number: int) -> tuple[int, int]:
        *classes, name = accumulate(names[number].split("."), "{}.{}".format)
        return max([number, *(last.get(one, 0) for one in classes)]), name.count(".")

    return [arg for number in sorted(range(len(options)), key=place_of) for arg in options[number]]


def _set_up_messages() -> None:
    """Our messages on stderr, one line each; of Lightning's, no advertisements and nothing that holds for every run."""
    logger = logging.getLogger("cmmd_lightning")
    logger.setLevel(logging.INFO if _is_first_process() else logging.WARNING)
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.propagate = False
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _is_first_process() -> bool:
    """Whether this is no other than the first process of a run on several devices."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def main() -> None:
    """Entry point: runs the command, turns errors of the user's input into one line and an exit status.

    Set ``CMMD_TRACEBACK=1`` to see where an error came from.
    """
    _set_up_messages()
    try:
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        status = _interrupted()
    except SystemExit as stop:
        # Lightning shuts down by itself on Ctrl-C and SIGTERM, and leaves with a status of its own
        terminated = type(stop).__name__ == "SIGTERMException"
        if not terminated and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        status = _interrupted(143 if terminated else 130)
    except Exception as error:
        if os.environ.get("CMMD_TRACEBACK") or not is_input_error(error):
            raise
        sys.stderr.write(f"cmmd: error: {with_successor(one_line(error, sys.argv[1:]))}\n")
        status = 2 if isinstance(error, UsageError | ArgumentError) else 1
    sys.exit(status)


def _interrupted(status: int = 130) -> int:
    sys.stderr.write("cmmd: interrupted; what is done is kept\n")
    return status
