import pytest
import torch
from torch import nn

from cmmd_lightning.models.blocks import TimeAttention, attend, by_clip, by_frame, group_norm
from cmmd_lightning.models.embeddings import TimesEmbedding, sinusoidal_embedding
from cmmd_lightning.models.fusion import CrossAttentionFusion, EasyFusion, build_fusion, clip_positions, resample_time
from cmmd_lightning.models.unet import JointUNet, NetworkSpec

# mean, standard deviation and one element; to be taken anew when the network is meant to change
GOLDEN_VIDEO = (-0.03648, 0.06108, -0.09529)
GOLDEN_AUDIO = (0.00067, 0.08432, 0.11616)

SPEC = NetworkSpec((16, 16), (16, 24), attention_levels=(1,), head_channels=8, embedding_channels=16)


def spec(**changes) -> NetworkSpec:
    return NetworkSpec.of({**SPEC.to_dict(), **changes})


def network(seed: int = 0, nudge: float = 0.0, **changes) -> JointUNet:
    """A small network; ``nudge`` moves every parameter by a random step, so that none stays at zero."""
    torch.manual_seed(seed)
    net = JointUNet(4, 6, spec(**changes))
    if nudge:
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(nudge * torch.randn(parameter.shape, generator=generator))
    return net


def inputs(batch: int = 2, frames: int = 4, height: int = 4, width: int = 4, mels: int = 12, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 4, frames, height, width, generator=generator),
        torch.randn(batch, 6, mels, generator=generator),
        torch.rand(batch, generator=generator),
        torch.rand(batch, generator=generator),
    )


def is_audio(name: str) -> bool:
    return "audio" in name


@pytest.mark.parametrize("height", [1, 2, 4])
def test_folding_into_batches_is_the_reshape_it_says_and_costs_no_copy(height):
    x = torch.randn(2 * 3, 5, height, 4).contiguous(memory_format=torch.channels_last)
    clip = by_clip(x, frames=3)
    assert clip.shape == (2, 5, 3, height * 4)
    for b, t, h, w in [(0, 0, 0, 0), (1, 2, height - 1, 3), (1, 0, 0, 2)]:
        assert torch.equal(clip[b, :, t, h * 4 + w], x[b * 3 + t, :, h, w])
    assert clip.data_ptr() == x.data_ptr()
    assert torch.equal(by_frame(clip, height), x)
    assert by_frame(clip, height).data_ptr() == x.data_ptr()


def test_groups_hold_at_least_eight_channels():
    assert [group_norm(c).num_groups for c in (4, 8, 16, 24, 96, 512, 1024)] == [1, 1, 2, 3, 12, 32, 32]


@pytest.mark.parametrize("length", [5, 70])  # written out, and through torch's own kernel
def test_attention_in_bfloat16_is_attention(length):
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(3, 2, length, 8, generator=generator) for _ in range(3))
    expected = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    torch.testing.assert_close(attend(q, k, v), expected, atol=1e-5, rtol=1e-4)
    rough = attend(*(part.bfloat16() for part in (q, k, v)))
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), expected, atol=0.05, rtol=0.02)


def test_under_autocast_norms_run_in_float32_and_the_network_stays_what_it_is():
    norm, x = group_norm(16), torch.randn(2, 16, 5, 1).bfloat16()
    assert norm.bfloat16()(x).dtype == torch.bfloat16
    net = network(nudge=0.05, time_attention_levels=(0,))
    with torch.autocast("cpu", torch.bfloat16):
        assert group_norm(16)(x).dtype == torch.float32
        rough = net(*inputs())
    for ours, exact in zip(rough, net(*inputs()), strict=True):
        assert (ours.float() - exact).norm() < 0.03 * exact.norm()


