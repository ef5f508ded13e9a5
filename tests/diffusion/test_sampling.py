import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from cmmd_lightning.diffusion.sampling import ddim_sample, ddim_step, ddim_times, guided, window_starts, windowed
from cmmd_lightning.diffusion.schedule import NoiseSchedule

VIDEO, AUDIO = (2, 3, 4, 4, 4), (2, 5, 12)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def denoiser(z_video, z_audio, t_video, t_audio):
    """Smooth, not linear, and each modality sees the other and both times."""
    see_audio = z_audio.mean((1, 2)) + t_audio.float()
    see_video = z_video.mean((1, 2, 3, 4)) - t_video.float()
    v_video = torch.tanh(0.8 * z_video + see_audio.reshape(-1, 1, 1, 1, 1))
    return v_video, torch.sin(z_audio + see_video.reshape(-1, 1, 1))


def reference(schedule: NoiseSchedule, steps: int) -> DDIMScheduler:
    """diffusers' DDIM on our alphas: its timestep i is our time (i + 1) / steps."""
    scheduler = DDIMScheduler(
        num_train_timesteps=steps,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.alphas_cumprod = schedule.alpha_sigma(torch.arange(1, steps + 1, dtype=torch.float64) / steps)[0] ** 2
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("shift", [1.0, 0.5])
@pytest.mark.parametrize("eta", [0.0, 0.5, 0.99])  # at 1 theirs takes the root of -1e-8
@pytest.mark.parametrize("task", ["joint", "video_to_audio", "audio_to_video"])
def test_ddim_agrees_with_diffusers(task, eta, shift):
    steps, schedule = 12, NoiseSchedule(shift)
    video, audio = noise(*VIDEO), noise(*AUDIO, seed=1)

    def fresh(i):
        return noise(*VIDEO, seed=10 + i), noise(*AUDIO, seed=50 + i)

    seen = []
    got = ddim_sample(denoiser, schedule, video, audio, task, steps, eta, fresh, seen.append)
    scheduler, (z_video, z_audio) = reference(schedule, steps), (video, audio)
    for i, timestep in enumerate(scheduler.timesteps):
        t = torch.full((2,), (int(timestep) + 1) / steps, dtype=torch.float64)
        t_video = torch.zeros_like(t) if task == "video_to_audio" else t
        t_audio = torch.zeros_like(t) if task == "audio_to_video" else t
        v_video, v_audio = denoiser(z_video, z_audio, t_video, t_audio)
        settings = {"eta": eta, "return_dict": False}
        if task != "video_to_audio":
            z_video = scheduler.step(v_video, timestep, z_video, variance_noise=fresh(i)[0], **settings)[0]
        if task != "audio_to_video":
            z_audio = scheduler.step(v_audio, timestep, z_audio, variance_noise=fresh(i)[1], **settings)[0]
    torch.testing.assert_close(got[0], z_video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1], z_audio, atol=1e-5, rtol=1e-5)
    assert seen == list(range(steps))
    if task == "video_to_audio":
        assert torch.equal(got[0], video)
    if task == "audio_to_video":
        assert torch.equal(got[1], audio)


