import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import evaluation_run
import pytest
import torch
from command_line import SMALL, SMALL_RUN, cmmd
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from tiny_training import CLIP, NETWORK, Losses, build_data, build_model, build_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from cmmd_lightning import CMMD, ClipSpec, CodecConfig
from cmmd_lightning.diffusion.objective import contrastive_loss, diffusion_loss, measure_errors
from cmmd_lightning.evaluation.generated import EvaluationSpec
from cmmd_lightning.prediction import latent_diffusion
from cmmd_lightning.prediction.requests import GenerationSpec

# joint only, so that both modalities are in every batch
OBJECTIVE = {"contrastive_share": 0.5, "task_probabilities": [1.0, 0.0, 0.0], "drop_probability": 0.0}


def batch_of(size: int = 6, count: int = 1, position: int = 0, first: int = 0) -> dict[str, Tensor]:
    """A batch as the data module gives it, each example from its own place in the stream."""

    def draw(*shape: int) -> Tensor:
        rows = [torch.Generator().manual_seed(1000 * position + first + i + 7 * len(shape)) for i in range(size)]
        return torch.stack([torch.randn(shape, generator=row) for row in rows])

    return {
        "video_latents": draw(48, 8, 8, 8),
        "mel": draw(16, 64) - 4.0,
        "video_negatives": draw(count, 48, 8, 8, 8),
        "mel_negatives": draw(count, 16, 64) - 4.0,
        "position": torch.full((size,), position),
        "index": torch.arange(first, first + size),
    }


