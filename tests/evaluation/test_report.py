"""report.json and report.html."""

import base64
import copy
import json
import re
from html.parser import HTMLParser

import pytest

from cmmd_lightning.evaluation import detail_line, evaluate_folders, merge_reports, read_report, write_report
from cmmd_lightning.evaluation.figures import lag_figure, memorisation_figure
from cmmd_lightning.evaluation.page import render_page


class Checker(HTMLParser):
    """Every tag that needs one has its end; nothing is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def reports(clips):
    return {
        task: evaluate_folders(task, clips, clips, progress=False, command=f"evaluate {task}")
        for task in ("video_to_audio", "audio_to_video", "joint")
    }


def test_a_second_task_is_merged_into_the_report(reports, tmp_path):
    path = tmp_path / "deep" / "report.json"
    for task in reports:
        assert write_report(reports[task], path, examples=0) == [
            path.with_suffix(suffix) for suffix in (".json", ".html", ".csv", ".md", ".tex")
        ]
    merged = read_report(path)
    assert list(merged["tasks"]) == list(reports)
    for task, report in reports.items():
        assert merged["tasks"][task] == report["tasks"][task]
        assert merged["runs"][task]["provenance"]["command"] == f"evaluate {task}"
    assert {file.suffix for file in path.parent.iterdir()} == {".json", ".html", ".csv", ".md", ".tex"}


def test_a_task_s_later_numbers_replace_the_earlier():
    old = {"tasks": {"joint": {"a": 1}, "audio_to_video": {"a": 2}}, "provenance": 1}
    assert merge_reports(old, {"tasks": {"joint": {"b": 3}}, "provenance": 2}) == {
        "tasks": {"joint": {"b": 3}, "audio_to_video": {"a": 2}},
        "provenance": 2,
    }


@pytest.mark.parametrize("text", ["", "[]", '{"tasks": 3}', "not json"])
def test_a_file_that_is_no_report_is_not_overwritten(reports, tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"report\.json: expected a report"):
        write_report(reports["joint"], path)
    assert path.read_text() == text


def test_the_page_stands_alone_and_shows_clips(reports, tmp_path):
    write_report(reports["video_to_audio"], tmp_path / "report.json", page=False)
    write_report(reports["audio_to_video"], tmp_path / "report.json", examples=2)
    page = (tmp_path / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert all(source.startswith("data:") for source in checker.sources)
    images = [base64.b64decode(text) for text in re.findall(r'data:image/png;base64,([^"]+)"', page)]
    assert len(images) == 2 * (2 + 2)  # a curve, the lags and two clips for each task
    assert all(image.startswith(b"\x89PNG") for image in images)
    videos = [base64.b64decode(text) for text in re.findall(r'data:video/mp4;base64,([^"]+)"', page)]
    assert len(videos) == 2 * 2 * 2
    assert all(video[4:8] == b"ftyp" for video in videos)
    assert "Sound for silent video" in page
    assert "evaluate audio_to_video" in page


def test_the_page_is_the_same_twice(reports):
    assert render_page(reports["joint"], examples=1) == render_page(reports["joint"], examples=1)


def test_the_page_survives_media_that_are_gone_and_names_that_are_markup(reports):
    report = json.loads(json.dumps(reports["video_to_audio"]))
    for row in report["runs"]["video_to_audio"]["clips"]:
        row["generated"] = "gone.mp4"
        row["stem"] = "<script>alert(1)</script>"
    page = render_page(report)
    assert "gone.mp4" in page
    assert "<script>" not in page


def test_the_page_of_the_bare_agreed_form():
    entry = {"value": 0.5, "ci95": [0.4, 0.6], "floor": 0.3, "ceiling": None, "n": 64}
    source = {"command": "c", "version": "v", "seed": 0, "machine": "m"}
    page = render_page({"provenance": source, "tasks": {"video_to_audio": {"event_f1@100ms": entry}}})
    assert "0.500" in page
    assert "0.400 to 0.600" in page


def page_of(metrics):
    return render_page({"tasks": {"task": metrics}})


def headings(page):
    return [re.sub("<.*?>", "", text) for text in re.findall(r"<h3>(.*?)</h3>", page)]


def test_best_and_worst_clips_are_titled_so_and_ranked(reports):
    report = copy.deepcopy(reports["video_to_audio"])
    rows = report["runs"]["video_to_audio"]["clips"]
    for i, row in enumerate(rows):  # media are gone, so that nothing is drawn
        row |= {"generated": "gone.mp4", "event_f1@mean": [0.5, 1.0, 0.0, 1.0, 0.5, 0.5, 0.2, 0.5][i], "event_lag": 0.0}
    rows[1]["event_lag"] = 0.02  # of two equals, the one in time is better
    page = render_page(report, examples=4)
    assert headings(page)[-2:] == ["Best clips of 8, by mean event F1", "Worst clips of 8, by mean event F1"]
    assert re.findall(r"<b>(clip_\d+)</b>", page) == ["clip_00003", "clip_00001", "clip_00002", "clip_00006"]
    for row in rows[:7]:
        row["reference_events"] = []  # nothing to meet: no good and no bad example
    assert headings(render_page(report, examples=4))[-1] == "Best clip of 1, by mean event F1"
    rows[7]["reference_events"] = []
    page = render_page(report, examples=2)
    assert headings(page)[-1] == "Worst clip of 8, by correlation of motion and loudness"
    values = {row["stem"]: row["motion_loudness_correlation"] for row in rows}
    shown = re.findall(r"<b>(clip_\d+)</b>", page)
    assert shown == [max(values, key=values.get), min(values, key=values.get)]
    assert "<h3>" not in render_page(report, examples=0).partition("</details>")[2]


def test_a_clip_that_was_never_a_file_is_shown_by_its_numbers(reports):
    report = copy.deepcopy(reports["joint"])
    for row in report["runs"]["joint"]["clips"]:
        row |= {"generated": None, "reference": None}
    page = render_page(report, examples=1)
    assert len(re.findall("<figure>", page)) == 1


def test_tables_are_grouped_with_units_directions_and_what_judged():
    entry = {"value": 0.5, "ci95": [0.4, 0.6], "floor": 0.3, "ceiling": None, "n": 64}
    about = {"extractor": "i3d-logits", "weights": "0123456789abcdef", "num_features": 400, "rows": [128, 140]}
    distance = {
        **entry,
        **about,
        "value": 1234.5,
        "n_reference": 70,
        "reference_halves": 0.25,
        "higher_is_better": False,
    }
    page = page_of(
        {
            "event_recall@100ms": entry,
            "memorisation[i3d-logits]": {
                **entry,
                **about,
                "n_held_out": 70,
                "n_training": 900,
                "higher_is_better": False,
            },
            "frechet_distance[i3d-logits]": distance,
            "classifier_kl": {**entry, "classifier": "judge", "weights": "none", "higher_is_better": False},
            "event_lag": {**entry, "value": 0.07, "ci95": [0.05, 0.1], "higher_is_better": False},
            "something": entry,
            "note": "no measure",
        }
    )
    assert headings(page) == ["Synchrony", "Quality", "Meaning", "Memorisation", "Other measures"]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", page)]
    cells = {re.sub("<.*", "", row[0]).strip(): row[1:] for row in rows if row}
    assert cells["Lag of the events"][:4] == ["ms", "lower", "70", "50 to 100"]
    assert cells["Frechet distance"] == ["squared features", "lower", "1,234", "0.4 to 0.6", "0.3", "0.25", "64 / 70"]
    assert cells["Divergence of the classes (KL)"][:3] == ["nats", "lower", "0.500"]
    assert "64 / 70 / 900" in cells["Nearer to training than held-out (AUROC)"]
    assert cells["something"][:2] == ["higher", "0.500"]
    assert "weights 0123456789ab, 400 values a row, 128 generated and 140 true rows, fewer rows than values" in page
    assert "Classifier judge: no weights." in page
    assert "not FVD" not in page
    assert page.index("<details>") > page.index("something")
    assert "Event recall within 100 ms" in page.partition("<details>")[2]
    assert "ceiling</th>" not in page  # none known
    plain = page_of({"kernel_distance[mel-statistics-v2]": {**distance, "extractor": "mel-statistics-v2"}})
    assert "are not FVD and not FAD" in plain


def test_the_lags_are_drawn_with_sign_count_and_median():
    rows = [{"event_lag": lag, "linear_sync_lag": None} for lag in (-0.04, 0.08, 0.09, None)]
    figure = lag_figure(rows)
    (axes,) = figure.axes
    counts = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes.patches if bar.get_height()}
    assert counts == {-50: 1, 75: 1, 100: 1}  # bins of 25 ms around 0
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([0, 80])
    assert axes.get_title("left") == "events: median +80 ms"
    assert axes.get_title("right") == "no lag found: 1 of 4 clips"
    assert lag_figure([{"event_lag": None}]) is lag_figure([]) is None


def test_distances_to_training_clips_stand_beside_those_of_held_out_ones():
    figure = memorisation_figure({"distances": {"generated": [0.0, 0.0, 1.0, 5.0], "held_out": [5.0, 5.0]}})
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["held-out true clips (2)", "generated clips (4)"]
    held_out, generated = (patch.get_data().values for patch in axes.patches if hasattr(patch, "get_data"))
    assert (generated[0], generated[-1], held_out[-1]) == (50.0, 25.0, 100.0)


def test_the_page_with_memorisation_and_what_could_not_be_compared(reports):
    report = copy.deepcopy(reports["video_to_audio"])
    entry = {"value": 1.0, "ci95": [1.0, 1.0], "n": 2, "distances": {"generated": [0.0, 0.0], "held_out": [1.0, 2.0]}}
    report["tasks"]["video_to_audio"]["memorisation[mel-statistics-v2]"] = entry
    report["runs"]["video_to_audio"] |= {"clips_without_picture_and_sound": 3, "clips_without_events": 2}
    page = render_page(report, examples=0)
    assert 'alt="Distances to the nearest training clip, memorisation[mel-statistics-v2]"' in page
    assert "3 of 8 clips have no picture beside the sound" in page
    assert "2 of 8 clips have no reference events." in page


def test_the_second_line_is_empty_where_nothing_is_known():
    assert detail_line({"event_f1@100ms": {"value": 0.5}, "event_lag": {"value": None}}) == ""
