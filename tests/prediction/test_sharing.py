"""Models as folders and on the hub, of which a folder takes the place."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from tiny_training import build_model

from cmmd_lightning import CMMD
from cmmd_lightning.checkpoints import packaged_checkpoint
from cmmd_lightning.models.fingerprint import fingerprint

CARD = {"data": "Eight rendered clips.", "licence": "apache-2.0"}
REPORT = {
    "tasks": {
        "video_to_audio": {
            "event_f1@100ms": {"value": 0.98661, "ci95": [0.9764, 0.9951], "floor": 0.368, "ceiling": None, "n": 200}
        }
    }
}
VOCOS = {"dim": 16, "intermediate_dim": 16, "num_layers": 1}


@pytest.fixture
def model() -> CMMD:
    model = build_model(3, codec={"kind": "clip_autoencoder"}, schedule_shift={"video": 0.5, "audio": 1.0})
    model.mel.mean.fill_(0.25)
    return model.eval()


class Hub:
    """Repositories as folders, behind the three functions of huggingface_hub that are used."""

    def __init__(self, root: Path) -> None:
        self.root, self.private = root, {}

    def api(self, **about: str) -> "Hub":
        assert about["library_name"] == "cmmd_lightning"
        return self

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.private[repo] = private
        (self.root / repo).mkdir(parents=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return f"commit of {repo_id}"

    def download(self, repo: str, file: str, revision: str | None = None) -> str:
        path = self.root / repo / (revision or "") / file
        if not path.is_file():
            raise EntryNotFoundError(f"404 {repo}/{file}")
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", hub.api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    return hub


def same(one: CMMD, other: CMMD) -> bool:
    assert not other.training
    assert one.hparams == other.hparams
    return fingerprint(one) == fingerprint(other)


def test_a_folder_gives_the_same_model(model, tmp_path):
    folder = model.save_pretrained(str(tmp_path / "shared"), **CARD)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert same(model, CMMD.from_pretrained(str(folder)))
    frames = torch.rand(1, 3, 8, 32, 32)
    made, again = (m.video_to_audio(frames, num_inference_steps=2) for m in (model, CMMD.from_pretrained(str(folder))))
    assert torch.equal(made, again)


def test_the_weights_of_a_vocoder_come_along(tmp_path):
    bare = build_model()
    model = build_model(vocoder={"mel": bare.mel.settings, **VOCOS}).eval()
    again = CMMD.from_pretrained(str(model.save_pretrained(str(tmp_path), **CARD)))
    assert fingerprint(again.vocoder) == fingerprint(model.vocoder)


def test_the_hub_gives_the_same_model(model, hub):
    assert model.push_to_hub("owner/name", private=True, **CARD) == "commit of owner/name"
    assert hub.private == {"owner/name": True}
    assert same(model, CMMD.from_pretrained("owner/name"))


def test_a_revision_and_a_repository_with_a_checkpoint(model, hub):
    model.save_pretrained(str(hub.root / "owner/name/v2"), **CARD)
    assert same(model, CMMD.from_pretrained("owner/name@v2"))
    (hub.root / "owner/old").mkdir()
    shutil.copy(packaged_checkpoint("demo"), hub.root / "owner/old/cmmd.ckpt")
    assert same(CMMD.from_pretrained("demo"), CMMD.from_pretrained("owner/old"))


def test_the_card_has_data_licence_and_numbers(model, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    folder = model.save_pretrained(str(tmp_path / "shared"), report=tmp_path / "report.json", **CARD)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: cmmd_lightning\n")
    assert "\n## Data\n\nEight rendered clips.\n" in card
    row = "| video_to_audio | `event_f1@100ms` | 0.9866 | 0.9764 to 0.9951 | 0.368 | - | 200 |"
    assert row in card.splitlines()


def test_what_was_trained_on_is_not_left_behind(tmp_path):
    """A path of the machine where it was trained means nothing elsewhere."""
    model = build_model(pretrained="/home/someone/cmmd.ckpt")
    model.save_pretrained(str(tmp_path), **CARD)
    assert "someone" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize(
    ("prepare", "error", "said"),
    [
        (lambda folder: None, FileNotFoundError, "got|found no config.json and no model.safetensors"),
        (lambda folder: _write(folder, "{}"), ValueError, "expected a model of cmmd_lightning"),
        (lambda folder: _write(folder, '{"hyper_parameters": {}}'), ValueError, "expected a model of cmmd_lightning"),
    ],
)
def test_a_folder_that_is_none(prepare, error, said, tmp_path):
    prepare(tmp_path)
    with pytest.raises(error, match=said):
        CMMD.from_pretrained(str(tmp_path))


def _write(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(b"no weights")


def test_a_name_that_the_hub_does_not_know(hub):
    with pytest.raises(FileNotFoundError, match=r"owner/none: expected .* from the hub: 404 owner/none/cmmd.ckpt"):
        CMMD.from_pretrained("owner/none")


@pytest.mark.parametrize("name", ["data", "licence"])
def test_a_card_without_data_or_licence_is_refused(model, name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: expected words"):
        model.save_pretrained(str(tmp_path / "shared"), **{**CARD, name: " "})
    assert not (tmp_path / "shared").exists()


def test_a_report_that_is_none(model, tmp_path):
    (tmp_path / "report.json").write_text('{"tasks": {"joint": {"measure": 3}}}')
    with pytest.raises(ValueError, match=r"report.json: expected a report.json of cmmd evaluate"):
        model.save_pretrained(str(tmp_path / "shared"), report=tmp_path / "report.json", **CARD)
