"""``results.jsonl``: what was measured, a line at a time."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cmmd_lightning.studies.ablation.cells import Cell

RESULTS = "results.jsonl"


class Results:
    """``results.jsonl``: what was measured, a line at a time; what is there is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = read_results(path) if path.is_file() else []
        if path.is_file() and not path.read_bytes().endswith(b"\n"):  # cut off in a line: what it was is measured again
            path.write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    def add(self, line: dict[str, Any]) -> None:
        """Appends a line."""
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)

    def of(self, cell: Cell, step: int) -> list[dict[str, Any]]:
        """What is known of a cell at a step."""
        wanted = {**asdict(cell), "step": step}
        return [line for line in self.lines if all(line[name] == value for name, value in wanted.items())]


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a ``results.jsonl``, or of one packed by gzip; a last one that is cut off is left out."""
    data = Path(path).read_bytes()
    found, texts = [], (gzip.decompress(data) if Path(path).suffix == ".gz" else data).decode().splitlines()
    for number, text in enumerate(texts, 1):
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError as error:
            if number < len(texts):
                raise ValueError(f"{path}: expected JSON in line {number}, got {text[:40]!r}") from error
    return found
