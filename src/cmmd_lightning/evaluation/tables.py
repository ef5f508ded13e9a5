"""The numbers of a report as tables for a paper or a spreadsheet: CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment

HEADS = ("task", "measure", "value", "low", "high", "floor", "ceiling", "n", "unit", "better", "reads")
MARKDOWN = """| {{ heads | join(" | ") }} |
|{{ "---|" * heads | length }}
{% for row in rows %}| {{ row | map("markdown") | join(" | ") }} |
{% endfor %}"""
LATEX = r"""\begin{tabular}{ll{{ "r" * 6 }}lll}
\toprule
{{ heads | join(" & ") }} \\
\midrule
{% for row in rows %}{{ row | map("latex") | join(" & ") }} \\
{% endfor %}\bottomrule
\end{tabular}
"""
SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"}


def report_tables(report: Mapping[str, Any]) -> dict[str, str]:
    """The measures of a report as tables.

    Args:
        report: As ``report.json`` holds it.

    Returns:
        Suffix (``.csv``, ``.md``, ``.tex``) to text; the LaTeX wants the package booktabs.

    Example:
        >>> entry = {"value": 0.5, "ci95": [0.25, 0.75], "floor": 0.1, "n": 9, "unit": "0 to 1", "rough": True}
        >>> print(report_tables({"tasks": {"joint": {"event_f1@50ms": entry}}})[".csv"].splitlines()[1])
        joint,event_f1@50ms,0.5,0.25,0.75,0.1,,9,0 to 1,higher,rough
    """
    rows = [
        _row(task, name, entry)
        for task, metrics in report.get("tasks", {}).items()
        for name, entry in metrics.items()
        if isinstance(entry, Mapping) and "value" in entry
    ]
    sheet = io.StringIO()
    csv.writer(sheet, lineterminator="\n").writerows([HEADS, *rows])
    environment = Environment(autoescape=False, keep_trailing_newline=True)
    environment.filters["markdown"] = lambda cell: _short(cell).replace("|", r"\|")
    environment.filters["latex"] = lambda cell: "".join(SPECIAL.get(c, c) for c in _short(cell))
    texts = {
        suffix: environment.from_string(template).render(heads=HEADS, rows=rows)
        for suffix, template in ((".md", MARKDOWN), (".tex", LATEX))
    }
    return {".csv": sheet.getvalue(), **texts}


def _row(task: str, name: str, entry: Mapping[str, Any]) -> list[Any]:
    low, high = entry.get("ci95") or (None, None)
    reads = [words for key, words in (("cannot_tell", "cannot tell"), ("rough", "rough")) if entry.get(key)]
    better = "higher" if entry.get("higher_is_better", True) else "lower"
    numbers = [entry["value"], low, high, *(entry.get(key) for key in ("floor", "ceiling", "n"))]
    return [task, name, *("" if x is None else x for x in numbers), entry.get("unit", ""), better, "; ".join(reads)]


def _short(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
