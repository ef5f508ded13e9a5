import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmmd_lightning.diffusion.bounds import Bound
from cmmd_lightning.diffusion.draws import (
    AUDIO_TO_VIDEO,
    JOINT,
    VIDEO_TO_AUDIO,
    Draws,
    contrastive_rows,
    draw_batch,
)
from cmmd_lightning.diffusion.objective import (
    Errors,
    contrastive_loss,
    diffusion_loss,
    measure_errors,
    reference_errors,
    velocity_error,
)
from cmmd_lightning.diffusion.objective_spec import ObjectiveSpec
from cmmd_lightning.diffusion.schedule import NoiseSchedule, Schedules

VIDEO, AUDIO = torch.Size((3, 4, 2, 2)), torch.Size((5, 6))
SCHEDULE = NoiseSchedule()
ONLY = {task: tuple(float(i == task) for i in range(3)) for task in (JOINT, VIDEO_TO_AUDIO, AUDIO_TO_VIDEO)}


def draws_of(spec: ObjectiveSpec, batch: int, seed: int = 0, position: int = 0, first: int = 0) -> Draws:
    def generator(i: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * seed + i)

    indices = range(first, first + batch)
    return draw_batch(generator(999), [generator(i) for i in indices], spec, position, indices, VIDEO, AUDIO)


