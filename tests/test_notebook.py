"""The notebooks, executed from top to bottom on tiny runs, in a kernel of this interpreter."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cmmd_lightning.studies.ablation.results import read_results

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
KEPT = sorted(NOTEBOOKS.glob("*.ipynb"))


def execute(name: str, folder: Path, **environment: str):
    """A notebook, run in a folder."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {**environment, "TMPDIR": str(folder), "IPYTHONDIR": str(folder / "ipython")}.items():
            patch.setenv(key, value)
        client = NotebookClient(
            notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
    return notebook


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    return execute("quickstart.ipynb", folder, CMMD_STEPS="2", CMMD_CLIPS="4", CMMD_SAMPLING_STEPS="6")


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


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []
    assert {cell.execution_count for cell in notebook.cells if cell.cell_type == "code"} == {None}


def test_what_it_shows(executed):
    assert "1.2 s: 24 frames, 19200 samples, 120 Mel frames" in printed(executed, 'from_pretrained("demo")\nclip')
    assert kinds(executed, "paths = render(") == ["picture", "sound"]
    assert "(4, 19200) samples for (4, 3, 24, 64, 64) pixels" in printed(executed, "seen = model.audio_to_video(")
    assert kinds(executed, "seen = model.audio_to_video(") == ["picture", "sound", "picture", "sound"]
    assert kinds(executed, "model.joint(") == ["picture", "sound", "picture", "sound"]
    losses = [line.split()[1::2] for line in printed(executed, "trainer.fit(").splitlines() if line.startswith("val/")]
    assert len(losses) == 2
    assert all(float(after) == pytest.approx(float(before), rel=0.02) for before, after, *_ in losses)
    assert "same sound: True" in printed(executed, "trainer.save_checkpoint(")


def test_sound_is_in_sync_before_and_after_fine_tuning(executed):
    (line,) = (line for line in printed(executed, "def f1(").splitlines() if line.startswith("sound for video"))
    value, floor, ceiling = (float(word.rstrip(",")) for word in line.split()[4::2])
    assert value > 0.7 > floor
    assert ceiling > 0.9
    (line,) = (
        line for line in printed(executed, "sounding = tuned").splitlines() if line.startswith("sound for video")
    )
    assert float(line.split()[5].rstrip(",")) > 0.7


def test_the_ablation_is_shown(tmp_path):
    """On the results of a reduced grid: the first seed of those that are kept."""
    lines = read_results(NOTEBOOKS.parent / "docs" / "results" / "ablation.jsonl.gz")
    few = [line for line in lines if line["seed"] == 0 and line["scene"].startswith("bounce")]
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in few))
    notebook = execute("ablation.ipynb", tmp_path, CMMD_RESULTS=str(results))
    assert f"results.jsonl: {len(few)} lines" in printed(notebook, "read_results(results)")
    shown = outputs(notebook, "tolerance_figure(here")
    assert "| infonce | 600 |" in shown[0].data["text/markdown"]
    counts = {
        "tolerance_figure(here": 15,
        "guidance_figure([": 5,
        "gaps_figure(here": 4,
        "correlation_figure(recipes": 2,
    }
    for text, count in counts.items():
        assert len(outputs(notebook, text)) == count
        assert outputs(notebook, text)[-1].data["image/png"]
