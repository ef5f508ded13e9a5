"""What every test may use: the folder of shared real data, where the machine has it."""

import os
from pathlib import Path

import pytest

# before torch is imported, and for the processes that tests start: on small tensors, threads wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Compile librosa before the workers start: some tests call it themselves."""
    if not hasattr(config, "workerinput"):
        from cmmd_lightning.metrics.functional.with_librosa import load_librosa

        load_librosa("tests")


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the checkout: real clips, annotations."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rendered clips of 2 s, 32x32: six to train on, two to validate; prepared, see `tiny_training`."""
    from tiny_training import build_data

    from cmmd_lightning.procedural import render

    root = tmp_path_factory.mktemp("clips") / "data"
    settings = {"duration": 2.0, "fps": 10.0, "height": 32, "width": 32, "sample_rate": 8000}
    for seed, (split, count) in enumerate({"train": 6, "val": 2}.items()):
        render("bounce", root / split, count, seed, num_workers=0, progress=False, **settings)
    assert not build_data(root).prepare().failed
    return root
