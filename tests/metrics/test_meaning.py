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
)
from cmmd_lightning.metrics.meaning import ClassifierAgreement, PairAgreement


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
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        class_agreement_floor(torch.zeros(2), torch.zeros(3))


# the metrics: encoders here read the rows that the test wrote into the media


def heard(sound, sample_rate):
    return sound[:, :6] * 255


def clips(count):
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(0))


def softmax_of(sound, sample_rate):
    return (4 * sound[:, :5]).softmax(dim=1)


def test_pair_agreement_is_the_mean_of_the_function_of_its_kind():
    for kind, function in (("embeddings", embedding_agreement), ("probabilities", label_agreement)):
        video, audio = rows(7, 4, 0, kind), rows(7, 4, 1, kind)
        metric = PairAgreement(kind)
        for part in (slice(0, 3), slice(3, 7)):
            metric.update(audio[part].split(1), video[part].split(1))
        expected = function(video, audio)
        assert float(metric.compute()["audio_visual_agreement"]) == pytest.approx(float(expected.mean()), abs=1e-6)
        assert metric.clip_values().flatten().tolist() == pytest.approx(expected.tolist())


def test_modules_are_asked_without_dropout_and_gradient():
    class Dropping(nn.Linear):
        def forward(self, sound, sample_rate):
            return torch.nn.functional.dropout(super().forward(sound), training=self.training).softmax(dim=1)

    classifier = Dropping(6, 4)
    metric = ClassifierAgreement(classifier).train()
    sound = clips(50)
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


def test_no_clips_are_defined_with_a_warning():
    with pytest.warns(UserWarning, match="of 0 clips"):
        assert all(np.isnan(float(value)) for value in ClassifierAgreement(softmax_of).compute().values())


def test_malformed_clips_and_encoders_raise():
    sound = clips(3)
    with pytest.raises(ValueError, match=r"must give \(3, D\), a row for each clip, got \(2, 5\)"):
        ClassifierAgreement(lambda sound, rate: softmax_of(sound, rate)[1:]).update(sound, sound, 6)
    with pytest.raises(ValueError, match="got 2 true, 3 generated"):
        ClassifierAgreement(softmax_of).update(sound, sound[:2], 6)
    with pytest.raises(ValueError, match="logits"):
        ClassifierAgreement(heard).update(sound, sound, 6)
    for labels in (torch.tensor([0, 1, 5]), torch.tensor([0, 1]), torch.tensor([0.0, 1.0, 2.0])):
        with pytest.raises(ValueError, match=r"labels must be \(3,\) class indices below 5"):
            ClassifierAgreement(softmax_of).update(sound, sound, 6, labels)


def test_plot_draws():
    metric = ClassifierAgreement(softmax_of)
    metric.update(clips(3), clips(3), 6)
    assert metric.plot()[0].axes


def filled(part):
    """The metric on some of nine clips."""
    metric, sound = ClassifierAgreement(softmax_of), clips(9)[part]
    metric.update(sound, sound.flip(1), 6, torch.arange(9)[part] % 5)
    return metric


def test_merged_states_give_the_result_of_one():
    first, second, whole = (filled(slice(*ends)) for ends in ((0, 4), (4, 9), (0, 9)))
    first.merge_state(second)
    values, expected = ({name: float(x) for name, x in metric.compute().items()} for metric in (first, whole))
    assert values == pytest.approx(expected, abs=1e-6)