def test_times_are_seen_apart():
    embedding = sinusoidal_embedding(torch.tensor([0.0, 0.25]), 8)
    torch.testing.assert_close(embedding[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    rates = 10_000.0 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(embedding[1], torch.cat([(250 * rates).sin(), (250 * rates).cos()]))
    torch.manual_seed(0)
    both = TimesEmbedding(8)
    early, late = torch.tensor([0.1]), torch.tensor([0.7])
    assert not torch.allclose(both(early, late), both(late, early), atol=1e-4)


@pytest.mark.parametrize(("length", "wanted"), [(4, 4), (12, 4), (5, 3), (4, 12), (3, 7)])
def test_resampling_time_keeps_a_constant_and_its_place(length, wanted):
    constant = torch.full((1, 2, length), 3.0)
    torch.testing.assert_close(resample_time(constant, wanted), torch.full((1, 2, wanted), 3.0))
    ramp = (torch.arange(length) + 0.5).div(length)[None, None]
    expected = (torch.arange(wanted) + 0.5).div(wanted)
    got = resample_time(ramp, wanted)[0, 0]
    # inside of the span; at the ends interpolation has nothing beyond
    torch.testing.assert_close(got[1:-1], expected[1:-1], atol=0.1, rtol=0)
    assert (got - expected).abs().max() < 0.2


@pytest.mark.parametrize("kind", ["easy", "cross_attention"])
def test_zero_initialised_fusion_leaves_each_stream_as_it_was(kind):
    fusion = build_fusion(kind, 16, 24, 8)
    video, audio = torch.randn(2, 16, 4, 9), torch.randn(2, 24, 10, 1)
    got = fusion(video, audio, 3)
    assert torch.equal(got[0], video)
    assert torch.equal(got[1], audio)


def test_easy_fusion_is_concatenation_and_projection():
    """The two summed projections are one 1x1 convolution of the concatenated channels."""
    torch.manual_seed(0)
    fusion = EasyFusion(16, 24)
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=0.3)
    video, audio = torch.randn(2, 16, 4, 9), torch.randn(2, 24, 8, 1)
    got_video, got_audio = fusion(video, audio)
    sound = resample_time(fusion.norm_audio(audio).squeeze(3), 4)[..., None].expand(-1, -1, -1, 9)
    weight = torch.cat([fusion.video_from_video.weight, fusion.video_from_audio.weight[..., None]], dim=1)
    bias = fusion.video_from_video.bias + fusion.video_from_audio.bias
    joined = torch.cat([fusion.norm_video(video), sound], dim=1)
    torch.testing.assert_close(got_video, video + nn.functional.conv2d(joined, weight, bias), atol=1e-5, rtol=1e-5)
    summary = nn.functional.silu(fusion.summary(fusion.norm_video(video)))
    picture = torch.cat([summary.mean(3), summary.max(3).values], dim=1)
    joined = torch.cat([fusion.norm_audio(audio).squeeze(3), resample_time(picture, 8)], dim=1)
    weight = torch.cat([fusion.audio_from_audio.weight, fusion.audio_from_video.weight], dim=1)
    bias = fusion.audio_from_audio.bias + fusion.audio_from_video.bias
    expected = audio.squeeze(3) + nn.functional.conv1d(joined, weight, bias)
    torch.testing.assert_close(got_audio.squeeze(3), expected, atol=1e-5, rtol=1e-5)


def nudged_cross_attention(video: int = 8, audio: int = 16, std: float = 0.3) -> CrossAttentionFusion:
    torch.manual_seed(0)
    fusion = CrossAttentionFusion(video, audio, 8)
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=std)
    return fusion


def test_cross_attention_by_hand():
    """One head, one frame of the picture as 1x1: softmax over the sound's frames, written out."""
    fusion = nudged_cross_attention(8, 8)
    video, audio = torch.randn(1, 8, 2, 1), torch.randn(1, 8, 3, 1)
    got, _ = fusion(video, audio, 1)
    x, y = fusion.norm_video(video)[0, :, :, 0].T, fusion.norm_audio(audio)[0, :, :, 0].T
    ask = fusion.video_from_audio
    q, k = ask.query(x + clip_positions(2, 8, x)), ask.key(y + clip_positions(3, 8, y))
    taken = ask.out(torch.softmax(q @ k.T / 8**0.5, dim=1) @ ask.value(y))
    torch.testing.assert_close(got[0, :, :, 0].T, video[0, :, :, 0].T + taken)


def test_positions_are_those_of_the_clip_at_any_rate():
    """Three audio frames to one video frame: the middle one lies where the video frame does."""
    coarse, fine = (clip_positions(length, 6, torch.zeros(1)) for length in (4, 12))
    torch.testing.assert_close(fine[1::3], coarse, atol=1e-4, rtol=0)
    turns = torch.tensor([0.5, 2**2.5, 64.0])
    angle = 2 * torch.pi * turns * 2.5 / 4
    torch.testing.assert_close(coarse[2], torch.cat([angle.sin(), angle.cos()]), atol=1e-4, rtol=0)


def test_order_in_time_counts_for_cross_attention(monkeypatch):
    """Attention alone does not care for the order of what it is asked; with positions it does, both ways."""
    fusion = nudged_cross_attention()
    video, audio = torch.randn(1, 8, 4, 4), torch.randn(1, 16, 6, 1)

    def changes() -> list[float]:
        plain = fusion(video, audio, 2)
        backwards = fusion(video, audio.flip(2), 2)[0], fusion(video.flip(2), audio, 2)[1]
        return [float((got - expected).detach().abs().max()) for got, expected in zip(backwards, plain, strict=True)]

    assert min(changes()) > 1e-2
    monkeypatch.setattr("cmmd_lightning.models.fusion.clip_positions", lambda length, channels, like: like.new_zeros(1))
    assert max(changes()) < 1e-5


