"""Callbacks: progress and parts of the prediction writer, samples in the logger."""

import json
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch.utils.data import DataLoader

from cmmd_lightning import CMMD, ClipSpec, NetworkSpec
from cmmd_lightning.models.fingerprint import fingerprint
from cmmd_lightning.prediction.inputs import InputLoader
from cmmd_lightning.prediction.outputs import Manifest, output_paths
from cmmd_lightning.prediction.requests import GenerationSpec, plan_inputs
from cmmd_lightning.prediction.writer import PredictionWriter, show_progress
from cmmd_lightning.training.sample_logger import SampleLogger, _spectrograms, _strips

CLIP = ClipSpec(num_frames=4, fps=10.0, height=16, width=16, sample_rate=8000, n_fft=256, n_mels=16)


def tiny(seed: int = 0) -> CMMD:
    torch.manual_seed(seed)
    network = NetworkSpec((16, 16), (16, 16), attention_levels=(), head_channels=16)
    return CMMD(clip=CLIP, network=network, learning_rate=1e-2)


def quiet(**settings) -> dict:
    return {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        **settings,
    }


# ---- the prediction writer


def entry(item, settings, folder, **changes) -> dict:
    outputs = output_paths(item, settings["task"], str(folder))
    for path in outputs:
        open(path, "w").close()
    return {"source": item.source, "name": item.stem, "outputs": outputs, **settings, "status": "ok", **changes}


def test_parts_of_several_processes_become_one_manifest(tmp_path):
    items = plan_inputs(GenerationSpec("joint", output_dir=str(tmp_path), num_samples=4))
    settings = {"task": "joint", "seed": 0}
    state = {"source_bytes": None, "source_mtime_ns": None}
    first, second = (Manifest(str(tmp_path), items, settings, part) for part in range(2))
    first.begin()
    second.join()
    for manifest, mine in ((first, items[0::2]), (second, items[1::2])):
        for item in mine:
            manifest.add(entry(item, settings, tmp_path, **state))
        manifest.save()
    names = ["manifest.json", "manifest.part0.json", "manifest.part1.json"]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == names
    assert json.loads((tmp_path / "manifest.json").read_text()) == []

    # interrupted here: the next run takes the parts over
    third = Manifest(str(tmp_path), items, settings, 0)
    third.begin()
    assert sorted(third.entries) == [f"sample_{i}" for i in range(4)]
    assert [path.name for path in tmp_path.glob("*.json")] == ["manifest.json"]

    # or it comes to its end
    first.save()
    second.entries["sample_3"]["status"] = "sample_3: no"
    second.save()
    first.merge()
    merged = json.loads((tmp_path / "manifest.json").read_text())
    assert [one["name"] for one in merged] == [f"sample_{i}" for i in range(4)]
    assert [path.name for path in tmp_path.glob("*.json")] == ["manifest.json"]
    assert first.failed == ["sample_3: no"]


