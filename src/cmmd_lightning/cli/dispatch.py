"""The command ``cmmd``: Lightning's subcommands on LightningCLI, the others dispatched before it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path

from cmmd_lightning.cli.usage import UsageError, with_successor
from cmmd_lightning.packaged import packaged_configs
from cmmd_lightning.version import __version__

CONFIG_FLAGS = ("--config", "-c")
_NESTED = "Does not validate against any of the Union subtypes"
_LIGHTNING = {
    "fit": "train the model or the frame VAE",
    "validate": "losses on the validation split",
    "test": "losses and synchrony on the test split",
    "predict": "generate sound for video, video for sound, or both",
}


# What Lightning warns of in every run of ours: the frozen codec, callbacks of training that prediction does not need.
_EXPECTED_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*module\(s\) in eval mode.*",
    r".*callbacks used to create the checkpoint.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*does not have many workers.*",
    r".*resuming from a checkpoint that ended before the epoch ended.*",
    r".*LightningCLI's args parameter is intended.*",
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


def _usage() -> str:
    from cmmd_lightning.cli.commands import COMMANDS

    rows = {**_LIGHTNING, **{name: (fn.__doc__ or "").splitlines()[0].rstrip(".") for name, fn in COMMANDS.items()}}
    lines = [f"  {name:<10} {text[0].lower()}{text[1:]}" for name, text in rows.items()]
    configs = ", ".join(packaged_configs())
    return "\n".join(
        [
            "usage: cmmd COMMAND [options]",
            "",
            *lines,
            "",
            "cmmd COMMAND --help tells more; cmmd --version the version.",
            f"Packaged configs, by bare name from any folder: {configs}",
        ]
    )


def run(args: list[str]) -> int:
    """Runs one command.

    Args:
        args: The arguments after ``cmmd``.

    Returns:
        The exit status: 0 if everything asked for was done.
    """
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(_usage() + "\n")
        return 0 if args else 2
    if args[0] == "--version":
        sys.stdout.write(f"cmmd_lightning {__version__}\n")
        return 0
    from cmmd_lightning.cli.commands import COMMANDS

    command, rest = args[0], resolve_config_flags(args[1:])
    if command in ("prepare", "describe"):
        from cmmd_lightning.cli.lightning_cli import run_with_config

        return run_with_config(command, rest)
    if command in COMMANDS:
        from jsonargparse import auto_cli

        positional = command == "render"
        return int(auto_cli(COMMANDS[command], args=rest, as_positional=positional, exit_on_error=False) or 0)
    if command not in _LIGHTNING:
        raise UsageError(f"{command}: expected a command of {', '.join([*_LIGHTNING, *COMMANDS])}")
    from cmmd_lightning.cli.lightning_cli import run_lightning

    return run_lightning([command, *rest])


def _set_up_messages() -> None:
    """Our messages on stderr, one line each; of Lightning's, no advertisements and nothing that holds for every run."""
    logger = logging.getLogger("cmmd_lightning")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.propagate = False
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    for message in _EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


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
        # Lightning shuts down by itself on Ctrl-C, and leaves with a status of its own
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        status = _interrupted()
    except (ValueError, OSError, ArgumentError, ModuleNotFoundError) as error:
        if os.environ.get("CMMD_TRACEBACK"):
            raise
        sys.stderr.write(f"cmmd: error: {_one_line(error)}\n")
        status = 2 if isinstance(error, UsageError | ArgumentError) else 1
    sys.exit(status)


def _interrupted() -> int:
    sys.stderr.write("cmmd: interrupted; what is done is kept\n")
    return 130


def _one_line(error: BaseException) -> str:
    """The message; of jsonargparse's nested ones, where each tells all of the values, the innermost."""
    while _NESTED in str(error) and (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return with_successor(" ".join(str(error).split()))
