"""Folders of media to scores, reports and figures."""

from cmmd_lightning.evaluation.folders import evaluate_folders, score
from cmmd_lightning.evaluation.observe import Observation, RoundTrip
from cmmd_lightning.evaluation.report import merge_reports, read_report, summary_line, write_report

__all__ = [
    "Observation",
    "RoundTrip",
    "evaluate_folders",
    "merge_reports",
    "read_report",
    "score",
    "summary_line",
    "write_report",
]
