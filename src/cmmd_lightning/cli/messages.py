"""Errors in one line, in the words of the command line."""

from __future__ import annotations

import re
from argparse import ArgumentError

from cmmd_lightning.cli.usage import POSITIONAL

_NESTED = "Does not validate against any of the Union subtypes"
_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "tuple": "a list"}
_KNOWN = (ValueError, OSError, ArgumentError, ModuleNotFoundError)
_LIGHTNING = {
    "MisconfigurationException": "{}",
    "OutOfMemoryError": "{}; less is needed with a smaller --data.batch_size (and as much more of "
    "--trainer.accumulate_grad_batches), or with --model.network.gradient_checkpointing true",
}


def is_input_error(error: Exception) -> bool:
    """Whether the message helps more than the traceback: bad input, and what Lightning and CUDA say of settings."""
    return isinstance(error, _KNOWN) or type(error).__name__ in _LIGHTNING


def one_line(error: BaseException, args: list[str]) -> str:
    """The message of an error.

    Args:
        error: Of jsonargparse's nested ones, where each tells all of the values, the innermost is told.
        args: What was typed, to name the flag that is meant.
    """
    command, keys = args[0] if args else "", []
    while _NESTED in str(error) and (error.__cause__ or error.__context__) is not None:
        keys += re.findall(r'Parser key "([\w.]+)"', str(error))
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = _LIGHTNING.get(type(error).__name__, "{}").format(" ".join(str(error).split()))
    text = re.sub(r"Problem with given class_path 'cmmd_lightning\.CMMD': ", "", text)
    text = re.sub(r"Problem with given class_path '([\w.]+)': ", r"\1: ", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", lambda found: "one of " + found[1].replace("'", ""), text)
    text = re.sub(r"<class '(\w+)'>", lambda found: _TYPES.get(found[1], found[1]), text)
    text = re.sub(r"Expected (?:an? )?(.*?)\. Got value: (.*)", r"expected \1, got \2", text)
    within = [*keys, *re.findall(r'Parser key "([\w.]+)"', text)]
    dashes = "" if command in POSITIONAL else f"--{within[0]}.init_args." if within else "--"
    missing = rf"{dashes}\1 is missing: cmmd {command} --help says what it is"
    text = re.sub(r"the following arguments are required: (\w+)", missing, text)
    text = re.sub(r"unrecognized arguments: (.*)", r"\1: expected a flag; files go behind --generate.inputs", text)
    named = re.sub(r'Parser key "([\w.]+)": ', lambda found: f"{_flag(found[1], args)}: ", text)
    return f"{_flag(keys[-1], args)}: {named}" if keys and named == text else named


def _flag(key: str, args: list[str]) -> str:
    """The flag that a key came from; a key of a config as it is."""
    for arg in args:
        name = arg.partition("=")[0]
        if name.startswith("--") and f".{name[2:]}".endswith(f".{key}"):
            return name
    return key
