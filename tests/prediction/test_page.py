"""The page: its JavaScript against ours, in Node.js, and the whole of it in Chromium."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import CHROMIUM, Browser
from command_line import cmmd
from tiny_training import CLIP, build_model
from torch import Tensor

from cmmd_lightning import CMMD
from cmmd_lightning.codecs import LogMel
from cmmd_lightning.codecs.vocoders import GriffinLimVocoder
from cmmd_lightning.data.randomness import example_seed
from cmmd_lightning.diffusion.noise import TimeNoise
from cmmd_lightning.diffusion.schedule import NoiseSchedule
from cmmd_lightning.media import read_frames, read_sound
from cmmd_lightning.prediction import web_page
from cmmd_lightning.prediction.condition_error import condition_error
from cmmd_lightning.prediction.onnx_export import export_onnx
from cmmd_lightning.prediction.web_page import fetch_runtime, write_page
from cmmd_lightning.procedural import render

pytestmark = pytest.mark.filterwarnings("ignore")

NODE = shutil.which("node")
PAGE = Path(web_page.__file__).parent / "page"
CALLS = Path(__file__).with_name("page_calls.mjs")
TOLERANCE = 1e-3
TASKS = ("video_to_audio", "audio_to_video", "joint")
needs_node = pytest.mark.skipif(NODE is None, reason="no Node.js: the page's JavaScript is not tested")


def javascript(*calls: tuple[str, Any], **places: object) -> list[Any]:
    """What calls of the page's modules give."""
    request = json.dumps({"page": str(PAGE), "calls": calls, **{name: str(path) for name, path in places.items()}})
    done = subprocess.run([str(NODE), str(CALLS)], input=request, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def flat(values: Tensor) -> list[float]:
    return values.flatten().tolist()


def frames_of(values: list[float], clip: Any) -> Tensor:
    """The page's frames as ours, (1, 3, T, H, W)."""
    return torch.tensor(values).view(1, clip.num_frames, 3, clip.height, clip.width).transpose(1, 2)


def difference(made: list[float], expected: Tensor) -> float:
    return float((torch.tensor(made) - expected.flatten()).abs().max())


@pytest.fixture(scope="module")
def runtime() -> Path:
    try:
        return fetch_runtime()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


# ---- parts


@needs_node
def test_seeds_and_noise_are_those_of_python():
    settings = {"shared": 0.45, "persistence": 0.6}
    calls = [("normal", ["12345678901", count]) for count in (16, 1000, 1003)]
    seed, *noises, alike = javascript(("seed", [7, "start/0"]), *calls, ("timeNoise", ["77", [2, 5, 4, 4], settings]))
    assert int(seed) == example_seed(7, -1, 0, "start/0")
    for noise in noises:
        assert difference(noise, torch.randn(len(noise), generator=torch.Generator().manual_seed(12345678901))) < 1e-5
    assert difference(alike, TimeNoise(**settings).draw((2, 5, 4, 4), torch.Generator().manual_seed(77))) < 1e-5


@needs_node
@pytest.mark.parametrize("shift", [1.0, 0.5])
def test_the_schedule(shift):
    times = [0.0, 0.3, 1.0]
    expected = torch.stack(NoiseSchedule(shift).alpha_sigma(torch.tensor(times)), dim=1)
    made = javascript(*(("alphaSigma", [shift, t]) for t in times))
    torch.testing.assert_close(torch.tensor(made), expected, atol=1e-6, rtol=0)
    assert (made[0], made[2]) == ([1, 0], [0, 1])


@needs_node
@pytest.mark.parametrize("settings", [CLIP.mel_settings, (16000, 512, 160, 64, 0.0, None, 0.04)])
def test_sound_to_mel_and_back(settings):
    mel = LogMel(*settings)
    rate, n_fft, hop, bands, *_, floor = settings
    clip = {"sample_rate": rate, "n_fft": n_fft, "hop_length": hop, "n_mels": bands, "mel_floor": floor}
    time = torch.arange(rate)[None] / rate
    sound = 0.3 * torch.sin(2 * torch.pi * 440 * time) * torch.exp(-8 * (time % 0.4)) + 1e-4 * torch.randn(1, rate)
    levels = mel(sound)
    made_levels, made = javascript(
        ("mel", {"clip": clip, "sound": flat(sound)}),
        ("sound", {"clip": clip, "mel": flat(levels), "numSamples": rate - 7}),
    )
    # a magnitude at the floor is a share of the window's greatest, that is of its rounding
    assert difference(made_levels, levels) < 1e-2
    expected = GriffinLimVocoder(mel)(levels, rate - 7)
    error = torch.tensor(made) - expected[0]
    assert expected.square().mean().sqrt() > 0.03
    assert error.square().mean() < 0.01 * expected.square().mean()  # 32 rounds make much of the last digits


@needs_node
def test_drawn_clips_have_their_impacts_in_their_sound():
    clip = {**CLIP.to_dict(), "num_frames": 24, "fps": 20.0, "sample_rate": 16000, "n_fft": 512, "hop_length": 160}
    clip |= {"n_mels": 40, "mel_floor": 0.6}
    drawn = javascript(*(("bounce", {"seed": seed, "clip": clip, "numSamples": 19200}) for seed in range(8)))
    heard = javascript(*(("onsets", {"clip": clip, "sound": one["sound"]}) for one in drawn))
    events = [one["events"] for one in drawn]
    matched = javascript(*(("matches", [true, found]) for true, found in zip(events, heard, strict=True)))
    assert sum(matched) >= 0.9 * sum(map(len, events)) >= 9
    assert sum(map(len, heard)) <= 1.2 * sum(map(len, events))
    for one in drawn:
        frames, sound = torch.tensor(one["frames"]), torch.tensor(one["sound"])
        assert len(frames) == 24 * 3 * 32 * 32
        assert -1 <= frames.min() < frames.max() <= 1
        assert 0.02 < sound.abs().max() <= 1
    assert drawn[0]["frames"] != drawn[1]["frames"]
    moving, still = javascript(
        ("motion", {"frames": drawn[0]["frames"], "count": 24}), ("motion", {"frames": [0.5] * 24, "count": 24})
    )
    assert (max(moving), moving[0], max(still)) == (1, 0, 0)
    assert javascript(("matches", [[0.1, 0.5, 0.52], [0.14, 0.51]])) == [2]


# ---- whole samples


def with_griffin_lim() -> CMMD:
    """As the configs for long runs have it: a codec over time, noise that is alike along it, two schedules."""
    return build_model(
        codec={"kind": "clip_autoencoder"},
        video_noise={"shared": 0.45, "persistence": 0.6},
        schedule_shift={"video": 1.0, "audio": 0.5},
    )


def with_vocos() -> CMMD:
    vocoder = {"mel": LogMel(*CLIP.mel_settings).settings, "dim": 16, "intermediate_dim": 32, "num_layers": 1}
    return build_model(vocoder=vocoder)


@needs_node
@pytest.mark.parametrize("build", [with_griffin_lim, with_vocos])
def test_the_same_seed_gives_the_same_sample(build, runtime, tmp_path):
    """Guided, all three tasks: the same noise, the same output."""
    pytest.importorskip("onnxscript")
    model = build()
    with torch.no_grad():
        for values in model.parameters():
            values.add_(0.05 * torch.randn_like(values))
    model.mel.mean.fill_(-1.0)
    model.codec.scale.fill_(2.0)
    model.eval()
    export_onnx(model, tmp_path)
    clip = model.clip
    frames, sound = torch.rand(1, 3, clip.num_frames, 32, 32) * 2 - 1, torch.rand(1, clip.num_samples) * 0.2 - 0.1
    given = {"frames": flat(frames.transpose(1, 2)), "sound": flat(sound), "seed": 5, "steps": 4, "guidance": 2.0}
    by_task = dict(
        zip(
            TASKS,
            javascript(*(("generate", {"task": task, **given}) for task in TASKS), runtime=runtime, export=tmp_path),
            strict=True,
        )
    )
    settings: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 2.0, "seed": 5}
    expected_sound = model.video_to_audio(frames, **settings)
    assert expected_sound.std() > 1e-3
    assert difference(by_task["video_to_audio"]["sound"], expected_sound) <= TOLERANCE
    expected = model.audio_to_video(sound, **settings)
    assert expected.std() > 0.05
    assert difference(by_task["audio_to_video"]["frames"], expected.transpose(1, 2)) <= TOLERANCE
    both = model.joint(**settings)
    assert difference(by_task["joint"]["frames"], both[0].transpose(1, 2)) <= TOLERANCE
    assert difference(by_task["joint"]["sound"], both[1]) <= TOLERANCE
    errors = (
        condition_error(model, model.encode_frames(frames), None, "0"),
        condition_error(model, None, model.encode_sound(sound), "0"),
    )
    assert [by_task[task]["conditionError"] for task in TASKS[:2]] == pytest.approx(errors, rel=1e-3)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the page is not tested in a browser")
