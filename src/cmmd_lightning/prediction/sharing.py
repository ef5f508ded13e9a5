"""Models as folders that others can load: safetensors weights, settings, and a card; here and on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cmmd_lightning.checkpoints import packaged_checkpoint
from cmmd_lightning.version import __version__

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_CHECKPOINT = "cmmd.ckpt"


def save_pretrained(
    model: nn.Module, folder: str | Path, *, data: str, licence: str, report: str | Path | None = None
) -> Path:
    """Write a model's weights, its settings and a card to a folder that ``from_pretrained`` reads.

    Args:
        model: A `CMMD`.
        folder: Where to; made where it is missing.
        data: What the model was trained on, in words; stated in the card.
        licence: Of the weights, by its SPDX name, such as ``apache-2.0``.
        report: A ``report.json`` of `cmmd evaluate`, whose numbers go into the card.

    Returns:
        The folder.

    Raises:
        ValueError: If ``data`` or ``licence`` is empty, or the report is none.
    """
    for name, value in (("data", data), ("licence", licence)):
        if not value.strip():
            raise ValueError(f"{name}: expected words for the model's card, got none")
    folder, settings = Path(folder), dict(model.hparams)  # type: ignore[arg-type]
    card = _card(settings, data, licence, {} if report is None else _tasks(report))
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = {"library": "cmmd_lightning", "version": __version__, "hyper_parameters": {**settings, "pretrained": None}}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    (folder / CARD).write_text(card)
    return folder


def push_to_hub(model: nn.Module, repo: str, *, private: bool = False, **card: Any) -> str:
    """Upload what `save_pretrained` writes to a repository of the hub, which is made where it is missing.

    Args:
        model: A `CMMD`.
        repo: ``owner/name``.
        private: Whether a new repository is.
        card: ``data``, ``licence`` and ``report``, as for `save_pretrained`.

    Returns:
        Address of the commit.
    """
    from huggingface_hub import HfApi

    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, **card)
        api = HfApi(library_name="cmmd_lightning", library_version=__version__)
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a CMMD"))


@contextmanager
def checkpoint_file(name: str) -> Iterator[Path]:
    """The checkpoint that a name stands for, as a file while the context lasts.

    Args:
        name: A ``.ckpt`` file, a packaged checkpoint, a folder of `save_pretrained`, or a hub repository, which may
            name a revision: ``owner/name@revision``.

    Raises:
        FileNotFoundError: If none of them is there.
        ValueError: If a folder or repository holds another kind of model.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        path = packaged_checkpoint(name) or path
    if path.is_file():
        yield path
    elif path.is_dir():
        files = {file: path / file for file in (CONFIG, WEIGHTS)}
        missing = [file for file, there in files.items() if not there.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{name}: expected a folder with {CONFIG} and {WEIGHTS}, found no {' and no '.join(missing)}"
            )
        with _as_checkpoint(files) as file:
            yield file
    elif path.suffix == ".ckpt" or name.count("/") != 1:
        raise FileNotFoundError(f"{name}: expected a checkpoint or a hub name, found no such file")
    else:
        found = _download(name)
        if _CHECKPOINT in found:
            yield found[_CHECKPOINT]
        else:
            with _as_checkpoint(found) as file:
                yield file


def _download(name: str) -> dict[str, Path]:
    """Files of a hub repository: settings and weights, or a checkpoint."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(repo, file, revision=revision or None))

    try:
        try:
            return {CONFIG: fetch(CONFIG), WEIGHTS: fetch(WEIGHTS)}
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # no connection
                raise
            return {_CHECKPOINT: fetch(_CHECKPOINT)}
    except (OSError, ValueError, EntryNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{name}: expected a checkpoint or a hub name, found no such file, and from the hub: {reason}"
        ) from error


@contextmanager
def _as_checkpoint(files: Mapping[str, Path]) -> Iterator[Path]:
    """Settings and weights as a checkpoint, so that there is one way to load a model."""
    from lightning.pytorch import __version__ as lightning_version

    try:
        settings = json.loads(files[CONFIG].read_text())["hyper_parameters"]
        checkpoint = {"state_dict": load_file(files[WEIGHTS]), "hyper_parameters": dict(settings)}
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{files[CONFIG].parent}: expected a model of cmmd_lightning, got none ({reason})") from error
    with TemporaryDirectory() as folder:
        file = Path(folder) / _CHECKPOINT
        torch.save({**checkpoint, "pytorch-lightning_version": lightning_version}, file)
        yield file


def _tasks(report: str | Path) -> Mapping[str, Any]:
    """The scores of a report, by task.

    Raises:
        ValueError: If the file is no report.
    """
    try:
        tasks: Mapping[str, Any] = json.loads(Path(report).read_text())["tasks"]
        _rows(tasks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{report}: expected a report.json of cmmd evaluate, got none ({error})") from error
    return tasks


def _rows(tasks: Mapping[str, Any]) -> list[str]:
    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.4g}"

    return [
        f"| {task} | `{measure}` | {cell(s['value'])} | {' to '.join(map(cell, s['ci95'] or ['-']))} "
        f"| {cell(s.get('floor'))} | {cell(s.get('ceiling'))} | {s['n']} |"
        for task, scores in tasks.items()
        for measure, s in scores.items()
    ]


def _card(settings: Mapping[str, Any], data: str, licence: str, tasks: Mapping[str, Any]) -> str:
    """The card of a repository, in Markdown."""
    clip = settings["clip"]
    rows = _rows(tasks) or ["| - | not measured | - | - | - | - | - |"]
    return "\n".join(
        [
            "---",
            f"license: {licence}",
            "library_name: cmmd_lightning",
            "tags: [video-to-audio, audio-to-video, diffusion]",
            "---",
            "",
            "# CMMD",
            "",
            "A contrastive multi-modal diffusion model (arXiv 2312.05412): sound for video, video for sound, or both.",
            f"Clips: {clip['num_frames']} frames of {clip['height']}x{clip['width']} at {clip['fps']:g} fps, "
            f"sound at {clip['sample_rate']} Hz. Made with cmmd_lightning {__version__}.",
            "",
            "```python",
            "from cmmd_lightning import CMMD",
            "",
            'model = CMMD.from_pretrained("OWNER/NAME")',
            "```",
            "",
            "## Data",
            "",
            data.strip(),
            "",
            "## Licence",
            "",
            licence,
            "",
            "## Numbers",
            "",
            "| task | measure | value | 95 % interval | floor | ceiling | clips |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
