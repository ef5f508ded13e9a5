"""Packaged configs, found by bare name (`cmmd fit --config quickstart.yaml`)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def configs_folder() -> Path:
    """The folder of the configs: of a checkout, ``configs`` beside ``src``; else what was installed."""
    checkout = Path(__file__).resolve().parents[2] / "configs"
    if checkout.with_name("src") in Path(__file__).resolve().parents and checkout.is_dir():
        return checkout
    return Path(str(resources.files("cmmd_lightning.configs")))


def packaged_configs() -> dict[str, Path]:
    """Packaged configs by their bare names (``quickstart.yaml``, ``ablation/none.yaml``)."""
    root = configs_folder()
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.yaml"))}