def test_the_page_in_chromium(runtime, tmp_path):
    """Opened as a file: a clip is drawn, one is read, each task gives what Python gives, and nothing leaves."""
    done = cmmd("demo", "--output_dir", "page", "--open", "false", cwd=tmp_path)
    assert done.status == 0, done.err
    page = tmp_path / "page/index.html"
    assert f"{page}: " in done.err
    (media,) = render("bounce", tmp_path / "clips", 1, 99, duration=1.2, fps=20.0, num_workers=0, progress=False)
    model = CMMD.from_pretrained("demo")
    clip, settings = model.clip, {"guidance_scale": 2.0, "num_inference_steps": 4, "seed": 3}

    with Browser(tmp_path / "profile") as browser:

        def value(expression: str) -> list[float]:
            return browser.evaluate(f"Array.from({expression})")

        def act(action: str) -> None:
            browser.evaluate(f"delete document.body.dataset.state; {action}; 0")
            state = browser.wait_for("document.body.dataset.state")
            assert state == "ready", browser.evaluate("document.getElementById('status').textContent")

        browser.call("Page.navigate", url=page.as_uri())
        browser.wait_for("document.body?.dataset.firstSound")
        assert browser.evaluate("cmmd.made.conditionError") < 1
        assert browser.evaluate("cmmd.made.sound.length") == clip.num_samples
        assert "events of the true clip" in browser.evaluate("document.getElementById('status').textContent")
        browser.evaluate("Object.assign(document.getElementById('seed'), {value: 3}); 0")
        browser.evaluate("Object.assign(document.getElementById('steps'), {value: 4}); 0")

        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        field = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        browser.evaluate("delete document.body.dataset.state; 0")
        browser.call("DOM.setFileInputFiles", nodeId=field, files=[str(media)])
        assert browser.wait_for("document.body.dataset.state") == "ready"
        frames, sound = frames_of(value("cmmd.truth.frames"), clip), torch.tensor([value("cmmd.truth.sound")])
        read = read_frames(media, num_frames=clip.num_frames, fps=clip.fps).float().transpose(0, 1)[None] / 127.5 - 1
        heard = read_sound(media, num_samples=clip.num_samples, sample_rate=clip.sample_rate)
        assert (frames - read).abs().mean() < 0.02
        assert (sound - heard.view(1, -1)).square().mean() < 0.01 * heard.square().mean()

        for task in TASKS:
            act(f"document.getElementById('task').value = '{task}'; document.getElementById('generate').click()")
            given = {"video_to_audio": (frames,), "audio_to_video": (sound,), "joint": ()}[task]
            made = getattr(model, task)(*given, **settings)
            if task != "video_to_audio":
                expected = made[0] if task == "joint" else made
                assert (frames_of(value("cmmd.made.frames"), clip) - expected).abs().max() <= TOLERANCE
            if task != "audio_to_video":
                expected = made[1] if task == "joint" else made
                error = torch.tensor(value("cmmd.made.sound")) - expected[0]
                assert error.square().mean().sqrt() <= TOLERANCE
        act("document.getElementById('draw').click()")
        assert browser.evaluate("document.getElementById('source').textContent") == "drawn clip 2"
        browser.evaluate("document.querySelector('#right button').click(); 0")  # play
        blocked = browser.evaluate(f"fetch('{media.as_uri()}').then(() => 'open', () => 'blocked')")
        assert blocked == "blocked"
        assert browser.errors() == []
        sent = [event for event in browser.events if event["method"] == "Network.requestWillBeSent"]
        addresses = {event["params"]["request"]["url"] for event in sent}
        assert {address for address in addresses if not address.startswith(("data:", "blob:"))} == {page.as_uri()}


