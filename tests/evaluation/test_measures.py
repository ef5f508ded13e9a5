"""What is taken from pictures and sounds, with encoders whose rows can be worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from cmmd_lightning.evaluation import Senses
from cmmd_lightning.evaluation.measures import View, shrunk
from cmmd_lightning.evaluation.observation import Media, RoundTrip
from cmmd_lightning.evaluation.observe import Observer
from cmmd_lightning.metrics.functional.linear_sync import LinearSync, Sequences, fit_linear_sync

FPS, RATE = 25.0, 16000


class Colour(nn.Module):
    """Red and green of a picture as a row."""

    outputs = "embeddings"

    def forward(self, frames, fps):
        assert (frames.shape[:2], fps) == ((1, 3), FPS)
        return frames[:, :2].double().mean(dim=(2, 3, 4))


class Level(nn.Module):
    """Mean of a sound and 0.8 as a row."""

    def forward(self, sound, sample_rate):
        assert (sound.dim(), len(sound), sample_rate) == (2, 1, RATE)
        return torch.tensor([[float(sound.mean()), 0.8]])


def media(red=0, green=0, level=0.0):
    frames = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
    frames[:, 0], frames[:, 1] = red, green
    return Media(frames, FPS, torch.full((2 * RATE,), level), RATE)


def compared(senses, clip):
    view = View(senses.see(clip.frames, clip.fps), senses.hear(clip.sound, clip.sample_rate))
    return senses.compare(view, view)


def test_agreement_of_embeddings_is_their_cosine():
    senses = Senses(encoders=(Colour(), Level()))
    assert compared(senses, media(red=200, level=0.6))["audio_visual_agreement"] == pytest.approx(0.6)
    assert compared(senses, media(green=7, level=0.6))["audio_visual_agreement"] == pytest.approx(0.8)
    assert compared(senses, media(red=30, green=40, level=0.6))["audio_visual_agreement"] == pytest.approx(1.0)


def test_agreement_of_probabilities_is_the_mass_in_common():
    class Seen(nn.Module):
        outputs = "probabilities"

        def forward(self, frames, fps):
            return torch.tensor([[0.5, 0.5, 0.0]])

    class Heard(nn.Module):
        outputs = "probabilities"

        def forward(self, sound, sample_rate):
            return torch.tensor([[0.25, 0.5, 0.25]])

    assert compared(Senses(encoders=(Seen(), Heard())), media())["audio_visual_agreement"] == pytest.approx(0.75)


def flashes(late=0.0):
    """A clip that flashes, and clicks ``late`` seconds after."""
    generator = torch.Generator().manual_seed(0)
    frames, sound = torch.zeros(75, 3, 32, 32, dtype=torch.uint8), torch.zeros(3 * RATE)
    for time in (0.4, 1.2, 1.6, 2.4):
        frames[round(time * FPS) :][:2] = 255
        start = round((time + late) * RATE)
        sound[start : start + 1280] = 0.3 * torch.randn(1280, generator=generator)
    return Media(frames, FPS, sound, RATE)


@pytest.mark.parametrize("late", [0.08, -0.08, 0.2])
def test_loudness_lags_behind_motion_by_the_delay(late):
    own, delayed = (compared(Senses(), flashes(x)) for x in (0.0, late))
    assert delayed["motion_loudness_lag"] - own["motion_loudness_lag"] == pytest.approx(late, abs=0.01)
    assert delayed["motion_loudness_correlation"] < own["motion_loudness_correlation"] - 0.2


def test_a_still_or_silent_clip_has_no_lag_and_no_correlation():
    for clip in (media(red=9, level=0.1), media()):
        scores = compared(Senses(), clip)
        assert np.isnan(scores["motion_loudness_lag"])
        assert scores["motion_loudness_correlation"] == 0.0


def test_linear_synchrony_is_part_of_the_scores_where_there_is_one(tmp_path):
    rng = np.random.default_rng(0)

    def clip():
        common = rng.standard_normal((100, 1))
        pixels, spectrum = rng.standard_normal((100, 1024)), rng.standard_normal((100, 32))
        return Sequences(pixels + 5 * common * (np.arange(1024) < 9), spectrum + common)

    fitted = fit_linear_sync([clip() for _ in range(12)], num_components=4, num_directions=1, context=0)
    fitted.save(tmp_path / "fitted.safetensors")
    scores = [compared(Senses(linear=x), flashes()) for x in (fitted, LinearSync.load(tmp_path / "fitted.safetensors"))]
    assert scores[0] == scores[1]
    assert {"linear_sync", "linear_sync_lag"} < scores[0].keys()
    assert -1 <= scores[0]["linear_sync"] <= 1
    assert "linear_sync" not in compared(Senses(), flashes())


def test_tall_pictures_are_brought_down_in_their_shape():
    assert shrunk(torch.zeros(2, 3, 192, 108, dtype=torch.uint8)).shape == (2, 3, 96, 54)
    assert shrunk(torch.full((70, 3, 97, 3), 200, dtype=torch.uint8)).unique().tolist() == [200]


def test_a_picture_that_was_seen_already_is_not_looked_at_again():
    looked = []

    class Counting(Senses):
        def see(self, frames, fps):
            looked.append(len(frames))
            return super().see(frames, fps)

    trip = RoundTrip(RATE, FPS, (32, 32), sound=lambda x: x, frames=lambda x: x)
    observer = Observer("video_to_audio", Counting(), trip)
    true = flashes()
    observer.observe("a", Media(sound=flashes(0.1).sound), true, Media(sound=true.sound), known=[{"time": 0.4}])
    assert looked == [75]
    other = Media(true.frames.flip(0), FPS, true.sound)
    seen = observer.observe("a", other, true, Media(sound=true.sound), known=[{"time": 0.4}])
    assert looked == [75, 75, 75]
    assert seen.best.left["motion"].tolist() != seen.made.left["motion"].tolist()
