"""The measures of a report as tables: grouped for its page, and all in one for papers and spreadsheets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cmmd_lightning.evaluation.rendering import Table
from cmmd_lightning.metrics.synchrony import MAX_LAG

Entry = Mapping[str, Any]


class Measure(NamedTuple):
    """What a page says of a measure."""

    group: str
    pattern: str  # of its name in the report; what it captures goes into the label
    label: str
    unit: str
    factor: float = 1.0  # from the report's unit to the page's
    digits: int | None = 3  # after the point; None for four significant ones


SYNCHRONY, MEANING, QUALITY = "Synchrony", "Meaning", "Quality"
MEMORISATION, FOLDED, OTHER = "Memorisation", "Recall and precision", "Other measures"
MEASURES = (
    Measure(SYNCHRONY, r"event_f1@([\d.]+)ms", "Event F1 within {} ms", "0 to 1"),
    Measure(SYNCHRONY, "event_f1@mean", "Event F1, mean over the tolerances", "0 to 1"),
    Measure(SYNCHRONY, "event_lag", "Lag of the events", "ms", 1000, 0),
    Measure(SYNCHRONY, "motion_loudness_correlation", "Correlation of motion and loudness", "-1 to 1"),
    Measure(SYNCHRONY, "motion_loudness_lag", "Lag of loudness behind motion", "ms", 1000, 0),
    Measure(SYNCHRONY, "linear_sync", "Linear synchrony", "-1 to 1"),
    Measure(SYNCHRONY, "linear_sync_lag", "Lag by linear synchrony", "ms", 1000, 0),
    Measure(SYNCHRONY, r"av_align\[(tempotokens-2025)\]", "AV-Align ({})", "0 to 1"),
    Measure(SYNCHRONY, r"av_align\[(.+)\]", "AV-Align ({})", "0 or more"),
    Measure(QUALITY, "flicker_ratio", "Flicker over the true clip's", "1: as calm"),
    Measure(QUALITY, "colour_drift_ratio", "Drift of the moving object's colour over the true one's", "1: as constant"),
    Measure(QUALITY, "area_drift_ratio", "Drift of the moving object's area over the true one's", "1: as constant"),
    Measure(QUALITY, "pitch_within_semitone", "Pitch within a semitone", "0 to 1"),
    Measure(QUALITY, "quiet_level", "Level of the quiet from the true one's", "dB", 1.0, 1),
    Measure(QUALITY, "clipped_samples", "Samples that clip", "0 to 1", 1.0, 4),
    Measure(MEANING, "audio_visual_agreement", "Agreement of what is seen and heard", "at most 1"),
    Measure(MEANING, "classifier_agreement", "Same class as the true sound", "0 to 1"),
    Measure(MEANING, "classifier_kl", "Divergence of the classes (KL)", "nats"),
    Measure(QUALITY, r"frechet_distance\[.+\]", "Frechet distance", "squared features", digits=None),
    Measure(QUALITY, r"kernel_distance\[.+\]", "Kernel distance", "no unit", digits=None),
    Measure(MEMORISATION, r"memorisation\[.+\]", "Nearer to training than held-out (AUROC)", "0 to 1"),
    Measure(FOLDED, r"event_recall@([\d.]+)ms", "Event recall within {} ms", "0 to 1"),
    Measure(FOLDED, r"event_precision@([\d.]+)ms", "Event precision within {} ms", "0 to 1"),
)
GROUPS = (SYNCHRONY, QUALITY, MEANING, MEMORISATION, OTHER, FOLDED)
STATISTICS = ("pixel-statistics", "mel-statistics")
NOTES = {
    SYNCHRONY: "Floors: wrong partners (shuffled pairs), or as many events at random times. Ceiling: true clips through"
    f" codec and vocoder, with a checkpoint. Lags are looked for up to {MAX_LAG * 1000:.0f} ms; the median "
    "size counts, of the clips that have one, and the histogram has their signs. "
    "Intervals of fewer than 20 clips are rough.",
    MEANING: "Floor: wrong partners. Ceiling: true clips through codec and vocoder.",
    QUALITY: "A distance compares only with others of the same extractor, weights and numbers of clips. Floor: white "
    "noise in place of the clips; of measures of each clip, shuffled pairs. "
    "Two halves of the true clips show what a perfect generator may expect of so few. The "
    "kernel distance is unbiased and may fall below 0 where the sets are alike.",
    MEMORISATION: "The probability that a generated clip lies nearer to its nearest training clip than a held-out true "
    "clip does to its own: about 0.5 is no sign of copying, 1 is every clip nearer. Distances are in standard "
    "deviations of the features over the training clips.",
}
NOT_FVD = (
    "pixel-statistics-v1 and mel-statistics-v2 are hand-made statistics that need no weights: distances by them are "
    "not FVD and not FAD, and compare only with others by the same statistics."
)


HEADS = ("task", "measure", "value", "low", "high", "floor", "ceiling", "n", "unit", "better", "reads")


class Group(NamedTuple):
    """Measures that stand in one table of the page."""

    title: str
    folded: bool  # shown on demand only
    heads: list[str]
    rows: list[tuple[str, str, list[str]]]  # label, name in the report, and cells of each measure
    notes: list[str]


def groups(metrics: Mapping[str, Any]) -> list[Group]:
    """The measures of a task by group, recall and precision folded away; what is no measure is passed over.

    Example:
        >>> entry = {"value": 0.07, "ci95": [0.06, 0.08], "floor": None, "n": 9, "higher_is_better": False}
        >>> groups({"event_lag": entry})[0].rows
        [('Lag of the events', 'event_lag', ['ms', 'lower', '70', '60 to 80', '9'])]
    """
    found: dict[str, list[tuple[Measure, str, Entry]]] = {}
    for name, entry in measured(metrics):
        measure = measure_of(name, str(entry.get("unit", "")))
        found.setdefault(measure.group, []).append((measure, name, entry))
    return [_group(group, found[group]) for group in GROUPS if group in found]


def measured(metrics: Mapping[str, Any]) -> list[tuple[str, Entry]]:
    """The measures among what a report has of a task."""
    return [(name, entry) for name, entry in metrics.items() if isinstance(entry, Mapping) and "value" in entry]


def report_table(report: Mapping[str, Any]) -> Table:
    """All measures of all tasks of a report in one table, with full numbers, in the report's units."""
    return Table(HEADS, [_row(task, *of) for task, metrics in report["tasks"].items() for of in measured(metrics)])


