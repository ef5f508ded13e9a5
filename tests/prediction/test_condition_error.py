"""What tells clips unlike those that a model was trained on."""

import logging

import pytest
import torch
from tiny_training import CLIP, build_model

from cmmd_lightning import CMMD
from cmmd_lightning.media import write_video
from cmmd_lightning.prediction.condition_error import condition_error
from cmmd_lightning.prediction.generation import generate
from cmmd_lightning.prediction.inputs import InputBatch
from cmmd_lightning.prediction.requests import GenerationSpec, PredictInput
from cmmd_lightning.procedural import render


class _Linear(torch.nn.Module):
    """The best denoiser of data of which no more is known than mean 0 and variance 1: x = alpha z, so v = 0."""

    def forward(self, video, mel, t_video, t_mel):
        return torch.zeros_like(video), torch.zeros_like(mel)


@pytest.mark.parametrize("shift", [0.5, 1.0, {"video": 0.3, "audio": 2.0}])
def test_of_a_linear_denoiser_it_is_one_for_normalised_data_and_more_for_others(shift):
    model = build_model(schedule_shift=shift)
    model.network = _Linear()
    draw = torch.Generator().manual_seed(0)
    video = torch.randn(1, model.latent_shape[0], 4 * CLIP.num_frames, *model.latent_shape[1:], generator=draw)
    mel = torch.randn(1, CLIP.n_mels, 4 * CLIP.mel_frames, generator=draw)
    assert condition_error(model, video, None, "a") == pytest.approx(1.0, abs=0.05)
    assert condition_error(model, None, mel, "a") == pytest.approx(1.0, abs=0.1)
    # E v^2 = sigma^2 E x^2 + alpha^2
    assert condition_error(model, 2 * video, None, "a") == pytest.approx(0.9 * 4 + 0.1, abs=0.2)
    assert condition_error(model, None, 2 * mel, "a") == pytest.approx(0.9 * 4 + 0.1, abs=0.4)


def test_the_demo_knows_its_own_clips_and_says_so_of_others(tmp_path, caplog):
    model = CMMD.from_pretrained("demo")
    clip, draw = model.clip, torch.Generator().manual_seed(0)
    size = {"fps": clip.fps, "height": clip.height, "width": clip.width, "sample_rate": clip.sample_rate}
    render("bounce", tmp_path, 1, 5, duration=1.5, **size)
    (known,) = tmp_path.glob("*.mp4")
    frames = torch.randint(0, 256, (30, 3, 8, 8), generator=draw, dtype=torch.uint8)
    frames = frames.repeat_interleave(clip.height // 8, 2).repeat_interleave(clip.width // 8, 3)
    write_video(tmp_path / "flicker.mp4", frames, clip.fps, torch.randn(24000, generator=draw) * 0.3, clip.sample_rate)
    for task in ("video_to_audio", "audio_to_video"):
        caplog.clear()
        inputs = [PredictInput(str(path), path.stem, ("a",), ("a",)) for path in (known, tmp_path / "flicker.mp4")]
        with caplog.at_level(logging.WARNING, logger="cmmd_lightning"):
            results = list(generate(model, InputBatch(inputs), GenerationSpec(task, ["x"], num_inference_steps=1)))
        errors = {result.input.stem: result.condition_error for result in results}
        assert errors[known.stem] < 0.6
        assert errors["flicker"] > 1.0
        (said,) = [record.getMessage() for record in caplog.records if "unlike" in record.getMessage()]
        assert said.startswith(f"{tmp_path}/flicker.mp4: unlike the clips that the model was trained on (condition")
    (result,) = generate(
        model, InputBatch([PredictInput(None, "s", ("s",), ("s",))]), GenerationSpec("joint", num_inference_steps=1)
    )
    assert result.condition_error is None
