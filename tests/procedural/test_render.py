"""Rendering to files: names, determinism, resume, refusal, streams, exact times through the codecs."""

import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from cmmd_lightning.procedural import Scene, SceneClip, SceneEvent, SceneSettings, render, simulate

SMALL = {"duration": 1.0, "fps": 10.0, "height": 32, "width": 32, "sample_rate": 16000, "progress": False}


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_files_and_sidecars(tmp_path):
    paths = render("bounce", tmp_path / "new" / "clips", 2, seed=3, num_workers=0, **SMALL)
    assert [path.name for path in paths] == ["clip_00000.mp4", "clip_00001.mp4"]
    assert sorted(content(tmp_path / "new" / "clips")) == [
        "clip_00000.json",
        "clip_00000.mp4",
        "clip_00001.json",
        "clip_00001.mp4",
    ]
    settings = SceneSettings(duration=1.0, fps=10.0, height=32, width=32)
    for index, path in enumerate(paths):
        assert json.loads(path.with_suffix(".json").read_text()) == simulate("bounce", 3, index, settings).sidecar


def write_arrays(path, frames, fps, sound, sample_rate):
    """In place of an encoder: the exact arrays."""
    Path(path).write_bytes(frames.numpy().tobytes() + sound.numpy().tobytes() + f"{fps} {sample_rate}".encode())


@pytest.fixture
def exact(monkeypatch):
    """Files hold the exact arrays (worker processes are forked, so they see this too)."""
    if sys.platform != "linux":
        pytest.skip("worker processes are forked on Linux only")
    monkeypatch.setattr("cmmd_lightning.procedural.rendering.write_video", write_arrays)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("scene", ["bounce", "dance"])
def test_workers_and_number_make_no_difference(tmp_path, scene):
    render(scene, tmp_path / "one", 4, num_workers=0, **SMALL)
    render(scene, tmp_path / "two", 4, num_workers=2, **SMALL)
    render(scene, tmp_path / "tail", 2, num_workers=0, first_index=2, **SMALL)
    one, two, tail = (content(tmp_path / name) for name in ("one", "two", "tail"))
    assert one == two
    assert tail == {name: one[name] for name in tail}
    assert len(tail) == 4


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_keeps_whole_clips_and_completes_the_rest(tmp_path, workers):
    paths = render("dance", tmp_path, 3, num_workers=0, **SMALL)
    whole = content(tmp_path)
    paths[1].unlink()  # killed between sidecar and media file
    paths[2].unlink()
    paths[2].with_suffix(".json").unlink()
    kept = paths[0].stat().st_mtime_ns
    assert render("dance", tmp_path, 5, num_workers=workers, **SMALL)[:3] == paths
    assert paths[0].stat().st_mtime_ns == kept
    after = content(tmp_path)
    assert len(after) == 10
    assert {name: after[name] for name in whole} == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fps": 12.5}, "a clip with fps 12.5, as asked for, got 10.0"),
        ({"height": 48}, r"a clip with size \[48, 32\], as asked for, got \[32, 32\]"),
        ({"correlation": 0.5}, "a clip with correlation 0.5, as asked for, got 1.0"),
        ({"seed": 1}, "a clip with seed 1, as asked for, got 0"),
        ({"streams": "video"}, "a clip with streams 'video', as asked for, got 'both'"),
    ],
)
def test_folder_of_other_settings_is_refused(tmp_path, change, words):
    render("bounce", tmp_path, 1, num_workers=0, **SMALL)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        render("bounce", tmp_path, 2, num_workers=0, **{**SMALL, **change})
    assert "clip_00000.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(tmp_path) == before


