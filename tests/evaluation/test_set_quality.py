"""Distances between sets, what a classifier hears, and copies of training clips."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from cmmd_lightning.evaluation import Extractors, Observation, evaluate_folders
from cmmd_lightning.evaluation.measures import View
from cmmd_lightning.evaluation.observation import Media
from cmmd_lightning.evaluation.observe import Observer
from cmmd_lightning.evaluation.quality import quality_metrics
from cmmd_lightning.media import read_sound, write_sound
from cmmd_lightning.metrics.extractors.statistics import MelStatistics, PixelStatistics
from cmmd_lightning.metrics.functional.quality import kernel_distance
from cmmd_lightning.metrics.synchrony import Events
from cmmd_lightning.metrics.weights import weights_hash

STATISTICS = Extractors(PixelStatistics(), MelStatistics())
RATE = 16000


class Peak(nn.Module):
    """The peak of each half of a sound, as two rows of one value."""

    name = "peak"

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0), requires_grad=False)

    def forward(self, sound, sample_rate):
        return self.gain * sound.reshape(2, -1).amax(dim=1, keepdim=True)


class Loudness(nn.Module):
    """A classifier that tells loud from soft."""

    name = "loudness"

    def forward(self, sound, sample_rate):
        loud = float(sound.abs().max())
        return torch.tensor([[loud, 1 - loud]])


def sound(*halves):
    return Media(sound=torch.cat([torch.full((RATE,), half) for half in halves]), sample_rate=RATE)


def observed(made, true, extractors, task="video_to_audio"):
    observer = Observer(task, extractors=extractors)
    return [observer.observe(str(i), *pair, known=[]) for i, pair in enumerate(zip(made, true, strict=True))]


def rows_of(generated, reference):
    """Observations with given features, one row each."""
    view = View({"events": Events([], 1.0)}, {"events": Events([], 1.0)})
    return [
        Observation(
            str(i),
            1.0,
            "sidecar",
            view,
            features={"audio": {"generated": a[None], "reference": b[None], "noise": b[None]}},
        )
        for i, (a, b) in enumerate(zip(generated, reference, strict=True))
    ]


def test_the_same_clips_are_at_distance_zero(clips):
    for task, name in (("video_to_audio", "mel-statistics-v2"), ("audio_to_video", "pixel-statistics-v1")):
        metrics = evaluate_folders(task, clips, clips, extractors=STATISTICS, progress=False)["tasks"][task]
        entry = metrics[f"frechet_distance[{name}]"]
        assert entry["value"] == pytest.approx(0.0, abs=1e-6)
        assert entry["floor"] > 20
        assert entry["reference_halves"] > 1e-3
        assert (entry["extractor"], entry["weights"], entry["n"], entry["n_reference"]) == (name, "none", 8, 8)
        assert (entry["rows"], entry["higher_is_better"]) == ([8, 8], False)
        # an unbiased estimate of 0 from one set twice: below 0, since pairs of the same clip count on one side only
        kernel = metrics[f"kernel_distance[{name}]"]
        assert -0.1 * kernel["floor"] < kernel["value"] < 0


def test_distances_of_gaussian_rows_have_closed_forms():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((40, 3))
    metrics = quality_metrics(rows_of(a + 2, a), Extractors(audio=Peak()))
    entry = metrics["frechet_distance[peak]"]
    assert entry["value"] == pytest.approx(3 * 2**2)  # equal covariances: the squared distance of the means
    assert entry["ci95"][0] < entry["value"] < entry["ci95"][1]
    assert entry["floor"] == pytest.approx(0.0, abs=1e-9)
    assert (entry["ceiling"], entry["weights"]) == (None, weights_hash(Peak()))
    kernel = metrics["kernel_distance[peak]"]["value"]
    assert kernel == kernel_distance(torch.from_numpy(a + 2), torch.from_numpy(a))


def test_rows_of_any_number_for_each_clip_count():
    true = [sound(0.1, 0.2), sound(0.3, 0.4)]
    made = [sound(0.2, 0.3), sound(0.4, 0.5)]
    entry = quality_metrics(observed(made, true, Extractors(audio=Peak())), Extractors(audio=Peak()))[
        "frechet_distance[peak]"
    ]
    assert entry["rows"] == [4, 4]
    assert entry["value"] == pytest.approx((2 * 0.1) ** 2, abs=1e-6)


def test_white_noise_is_the_floor_exactly():
    generator = torch.Generator().manual_seed(3)
    frames = [torch.randint(0, 99, (16, 3, 32, 32), dtype=torch.uint8, generator=generator) for _ in range(4)]
    true = [Media(f, 10.0, torch.randn(RATE, generator=generator).cumsum(0) / 99, RATE) for f in frames]

    def noise(clip):
        drawn = torch.Generator().manual_seed(0)
        hiss = torch.randn(clip.sound.shape, generator=drawn) * clip.sound.std()
        pixels = torch.randint(0, 256, clip.frames.shape, dtype=torch.uint8, generator=drawn)
        return Media(pixels, 10.0, hiss, RATE)

    metrics = quality_metrics(observed([noise(x) for x in true], true, STATISTICS, "joint"), STATISTICS)
    assert len(metrics) == 4
    for entry in metrics.values():
        assert entry["value"] == entry["floor"] > 1


def test_a_classifier_judges_clip_by_clip():
    true = [sound(0.9, 0.9), sound(0.1, 0.1), sound(0.75, 0.0)]
    made = [sound(0.8, 0.8), sound(0.6, 0.6), sound(0.5, 0.25)]
    extractors = Extractors(classifier=Loudness())
    metrics = quality_metrics(observed(made, true, extractors), extractors)
    assert set(metrics) == {"classifier_agreement", "classifier_kl"}
    assert metrics["classifier_agreement"]["value"] == pytest.approx(2 / 3)
    pairs = ((0.9, 0.8), (0.1, 0.6), (0.75, 0.5))
    kl = [p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)) for p, q in pairs]
    assert metrics["classifier_kl"]["value"] == pytest.approx(np.mean(kl), abs=1e-6)
    # true classes are loud, soft, loud; the generated ones all loud: of the wrong pairs, 4 of 6 agree
    assert metrics["classifier_agreement"]["floor"] == pytest.approx(4 / 6)
    assert [metrics[f"classifier_{x}"]["higher_is_better"] for x in ("agreement", "kl")] == [True, False]
    assert metrics["classifier_kl"]["classifier"] == "loudness"
    assert quality_metrics(observed(true, true, extractors), extractors)["classifier_kl"]["value"] == 0.0


def test_copies_of_training_clips_are_found_and_named(clips, tmp_path):
    made, training = tmp_path / "made", tmp_path / "training"
    for path in sorted(clips.glob("*.mp4")):
        samples = read_sound(path, start=0.0, num_samples=25600, sample_rate=RATE)
        write_sound(made / f"{path.stem}.wav", samples.flip(0), RATE)
    shutil.copytree(made, training)
    report = evaluate_folders("video_to_audio", made, clips, extractors=STATISTICS, training=training, progress=False)
    entry = report["tasks"]["video_to_audio"]["memorisation[mel-statistics-v2]"]
    assert entry["distances"]["generated"] == [0.0] * 8
    assert min(entry["distances"]["held_out"]) > 0.1
    assert (entry["value"], entry["ci95"], entry["share_below_1st_percentile"]) == (1.0, [1.0, 1.0], 1.0)
    assert (entry["n"], entry["n_held_out"], entry["n_training"]) == (8, 8, 8)
    for row in report["runs"]["video_to_audio"]["clips"]:
        assert row["nearest_training_clip[mel-statistics-v2]"] == [f"{row['stem']}.wav", 0.0]
    # the other way round: the true clips are the copies, and the generated ones lie farther
    report = evaluate_folders("video_to_audio", made, clips, extractors=STATISTICS, training=clips, progress=False)
    assert report["tasks"]["video_to_audio"]["memorisation[mel-statistics-v2]"]["value"] == 0.0


def test_one_clip_has_no_distance_between_sets():
    extractors = Extractors(audio=Peak())
    assert quality_metrics(observed([sound(0.1, 0.2)], [sound(0.1, 0.2)], extractors), extractors) == {}
    assert quality_metrics([], extractors) == {}