# ---- what is refused


def test_a_mel_that_the_page_cannot_compute(tmp_path):
    settings = {"weights": {}, "parts": {}, "clip": {**CLIP.to_dict(), "n_fft": 400}}
    (tmp_path / "model.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"model\.json: the page needs an n_fft that is a power of two, got 400"):
        write_page(tmp_path, tmp_path / "index.html", tmp_path)
    assert not (tmp_path / "index.html").exists()


def test_a_runtime_that_cannot_be_fetched_or_is_another(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match=r"ort-wasm-simd-threaded\.wasm of .* in .*; found no npm"):
        fetch_runtime()
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        archive.add(__file__, "package/dist/ort.wasm.min.mjs")
    npm = tmp_path / "npm"
    for script, error, reason in (
        (
            f"/bin/cp {tmp_path}/other.tgz .",
            ValueError,
            r"onnxruntime-web@.*: expected the package of SHA-512 .* got an",
        ),
        ("echo no network >&2; exit 1", ModuleNotFoundError, "npm could not fetch it: no network"),
    ):
        npm.write_text(f"#!/bin/sh\n{script}\n")
        npm.chmod(0o755)
        with pytest.raises(error, match=reason):
            fetch_runtime()
    assert not list((tmp_path / "cache").rglob("*.mjs"))
