"""Help pages: a command's own flags first and in full, those that it shares by name."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from textwrap import wrap

from cmmd_lightning.cli.flags import OF_COMMAND, function_arguments, group_arguments
from cmmd_lightning.cli.signatures import Argument, summary_of
from cmmd_lightning.cli.usage import POSITIONAL
from cmmd_lightning.packaged import packaged_configs

LIGHTNING = {
    "fit": "Train the model, the frame VAE or the vocoder",
    "validate": "Losses on the validation split",
    "test": "Losses and synchrony on the test split",
    "predict": "Generate sound for video, video for sound, or both",
}
FUNCTIONS = ("prepare", "evaluate", "calibrate", "render", "describe", "export", "demo", "sync", "ablate", "compare")
_USAGE = {
    "predict": "--ckpt_path FILE --generate.task TASK --generate.inputs FILE ... --generate.output_dir DIR",
    "prepare": "--config CONFIG --data.root DIR [--shard i/n]",
    "describe": "--config CONFIG",
}
_IN_FULL = {"fit": 2, "validate": 0, "test": 1, "predict": 1, "prepare": 1, "describe": 1}  # groups of flags
_COMMON = (
    Argument("config", "NAME | FILE", "", "A packaged config by its bare name, or a file; later ones lie over others."),
    Argument("ckpt_path", "FILE | last | demo", "", "A checkpoint, the newest one of a fit, or the packaged one."),
    Argument("seed_everything", "int", "0", "Seed of what the seeds of model and data leave open."),
    Argument("print_config", "", "", "Show the whole config as it would be used."),
)
_OF_MODEL = {("data", "clip"), ("data", "codec")}
_OWN = {
    "prepare": (Argument("shard", "i/n", "1/1", "Take the i-th of n shares of the files."),),
    "predict": (
        Argument("runtime", "torch | onnx", "torch", "What runs the networks."),
        Argument("onnx_dir", "DIR", "", "For the runtime onnx, the folder that cmmd export wrote."),
    ),
}


def overview() -> str:
    """All commands and packaged configs."""
    rows = LIGHTNING | {name: _summary(name) for name in FUNCTIONS}
    return "\n".join(
        [
            "usage: cmmd COMMAND [options]",
            "",
            *(f"  {name:<10} {text[0].lower()}{text[1:]}" for name, text in rows.items()),
            "",
            "cmmd COMMAND --help tells more; cmmd --version the version.",
            f"Packaged configs, by bare name from any folder: {', '.join(packaged_configs())}",
        ]
    )


def page(command: str) -> str:
    """All of one command."""
    if command not in OF_COMMAND:
        arguments = function_arguments(command)
        needed = [_usage(argument, command) for argument in arguments if argument.default is None]
        usage = " ".join(["usage: cmmd", command, *needed, "[flags]"])
        return "\n".join([usage, "", _summary(command) + ".", "", *_flags(arguments)])
    text = LIGHTNING.get(command) or _summary(command)
    lines = [f"usage: cmmd {command} {_USAGE.get(command, '--config CONFIG')} [flags]", "", f"{text}.", ""]
    lines += [*_flags([*_COMMON, *_OWN.get(command, ())])]
    for place, group in enumerate(OF_COMMAND[command]):
        # the data's clip and codec are those of the model
        own = [one for one in group_arguments(group) or () if (group, one.name) not in _OF_MODEL]
        if place < _IN_FULL[command]:
            lines += ["", f"{group}:", *_flags(own, f"{group}.")]
        else:
            names = " ".join(f"--{group}.{one.name}{'.*' * bool(one.parts)}" for one in own)
            whose = "of Lightning's trainer" if group == "trainer" else f"of the {group}, as cmmd fit --help tells them"
            lines += ["", f"{group} ({whose}):", *_wrapped(names, 2)]
    return "\n".join([*lines, "", f"cmmd {command} --help_all tells all of it, Lightning's too, at length."])


def _summary(command: str) -> str:
    return summary_of("cmmd_lightning.cli.commands", command).rstrip(".")


def _usage(argument: Argument, command: str) -> str:
    return argument.name.upper() if command in POSITIONAL else f"--{argument.name} {argument.name.upper()}"


def _flags(arguments: Iterable[Argument], prefix: str = "") -> Iterator[str]:
    for argument in arguments:
        name = prefix + argument.name
        if argument.parts:
            yield from _wrapped(f"{name}: {argument.text}", 2)
            yield from _flags(argument.parts, f"{name}.")
            continue
        default = "" if argument.default in (None, "") else f" (default {argument.default})"
        yield f"  --{name} {argument.kind}{default}".rstrip()
        yield from _wrapped(argument.text, 8)


def _wrapped(text: str, indent: int) -> list[str]:
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    space = " " * indent
    return wrap(text, width, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)