def test_cross_attention_sees_large_pictures_on_a_grid():
    """16 places per frame, whatever the picture's size; a small picture as it is."""
    fusion, seen = nudged_cross_attention(), []
    fusion.audio_from_video.key.register_forward_pre_hook(lambda module, x: seen.append(x[0].shape))
    for height, width in [(16, 16), (12, 3), (2, 2)]:
        fusion(torch.randn(1, 8, 5, height * width), torch.randn(1, 16, 7, 1), height)
    assert [tuple(shape[1:3]) for shape in seen] == [(5, 16), (5, 12), (5, 4)]


def test_attention_over_time_sees_the_same_place_at_all_times_and_their_order():
    torch.manual_seed(0)
    attention = TimeAttention(16, head_channels=8)
    nn.init.normal_(attention.out.weight, std=0.5)
    x = torch.randn(2, 16, 5, 6)
    changed = x.clone()
    changed[0, :, 2, 3] += torch.randn(16)  # one place at one time; the norm carries a little of it everywhere
    difference = (attention(x) - x - attention(changed) + changed).abs().amax(1)
    assert difference[0, :, 3].min() > 3 * difference[0, :, [0, 1, 2, 4, 5]].max()
    assert difference[1].max() < 1e-5
    moved = attention(x.flip(2)).flip(2)
    assert not torch.allclose(attention(x), moved, atol=1e-3)


def test_levels_with_attention_over_time_start_as_without():
    net, plain = network(time_attention_levels=(0,)), network()
    added = {name for name in dict(net.named_parameters()) if ".time_attention." in name}
    assert {name.split(".time_attention")[0] for name in added} == {"down.0", "up.0"}
    net.load_state_dict(plain.state_dict(), strict=False)
    for ours, theirs in zip(net(*inputs()), plain(*inputs()), strict=True):
        assert torch.equal(ours, theirs)


def test_the_untrained_network_predicts_zero():
    v_video, v_audio = network()(*inputs())
    assert v_video.abs().max() == 0
    assert v_audio.abs().max() == 0


