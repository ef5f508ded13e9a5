"""report.json and report.html."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from cmmd_lightning.evaluation import evaluate_folders, merge_reports, read_report, write_report
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
        assert write_report(reports[task], path, examples=0) == [path, path.with_suffix(".html")]
    merged = read_report(path)
    assert list(merged["tasks"]) == list(reports)
    for task, report in reports.items():
        assert merged["tasks"][task] == report["tasks"][task]
        assert merged["runs"][task]["provenance"]["command"] == f"evaluate {task}"
    assert {file.name for file in path.parent.iterdir()} == {"report.json", "report.html"}


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
    assert len(images) == 2 * (1 + 2)  # a curve and two clips for each task
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
