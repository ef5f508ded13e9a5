"""How much a round trip through the codecs costs: PSNR of frames, log-spectral distance of sound."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cmmd_lightning.codecs.frames import FrameCodec
from cmmd_lightning.codecs.mel import LogMel

# What lies this far below the reference's loudest spectral value counts as silence, in both sounds.
DYNAMIC_RANGE_DB = 80.0


def psnr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(2^2 / MSE) for values in [-1, 1]: of each example, then the mean.

    Args:
        estimate: (N, ...), values in [-1, 1].
        reference: Of the same shape.

    Returns:
        A scalar; infinite where an example is exact.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> psnr(torch.full((1, 3, 8, 8), 0.2), torch.zeros(1, 3, 8, 8)).item()
        20.0
    """
    _same_shape(estimate, reference)
    error = (estimate.float() - reference.float()).square().flatten(1).mean(dim=1)
    return (10.0 * torch.log10(4.0 / error)).mean()


def log_spectral_distance(estimate: Tensor, reference: Tensor, n_fft: int = 1024, hop_length: int = 256) -> Tensor:
    """Log-spectral distance between sounds in dB (Gray and Markel 1976).

    LSD = mean over examples and frames of sqrt(mean over frequencies of (20 log10 |S_est| / |S_ref|)^2), with |S| the
    magnitude under a Hann window and both magnitudes floored at 80 dB below the loudest value of that example's
    reference. Phase plays no part.

    Args:
        estimate: (B, N) sound.
        reference: (B, N) sound, of the same sample rate.
        n_fft: Window in samples.
        hop_length: Step between frames in samples.

    Returns:
        A scalar in dB; 0 is perfect.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> sound = torch.sin(torch.arange(4000) * 0.3)[None]
        >>> round(log_spectral_distance(sound, sound).item(), 3)
        0.0
    """
    _same_shape(estimate, reference)
    window = torch.hann_window(n_fft, device=reference.device)

    def magnitude(sound: Tensor) -> Tensor:
        spectrum = torch.stft(sound.float(), n_fft, hop_length, window=window, pad_mode="constant", return_complex=True)
        return spectrum.abs()

    heard, wanted = magnitude(estimate), magnitude(reference)
    floor = (wanted.amax(dim=(1, 2), keepdim=True) * 10 ** (-DYNAMIC_RANGE_DB / 20)).clamp(min=1e-8)
    difference = 20.0 * (torch.maximum(heard, floor) / torch.maximum(wanted, floor)).log10()
    return difference.square().mean(dim=1).sqrt().mean()


@torch.no_grad()
def frame_round_trip(codec: FrameCodec, frames: Tensor, batch_size: int = 64) -> dict[str, float]:
    """PSNR of frames through ``codec`` and back, latents at their mean.

    Args:
        codec: Any frame codec.
        frames: (N, 3, H, W), values in [-1, 1].
        batch_size: Frames at once.

    Returns:
        ``{"psnr": dB, "compression": picture values per latent value}``.
    """
    device = codec.shift.device
    decoded = [codec.decode(codec.encode(part.to(device))[0]).to(part.device) for part in frames.split(batch_size)]
    size = math.prod(codec.latent_shape(frames.shape[2], frames.shape[3]))
    return {"psnr": psnr(torch.cat(decoded), frames).item(), "compression": frames[0].numel() / size}


@torch.no_grad()
def sound_round_trip(mel: LogMel, vocoder: nn.Module, sound: Tensor) -> dict[str, float]:
    """Log-spectral distance of sound through log-Mel, vocoder and back.

    Args:
        mel: The log-Mel.
        vocoder: As ``build_vocoder`` gives.
        sound: (B, N), values in [-1, 1], at the Mel's sample rate.

    Returns:
        ``{"log_spectral_distance": dB, "mel_error": mean absolute difference of the two log-Mels in dB}``.
    """
    log_mel = mel(sound)
    again = vocoder(log_mel, sound.shape[1])
    mel_error = (mel(again) - log_mel).abs().mean().item() * 20.0 / math.log(10.0)
    return {"log_spectral_distance": log_spectral_distance(again, sound).item(), "mel_error": mel_error}


def _same_shape(estimate: Tensor, reference: Tensor) -> None:
    if estimate.shape != reference.shape:
        raise ValueError(f"expected two tensors of one shape, got {tuple(estimate.shape)} and {tuple(reference.shape)}")