def data_of(batch: int, count: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(batch, *VIDEO, generator=generator), torch.randn(batch, *AUDIO, generator=generator)
    negatives = (
        torch.randn(batch, count, *VIDEO, generator=generator),
        torch.randn(batch, count, *AUDIO, generator=generator),
    )
    return pair, negatives


class Crossing(nn.Module):
    """Velocities that depend on the own noisy data, on the partner and on both times, with two weights to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.video = nn.Parameter(torch.tensor([0.6, -0.4, 0.3]))
        self.audio = nn.Parameter(torch.tensor([0.5, 0.7, -0.2]))
        self.batches: list[int] = []

    def forward(self, z_video, z_audio, t_video, t_audio):
        self.batches.append(len(z_video))
        see_audio = (z_audio[:, :3, :4] * (1 + t_audio.float())[:, None, None]).unflatten(2, (4, 1, 1))
        see_video = (z_video.mean((3, 4)) * (1 + t_video.float())[:, None, None]).mean(1)
        a, b, c = self.video
        v_video = torch.tanh(a * z_video + b * see_audio) + c * t_video.float().reshape(-1, 1, 1, 1, 1)
        a, b, c = self.audio
        v_audio = torch.tanh(a * z_audio + b * F.pad(see_video, (0, 2))[:, None]) + c * t_audio.float()[:, None, None]
        return v_video, v_audio


def one_by_one(network, data, negatives, draws, form="condition"):
    """What `measure_errors` says, example by example and forward by forward: the reference."""
    batch, count = len(data[0]), negatives[0].shape[1]
    noised = {}
    for name, x, eps, t in (
        ("video", data[0], draws.noise_video, draws.t_video),
        ("audio", data[1], draws.noise_audio, draws.t_audio),
    ):
        alpha = torch.cos(t * math.pi / 2).float().reshape(-1, *[1] * (x.ndim - 1))
        sigma = torch.sin(t * math.pi / 2).float().reshape(-1, *[1] * (x.ndim - 1))
        noised[name] = (alpha, sigma, eps, alpha * x + sigma * eps, alpha * eps - sigma * x)
    found = {"video": [], "audio": [], "true": [], "negative": []}
    plain = []
    for i in range(batch):
        z = {name: values[3][i : i + 1] for name, values in noised.items()}
        times = draws.t_video[i : i + 1], draws.t_audio[i : i + 1]
        plain.append(dict(zip(("video", "audio"), network(z["video"], z["audio"], *times), strict=True)))
        for name in ("video", "audio"):
            found[name].append((plain[i][name] - noised[name][4][i]).square().mean())
    for i, of_audio in zip(draws.rows.tolist(), draws.measures_audio.tolist(), strict=True):
        own, other = ("audio", "video") if of_audio else ("video", "audio")
        z = {name: values[3][i : i + 1] for name, values in noised.items()}
        times, row = (draws.t_video[i : i + 1], draws.t_audio[i : i + 1]), []
        for k in range(count):
            if form == "condition":
                alpha, sigma, eps, _, _ = (values[i : i + 1] for values in noised[other])
                replaced = {own: z[own], other: alpha * negatives[int(other == "audio")][i : i + 1, k] + sigma * eps}
                prediction = network(replaced["video"], replaced["audio"], *times)[int(of_audio)]
                target = noised[own][4][i]
            else:
                alpha, sigma, eps, _, _ = (values[i] for values in noised[own])
                prediction = plain[i][own][0]
                target = alpha * eps - sigma * negatives[int(of_audio)][i, k]
            row.append((prediction - target).square().mean())
        found["true"].append(found[own][i])
        found["negative"].append(torch.stack(row))
    return found


def check_against(errors: Errors, found) -> None:
    for name, values in found.items():
        torch.testing.assert_close(getattr(errors, name), torch.stack(values), atol=1e-6, rtol=1e-5)


# ---- draws


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), drop=st.sampled_from([0.0, 0.5]), index=st.integers(0, 63))
def test_the_roles_of_an_example_are_of_one_task(seed, drop, index):
    d = draws_of(ObjectiveSpec(drop_probability=drop), 1, seed, first=index)
    t_video, t_audio = d.t_video.item(), d.t_audio.item()
    video, audio = d.generates_video.item(), d.generates_audio.item()
    assert video or audio
    if video and audio:
        assert 0 <= t_video == t_audio < 1
        assert d.weight.item() == 2.0  # of two sides one is drawn
    else:
        condition = t_audio if video else t_video
        assert condition in (0.0, 1.0)  # clean, or dropped
        assert 0 <= (t_video if video else t_audio) < 1
        assert d.weight.item() == (condition == 0.0)  # a dropped condition gets no negatives
        assert condition == 1.0 or d.measures_audio.item() == audio
    assert d.noise_video.shape == (1, *VIDEO)
    assert d.noise_audio.shape == (1, *AUDIO)


@pytest.mark.parametrize(
    ("task", "t_video", "t_audio", "generates"),
    [(VIDEO_TO_AUDIO, 0.0, None, (False, True)), (AUDIO_TO_VIDEO, None, 0.0, (True, False))],
)
def test_conditional_tasks(task, t_video, t_audio, generates):
    spec = ObjectiveSpec(task_probabilities=ONLY[task], drop_probability=0.5)
    d = draws_of(spec, 400)
    condition = d.t_video if t_audio is None else d.t_audio
    assert set(condition.tolist()) == {0.0, 1.0}
    assert condition.mean().item() == pytest.approx(0.5, abs=0.08)
    assert d.rows.tolist() == list(range(400))
    assert torch.equal(d.weight, (condition == 0.0).float())
    assert d.measures_audio.unique().tolist() == [generates[1]]
    assert d.generates_video.unique().tolist() == [generates[0]]
    assert d.generates_audio.unique().tolist() == [generates[1]]
    generated = d.t_audio if t_audio is None else d.t_video
    assert len(generated.unique()) == 400


def test_times_are_stratified_over_the_whole_batch():
    """Every n-th part of [0, 1) holds about one of n times, also where several processes share the batch."""
    spec = ObjectiveSpec(task_probabilities=ONLY[JOINT], drop_probability=0.0)
    whole = draws_of(spec, 64)
    counts = torch.histc(whole.t_video, 16, 0.0, 1.0)
    assert 3 <= counts.min() <= counts.max() <= 5
    halves = torch.cat([draws_of(spec, 32, first=first).t_video for first in (0, 32)])
    assert torch.equal(halves, whole.t_video)
    means = [draws_of(spec, 8, seed).t_video.mean().item() for seed in range(300)]
    assert sum(means) / 300 == pytest.approx(0.5, abs=0.02)  # and each is uniform
    every = torch.cat([draws_of(spec, 1, seed).t_video for seed in range(600)])
    assert torch.histc(every, 4, 0.0, 1.0).div(600).tolist() == pytest.approx([0.25] * 4, abs=0.06)


def test_joint_drops_either_side_alike():
    d = draws_of(ObjectiveSpec(task_probabilities=ONLY[JOINT], drop_probability=0.5), 600)
    lost_video, lost_audio = ~d.generates_video, ~d.generates_audio
    assert not (lost_video & lost_audio).any()
    assert torch.equal(d.t_video == 1.0, lost_video)
    assert torch.equal(d.t_audio == 1.0, lost_audio)
    assert lost_video.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert lost_audio.float().mean().item() == pytest.approx(0.25, abs=0.05)
    both = ~(lost_video | lost_audio)
    assert torch.equal(d.t_video[both], d.t_audio[both])
    assert d.measures_audio[both].float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_tasks_are_drawn_as_often_as_asked():
    d = draws_of(ObjectiveSpec(task_probabilities=(1, 2, 1), drop_probability=0.0), 1200)
    shares = [x.float().mean().item() for x in (d.generates_video & d.generates_audio, ~d.generates_video)]
    assert shares == pytest.approx([0.25, 0.5], abs=0.04)


def test_a_draw_follows_from_its_generator_alone():
    spec = ObjectiveSpec()
    first, second = draws_of(spec, 8), draws_of(spec, 8)
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(second, name)), name
    assert not torch.equal(draws_of(spec, 8, seed=1).t_audio, first.t_audio)


@pytest.mark.parametrize("share", [0.125, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 6, 7, 16])
def test_as_many_examples_are_measured_at_every_step_and_each_alike_often(batch, share):
    chosen = [contrastive_rows(batch, share, position) for position in range(2000)]
    (count,) = {len(rows) for rows in chosen}
    assert count == max(1, math.floor(batch * share + 0.5))
    for i in range(batch):
        assert sum(i in rows for rows in chosen) / 2000 == pytest.approx(count / batch, abs=0.01)


@pytest.mark.parametrize("position", [0, 1, 7, 12345])
def test_two_processes_choose_what_one_would(position):
    whole = contrastive_rows(16, 0.25, position)
    parts = [[first + i for i in contrastive_rows(8, 0.25, position, first)] for first in (0, 8)]
    assert parts[0] + parts[1] == whole


@pytest.mark.parametrize("task", [JOINT, VIDEO_TO_AUDIO, AUDIO_TO_VIDEO])
@pytest.mark.parametrize("times", [(0.3, 0.7), (0.0, 0.2), (0.9, 1.0)])
def test_the_contrastive_term_is_measured_at_some_times_only(task, times):
    """t of the generated modality decides; nothing that is drawn changes."""
    settings = {"task_probabilities": ONLY[task], "drop_probability": 0.3, "contrastive_share": 0.5}
    whole = draws_of(ObjectiveSpec(**settings), 300)
    part = draws_of(ObjectiveSpec(contrastive_times=times, **settings), 300)
    t = whole.t_audio if task == VIDEO_TO_AUDIO else whole.t_video  # of joint ones both, unless one is dropped
    t = t.index_select(0, whole.rows)
    assert torch.equal(part.weight, whole.weight * ((t >= times[0]) & (t <= times[1])))
    assert 0 < part.weight.sum() < whole.weight.sum()
    for name, value in vars(whole).items():
        assert name == "weight" or torch.equal(value, getattr(part, name)), name


def test_draws_are_what_they_were():
    """Golden: the first numbers of a generator, read by hand in the order in which they are drawn."""
    spec, g = ObjectiveSpec(), torch.Generator().manual_seed(3)
    offset = torch.rand(1, generator=torch.Generator().manual_seed(999), dtype=torch.float64).item()
    task = int(torch.multinomial(torch.tensor([0.34, 0.33, 0.33], dtype=torch.float64), 1, generator=g))
    drop, _ = torch.rand(2, generator=g, dtype=torch.float64).tolist()
    d = draws_of(spec, 1, first=3)
    t = (offset + 3 * (5**0.5 - 1) / 2) % 1
    assert pytest.approx(t, abs=1e-6) in (d.t_video.item(), d.t_audio.item())
    assert d.generates_video.item() == (task != VIDEO_TO_AUDIO)
    assert (d.weight.item() > 0) == (drop >= 0.1)
    assert torch.equal(d.noise_video[0], torch.randn(VIDEO, generator=g))


def test_draws_of_the_examples_with_negatives():
    draws = draws_of(ObjectiveSpec(contrastive_share=0.5), 6)
    some = draws.of_rows()
    for name in ("t_video", "noise_audio", "generates_video"):
        assert torch.equal(getattr(some, name), getattr(draws, name)[draws.rows]), name
    assert some.rows.tolist() == [0, 1, 2]
    assert torch.equal(some.weight, draws.weight)


# ---- errors


@pytest.mark.parametrize("form", ["condition", "target"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("task", [None, JOINT, VIDEO_TO_AUDIO, AUDIO_TO_VIDEO])
def test_batched_errors_equal_separate_forwards(task, count, form):
    probabilities = {} if task is None else {"task_probabilities": ONLY[task]}
    spec = ObjectiveSpec(drop_probability=0.3, contrastive_share=0.75, **probabilities)
    draws, (data, negatives) = draws_of(spec, 10), data_of(10, count)
    network = Crossing()
    errors = measure_errors(network, SCHEDULE, data, negatives, draws, form)
    assert network.batches == [10 + (count * 8 if form == "condition" else 0)]  # whatever was drawn
    check_against(errors, one_by_one(network, data, negatives, draws, form))


def test_condition_form_changes_nothing_but_the_partner():
    """Same noise, same times: a negative equal to the condition has the same error."""
    draws, (data, _) = draws_of(ObjectiveSpec(drop_probability=0.0), 9), data_of(9)
    same = data[0][:, None], data[1][:, None]
    errors = measure_errors(Crossing(), SCHEDULE, data, same, draws)
    torch.testing.assert_close(errors.negative[:, 0], errors.true)
    errors = measure_errors(Crossing(), SCHEDULE, data, same, draws, "target")
    torch.testing.assert_close(errors.negative[:, 0], errors.true)


def test_condition_form_uses_the_partner_of_the_generated_modality():
    """Sound is generated: only wrong videos count; video: only wrong sounds; joint: each in turn."""
    network = Crossing()
    for task, matters in ((VIDEO_TO_AUDIO, (True, False)), (AUDIO_TO_VIDEO, (False, True)), (JOINT, (True, True))):
        draws = draws_of(ObjectiveSpec(task_probabilities=ONLY[task], drop_probability=0.0), 8)
        data, negatives = data_of(8)
        plain = measure_errors(network, SCHEDULE, data, negatives, draws)
        for side in range(2):
            changed = tuple(x + 1.0 if i == side else x for i, x in enumerate(negatives))
            other = measure_errors(network, SCHEDULE, data, changed, draws)
            changed_rows = (plain.negative != other.negative).any(1)
            of_side = draws.measures_audio == (side == 0)
            assert torch.equal(changed_rows, of_side)
            assert of_side.any() == matters[side]


def test_target_form_values_by_hand():
    """One example, v2a, e_neg = mean (v - (alpha eps - sigma y))^2, and no partner is needed to be wrong."""
    x = torch.full((1, 1, 1, 1, 1), 2.0), torch.tensor([[[1.0, -1.0]]])
    wrong = torch.zeros(1, 1, 1, 1, 1, 1), torch.tensor([[[[3.0, 0.0]]]])
    draws = Draws(
        t_video=torch.zeros(1),
        t_audio=torch.tensor([0.5]),
        generates_video=torch.tensor([False]),
        generates_audio=torch.tensor([True]),
        noise_video=torch.zeros(1, 1, 1, 1, 1),
        noise_audio=torch.tensor([[[2.0, 4.0]]]),
        rows=torch.tensor([0]),
        measures_audio=torch.tensor([True]),
        weight=torch.ones(1),
    )

    def network(z_video, z_audio, t_video, t_audio):
        return torch.zeros_like(z_video), torch.ones_like(z_audio)

    errors = measure_errors(network, SCHEDULE, x, wrong, draws, "target")
    root = math.sqrt(0.5)
    # true velocity: root * (2 - 1, 4 + 1); wrong: root * (2 - 3, 4 - 0)
    assert errors.audio.item() == pytest.approx(((1 - root) ** 2 + (1 - 5 * root) ** 2) / 2)
    assert errors.negative.item() == pytest.approx(((1 + root) ** 2 + (1 - 4 * root) ** 2) / 2)
    assert errors.true.item() == errors.audio.item()


@pytest.mark.parametrize("form", ["condition", "target"])
def test_without_negatives_there_is_no_contrastive_term(form):
    draws, (data, negatives) = draws_of(ObjectiveSpec(), 5), data_of(5)
    for none in (None, (negatives[0][:, :0], negatives[1][:, :0])):
        errors = measure_errors(Crossing(), SCHEDULE, data, none, draws, form)
        assert errors.negative.shape == (5, 0)
        for bound in get_args(Bound):
            assert contrastive_loss(errors, draws, ObjectiveSpec(bound=bound)).item() == 0.0


# ---- the reference


@pytest.mark.parametrize("form", ["condition", "target"])
@pytest.mark.parametrize("task", [None, JOINT, VIDEO_TO_AUDIO, AUDIO_TO_VIDEO])
def test_the_reference_sees_the_same_inputs_and_no_more_than_it_must(task, form):
    probabilities = {} if task is None else {"task_probabilities": ONLY[task]}
    spec = ObjectiveSpec(drop_probability=0.3, contrastive_share=0.5, **probabilities)
    draws, (data, negatives) = draws_of(spec, 12), data_of(12, 2)
    network, reference = Crossing(), Crossing()
    errors = measure_errors(network, SCHEDULE, data, negatives, draws, form)
    known = reference_errors(reference, SCHEDULE, data, negatives, draws, form)
    # with the weights of the network, its errors on the measured examples
    for name in ("true", "negative"):
        torch.testing.assert_close(getattr(known, name), getattr(errors, name))
        assert not getattr(known, name).requires_grad
    assert reference.batches == [6 + (2 * 6 if form == "condition" else 0)]


def test_without_negatives_the_reference_is_not_asked():
    network, (data, _) = Crossing(), data_of(3)
    assert reference_errors(network, SCHEDULE, data, None, draws_of(ObjectiveSpec(), 3)) is None
    assert network.batches == []


@pytest.mark.parametrize("form", ["condition", "target"])
def test_preference_by_separate_forwards(form):
    """mean_k -log sigmoid(-beta ((e - e_neg) - (e_ref - e_ref_neg))), one number at a time."""
    spec = ObjectiveSpec(bound="preference", form=form, beta=3.0, drop_probability=0.2, contrastive_share=0.5)
    draws, (data, negatives) = draws_of(spec, 10), data_of(10, 3)
    network, reference = Crossing(), Crossing()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.tensor([1.0, -1.0, 0.5])
    mine, theirs = (one_by_one(n, data, negatives, draws, form) for n in (network, reference))
    total = 0.0
    for i, weight in enumerate(draws.weight.tolist()):
        gaps = mine["true"][i] - mine["negative"][i] - (theirs["true"][i] - theirs["negative"][i])
        total += weight * sum(-math.log(1 / (1 + math.exp(3.0 * gap))) for gap in gaps.tolist()) / 3
    errors = measure_errors(network, SCHEDULE, data, negatives, draws, form)
    known = reference_errors(reference, SCHEDULE, data, negatives, draws, form)
    loss = contrastive_loss(errors, draws, spec, known)
    assert loss.item() == pytest.approx(total / 5, rel=1e-5)
    with pytest.raises(ValueError, match="bound 'preference': expected the errors of a reference network, got none"):
        contrastive_loss(errors, draws, spec)


def test_only_the_network_learns_from_the_preference():
    spec = ObjectiveSpec(bound="preference", drop_probability=0.0)
    draws, (data, negatives) = draws_of(spec, 16), data_of(16)
    network, reference = Crossing(), Crossing()
    known = reference_errors(reference, SCHEDULE, data, negatives, draws)

    def loss():
        return contrastive_loss(measure_errors(network, SCHEDULE, data, negatives, draws), draws, spec, known)

    first = loss()
    assert first.item() == pytest.approx(
        math.log(2) * draws.weight.mean().item(), rel=1e-5
    )  # it begins as its own reference
    first.backward()
    assert all(parameter.grad is None for parameter in reference.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 0.005 * parameter.grad
    assert loss() < first


# ---- masks


def leaf_errors(batch: int) -> Errors:
    def values(*shape):
        return torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))).requires_grad_()

    return Errors(values(batch), values(batch), values(batch), values(batch, 2))


def roles(video: list[bool], audio: list[bool]) -> Draws:
    draws = draws_of(ObjectiveSpec(), len(video))
    return replace(draws, generates_video=torch.tensor(video), generates_audio=torch.tensor(audio))


def test_the_loss_is_the_sum_over_generated_modalities_over_the_batch_size():
    errors = leaf_errors(4)
    # joint, v2a, a2v, joint with dropped video
    draws = roles([True, False, True, False], [True, True, False, True])
    v, a = errors.video.tolist(), errors.audio.tolist()
    loss = diffusion_loss(errors, draws)
    assert loss.item() == pytest.approx((v[0] + a[0] + a[1] + v[2] + a[3]) / 4)
    loss.backward()
    # a clean or dropped condition is never in the loss; joint counts both; never divided by the active count
    assert errors.video.grad.tolist() == [0.25, 0.0, 0.25, 0.0]
    assert errors.audio.grad.tolist() == [0.25, 0.25, 0.0, 0.25]


@pytest.mark.parametrize("task", [VIDEO_TO_AUDIO, AUDIO_TO_VIDEO])
@pytest.mark.parametrize("drop", [0.0, 0.999])
def test_a_condition_clean_or_dropped_is_not_in_the_loss(task, drop):
    spec = ObjectiveSpec(task_probabilities=ONLY[task], drop_probability=drop)
    draws, (data, negatives) = draws_of(spec, 6), data_of(6)

    class Apart(nn.Module):
        """Each stream a bias of its own."""

        def __init__(self):
            super().__init__()
            self.biases = nn.Parameter(torch.zeros(2))

        def forward(self, z_video, z_audio, t_video, t_audio):
            return z_video + self.biases[0], z_audio + self.biases[1]

    network = Apart()
    errors = measure_errors(network, SCHEDULE, data, negatives, draws)
    (diffusion_loss(errors, draws) + contrastive_loss(errors, draws, spec)).backward()
    condition = 0 if task == VIDEO_TO_AUDIO else 1
    assert network.biases.grad[condition] == 0.0
    assert network.biases.grad[1 - condition] != 0.0
    if drop:
        assert contrastive_loss(errors, draws, spec).item() == 0.0


def test_a_dropped_condition_tells_the_network_nothing():
    """t = 1 and zero signal: the condition may be anything."""
    spec = ObjectiveSpec(task_probabilities=ONLY[VIDEO_TO_AUDIO], drop_probability=0.999)
    draws, (data, negatives) = draws_of(spec, 5), data_of(5)
    assert draws.t_video.tolist() == [1.0] * 5
    plain = measure_errors(Crossing(), SCHEDULE, data, negatives, draws)
    other = measure_errors(Crossing(), SCHEDULE, (data[0] * 7 + 3, data[1]), negatives, draws)
    assert torch.equal(plain.audio, other.audio)


# ---- gradients


@pytest.mark.parametrize("form", ["condition", "target"])
@pytest.mark.parametrize("bound", ["linear", "hinge", "infonce"])
def test_a_gradient_step_on_the_contrastive_term_raises_the_gap(bound, form):
    """On that term alone: e_neg - e grows (for linear, which does not hold e, e_neg grows)."""
    # margin wide enough that no hinge is flat
    spec = ObjectiveSpec(bound=bound, form=form, drop_probability=0.0, margin=5.0, temperature=0.5)
    draws, (data, negatives) = draws_of(spec, 16), data_of(16)
    network = Crossing()

    def gap():
        e = measure_errors(network, SCHEDULE, data, negatives, draws, form)
        held = 0.0 if bound == "linear" else 1.0
        return (draws.weight * (e.negative.mean(1) - held * e.true)).sum(), e

    before, errors = gap()
    loss = contrastive_loss(errors, draws, spec)
    loss.backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 0.02 * parameter.grad
        after, errors = gap()
    assert contrastive_loss(errors, draws, spec) < loss
    assert after > before + 1e-4


# ---- reduction


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@pytest.mark.parametrize("bound", ["linear", "infonce"])
def test_the_contrastive_term_is_in_expectation_that_of_the_whole_batch(batch, bound):
    """Whatever the share: the mean over the stream is the mean over all examples, both sides of joint ones."""
    network, spec = Crossing(), ObjectiveSpec(bound=bound, contrastive_share=0.25)
    some, whole = [], []
    for position in range(1500):
        draws, (data, negatives) = draws_of(spec, batch, position, position), data_of(batch, 2, position)
        with torch.no_grad():
            some.append(contrastive_loss(measure_errors(network, SCHEDULE, data, negatives, draws), draws, spec))
            every = draws_of(replace(spec, contrastive_share=1.0), batch, position, position)
            both = [replace(every, measures_audio=side) for side in (every.generates_audio, ~every.generates_video)]
            losses = [contrastive_loss(measure_errors(network, SCHEDULE, data, negatives, d), d, spec) for d in both]
            whole.append(sum(losses) / 2)
    assert torch.stack(some).mean().item() == pytest.approx(torch.stack(whole).mean().item(), rel=0.05)


def test_the_contrastive_term_has_the_reduction_of_the_diffusion_loss():
    errors, draws = leaf_errors(4), draws_of(ObjectiveSpec(task_probabilities=ONLY[AUDIO_TO_VIDEO]), 4)
    draws = replace(draws, weight=torch.tensor([1.0, 2.0, 0.0, 1.0]))
    e = errors.negative.mean(1).tolist()
    whole = contrastive_loss(errors, draws, ObjectiveSpec(bound="linear"))
    assert whole.item() == pytest.approx(-(e[0] + 2 * e[1] + e[3]) / 4)


def test_half_batches_average_to_the_whole():
    """As two processes do, whose gradients are averaged."""
    spec = ObjectiveSpec(contrastive_share=0.5, drop_probability=0.2)
    data, negatives = data_of(8)

    def losses(part: slice):
        d = draws_of(spec, part.stop - part.start, first=part.start)
        pair, wrong = tuple(x[part] for x in data), tuple(x[part] for x in negatives)
        errors = measure_errors(Crossing(), SCHEDULE, pair, wrong, d)
        return torch.stack([diffusion_loss(errors, d), contrastive_loss(errors, d, spec)])

    torch.testing.assert_close((losses(slice(0, 4)) + losses(slice(4, 8))) / 2, losses(slice(0, 8)))


def test_each_modality_has_its_schedule():
    """The video's error follows the video's schedule alone, the sound's that of the sound."""
    draws, (data, negatives) = (
        draws_of(ObjectiveSpec(task_probabilities=ONLY[JOINT], drop_probability=0.0), 4),
        data_of(4),
    )

    class Zero(nn.Module):
        def forward(self, z_video, z_audio, t_video, t_audio):
            return torch.zeros_like(z_video), torch.zeros_like(z_audio)

    apart = Schedules.from_shift({"video": 0.25, "audio": 1.0})
    errors = measure_errors(Zero(), apart, data, negatives, draws)
    assert torch.equal(errors.video, measure_errors(Zero(), NoiseSchedule(0.25), data, None, draws).video)
    assert torch.equal(errors.audio, measure_errors(Zero(), NoiseSchedule(1.0), data, None, draws).audio)
    assert not torch.equal(errors.video, measure_errors(Zero(), NoiseSchedule(1.0), data, None, draws).video)
    assert apart.shift == {"video": 0.25, "audio": 1.0}
    assert Schedules.from_shift({"video": 2.0, "audio": 2.0}).shift == 2.0
    with pytest.raises(ValueError, match="expected a number, or one for video and one for audio"):
        Schedules.from_shift({"video": 1.0})


def test_velocity_error_is_one_mean_per_example():
    prediction, target = torch.zeros(2, 3, 4), torch.stack([torch.full((3, 4), 2.0), torch.full((3, 4), 3.0)])
    assert velocity_error(prediction, target).tolist() == [4.0, 9.0]
    assert velocity_error(prediction.bfloat16(), target.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contrastive_weight", -0.1),
        ("form", "both"),
        ("bound", "soft"),
        ("temperature", 0.0),
        ("contrastive_share", 0.0),
        ("contrastive_share", 1.5),
        ("task_probabilities", (1.0, 1.0)),
        ("task_probabilities", (0.0, 0.0, 0.0)),
        ("task_probabilities", (-1.0, 1.0, 1.0)),
        ("drop_probability", 1.0),
        ("contrastive_times", (0.5, 0.5)),
        ("contrastive_times", (-0.1, 0.5)),
        ("contrastive_times", (0.5, 1.1)),
        ("contrastive_times", (0.5,)),
        ("beta", 0.0),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"ObjectiveSpec\.{name} is out of range"):
        ObjectiveSpec(**{name: value})


def test_settings_survive_their_plain_form():
    spec = ObjectiveSpec(form="target", task_probabilities=(1.0, 2.0, 3.0), contrastive_times=(0.25, 0.75))
    plain = spec.to_dict()
    assert (plain["task_probabilities"], plain["contrastive_times"]) == ([1.0, 2.0, 3.0], [0.25, 0.75])
    assert ObjectiveSpec.of(plain) == spec
    assert ObjectiveSpec.of(None) == ObjectiveSpec()
