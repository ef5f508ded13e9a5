"""The one writer of reports: Jinja2 templates to HTML, Markdown and LaTeX, each with its own escapes, and CSV."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from cmmd_lightning.media.container import written_whole

SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"}


class Table(NamedTuple):
    """A table of a report: heads, rows of as many cells, and a title where there are several."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""


class Section(NamedTuple):
    """A part of a document: its title, a paragraph, tables, and pictures."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    pictures: Sequence[Path] = ()


def render(template: str, **context: Any) -> str:
    """A template of this package, such as ``report.html``, filled in; in HTML, all from outside is escaped."""
    return _environment().get_template(template).render(**context)


def table_texts(tables: Sequence[Table]) -> dict[str, str]:
    """Suffix (``.csv``, ``.md``, ``.tex``) to the text of tables, for a paper or a spreadsheet.

    The CSV has full numbers and is one sheet with the columns of all; the LaTeX wants the package booktabs.

    Example:
        >>> print(table_texts([Table(["measure", "value"], [["event_f1@50ms", 0.123456]])])[".csv"])
        measure,value
        event_f1@50ms,0.123456
        <BLANKLINE>
    """
    titled = any(table.title for table in tables)
    heads = list(dict.fromkeys([*(["table"] if titled else []), *(head for table in tables for head in table.heads)]))
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, heads, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        about = {"table": table.title} if titled else {}
        writer.writerows(about | dict(zip(table.heads, row, strict=True)) for row in table.rows)
    return {".csv": sheet.getvalue(), **{f".{kind}": render(f"tables.{kind}", tables=tables) for kind in ("md", "tex")}}


def write_document(stem: Path, title: str, sections: Sequence[Section], notes: Sequence[str] = ()) -> list[Path]:
    """Write text, tables and pictures as Markdown and HTML, the tables as CSV and LaTeX too: ``stem`` and a suffix."""
    pictures = {path: data_uri(path.read_bytes()) for section in sections for path in section.pictures}
    tables = [
        table._replace(title=": ".join(filter(None, (section.title, table.title))))
        for section in sections
        for table in section.tables
    ]
    texts = {
        f".{kind}": render(f"document.{kind}", title=title, sections=sections, notes=notes, pictures=pictures)
        for kind in ("md", "html")
    }
    texts |= {suffix: text for suffix, text in table_texts(tables).items() if suffix not in texts}
    return [write_whole(stem.with_name(f"{stem.name}{suffix}"), text) for suffix, text in texts.items()]


def write_whole(path: Path, text: str) -> Path:
    """Write a text file whole or not at all; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files may be no Unicode
    return path


def short(cell: Any) -> str:
    """A cell for the eye: numbers with four significant digits."""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file's content as an address that carries it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cmmd_lightning.evaluation"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["short"] = short
    environment.filters["markdown"] = lambda cell: short(cell).replace("|", r"\|")
    environment.filters["latex"] = lambda cell: "".join(SPECIAL.get(c, c) for c in short(cell))
    return environment
