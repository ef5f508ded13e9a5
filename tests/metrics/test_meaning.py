"""Agreement of meaning: hand-worked values, brute force, scipy, and the metrics over batches and processes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from scipy.stats import entropy
from torch import nn

from cmmd_lightning.metrics.functional.meaning import (
    class_agreement_floor,
    classifier_agreement,
    embedding_agreement,
    label_agreement,
    pair_scores,
)
from cmmd_lightning.metrics.meaning import AudioVisualAgreement, ClassifierAgreement


def rows(count, width, seed, kind="embeddings"):
    values = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values if kind == "embeddings" else (3 * values).softmax(dim=1)


# the pure functions


def test_embedding_agreement_is_scipys_cosine_whatever_the_scale():
    video, audio = rows(5, 7, 0), rows(5, 7, 1)
    expected = [1 - cosine(v, a) for v, a in zip(video.numpy(), audio.numpy(), strict=True)]
    assert embedding_agreement(3 * video, audio / 5).tolist() == pytest.approx(expected, abs=1e-12)
    assert embedding_agreement(video, video).tolist() == pytest.approx([1] * 5, abs=1e-12)
    assert embedding_agreement(video, -video).tolist() == pytest.approx([-1] * 5, abs=1e-12)
    assert embedding_agreement(video, 0 * video).tolist() == [0] * 5


def test_label_agreement_by_hand():
    video = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2], [0.5, 0.5, 0.0]])
    audio = torch.tensor([[0.0, 0.4, 0.6], [0.2, 0.3, 0.5], [0.5, 0.5, 0.0]])
    assert label_agreement(video, audio).tolist() == pytest.approx([0.0, 0.7, 1.0], abs=1e-6)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_label_agreement_is_the_common_mass_is_symmetric_and_ignores_the_order_of_labels(seed):
    video, audio = rows(3, 6, seed, "probabilities"), rows(3, 6, seed + 1, "probabilities")
    agreement = label_agreement(video, audio)
    torch.testing.assert_close(agreement, torch.minimum(video, audio).sum(dim=1))
    torch.testing.assert_close(agreement, label_agreement(audio, video))
    torch.testing.assert_close(agreement, label_agreement(video.flip(1), audio.flip(1)))


@pytest.mark.parametrize("kind", ["embeddings", "probabilities"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_pair_scores_equal_brute_force(kind, chunk):
    video = rows(9, 4, 0, kind)
    audio = (video + rows(9, 4, 1, kind)) / 2
    one = embedding_agreement if kind == "embeddings" else label_agreement
    matrix = np.array([[one(v[None], a[None]).item() for a in audio] for v in video])
    scores = pair_scores(video, audio, kind, chunk=chunk)
    assert scores.agreement == pytest.approx(matrix.diagonal().mean(), abs=1e-12)
    assert scores.floor == pytest.approx(matrix[~np.eye(9, dtype=bool)].mean(), abs=1e-12)
    assert scores.recall_video_to_audio == np.mean(matrix.argmax(axis=1) == np.arange(9))
    assert scores.recall_audio_to_video == np.mean(matrix.argmax(axis=0) == np.arange(9))
    if kind == "embeddings":  # this draw tells the two directions apart
        assert scores.recall_video_to_audio != scores.recall_audio_to_video


def test_encoders_that_see_nothing_score_as_chance_and_perfect_ones_are_perfect():
    same = torch.ones(8, 3)
    assert pair_scores(same, same, "embeddings") == pytest.approx((1, 1, 1 / 8, 1 / 8))
    assert pair_scores(torch.eye(8), 2 * torch.eye(8), "embeddings") == pytest.approx((1, 0, 1, 1))


def test_few_clips_are_defined():
    assert np.isnan(pair_scores(torch.zeros(0, 3), torch.zeros(0, 3), "embeddings")).all()
    one = pair_scores(torch.ones(1, 3), torch.ones(1, 3), "embeddings")
    assert (one.agreement, one.recall_video_to_audio) == pytest.approx((1, 1))
    assert np.isnan(one.floor)


def test_classifier_agreement_against_scipy():
    true, generated = rows(6, 5, 0, "probabilities"), rows(6, 5, 1, "probabilities")
    scores = classifier_agreement(true, generated)
    assert scores.kl.tolist() == pytest.approx(entropy(true.numpy(), generated.numpy(), axis=1), abs=1e-4)
    assert scores.agreement.tolist() == (true.numpy().argmax(1) == generated.numpy().argmax(1)).tolist()
    assert classifier_agreement(true, true).kl.tolist() == [0.0] * 6


def test_kl_is_bounded_by_the_documented_clamp_and_nothing_for_equal_certainty():
    certain, other = torch.eye(527)[:1], torch.eye(527)[1:2]
    bounded = classifier_agreement(certain, other)
    assert (bounded.agreement.item(), bounded.kl.item()) == (0.0, pytest.approx(-np.log(1e-6), abs=0.02))
    assert classifier_agreement(certain, certain).kl.item() == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=12))
def test_class_floor_is_the_mean_over_wrong_partners(pairs):
    true, generated = (np.array(side) for side in zip(*pairs, strict=True))
    wrong = (true[:, None] == generated[None])[~np.eye(len(pairs), dtype=bool)]
    assert class_agreement_floor(torch.tensor(true), torch.tensor(generated)) == pytest.approx(wrong.mean(), abs=1e-12)


def test_malformed_rows_raise():
    good = torch.full((2, 2), 0.5)
    for function in (embedding_agreement, label_agreement, classifier_agreement):
        with pytest.raises(ValueError, match=r"two equal shapes \(clips, .*\), got \(2, 2\), \(2, 3\)"):
            function(good, torch.zeros(2, 3))
        with pytest.raises(ValueError, match="must be finite"):
            function(good, torch.tensor([[float("nan"), 1.0], [0.5, 0.5]]))
    for bad in (torch.tensor([[1.5, -0.5]]), torch.tensor([[2.0, 3.0]])):
        with pytest.raises(ValueError, match="0 or more with sum 1"):
            label_agreement(good[:1], bad)
    with pytest.raises(ValueError, match="got 'cosine'"):
        pair_scores(good, good, "cosine")
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        class_agreement_floor(torch.zeros(2), torch.zeros(3))


# the metrics: encoders here read the rows that the test wrote into the media


def seen(frames, fps):
    return frames[:, :, :, 0, 0].flatten(1).float()


def heard(sound, sample_rate):
    return sound[:, :6] * 255


def clips(count):
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (count, 6), generator=generator)
    frames = values.to(torch.uint8).reshape(count, 3, 2, 1, 1)
    return frames, values / 255 + 0.3 * torch.rand(count, 6, generator=generator)


def softmax_of(sound, sample_rate):
    return (4 * sound[:, :5]).softmax(dim=1)


def test_audio_visual_agreement_is_the_function_over_all_batches():
    frames, sound = clips(7)
    metric = AudioVisualAgreement(seen, heard)
    for part in (slice(0, 3), slice(3, 7)):
        metric.update(frames[part], 10.0, sound[part], 6)
    expected = pair_scores(seen(frames, 10.0), heard(sound, 6), "embeddings")
    got = {name: float(value) for name, value in metric.compute().items()}
    assert got == pytest.approx(
        {
            "av_agreement": expected.agreement,
            "av_agreement_floor": expected.floor,
            "av_recall@1_video_to_audio": expected.recall_video_to_audio,
            "av_recall@1_audio_to_video": expected.recall_audio_to_video,
            "av_recall@1_floor": 1 / 7,
        },
        abs=1e-6,
    )
    assert got["av_agreement"] > got["av_agreement_floor"] + 0.05
    metric.reset()
    metric.update(frames[:2], 10.0, torch.from_numpy(frames[:2].flatten(1).numpy() / 255), 6)
    assert float(metric.compute()["av_agreement"]) == pytest.approx(1)


def test_encoders_of_probabilities_are_compared_as_labels():
    def video(frames, fps):
        return seen(frames, fps).softmax(dim=1)

    def audio(sound, sample_rate):
        return sound.softmax(dim=1)

    video.outputs = audio.outputs = "probabilities"
    frames, sound = clips(4)
    metric = AudioVisualAgreement(video, audio)
    metric.update(frames, 10.0, sound, 6)
    expected = label_agreement(video(frames, 10.0), audio(sound, 6)).mean()
    assert float(metric.compute()["av_agreement"]) == pytest.approx(float(expected), abs=1e-6)
    with pytest.raises(ValueError, match="same kind of rows, got probabilities and embeddings"):
        AudioVisualAgreement(video, heard)


def test_modules_are_asked_without_dropout_and_gradient():
    class Dropping(nn.Linear):
        def forward(self, sound, sample_rate):
            return torch.nn.functional.dropout(super().forward(sound), training=self.training).softmax(dim=1)

    classifier = Dropping(6, 4)
    metric = ClassifierAgreement(classifier).train()
    sound = clips(50)[1]
    metric.update(sound, sound, 6)
    assert float(metric.compute()["classifier_agreement"]) == 1.0
    assert float(metric.compute()["classifier_kl"]) == 0.0
    assert not metric.true_classes[0].requires_grad


def test_classifier_agreement_with_and_without_labels():
    true = torch.eye(5)[[0, 1, 2, 3]]
    generated = torch.eye(5)[[0, 1, 4, 4]]
    metric = ClassifierAgreement(softmax_of)
    metric.update(true[:2], generated[:2], 16000)
    assert set(metric.compute()) == {"classifier_agreement", "classifier_agreement_floor", "classifier_kl"}
    metric.update(true[2:], generated[2:], 16000, torch.tensor([2, 4]))
    values = {name: float(value) for name, value in metric.compute().items()}
    high, low = np.exp(4) / (np.exp(4) + 4), 1 / (np.exp(4) + 4)
    assert values == pytest.approx(
        {
            "classifier_agreement": 0.5,
            "classifier_agreement_floor": 0.0,
            "classifier_kl": (high - low) * np.log(high / low) / 2,
            "classifier_accuracy_true": 0.5,
            "classifier_accuracy_generated": 0.5,
        },
        abs=1e-5,
    )


def test_no_clips_and_one_clip_are_defined_with_a_warning():
    for metric in (AudioVisualAgreement(seen, heard), ClassifierAgreement(softmax_of)):
        with pytest.warns(UserWarning, match="of 0 clips"):
            assert all(np.isnan(float(value)) for value in metric.compute().values())
    frames, sound = clips(1)
    metric = AudioVisualAgreement(seen, heard)
    metric.update(frames, 10.0, sound, 6)
    with pytest.warns(UserWarning, match="of 1 clips"):
        values = metric.compute()
    assert np.isnan(float(values["av_agreement_floor"]))
    assert float(values["av_recall@1_floor"]) == 1.0


def test_malformed_clips_and_encoders_raise():
    frames, sound = clips(3)
    with pytest.raises(ValueError, match="got 3 of frames, 2 of sound"):
        AudioVisualAgreement(seen, heard).update(frames, 10.0, sound[:2], 6)
    with pytest.raises(ValueError, match=r"rows of one width, got \(3, 6\) and \(3, 5\)"):
        AudioVisualAgreement(seen, softmax_of).update(frames, 10.0, sound, 6)
    with pytest.raises(ValueError, match=r"must give \(3, D\), a row for each clip, got \(2, 6\)"):
        AudioVisualAgreement(lambda frames, fps: seen(frames, fps)[1:], heard).update(frames, 10.0, sound, 6)
    with pytest.raises(ValueError, match="finite"):
        AudioVisualAgreement(seen, heard).update(frames, 10.0, sound / 0, 6)
    with pytest.raises(ValueError, match="got 2 true, 3 generated"):
        ClassifierAgreement(softmax_of).update(sound, sound[:2], 6)
    with pytest.raises(ValueError, match="logits"):
        ClassifierAgreement(heard).update(sound, sound, 6)
    for labels in (torch.tensor([0, 1, 5]), torch.tensor([0, 1]), torch.tensor([0.0, 1.0, 2.0])):
        with pytest.raises(ValueError, match=r"labels must be \(3,\) class indices below 5"):
            ClassifierAgreement(softmax_of).update(sound, sound, 6, labels)


def test_plot_draws():
    metric = ClassifierAgreement(softmax_of)
    metric.update(clips(3)[1], clips(3)[1], 6)
    assert metric.plot()[0].axes


def filled(part):
    """Both metrics on some of nine clips."""
    frames, sound = (media[part] for media in clips(9))
    agreement, classes = AudioVisualAgreement(seen, heard), ClassifierAgreement(softmax_of)
    agreement.update(frames, 10.0, sound, 6)
    classes.update(sound, sound.flip(1), 6, torch.arange(9)[part] % 5)
    return agreement, classes


def values_of(metrics):
    return {name: float(value) for metric in metrics for name, value in metric.compute().items()}


def test_merged_states_give_the_result_of_one():
    first, second = filled(slice(0, 4)), filled(slice(4, 9))
    for one, other in zip(first, second, strict=True):
        one.merge_state(other)
    assert values_of(first) == pytest.approx(values_of(filled(slice(0, 9))), abs=1e-6)