def nudged(model: CMMD, scale: float = 0.05) -> CMMD:
    """Away from its zeros, as training would move it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> CMMD:
    made = nudged(build_model())
    made.mel.mean.fill_(-4.0)
    made.mel.std.fill_(2.0)
    return made


@pytest.fixture(scope="module")
def trained(clip_folder, tmp_path_factory):
    """A short run with validation: the trainer, the model, its losses, and the checkpoint."""
    folder, losses = tmp_path_factory.mktemp("run"), Losses()
    trainer, fitted = build_trainer(folder, losses, max_steps=4), build_model(objective=OBJECTIVE)
    trainer.fit(fitted, datamodule=build_data(clip_folder))
    return trainer, fitted, losses, folder / "step=4.ckpt"


# ---- the loss


def test_the_loss_is_diffusion_plus_eta_times_contrastive(model):
    batch = batch_of()
    model.objective = type(model.objective)(contrastive_weight=0.3, bound="hinge", drop_probability=0.2)
    draws = model._draws(batch, 0)
    mel, wrong = (batch["mel"] + 4.0) / 2.0, (batch["mel_negatives"] + 4.0) / 2.0
    data, negatives = (batch["video_latents"], mel), (batch["video_negatives"], wrong)
    errors = measure_errors(model.network, model.schedules, data, negatives, draws)
    expected = diffusion_loss(errors, draws) + 0.3 * contrastive_loss(errors, draws, model.objective)
    torch.testing.assert_close(model.training_step(batch, 0), expected)
    assert contrastive_loss(errors, draws, model.objective) > 0
    without = {name: value for name, value in batch.items() if "negatives" not in name}
    torch.testing.assert_close(model.training_step(without, 0), diffusion_loss(errors, draws))
    model.objective = type(model.objective)(contrastive_weight=0.0, drop_probability=0.2)
    torch.testing.assert_close(model.training_step(batch, 0), diffusion_loss(errors, draws))


def test_randomness_follows_from_seed_position_and_index(model):
    batch = batch_of()
    first = model.training_step(batch, 0)
    torch.rand(11)
    assert torch.equal(model.training_step(batch, 99), first)  # neither the global generator nor Lightning's count
    later = {**batch, "position": batch["position"] + 1}
    assert not torch.equal(model.training_step(later, 0), first)
    assert not torch.equal(nudged(build_model(seed=1)).training_step(batch, 0), first)
    halves = [model.training_step(batch_of(3, first=i), 0) for i in (0, 3)]
    torch.testing.assert_close(torch.stack(halves).mean(), first)


def test_training_logs_losses_on_pairs_on_negatives_and_their_gap(trained):
    trainer, _, losses, _ = trained
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    for stage in ("train", "val"):
        for name in ("video", "audio"):
            keys = [f"{stage}/{name}{suffix}" for suffix in ("", "_negative", "_gap")]
            assert set(keys) <= set(logged)
    loss = logged["train/diffusion"] + 0.05 * logged["train/contrastive"]
    assert logged["train/loss"] == pytest.approx(loss, rel=1e-5)
    assert [position for position, _ in losses.train] == [0, 1, 2, 3]
    assert losses.train[-1][1] == pytest.approx(logged["train/loss"])
    assert losses.train[-1][1] < losses.train[0][1]
    assert [step for step, _ in losses.val] == [3]


def test_the_data_come_at_unit_variance(trained, clip_folder):
    _, fitted, _, _ = trained
    data = build_data(clip_folder, batch_size=16)
    data.setup("fit")
    assert data.statistics is not None
    torch.testing.assert_close(fitted.codec.shift, torch.tensor(data.statistics.latent_shift))
    torch.testing.assert_close(fitted.codec.scale, torch.tensor(data.statistics.latent_scale))
    assert fitted.mel.std.item() == pytest.approx(data.statistics.mel_std)
    batch = next(iter(data.train_dataloader()))
    latents, mel = fitted.codec.normalize(batch["video_latents"]), fitted.mel.normalize(batch["mel"])
    assert latents.std().item() == pytest.approx(1.0, abs=0.25)
    assert mel.std().item() == pytest.approx(1.0, abs=0.25)
    assert abs(mel.mean().item()) < 0.25


def test_validation_draws_are_fixed_and_need_no_negatives(clip_folder, tmp_path):
    trainer, model = build_trainer(tmp_path), nudged(build_model())
    first = trainer.validate(model, datamodule=build_data(clip_folder), verbose=False)[0]
    torch.rand(3)
    again = trainer.validate(model, datamodule=build_data(clip_folder, batch_size=1), verbose=False)[0]
    assert first["val/loss"] == pytest.approx(again["val/loss"], rel=1e-5)
    bare = build_data(clip_folder, negatives={"num_negatives": 0})
    without = trainer.validate(model, datamodule=bare, verbose=False)[0]
    assert without["val/loss"] == pytest.approx(first["val/loss"], rel=1e-5)
    assert not any(name.endswith("_gap") for name in without)


def test_the_loader_of_somebody_else_draws_anew_in_every_epoch(tmp_path):
    """Where a batch has no position, the step of the run counts, also after a resume."""

    class Seen(Callback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_before_backward(self, trainer, pl_module, loss) -> None:
            self.times.append(loss.item())

    def fit(seen: Seen, epochs: int, resume: Path | None = None) -> Trainer:
        examples = [
            {k: v[0] for k, v in batch_of(1, first=i).items() if k not in ("position", "index")} for i in range(4)
        ]
        trainer = build_trainer(tmp_path, seen, max_steps=-1, max_epochs=epochs, val_check_interval=None)
        model = build_model(learning_rate=0.0)
        trainer.fit(model, DataLoader(examples, batch_size=2), ckpt_path=resume, weights_only=True)
        return trainer

    whole, first, second = Seen(), Seen(), Seen()
    fit(whole, 3)
    assert len(set(whole.times)) == 6  # the weights stand still: what differs is what was drawn
    fit(first, 2).save_checkpoint(tmp_path / "half.ckpt")
    fit(second, 3, tmp_path / "half.ckpt")
    assert first.times + second.times == whole.times


# ---- the test


@pytest.fixture
def clip_loader(clip_folder):
    """Three clips, as the loader of a test split would give them."""
    data = build_data(clip_folder)
    data.setup("fit")
    return DataLoader(Subset(data.datasets["train"], range(3)), batch_size=2)


def measured(folder: Path, loader: DataLoader, spec: EvaluationSpec, **settings) -> tuple[dict, CMMD]:
    model = nudged(build_model())
    model.evaluation = spec
    return build_trainer(folder, **settings).test(model, loader, verbose=False)[0], model


def test_a_test_logs_what_its_report_says(clip_loader, tmp_path, caplog):
    spec = EvaluationSpec(("audio_to_video", "video_to_audio"), num_inference_steps=2)
    with caplog.at_level(logging.INFO, "cmmd_lightning"):
        logged, model = measured(tmp_path, clip_loader, spec)
    report = json.loads((tmp_path / "test_report.json").read_text())
    assert list(report["tasks"]) == ["audio_to_video", "video_to_audio"]
    assert "event_f1@100ms" in report["tasks"]["video_to_audio"]
    silent = {task for task, run in report["runs"].items() if run["clips_without_events"] == 3}
    expected = {
        f"test/{task}/{name}{suffix}": entry[key]
        for task, metrics in report["tasks"].items()
        for name, entry in metrics.items()
        for key, suffix in {"value": "", "floor": "/floor", "ceiling": "/ceiling"}.items()
        if entry[key] is not None and not (task in silent and name.startswith("event_"))
    }
    assert {name: value for name, value in logged.items() if "_to_" in name} == pytest.approx(expected, rel=1e-5)
    assert {"test/loss", "test/audio_gap"} <= set(logged)
    assert caplog.messages[-1].startswith(f"written: {tmp_path / 'test_report.json'}")
    # what was measured with is no part of the model
    assert set(model.state_dict()) == set(build_model().state_dict())
    assert "evaluation" not in model.hparams
    assert not hasattr(model, "_generated")


def test_steps_guidance_and_seed_of_the_test_reach_the_sampler(clip_loader, tmp_path):
    def distance(**settings) -> float:
        spec = EvaluationSpec(("video_to_audio",), **settings)
        return measured(tmp_path, clip_loader, spec)[0]["test/video_to_audio/frechet_distance[mel-statistics-v1]"]

    first = distance(num_inference_steps=2)
    assert distance(num_inference_steps=2) == first
    changes: list[dict] = [{"seed": 1}, {"num_inference_steps": 3}, {"guidance_scale": 1.0}]
    changes += [{"guidance_from": "shifted"}]
    assert all(distance(**{"num_inference_steps": 2, **change}) != first for change in changes)


def test_the_report_lies_in_the_logger_s_folder_and_a_trial_run_leaves_none(clip_loader, tmp_path):
    spec = EvaluationSpec(("video_to_audio",), num_inference_steps=1)
    logger = CSVLogger(tmp_path, name="log", version=7)
    measured(tmp_path, clip_loader, spec, logger=logger)
    assert (tmp_path / "log/version_7/test_report.html").exists()
    logged, _ = measured(tmp_path / "trial", clip_loader, spec, fast_dev_run=True)
    assert "test/loss" in logged
    assert not list(tmp_path.glob("trial/**/test_report*"))


@pytest.mark.filterwarnings("ignore")
def test_two_processes_give_the_report_of_one(clip_folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    evaluation_run.main(clip_folder, one, 1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, evaluation_run.__file__, str(clip_folder), str(two), "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = [json.loads((folder / "test_report.json").read_text()) for folder in (one, two)]
    for report in reports:
        for part in (report, *report["runs"].values()):
            del part["provenance"]
    assert reports[0] == reports[1]
    assert [row["stem"] for row in reports[1]["runs"]["joint"]["clips"]] == list("01234")
    alone, *ranks = (
        {name: value for name, value in json.loads(path.read_text()).items() if name.count("/") > 1}
        for path in (one / "logged-0.json", two / "logged-0.json", two / "logged-1.json")
    )
    assert len(alone) > 20
    assert ranks == [alone, alone]


@pytest.mark.filterwarnings("ignore")
def test_cmmd_test_prints_the_metrics_and_leaves_the_report(tmp_path):
    assert cmmd("fit", "--config", "quickstart.yaml", *SMALL, cwd=tmp_path).status == 0
    flags = ["--config", "quickstart.yaml", *SMALL_RUN, "--ckpt_path", "runs/quickstart/cmmd.ckpt"]
    done = cmmd("test", *flags, cwd=tmp_path)
    assert done.status == 0, done.err
    assert "test/video_to_audio/frechet" in done.out
    assert "test/loss" in done.out
    report = json.loads((tmp_path / "runs/quickstart/test_report.json").read_text())
    assert list(report["tasks"]) == ["video_to_audio", "audio_to_video", "joint"]
    for task, metrics in report["tasks"].items():
        entry = metrics["event_f1@100ms"]
        assert set(entry) >= {"value", "ci95", "floor", "ceiling", "n"}
        assert entry["n"] == 2
        assert done.lines_with(f"{task}: event F1 within 100 ms {entry['value']:.2f}")
    assert len(done.lines_with("written: runs/quickstart/test_report.json")) == 1


# ---- the optimiser


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", [0.2, 0.4, 1.0, 1.0]),
        ("cosine", [0.2, 0.39, 0.5, 0.0]),
        ("wsd", [0.2, 0.4, 1.0, 0.0]),
    ],
)
def test_learning_rate(decay, expected, tmp_path):
    model = build_model(warmup_steps=4, decay=decay, learning_rate=1.0)
    model._trainer = build_trainer(tmp_path, max_steps=10)
    factor = model.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [factor(step) for step in (0, 1, 5, 10)] == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("decay", ["cosine", "wsd"])
def test_decay_needs_to_know_the_end(decay, tmp_path):
    model = build_model(decay=decay)
    model._trainer = build_trainer(tmp_path, max_steps=-1)
    with pytest.raises(ValueError, match="needs the trainer's max_steps"):
        model.configure_optimizers()


# ---- generation


def frames_of(batch: int, count: int = 8) -> Tensor:
    return torch.rand(batch, 3, count, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def sound_of(batch: int, seconds: float = 0.8) -> Tensor:
    return 0.3 * torch.randn(batch, round(seconds * 8000), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_fixed_seed_gives_the_same_twice_and_another_seed_another(model, eta):
    settings = {"num_inference_steps": 3, "guidance_scale": 2.0, "ddim_eta": eta}
    latents = model.encode_frames(frames_of(1))

    def mel(seed: int) -> Tensor:
        return model.sample("video_to_audio", latents, None, 8, names=["a"], seed=seed, **settings)[1]

    assert torch.equal(mel(0), mel(0))
    assert not torch.allclose(mel(0), mel(1), atol=0.1)


@pytest.mark.parametrize("task", ["video_to_audio", "audio_to_video", "joint"])
@pytest.mark.parametrize("frames", [8, 13])
def test_a_batch_and_single_runs_agree(model, task, frames):
    names = ["a", "b", "c"]
    settings = {"num_inference_steps": 3, "guidance_scale": 1.5, "ddim_eta": 0.5}
    video = model.encode_frames(frames_of(3, frames)) if task == "video_to_audio" else None
    mel = model.encode_sound(sound_of(3, frames / 10)) if task == "audio_to_video" else None
    together = model.sample(task, video, mel, frames, names=names, **settings)
    assert together[0].shape == (3, 48, frames, 8, 8)
    assert together[1].shape == (3, 16, frames * 8)
    for i in (2, 0):
        one = slice(i, i + 1)
        given = (None if video is None else video[one]), (None if mel is None else mel[one])
        alone = model.sample(task, *given, frames, names=names[one], **settings)
        for got, expected in zip(alone, together, strict=True):
            torch.testing.assert_close(got[0], expected[i], atol=2e-5, rtol=1e-4)


def test_a_condition_comes_back_as_it_was_given(model):
    video, mel = model.encode_frames(frames_of(2)), model.encode_sound(sound_of(2))
    settings = {"names": ["a", "b"], "num_inference_steps": 2, "guidance_scale": 2.0}
    assert torch.equal(model.sample("video_to_audio", video, None, 8, **settings)[0], video)
    assert torch.equal(model.sample("audio_to_video", None, mel, 8, **settings)[1], mel)


def test_the_python_api_keeps_lengths_and_ranges(model):
    settings = {"num_inference_steps": 2}
    sound = model.video_to_audio(frames_of(2, 13), **settings)
    assert sound.shape == (2, 10400)
    assert torch.isfinite(sound).all()
    frames = model.audio_to_video(sound_of(1, 1.37), **settings)  # 13.7 frames: 13 whole ones
    assert frames.shape == (1, 3, 13, 32, 32)
    assert frames.abs().max() <= 1.0
    frames, sound = model.joint(num_samples=2, **settings)
    assert frames.shape == (2, 3, 8, 32, 32)
    assert sound.shape == (2, 6400)
    assert not torch.equal(sound[0], sound[1])


def test_what_is_shorter_than_the_clip_is_refused(model):
    with pytest.raises(ValueError, match=r"expected at least 8 frames \(0\.8 s, the model's clip\), got 7"):
        model.video_to_audio(frames_of(1, 7))
    with pytest.raises(ValueError, match=r"got 7$"):
        model.audio_to_video(sound_of(1, 0.79))


@pytest.mark.parametrize(
    "clip",
    [
        CLIP,
        ClipSpec(num_frames=7, fps=29.97, height=32, width=32, sample_rate=22050, n_fft=256, hop_length=256, n_mels=16),
        ClipSpec(
            num_frames=5, fps=23.976, height=32, width=32, sample_rate=44100, n_fft=512, hop_length=512, n_mels=16
        ),
    ],
)
def test_windows_cover_every_frame_of_both_streams_at_any_rate(clip, monkeypatch):
    model, seen = build_model(clip=clip), {}

    class Stop(Exception):  # noqa: N818
        pass

    def capture(denoiser, starts, mel_starts, sizes):
        seen.update(starts=starts, mel_starts=mel_starts)
        assert sizes == (clip.num_frames, clip.mel_frames)
        raise Stop

    monkeypatch.setattr(latent_diffusion, "windowed", capture)
    for total in range(clip.num_frames + 1, clip.num_frames + 30):
        with pytest.raises(Stop):
            model.sample("joint", None, None, total, names=["a"])
        mel_frames = clip.mel_frames_of(clip.samples_of(total))
        for starts, size, length in (
            (seen["starts"], clip.num_frames, total),
            (seen["mel_starts"], clip.mel_frames, mel_frames),
        ):
            assert {i for start in starts for i in range(start, start + size)} == set(range(length))
        for start, mel_start in zip(seen["starts"], seen["mel_starts"], strict=True):
            assert abs(mel_start - start / clip.fps * clip.sample_rate / clip.hop_length) <= 1.0


def test_guidance_and_steps_reach_the_sampler(model):
    calls = []

    class Watch(nn.Module):
        def forward(self, z_video, z_audio, t_video, t_audio):
            calls.append((len(z_video), t_video.tolist(), t_audio.tolist()))
            return z_video, z_audio

    plain, model.network = model.network, Watch()
    try:
        model.sample("joint", None, None, 8, names=["a"], num_inference_steps=2, guidance_scale=3.0)
        assert calls == [(3, [t, 1.0, t], [t, t, 1.0]) for t in (1.0, 0.5)]
        calls.clear()
        shifted = {"guidance_scale": 3.0, "guidance_from": "shifted"}
        model.sample("joint", None, None, 8, names=["a"], num_inference_steps=2, **shifted)
        assert calls == [(3, [t] * 3, [t] * 3) for t in (1.0, 0.5)]
        calls.clear()
        done: list[int] = []
        model.sample(
            "video_to_audio",
            torch.zeros(1, 48, 8, 8, 8),
            None,
            8,
            names=["a"],
            num_inference_steps=3,
            on_step=done.append,
        )
        assert [call[0] for call in calls] == [1, 1, 1]
        assert done == [0, 1, 2]
    finally:
        model.network = plain


def test_guidance_from_is_checked_where_it_is_given(model):
    with pytest.raises(ValueError, match="guidance_from must be 'dropped' or 'shifted', got 'noise'"):
        model.joint(num_inference_steps=1, guidance_scale=2.0, guidance_from="noise")
    with pytest.raises(ValueError, match=r"generate\.guidance_from: expected one of dropped, shifted, got 'noise'"):
        GenerationSpec("joint", guidance_from="noise")


def test_the_codec_round_trip_is_exact_and_normalised(model):
    frames = frames_of(2)
    torch.testing.assert_close(model.decode_latents(model.encode_frames(frames)), frames, atol=1e-5, rtol=1e-5)
    mel = model.encode_sound(sound_of(1))
    torch.testing.assert_close(mel * 2.0 - 4.0, model.mel(sound_of(1)))


# ---- checkpoints


def test_a_checkpoint_holds_everything_in_plain_types(trained):
    _, fitted, _, path = trained
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 4
    assert checkpoint["hyper_parameters"]["clip"] == CLIP.to_dict()
    assert checkpoint["hyper_parameters"]["_class_path"] == "cmmd_lightning.CMMD"
    loaded = CMMD.load_from_checkpoint(path, weights_only=True)
    assert loaded.objective.contrastive_share == 0.5
    # averaged weights, codec scaling and Mel statistics; after a fit the model holds the same
    for name, value in fitted.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
        assert torch.equal(checkpoint["state_dict"][name], value), name
    raw, averaged = checkpoint["current_model_state"], checkpoint["state_dict"]
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)
    same = CMMD.load_from_checkpoint(path)
    settings = {"num_inference_steps": 2}
    assert torch.equal(same.video_to_audio(frames_of(1), **settings), fitted.video_to_audio(frames_of(1), **settings))


def test_from_pretrained(trained, tmp_path, monkeypatch):
    path = trained[-1]
    model = CMMD.from_pretrained(str(path))
    assert not model.training
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt: expected a checkpoint or a hub name"):
        CMMD.from_pretrained("nowhere.ckpt")
    with pytest.raises(FileNotFoundError):
        CMMD.from_pretrained(str(tmp_path))
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda name, file: {("me/it", "cmmd.ckpt"): path}[name, file]
    )
    assert torch.equal(CMMD.from_pretrained("me/it").mel.mean, model.mel.mean)


def test_the_frame_vae_lives_in_the_checkpoint(tmp_path):
    """Built in Python with a trained VAE, saved without a fit, loaded where the VAE's file is gone."""
    codec = CodecConfig("autoencoder_kl", unshuffle=4, config={"block_out_channels": [8], "norm_num_groups": 4})
    model = build_model(codec=codec)
    nn.init.constant_(model.codec.scale, 2.0)
    trainer = build_trainer(tmp_path)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "made.ckpt")
    torch.load(tmp_path / "made.ckpt", weights_only=True)
    loaded = CMMD.load_from_checkpoint(tmp_path / "made.ckpt", weights_only=True)
    frames = frames_of(1)
    assert torch.equal(loaded.encode_frames(frames), model.encode_frames(frames))
    assert not any(p.requires_grad for p in loaded.codec.parameters())
    assert loaded.hparams["codec"]["path"] is None


def test_settings_come_as_dataclasses_or_as_their_plain_form():
    plain = build_model(
        clip=CLIP.to_dict(), codec={"kind": "pixel_unshuffle", "unshuffle": 4}, objective={"bound": "hinge"}
    )
    assert plain.clip == CLIP
    assert plain.objective.bound == "hinge"
    assert dict(plain.hparams["network"]).items() >= NETWORK.items()
    assert math.prod(plain.latent_shape) == 48 * 8 * 8
