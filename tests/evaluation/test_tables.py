"""Tables of a report: the same numbers in CSV, Markdown and LaTeX, each with its own escapes."""

import csv
import io

from cmmd_lightning.evaluation.rendering import table_texts
from cmmd_lightning.evaluation.table import HEADS, report_table

ENTRY = {
    "value": 0.51234,
    "ci95": [0.4, 0.6],
    "floor": 0.1,
    "ceiling": None,
    "n": 9,
    "unit": "50 % | dB",
    "rough": True,
}
REPORT = {"tasks": {"video_to_audio": {"event_f1@50ms": ENTRY, "none": {"value": None, "n": 0, "cannot_tell": True}}}}


def test_csv_has_full_numbers_and_empty_cells_for_none():
    rows = list(csv.DictReader(io.StringIO(table_texts([report_table(REPORT)])[".csv"])))
    assert [row["value"] for row in rows] == ["0.51234", ""]
    assert (rows[0]["low"], rows[0]["ceiling"], rows[0]["reads"], rows[1]["reads"]) == (
        "0.4",
        "",
        "rough",
        "cannot tell",
    )


def test_markdown_and_latex_escape_what_is_special_to_them():
    tables = table_texts([report_table(REPORT)])
    lines = tables[".md"].splitlines()
    assert len(lines) == 4
    assert lines[1] == "|" + "---|" * len(HEADS)
    assert r"50 % \| dB" in lines[2]
    assert "0.5123" in lines[2]
    assert r"video\_to\_audio & event\_f1@50ms & 0.5123 & 0.4 & 0.6" in tables[".tex"]
    assert r"50 \% | dB" in tables[".tex"]
