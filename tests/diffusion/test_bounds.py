import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from cmmd_lightning.diffusion.bounds import contrastive_bound


def test_bounds_by_hand():
    error, negative = torch.tensor([0.2, 0.5]), torch.tensor([[0.4, 0.25], [0.1, 0.9]])
    assert contrastive_bound(error, negative, "linear").tolist() == pytest.approx([-0.325, -0.5])
    hinge = contrastive_bound(error, negative, "hinge", margin=0.1)
    assert hinge.tolist() == pytest.approx([(0 + 0.05) / 2, (0.5 + 0) / 2])
    got = contrastive_bound(error, negative, "infonce", temperature=0.1)
    first = -math.log(math.exp(-2) / (math.exp(-2) + math.exp(-4) + math.exp(-2.5)))
    second = -math.log(math.exp(-5) / (math.exp(-5) + math.exp(-1) + math.exp(-9)))
    assert got.tolist() == pytest.approx([first, second], rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), count=st.integers(1, 6), temperature=st.floats(0.02, 2.0))
def test_infonce_is_cross_entropy_of_the_true_partner(seed, count, temperature):
    generator = torch.Generator().manual_seed(seed)
    error, negative = torch.rand(5, generator=generator), torch.rand(5, count, generator=generator)
    logits = -torch.cat([error[:, None], negative], 1) / temperature
    expected = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long), reduction="none")
    got = contrastive_bound(error, negative, "infonce", temperature)
    torch.testing.assert_close(got, expected)
    assert (got >= 0).all()


def test_a_network_that_ignores_its_partner_scores_log_of_the_choices():
    error = torch.rand(4)
    got = contrastive_bound(error, error[:, None].expand(4, 3), "infonce")
    torch.testing.assert_close(got, torch.full((4,), math.log(4.0)))
    torch.testing.assert_close(contrastive_bound(error, error[:, None], "hinge", margin=0.3), torch.full((4,), 0.3))


@pytest.mark.parametrize("bound", ["linear", "hinge", "infonce"])
def test_the_mean_over_negatives_and_no_end_to_what_is_far(bound):
    error, negative = torch.tensor([0.3]), torch.tensor([[0.35]])
    one = contrastive_bound(error, negative, bound)
    if bound != "infonce":  # K copies of one negative count as one
        torch.testing.assert_close(contrastive_bound(error, negative.expand(1, 5), bound), one)
    far = contrastive_bound(error, torch.tensor([[1e4]]), bound).item()
    assert far == (-1e4 if bound == "linear" else pytest.approx(0.0, abs=1e-6))  # only linear is unbounded below


@pytest.mark.parametrize("bound", ["linear", "hinge", "infonce"])
def test_the_bounds_push_wrong_partners_up_and_the_true_one_down(bound):
    error, negative = torch.tensor([0.3], requires_grad=True), torch.tensor([[0.35, 0.32]], requires_grad=True)
    contrastive_bound(error, negative, bound).sum().backward()
    assert (negative.grad < 0).all()
    assert error.grad is None if bound == "linear" else (error.grad > 0).all()


def test_preference_by_hand():
    """Gaps against the reference's: (0.2 - 0.4) - (0.3 - 0.35) = -0.15 and (0.2 - 0.25) - (0.3 - 0.5) = 0.15."""
    error, negative = torch.tensor([0.2]), torch.tensor([[0.4, 0.25]])
    reference = torch.tensor([0.3]), torch.tensor([[0.35, 0.5]])
    got = contrastive_bound(error, negative, "preference", beta=10.0, reference=reference)
    expected = (-math.log(1 / (1 + math.exp(-1.5))) - math.log(1 / (1 + math.exp(1.5)))) / 2
    assert got.tolist() == [pytest.approx(expected, rel=1e-5)]
    # as good as its reference: log 2, whatever the gap
    same = contrastive_bound(error, negative, "preference", reference=(error, negative))
    assert same.tolist() == [pytest.approx(math.log(2.0))]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), count=st.integers(1, 5), beta=st.floats(0.1, 100.0))
def test_preference_is_the_mean_negative_log_sigmoid_and_its_gradient(seed, count, beta):
    generator = torch.Generator().manual_seed(seed)
    error, known = (torch.rand(4, generator=generator, dtype=torch.float64) for _ in range(2))
    negative, known_negative = (torch.rand(4, count, generator=generator, dtype=torch.float64) for _ in range(2))
    error.requires_grad_(), negative.requires_grad_()
    got = contrastive_bound(error, negative, "preference", beta=beta, reference=(known, known_negative))
    win = (known[:, None] - known_negative) - (error[:, None] - negative)
    torch.testing.assert_close(got, -F.logsigmoid(beta * win).mean(1))
    got.sum().backward()
    # d/de = mean_k beta (1 - sigmoid(beta win)): steep where the reference is not yet beaten
    slope = beta * (1 - torch.sigmoid(beta * win)).detach()
    torch.testing.assert_close(error.grad, slope.mean(1))
    torch.testing.assert_close(negative.grad, -slope / count)


def test_preference_does_not_overflow_and_needs_a_reference():
    error, negative, zero = torch.tensor([1e3]), torch.tensor([[0.0]]), (torch.zeros(1), torch.zeros(1, 1))
    assert contrastive_bound(error, negative, "preference", beta=20.0, reference=zero).item() == pytest.approx(2e4)
    assert contrastive_bound(-error, negative, "preference", beta=20.0, reference=zero).item() == 0.0
    with pytest.raises(ValueError, match="bound 'preference': expected the errors of a reference network, got none"):
        contrastive_bound(error, negative, "preference")
