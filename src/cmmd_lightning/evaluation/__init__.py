"""Folders of media to scores, reports and figures; and the measures measured."""

from cmmd_lightning.evaluation.folders import evaluate_folders
from cmmd_lightning.evaluation.measures import Senses
from cmmd_lightning.evaluation.observation import Observation, RoundTrip
from cmmd_lightning.evaluation.quality import Extractors
from cmmd_lightning.evaluation.report import detail_line, merge_reports, read_report, summary_line, write_report
from cmmd_lightning.evaluation.scoring import score

__all__ = [
    "Extractors",
    "Observation",
    "RoundTrip",
    "Senses",
    "detail_line",
    "evaluate_folders",
    "merge_reports",
    "read_report",
    "score",
    "summary_line",
    "write_report",
]