def test_the_condition_is_clean_at_time_zero_in_every_step():
    times = []

    def watch(z_video, z_audio, t_video, t_audio):
        times.append((t_video.tolist(), t_audio.tolist()))
        return z_video, z_audio

    ddim_sample(watch, NoiseSchedule(), noise(*VIDEO), noise(*AUDIO), "video_to_audio", 4)
    assert times == [([0.0, 0.0], [t, t]) for t in (1.0, 0.75, 0.5, 0.25)]
    times.clear()
    ddim_sample(watch, NoiseSchedule(), noise(*VIDEO), noise(*AUDIO), "audio_to_video", 2)
    assert times == [([t, t], [0.0, 0.0]) for t in (1.0, 0.5)]
    times.clear()
    ddim_sample(watch, NoiseSchedule(), noise(*VIDEO), noise(*AUDIO), "joint", 2)
    assert times == [([t, t], [t, t]) for t in (1.0, 0.5)]


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_an_oracle_that_knows_the_data_is_followed_to_it(steps):
    """With the true velocity, which follows from z and x, every step count ends at x exactly."""
    schedule, x_video, x_audio = NoiseSchedule(), noise(*VIDEO, seed=5), noise(*AUDIO, seed=6)

    def velocity(z, x, t):
        alpha, sigma = schedule.alpha_sigma(t)
        shape = (-1, *[1] * (z.ndim - 1))
        alpha, sigma = alpha.reshape(shape), sigma.reshape(shape)
        return alpha * (z - alpha * x) / sigma - sigma * x

    def oracle(z_video, z_audio, t_video, t_audio):
        return velocity(z_video, x_video, t_video), velocity(z_audio, x_audio, t_audio)

    video, audio = ddim_sample(oracle, schedule, noise(*VIDEO), noise(*AUDIO, seed=1), "joint", steps)
    torch.testing.assert_close(video, x_video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(audio, x_audio, atol=1e-5, rtol=1e-5)


def test_a_step_with_fresh_noise_keeps_the_noise_level():
    """x = 0, eps standard normal: after a step the variance is sigma_s^2, whatever eta."""
    schedule, count = NoiseSchedule(), 200_000
    t, s = torch.tensor([0.8]), torch.tensor([0.5])
    eps = noise(1, count)
    alpha, sigma = schedule.alpha_sigma(t)
    z, v = sigma * eps, alpha * eps
    for eta in (0.0, 0.5, 1.0):
        after = ddim_step(schedule, z, v, t, s, eta, noise(1, count, seed=9))
        assert after.std().item() == pytest.approx(math.sin(math.pi / 4), abs=0.005)
    assert not torch.allclose(ddim_step(schedule, z, v, t, s, 1.0, noise(1, count, seed=9)), sigma * eps, atol=0.1)


def test_times_and_bad_requests():
    assert ddim_times(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        ddim_times(0)
    video, audio = noise(*VIDEO), noise(*AUDIO)
    with pytest.raises(ValueError, match=r"task must be .* got 'sing'"):
        ddim_sample(denoiser, NoiseSchedule(), video, audio, "sing")
    with pytest.raises(ValueError, match="one batch size, got 2 and 1"):
        ddim_sample(denoiser, NoiseSchedule(), video, audio[:1], "joint")
    with pytest.raises(ValueError, match="needs noise"):
        ddim_sample(denoiser, NoiseSchedule(), video, audio, "joint", 2, ddim_eta=0.5)


def test_guidance_is_dropped_plus_scale_times_the_difference():
    video, audio, dropped = noise(*VIDEO), noise(*AUDIO, seed=1), (noise(*VIDEO, seed=2), noise(*AUDIO, seed=3))
    t, zero, one = torch.full((2,), 0.6), torch.zeros(2), torch.ones(2)
    plain = denoiser(video, audio, zero, t)
    got = guided(denoiser, "video_to_audio", dropped, 2.5, 3.0)(video, audio, zero, t)
    without = denoiser(dropped[0], audio, one, t)[1]
    torch.testing.assert_close(got[1], without + 3.0 * (plain[1] - without))

    plain = denoiser(video, audio, t, zero)
    got = guided(denoiser, "audio_to_video", dropped, 2.5, 3.0)(video, audio, t, zero)
    without = denoiser(video, dropped[1], t, one)[0]
    torch.testing.assert_close(got[0], without + 2.5 * (plain[0] - without))

    plain = denoiser(video, audio, t, t)
    got = guided(denoiser, "joint", dropped, 2.5, 3.0)(video, audio, t, t)
    without_audio = denoiser(video, dropped[1], t, one)[0]
    without_video = denoiser(dropped[0], audio, one, t)[1]
    torch.testing.assert_close(got[0], without_audio + 2.5 * (plain[0] - without_audio))
    torch.testing.assert_close(got[1], without_video + 3.0 * (plain[1] - without_video))
    # Each modality has its own scale: 1 leaves it alone.
    got = guided(denoiser, "joint", dropped, 1.0, 3.0)(video, audio, t, t)
    assert torch.equal(got[0], plain[0])
    torch.testing.assert_close(got[1], without_video + 3.0 * (plain[1] - without_video))


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_guidance_away_from_a_shifted_partner(scale):
    """v_shifted + scale (v - v_shifted): the other modality at its own time, its second half first."""
    video, audio, dropped = noise(*VIDEO), noise(*AUDIO, seed=1), (noise(*VIDEO, seed=2), noise(*AUDIO, seed=3))
    t, zero = torch.full((2,), 0.6), torch.zeros(2)
    late_video, late_audio = torch.cat([video[:, :, 2:], video[:, :, :2]], 2), audio[:, :, [*range(6, 12), *range(6)]]
    for task, t_video, t_audio in (("video_to_audio", zero, t), ("audio_to_video", t, zero), ("joint", t, t)):
        plain = aware(video, audio, t_video, t_audio)
        got = guided(aware, task, dropped, scale, scale, "shifted")(video, audio, t_video, t_audio)
        away = aware(video, late_audio, t_video, t_audio)[0], aware(late_video, audio, t_video, t_audio)[1]
        for i, generated in enumerate((task != "video_to_audio", task != "audio_to_video")):
            assert not torch.allclose(plain[i], away[i], atol=1e-3)
            expected = away[i] + scale * (plain[i] - away[i]) if generated else plain[i]
            torch.testing.assert_close(got[i], expected)


def aware(z_video, z_audio, t_video, t_audio):
    """Like `denoiser`, and it sees when in the other modality something is."""
    loud = (z_audio * torch.arange(12.0)).mean((1, 2)) + t_audio.float()
    bright = (z_video * torch.arange(4.0).reshape(4, 1, 1)).mean((1, 2, 3, 4)) - t_video.float()
    return torch.tanh(z_video + loud.reshape(-1, 1, 1, 1, 1)), torch.sin(z_audio + bright.reshape(-1, 1, 1))


def test_a_length_that_is_odd_is_shifted_by_the_lesser_half():
    seen = []

    def watch(*inputs):
        seen.append(inputs)
        return inputs[0], inputs[1]

    video, audio, t = (
        torch.arange(5.0).reshape(1, 1, 5, 1, 1),
        torch.arange(7.0).reshape(1, 1, 7),
        torch.full((1,), 0.3),
    )
    guided(watch, "joint", (video, audio), 2.0, 2.0, "shifted")(video, audio, t, t / 2)
    ((videos, audios, t_videos, t_audios),) = seen
    assert videos.flatten(1).tolist() == [[0, 1, 2, 3, 4], [3, 4, 0, 1, 2], [0, 1, 2, 3, 4]]
    assert audios.flatten(1).tolist() == [[*range(7)], [*range(7)], [4, 5, 6, 0, 1, 2, 3]]
    assert torch.equal(t_videos, t.expand(3))
    assert torch.equal(t_audios, t.expand(3) / 2)


def test_guidance_from_something_else_is_refused():
    with pytest.raises(ValueError, match="guidance_from must be 'dropped' or 'shifted', got 'noise'"):
        guided(denoiser, "joint", (noise(*VIDEO), noise(*AUDIO)), 2.0, 2.0, "noise")


@pytest.mark.parametrize("guidance_from", ["dropped", "shifted"])
@pytest.mark.parametrize(("task", "scale", "batch"), [("joint", 2.0, 6), ("video_to_audio", 2.0, 4), ("joint", 1.0, 2)])
def test_guidance_is_one_batched_forward_and_free_at_scale_one(task, scale, batch, guidance_from):
    sizes = []

    def watch(*inputs):
        sizes.append(len(inputs[0]))
        return denoiser(*inputs)

    t = torch.full((2,), 0.5)
    video, audio = noise(*VIDEO), noise(*AUDIO)
    guided(watch, task, (video, audio), scale, scale, guidance_from)(video, audio, t, t)
    assert sizes == [batch]


@pytest.mark.parametrize(("total", "size"), [(16, 16), (17, 16), (24, 16), (40, 16), (42, 16), (9, 3), (5, 1)])
def test_windows_cover_everything_and_overlap(total, size):
    starts = window_starts(total, size)
    assert starts[0] == 0
    assert starts[-1] == total - size
    steps = [b - a for a, b in pairwise(starts)]
    assert all(0 < step <= max(1, size // 2) for step in steps)


@pytest.mark.parametrize("total", [8, 11, 16, 21])
@pytest.mark.parametrize("max_batch", [64, 3])
def test_a_local_denoiser_gives_the_same_on_windows_as_on_the_whole(total, max_batch):
    size, rate = 8, 3

    def local(z_video, z_audio, t_video, t_audio):
        sound = z_audio.unflatten(2, (-1, rate)).mean((1, 3))[:, None, :, None, None]
        picture = z_video.mean((1, 3, 4)).repeat_interleave(rate, dim=1)[:, None]
        scale = t_video.reshape(-1, 1, 1, 1, 1), t_audio.reshape(-1, 1, 1)
        return torch.tanh(z_video + sound) * scale[0], torch.sin(z_audio - picture) * scale[1]

    video, audio, t = noise(2, 3, total, 4, 4), noise(2, 5, total * rate), torch.tensor([0.3, 0.9])
    starts = window_starts(total, size)
    pieces = windowed(local, starts, [start * rate for start in starts], (size, size * rate), max_batch)
    for got, expected in zip(pieces(video, audio, t, t / 2), local(video, audio, t, t / 2), strict=True):
        torch.testing.assert_close(got, expected)


def test_windows_are_blended_by_triangles():
    """Two windows of 4 at 0 and 2: frame 2 has weight 2 of the first, 1 of the second."""

    def number(z_video, z_audio, t_video, t_audio):
        # the first frame of each window tells which it is
        return z_video[:, :, :1].expand_as(z_video), z_audio[:, :, :1].expand_as(z_audio)

    video = torch.arange(6.0).reshape(1, 1, 6, 1, 1)
    audio = torch.arange(6.0).reshape(1, 1, 6)
    t = torch.ones(1)
    got_video, got_audio = windowed(number, [0, 2], [0, 2], (4, 4))(video, audio, t, t)
    expected = torch.tensor([0.0, 0.0, 2 * 1 / 3, 2 * 2 / 3, 2.0, 2.0])
    torch.testing.assert_close(got_video.flatten(), expected)
    torch.testing.assert_close(got_audio.flatten(), expected)