def _row(task: str, name: str, entry: Entry) -> list[Any]:
    low, high = entry.get("ci95") or (None, None)
    reads = [words for key, words in (("cannot_tell", "cannot tell"), ("rough", "rough")) if entry.get(key)]
    numbers = [entry["value"], low, high, *(entry.get(key) for key in ("floor", "ceiling", "n"))]
    return [
        task,
        name,
        *("" if x is None else x for x in numbers),
        entry.get("unit", ""),
        _better(None, entry),
        "; ".join(reads),
    ]


def measure_of(name: str, unit: str = "") -> Measure:
    """What a page says of the measure of that name."""
    for measure in MEASURES:
        if match := re.fullmatch(measure.pattern, name):
            return measure._replace(label=measure.label.format(*match.groups()))
    return Measure(OTHER, name, name, unit)


def _group(group: str, rows: Sequence[tuple[Measure, str, Entry]]) -> Group:
    notes = [NOTES[group]] if group in NOTES else []
    notes += dict.fromkeys(filter(None, (_judge(entry) for _, _, entry in rows)))
    if group == QUALITY and any(str(entry.get("extractor", "")).startswith(STATISTICS) for _, _, entry in rows):
        notes.append(NOT_FVD)
    columns = COLUMNS.get(group, COLUMNS[SYNCHRONY])
    cells = {head: [column(measure, entry) for measure, _, entry in rows] for head, column in columns.items()}
    heads = [head for head in cells if any(cells[head])]
    lines = [(measure.label, name, [cells[head][i] for head in heads]) for i, (measure, name, _) in enumerate(rows)]
    return Group(group, group == FOLDED, heads, lines, notes)


def _judge(entry: Entry) -> str:
    """What judged the clips: its name, the beginning of its weights' hash, the size and number of its rows."""
    name = entry.get("extractor", entry.get("classifier"))
    if name is None:
        return ""
    weights = str(entry.get("weights", "not known"))
    facts = ["no weights" if weights == "none" else f"weights {weights[:12]}"]
    if "num_features" in entry:
        facts.append(f"{entry['num_features']} values a row")
    if "rows" in entry:
        facts.append("{} generated and {} true rows".format(*entry["rows"]))
        if min(entry["rows"]) <= entry.get("num_features", 0):
            facts.append("fewer rows than values, which makes the Frechet distance too large")
    kind = "Extractor" if "extractor" in entry else "Classifier"
    return f"{kind} {name}: {', '.join(facts)}."


def _number(measure: Measure, value: float | None) -> str:
    if value is None:
        return ""
    scaled = value * measure.factor
    if measure.digits is None:
        return f"{scaled:,.0f}" if abs(scaled) >= 1000 else f"{scaled:.4g}"
    return f"{scaled:.{measure.digits}f}"


Column = Callable[[Measure, Entry], str]


def _of(key: str) -> Column:
    return lambda measure, entry: _number(measure, entry.get(key))


def _interval(measure: Measure, entry: Entry) -> str:
    interval = entry.get("ci95")
    if interval is None:
        return ""
    return " to ".join(_number(measure, end) for end in interval) + (" (rough)" if entry.get("rough") else "")


def _better(_: Measure | None, entry: Entry) -> str:
    return "higher" if entry.get("higher_is_better", True) else "lower"


def _counts(*keys: str) -> Column:
    return lambda _, entry: " / ".join(str(entry[key]) for key in keys if key in entry)


FIRST: dict[str, Column] = {
    "unit or range": lambda measure, _: measure.unit,
    "better": _better,
    "value": _of("value"),
    "95 % interval": _interval,
    "reads": lambda _, entry: "cannot tell: see cmmd calibrate" if entry.get("cannot_tell") else "",
}
COLUMNS: dict[str, dict[str, Column]] = {
    SYNCHRONY: {
        **FIRST,
        "floor: shuffled": _of("floor"),
        "floor: random": _of("floor_random"),
        "ceiling": _of("ceiling"),
        "clips": _counts("n"),
    },
    MEANING: {
        **FIRST,
        "floor: shuffled": _of("floor"),
        "ceiling": _of("ceiling"),
        "clips": _counts("n"),
    },
    QUALITY: {
        **FIRST,
        "floor": _of("floor"),
        "two true halves": _of("reference_halves"),
        "ceiling": _of("ceiling"),
        "generated / true": _counts("n", "n_reference"),
    },
    MEMORISATION: {
        **FIRST,
        "median distance": _of("generated_median"),
        "of held-out": _of("held_out_median"),
        "below their 1st percentile": _of("share_below_1st_percentile"),
        "5th percentile": _of("share_below_5th_percentile"),
        "generated / held-out / training": _counts("n", "n_held_out", "n_training"),
    },
}