@pytest.mark.parametrize("fusion", ["easy", "cross_attention"])
def test_at_initialisation_fused_streams_are_the_unfused_ones(fusion):
    """With zero-initialised fusion the streams do not see each other yet, whatever the output layers say."""
    fused, apart = network(fusion=fusion), network(fusion="none")
    fused.load_state_dict(apart.state_dict(), strict=False)
    for net in (fused, apart):
        nn.init.ones_(net.video_out.weight)
        nn.init.ones_(net.audio_out.weight)
    for got, expected in zip(fused(*inputs()), apart(*inputs()), strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("wanted", ["video", "audio"])
def test_away_from_zero_a_gradient_reaches_every_parameter_of_both_streams_from_either_output(wanted):
    net = network(nudge=0.05)
    v_video, v_audio = net(*inputs())
    (v_video if wanted == "video" else v_audio).square().sum().backward()
    # what comes after the last fusion in the other stream cannot matter
    last = (
        ("up.0.video_attention", "video_norm", "video_out")
        if wanted == "audio"
        else ("up.0.audio_attention", "audio_norm", "audio_out")
    )
    ends = {"up.0.fusion.video_from" if wanted == "audio" else "up.0.fusion.audio_from", *last}
    missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    own_summary = "up.0.fusion.summary"  # the picture's summary only feeds the sound
    allowed = (*ends, own_summary) if wanted == "video" else tuple(ends)
    assert [name for name in missing if not name.startswith(tuple(allowed))] == []


@pytest.mark.parametrize("fusion", ["easy", "cross_attention"])
def test_optimiser_steps_from_zero_reach_every_parameter(fusion):
    """Zero-initialised layers lie at most three deep (output, fusion or residual branch, attention inside it)."""
    net = network(fusion=fusion)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.0)
    targets = inputs(seed=7)
    for step in range(4):
        optimizer.zero_grad()
        v_video, v_audio = net(*inputs(seed=step))
        ((v_video - targets[0]).square().mean() + (v_audio - targets[1]).square().mean()).backward()
        optimizer.step()
    assert [name for name, p in net.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("fusion", ["none", "easy", "cross_attention"])
def test_gradients_cross_with_fusion_and_only_then(fusion):
    net = network(nudge=0.1, fusion=fusion)
    z_video, z_audio, t_video, t_audio = inputs()
    z_video.requires_grad_()
    z_audio.requires_grad_()
    v_video, v_audio = net(z_video, z_audio, t_video, t_audio)
    across = [
        torch.autograd.grad(v_audio.sum(), z_video, retain_graph=True, allow_unused=True)[0],
        torch.autograd.grad(v_video.sum(), z_audio, retain_graph=True, allow_unused=True)[0],
    ]
    if fusion != "none":
        assert all(grad.abs().max() > 1e-6 for grad in across)
        return
    assert all(grad is None or grad.abs().max() == 0 for grad in across)
    video_only = torch.autograd.grad(v_video.sum(), list(net.parameters()), retain_graph=True, allow_unused=True)
    for (name, _), grad in zip(net.named_parameters(), video_only, strict=True):
        assert not is_audio(name) or grad is None or grad.abs().max() == 0, name


@pytest.mark.parametrize("fusion", ["none", "easy", "cross_attention"])
@pytest.mark.parametrize(
    ("frames", "height", "width", "mels"),
    [(4, 4, 4, 12), (5, 4, 6, 13), (1, 2, 2, 3), (7, 5, 3, 4), (3, 1, 1, 31), (2, 7, 7, 1)],
)
def test_any_ratio_and_odd_sizes(fusion, frames, height, width, mels):
    net = network(nudge=0.05, fusion=fusion, video_channels=[8, 8, 16], audio_channels=[8, 16, 16])
    z = inputs(1, frames, height, width, mels)
    v_video, v_audio = net(*z)
    assert v_video.shape == z[0].shape
    assert v_audio.shape == z[1].shape
    assert torch.isfinite(v_video).all()
    assert torch.isfinite(v_audio).all()


def test_a_batch_and_single_runs_agree():
    net, z = network(nudge=0.05), inputs(3)
    together = net(*z)
    for i in range(3):
        for got, expected in zip(net(*(part[i : i + 1] for part in z)), together, strict=True):
            torch.testing.assert_close(got[0], expected[i], atol=1e-5, rtol=1e-5)


def test_each_time_matters_to_both_streams():
    net, (z_video, z_audio, t_video, t_audio) = network(nudge=0.1), inputs()
    plain = net(z_video, z_audio, t_video, t_audio)
    for other in (net(z_video, z_audio, 1 - t_video, t_audio), net(z_video, z_audio, t_video, 1 - t_audio)):
        for got, expected in zip(other, plain, strict=True):
            assert (got - expected).abs().max() > 1e-4


def test_gradient_checkpointing_changes_nothing():
    plain, checkpointed = network(nudge=0.05), network(nudge=0.05, gradient_checkpointing=True)
    for net in (plain, checkpointed):
        v_video, v_audio = net.train()(*inputs())
        (v_video.square().sum() + v_audio.square().sum()).backward()
    for (name, p), q in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_golden_numbers():
    """Values of a fixed network on fixed inputs: a change of layout or order of layers shows here."""
    net = network()
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.sin(torch.arange(parameter.numel()) * 0.7 + i).reshape(parameter.shape) * 0.1)
    z_video = torch.sin(torch.arange(2 * 4 * 3 * 4 * 4) * 0.3).reshape(2, 4, 3, 4, 4)
    z_audio = torch.cos(torch.arange(2 * 6 * 7) * 0.2).reshape(2, 6, 7)
    v_video, v_audio = net(z_video, z_audio, torch.tensor([0.0, 0.4]), torch.tensor([0.8, 1.0]))
    golden = {
        "video": (v_video.mean().item(), v_video.std().item(), v_video[1, 2, 1, 3, 0].item()),
        "audio": (v_audio.mean().item(), v_audio.std().item(), v_audio[0, 5, 6].item()),
    }
    assert golden["video"] == pytest.approx(GOLDEN_VIDEO, abs=1e-4)
    assert golden["audio"] == pytest.approx(GOLDEN_AUDIO, abs=1e-4)


def test_bad_specs_are_refused():
    with pytest.raises(ValueError, match=r"as many levels, got \(16,\) and \(16, 24\)"):
        NetworkSpec((16,), (16, 24))
    with pytest.raises(ValueError, match=r"multiple of 32 \(head_channels\), got 24"):
        JointUNet(4, 6, NetworkSpec((32, 24), (32, 32)))
    with pytest.raises(ValueError, match="fusion must be 'easy', 'cross_attention' or 'none', got 'hard'"):
        build_fusion("hard", 8, 8)
    with pytest.raises(
        ValueError, match=r"cross-attention needs channels as a multiple of 32 \(head_channels\), got 24"
    ):
        build_fusion("cross_attention", 32, 24)
    assert NetworkSpec.of(SPEC.to_dict()) == SPEC
    assert all(type(value) in (list, int, str, bool) for value in SPEC.to_dict().values())
