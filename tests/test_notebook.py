"""The notebook, executed from top to bottom on a tiny run, in a kernel of this interpreter."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMMD_STEPS", "2")
        patch.setenv("CMMD_CLIPS", "2")
        patch.setenv("CMMD_CHANNELS", "16,16")
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        client = NotebookClient(
            notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
    return notebook


def outputs(notebook, text: str) -> list:
    """Outputs of the one code cell that has a text."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and text in cell.source)
    return cell.outputs


def printed(notebook, text: str) -> str:
    return "".join(output.text for output in outputs(notebook, text) if output.output_type == "stream")


def kinds(notebook, text: str) -> list[str]:
    """What is shown, in order: pictures and things to listen to."""
    data = [output.data for output in outputs(notebook, text) if "data" in output]
    return ["sound" if "<audio" in one.get("text/html", "") else "picture" for one in data]


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []
    assert {cell.execution_count for cell in notebook.cells if cell.cell_type == "code"} == {None}


def test_what_it_shows(executed):
    assert "1.6 s: 16 frames, 25600 samples, 128 Mel frames" in printed(executed, "clip = ClipSpec(")
    assert kinds(executed, "clip = ClipSpec(") == ["picture", "sound"]
    assert kinds(executed, "val/audio_gap") == ["picture"]
    assert "(25600,) samples for (1, 3, 16, 32, 32) pixels" in printed(executed, "sound = model.video_to_audio(")
    assert kinds(executed, "seen = detect_impacts(") == ["picture", "picture", "sound", "sound"]
    assert printed(executed, "event_scores(seen").count("EventScores(precision=") == 2
    assert kinds(executed, "model.joint(") == ["picture", "picture", "sound", "picture", "sound"]
    assert "same sound: True" in printed(executed, "trainer.save_checkpoint(")


def test_the_true_sound_of_the_clip_is_in_sync(executed):
    line = printed(executed, "event_scores(seen").splitlines()[0]
    f1 = float(line.rpartition("f1=")[2].rstrip(")"))
    assert f1 > 0.6
