"""A model as one HTML file that runs it in the browser: opened by a double click, or from any static host."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from cmmd_lightning.media.container import written_whole
from cmmd_lightning.prediction.latent_diffusion import LatentDiffusion
from cmmd_lightning.prediction.onnx_export import export_onnx
from cmmd_lightning.prediction.onnx_runtime import SETTINGS, read_settings, weights_of

PACKAGE = "onnxruntime-web@1.22.0"
"""What runs the networks in the browser, as npm names it."""
_SHA512 = "Ud/+EBo6mhuaQWt/OjaOk0iNWjXqJoeeMFr6xQEERZdIZH2OWpGzuujz7lfuOBjUa6TEE/sc4nb7Da5dNL34fg=="
_RUNTIME = {
    "ort.mjs": "ort.wasm.min.mjs",
    "ort-wasm.mjs": "ort-wasm-simd-threaded.mjs",
    "ort.wasm": "ort-wasm-simd-threaded.wasm",
}
_SOURCES = ("noise", "mel", "sampler", "model", "scene", "events", "media", "page")
"""Modules of the page; each imports only from those before it."""


def make_page(model: LatentDiffusion, output_dir: str | Path | None = None) -> Path:
    """Export a model, unless it is there already, and write its page beside it.

    Args:
        model: The model.
        output_dir: Folder for ``index.html`` and the export in ``onnx``; by default one in the user's cache.

    Returns:
        The page.

    Raises:
        ModuleNotFoundError: If a package is missing.
        ValueError: If the model is one that the page cannot run.
    """
    weights = weights_of(model)
    folder = _cache() / f"page-{weights['network'][:12]}" if output_dir is None else Path(output_dir)
    runtime, exported = fetch_runtime(), folder / "onnx"
    if not (exported / SETTINGS).is_file() or read_settings(exported)["weights"] != weights:
        export_onnx(model, exported)
    return write_page(exported, folder / "index.html", runtime)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmmd_lightning"


def write_page(folder: str | Path, output: str | Path, runtime: str | Path) -> Path:
    """Write the page of an exported model.

    Args:
        folder: What `export_onnx` wrote.
        output: The HTML file.
        runtime: Folder of onnxruntime-web, as `fetch_runtime` gives it.

    Returns:
        The HTML file.

    Raises:
        ValueError: If there is no export, or its Mel is one that the page cannot compute.
    """
    settings, output = read_settings(folder), Path(output)
    n_fft = settings["clip"]["n_fft"]
    if n_fft & (n_fft - 1):
        raise ValueError(f"{Path(folder) / SETTINGS}: the page needs an n_fft that is a power of two, got {n_fft}")
    files = {name: Path(runtime) / file for name, file in _RUNTIME.items()}
    files |= {f"{part}.onnx": Path(folder) / f"{part}.onnx" for part in settings["parts"]}
    parts = [f'<script type="text/plain" id="{name}">{_packed(path)}</script>' for name, path in files.items()]
    parts.insert(0, f'<script type="application/json" id="model.json">{json.dumps(settings)}</script>')
    parts.append(f'<script type="module">\n{_script()}</script>')
    text = (_sources() / "index.html").read_text()
    for word, value in _words(settings["clip"]).items():
        text = text.replace(word, value)
    with written_whole(output) as partial:
        partial.write_text(text.replace("PARTS", "\n".join(parts)))
    return output


def _sources() -> Path:
    return Path(__file__).parent / "page"


def _words(clip: dict[str, Any]) -> dict[str, str]:
    """What the page's text says of the clip."""
    height, width, fps = clip["height"], clip["width"], clip["fps"]
    return {
        "ASPECT": f"{width} / {height}",
        "DURATION": f"{clip['num_frames'] / fps:g}",
        "FRAME": f"{width} x {height} pixels, {fps:g} frames per second",
    }


def _packed(path: Path) -> str:
    return base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode()


def _script() -> str:
    """The modules as one, for a page that is opened as a file may import none."""
    text = "\n".join((_sources() / f"{name}.js").read_text() for name in _SOURCES)
    return re.sub(r"^import .*\n", "", re.sub(r"^export ", "", text, flags=re.M), flags=re.M)


def fetch_runtime() -> Path:
    """The files of onnxruntime-web, fetched by npm once and kept in the user's cache.

    Returns:
        Their folder.

    Raises:
        ModuleNotFoundError: If they are not there, and npm is not installed or cannot fetch them.
        ValueError: If what npm fetched is not what it was.
    """
    folder = _cache() / PACKAGE.replace("@", "-")
    if all((folder / name).is_file() for name in _RUNTIME.values()):
        return folder
    npm = shutil.which("npm")
    needed = f"the page needs {', '.join(_RUNTIME.values())} of the npm package {PACKAGE} in {folder}"
    if npm is None:
        raise ModuleNotFoundError(f"{needed}; found no npm to fetch them: install Node.js")
    with tempfile.TemporaryDirectory() as name:
        command = [npm, "pack", "--fetch-retries", "1", PACKAGE]
        done = subprocess.run(command, cwd=name, capture_output=True, text=True)
        packed = next(Path(name).glob("*.tgz"), None)
        if done.returncode or packed is None:
            raise ModuleNotFoundError(f"{needed}; npm could not fetch it: {' '.join(done.stderr.split())[:200]}")
        digest = hashlib.sha512(packed.read_bytes()).digest()
        if base64.b64encode(digest).decode() != _SHA512:
            raise ValueError(f"{PACKAGE}: expected the package of SHA-512 {_SHA512[:12]}..., got another one")
        with tarfile.open(packed) as archive:
            for file in _RUNTIME.values():
                member = archive.extractfile(f"package/dist/{file}")
                assert member is not None
                with written_whole(folder / file) as partial:
                    partial.write_bytes(member.read())
    return folder