def test_foreign_files_are_not_overwritten(tmp_path):
    (tmp_path / "clip_00001.mp4").write_text("mine")
    with pytest.raises(ValueError, match=r"clip_00001.mp4: expected a rendered clip with its sidecar"):
        render("bounce", tmp_path, 2, num_workers=0, **SMALL)
    assert content(tmp_path) == {"clip_00001.mp4": b"mine"}
    (tmp_path / "clip_00001.json").write_text("{")
    with pytest.raises(ValueError, match=r"clip_00001.json: expected the sidecar of a rendered clip"):
        render("bounce", tmp_path, 2, num_workers=0, **SMALL)
    (tmp_path / "clip_00001.json").write_text("[]")
    with pytest.raises(ValueError, match="got a JSON list"):
        render("bounce", tmp_path, 2, num_workers=0, **SMALL)


def test_silent_video(tmp_path):
    (path,) = render("dance", tmp_path, 1, streams="video", num_workers=0, **SMALL)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
        assert not container.streams.audio
        assert sum(1 for _ in container.decode(video=0)) == 10


def test_sound_alone_is_the_simulated_sound(tmp_path):
    (path,) = render("bounce", tmp_path, 1, seed=2, streams="audio", num_workers=0, **SMALL)
    assert path.name == "clip_00000.wav"
    samples, rate = soundfile.read(path)
    expected = simulate("bounce", 2, 0, SceneSettings(1.0, 10.0, 32, 32)).sound.numpy()
    assert rate == 16000
    np.testing.assert_allclose(samples, expected, atol=1e-4)


@pytest.mark.parametrize("scene", ["bounce", "dance"])
def test_video_file_holds_both_streams(tmp_path, scene):
    (path,) = render(scene, tmp_path, 1, num_workers=0, **SMALL)
    clip = simulate(scene, 0, 0, SceneSettings(1.0, 10.0, 32, 32))
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert frames.shape == (10, 32, 32, 3)
    assert np.abs(frames.transpose(0, 3, 1, 2).astype(float) - clip.frames.numpy()).mean() < 8


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scene": "rain"}, "scene must be one of bounce, dance, got 'rain'"),
        ({"num_clips": -1}, "num_clips and num_workers must not be negative, got -1 and 2"),
        ({"fps": 0.0}, "fps must be positive"),
        ({"streams": "none"}, "streams must be"),
        ({"seed": -3}, "seed and index must not be negative, got -3 and 0"),
    ],
)
def test_bad_arguments_leave_nothing_behind(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        render(**{"scene": "bounce", "output_dir": tmp_path / "out", "num_clips": 1, **SMALL, **change})
    assert not (tmp_path / "out").exists()


def test_no_clips(tmp_path):
    assert render("bounce", tmp_path, 0, num_workers=2, **SMALL) == []


class Flash(Scene):
    """A scene of somebody's own: one white frame, one click."""

    def __init__(self, at=0.5):
        self.at = at

    def simulate(self, rng, settings, *, video=True, audio=True):
        frames, sound = None, None
        if video:
            frames = torch.zeros(settings.num_frames, 3, settings.height, settings.width, dtype=torch.uint8)
            frames[round(self.at * settings.fps)] = 255
        if audio:
            sound = torch.zeros(settings.num_samples)
            sound[round(self.at * settings.sample_rate)] = 1.0
        return SceneClip(frames, sound, [SceneEvent(self.at, True, True, "flash").to_dict()], {"period": None})


def test_a_scene_of_ones_own_is_rendered_by_its_class_path(tmp_path):
    scene = {"class_path": f"{__name__}.Flash", "init_args": {"at": 0.2}}
    (path,) = render(scene, tmp_path / "own", 1, num_workers=0, **SMALL)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert (sidecar["scene"], sidecar["init_args"], sidecar["events"][0]["time"]) == (
        f"{__name__}.Flash",
        {"at": 0.2},
        0.2,
    )
    with av.open(str(path)) as container:
        levels = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert levels.index(max(levels)) == 2
    assert simulate(f"{__name__}.Flash").events[0]["time"] == 0.5
    with pytest.raises(ValueError, match="unexpected keyword argument 'when'"):
        render(scene | {"init_args": {"when": 1}}, tmp_path, 1)
    with pytest.raises(ValueError, match="choose another folder"):
        render(scene | {"init_args": {"at": 0.4}}, tmp_path / "own", 1, num_workers=0, **SMALL)