def test_very_many_entries_are_not_written_at_every_one(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("cmmd_lightning.prediction.outputs.time", SimpleNamespace(monotonic=lambda: clock[0]))
    writes = []

    def write(path, entries):
        writes.append(len(list(entries)))
        clock[0] += 1.0  # a second each

    monkeypatch.setattr("cmmd_lightning.prediction.outputs._write", write)
    items = plan_inputs(GenerationSpec("joint", output_dir=str(tmp_path), num_samples=40))
    manifest = Manifest(str(tmp_path), items, {"task": "joint"})
    for item in items:
        clock[0] += 1.0  # so does making a sample
        manifest.add({"name": item.stem, "status": "ok"})
    assert writes == [1, 10, 19, 28, 37]
    manifest.save()
    assert writes[-1] == 40


def test_the_fingerprint_follows_weights_and_settings():
    model, same, other = tiny(), tiny(), tiny(seed=1)
    assert fingerprint(model) == fingerprint(same) != fingerprint(other)
    same.hparams["vocoder"] = "vocos:somewhere"
    assert fingerprint(same) != fingerprint(model)
    with torch.no_grad():
        model.codec.shift[0] += 1
    assert fingerprint(model) != fingerprint(tiny())


@pytest.mark.parametrize("bar", [RichProgressBar(), TQDMProgressBar()])
def test_denoising_steps_show_beside_either_progress_bar(tmp_path, bar):
    seen = []

    class Watching(PredictionWriter):
        def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            super().on_predict_batch_start(trainer, pl_module, batch, batch_idx)

            def on_progress(text: str) -> None:
                show_progress(trainer, text)
                if isinstance(bar, TQDMProgressBar):
                    seen.append(bar.predict_progress_bar.postfix)
                else:
                    seen.append(bar.progress.tasks[bar.predict_progress_bar_id].description)

            batch.on_progress = on_progress

    spec = GenerationSpec("joint", output_dir=str(tmp_path), num_inference_steps=2)
    inputs = plan_inputs(spec)
    trainer = Trainer(**quiet(enable_progress_bar=True), callbacks=[bar, Watching(spec, inputs)])
    model = tiny()
    model.generation = spec
    entries = trainer.predict(model, InputLoader(inputs))
    assert [
        words in text for words, text in zip(("reading", "encoding", "step 1/2", "step 2/2"), seen, strict=True)
    ] == [True] * 4
    assert [one["status"] for one in entries[0]] == ["ok"]


def test_another_loader_is_refused(tmp_path):
    spec = GenerationSpec("joint", output_dir=str(tmp_path))
    with pytest.raises(TypeError, match="expected batches of an InputLoader, got Tensor"):
        Trainer(**quiet(), callbacks=[PredictionWriter(spec, plan_inputs(spec))]).predict(
            tiny(), DataLoader(torch.zeros(2, 3))
        )


# ---- samples in the logger


def batches(count: int = 4) -> DataLoader:
    """Batches of two examples as `ClipDataset` gives them, without negatives."""
    channels, height, width = tiny().latent_shape
    rng = torch.Generator().manual_seed(0)
    items = [
        {
            "video_latents": torch.randn(channels, 4, height, width, generator=rng),
            "mel": torch.randn(16, CLIP.mel_frames, generator=rng),
        }
        for _ in range(2 * count)
    ]
    return DataLoader(items, batch_size=2)


class Recorder(Logger):
    """Keeps what it is given, in the form of TensorBoard's writer."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        super().__init__()
        self.pictures, self.sounds = {}, {}
        self.experiment = self

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, *args, **kwargs): ...

    def add_image(self, name, picture, step):
        self.pictures[name, step] = picture

    def add_audio(self, name, sound, step, sample_rate):
        assert sample_rate == 8000
        self.sounds[name, step] = sound


def fit(model: CMMD, *callbacks, logger=False, steps: int = 4, **settings) -> Trainer:
    options = quiet(logger=logger, max_steps=steps, val_check_interval=2, check_val_every_n_epoch=None, **settings)
    trainer = Trainer(**options, callbacks=list(callbacks))
    trainer.fit(model, batches(), batches(2))
    return trainer


def test_samples_are_logged_at_every_nth_validation_with_their_truth():
    recorder = Recorder()
    callback = SampleLogger(every_n_validations=2, num_samples=2, num_inference_steps=2)
    fit(tiny(), callback, logger=recorder, steps=6)
    # validations at steps 2, 4 and 6; none in the sanity check
    tasks = {"video_to_audio": ["mel"], "audio_to_video": ["frames"], "joint": ["frames", "mel"]}
    kinds = {f"samples/{task}/{kind}" for task, kinds in tasks.items() for kind in kinds}
    assert set(recorder.pictures) == {(name, step) for name in kinds for step in (2, 6)}
    assert set(recorder.sounds) == {
        (f"samples/{task}/sound_{i}", step) for task in ("video_to_audio", "joint") for i in (0, 1) for step in (2, 6)
    }
    assert recorder.sounds["samples/joint/sound_0", 2].shape == (3200,)
    # the truth is the same each time, what is generated is not
    before, after = (recorder.pictures["samples/audio_to_video/frames", step] for step in (2, 6))
    assert before.shape == (3, 4 * 16, 4 * 16)
    assert torch.equal(before[:, :16], after[:, :16])
    assert not torch.equal(before[:, 16:32], after[:, 16:32])
    codec, item = tiny().codec, batches().dataset[0]
    true = codec.decode(item["video_latents"].transpose(0, 1)).add(1).div(2).clamp(0, 1)
    torch.testing.assert_close(before[:, :16], torch.cat(list(true), dim=2))


def test_training_is_the_same_with_and_without_samples():
    plain, logged = tiny(), tiny()
    torch.manual_seed(7)
    fit(plain)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    fit(logged, SampleLogger(num_inference_steps=1), logger=Recorder())
    assert torch.equal(torch.get_rng_state(), state)
    for name, values in plain.state_dict().items():
        assert torch.equal(values, logged.state_dict()[name]), name


def test_samples_come_from_the_averaged_weights():
    seen = {}

    class Noting(SampleLogger):
        def _log_samples(self, trainer, model, batch):
            seen[trainer.global_step] = next(model.network.parameters()).detach().clone()

    average = EMAWeightAveraging(decay=0.5)
    model = tiny()
    trainer = fit(model, Noting(), average, logger=Recorder(), steps=2)
    assert trainer.global_step == 2
    averaged = next(average._average_model.module.network.parameters())
    torch.testing.assert_close(seen[2], averaged.detach())


def test_nothing_is_generated_for_a_logger_that_takes_no_pictures(monkeypatch):
    monkeypatch.setattr(CMMD, "sample", lambda *args, **kwargs: pytest.fail("generated"))
    fit(tiny(), SampleLogger())


def test_loggers_with_log_image_get_pictures():
    class Images(Recorder):
        def __init__(self):
            super().__init__()
            self.experiment, self.images = None, {}

        def log_image(self, key, images, step):
            self.images[key, step] = images

    images = Images()
    fit(tiny(), SampleLogger(num_inference_steps=1, tasks=("video_to_audio",)), logger=images, steps=2)
    ((key, pictures),) = images.images.items()
    assert key == ("samples/video_to_audio/mel", 2)
    assert pictures[0].shape == (4 * 16, CLIP.mel_frames, 3)


def test_tensorboard_takes_them(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    fit(tiny(), SampleLogger(num_samples=1, num_inference_steps=1, tasks=("joint",)), logger=logger, steps=2)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir).Reload()
    assert sorted(events.Tags()["images"]) == ["samples/joint/frames", "samples/joint/mel"]
    assert events.Tags()["audio"] == ["samples/joint/sound_0"]
    picture = events.Images("samples/joint/frames")[0]
    assert (picture.step, picture.height, picture.width) == (2, 16, 4 * 16)


def test_strips_have_a_row_per_clip_and_kind_and_frames_side_by_side():
    frames = torch.arange(2 * 3).reshape(2, 1, 3, 1, 1).expand(2, 3, 3, 2, 2) / 5.0  # clip, channel, time
    picture = _strips([frames, -frames])
    assert picture.shape == (3, 2 * 2 * 2, 3 * 2)
    expected = [[0.0, 0.2, 0.4], [0.0, -0.2, -0.4], [0.6, 0.8, 1.0], [-0.6, -0.8, -1.0]]
    torch.testing.assert_close(picture[0, ::2, ::2], (torch.tensor(expected) + 1) / 2)


def test_spectrograms_have_low_bands_at_the_bottom_on_the_first_kinds_scale():
    true = torch.tensor([[[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]])  # low, middle, high band
    picture = _spectrograms([true, true + 2])
    assert picture.shape == (3, 6, 2)
    assert picture[0].tolist() == [[0.0, 0.0], [0.25, 0.5], [0.0, 0.0], [0.0, 0.0], [0.75, 1.0], [0.5, 0.5]]


@pytest.mark.parametrize("name", ["every_n_validations", "num_samples"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got 0"):
        SampleLogger(**{name: 0})
