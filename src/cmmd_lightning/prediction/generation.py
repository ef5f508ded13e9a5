"""Generation for a batch of input files: what ``CMMD.predict_step`` does."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cmmd_lightning.diffusion.sampling import window_starts
from cmmd_lightning.prediction.inputs import InputBatch, Loaded, one_line
from cmmd_lightning.prediction.latent_diffusion import LatentDiffusion
from cmmd_lightning.prediction.outputs import Generated, Sample
from cmmd_lightning.prediction.requests import GenerationSpec

logger = logging.getLogger(__name__)

_DECODE_CHUNK = 64  # frames decoded at once
_PIECE_SECONDS = 60.0  # longest sound that goes through the vocoder at once
_FADE_SECONDS = 0.1


class DecodedFrames:
    """Latents as frames, decoded chunk by chunk whenever they are iterated over.

    Args:
        model: Whose codec to use.
        latents: Normalised latents (C, T, h, w).

    Raises:
        ValueError: While iterating, if a frame is not finite.
    """

    def __init__(self, model: LatentDiffusion, latents: Tensor) -> None:
        self.model, self.latents = model, latents

    def __len__(self) -> int:
        return self.latents.shape[1]

    def __iter__(self) -> Iterator[Tensor]:
        raw = self.model.codec.denormalize(self.latents[None])
        for start in range(0, len(self), _DECODE_CHUNK):
            with torch.no_grad():
                frames = self.model.codec.decode_part(raw, start, _DECODE_CHUNK)[0].float()
            if not torch.isfinite(frames).all():
                raise ValueError("expected finite frames from the model, got NaN or infinity")
            yield frames.transpose(0, 1).add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def generate(model: LatentDiffusion, batch: InputBatch, spec: GenerationSpec | None) -> Iterator[Generated]:
    """Generates for each input of a batch.

    On a GPU, inputs of equal length go through the network together. An input that cannot be read or generated for
    gives its reason, and the others go on. Frames are decoded only when they are drawn, so write each result before
    asking for the next.

    Args:
        model: The model, in eval mode.
        batch: The inputs, unread.
        spec: The settings.

    Yields:
        One result per input, failed reads first.

    Raises:
        ValueError: If there are no settings.
    """
    if spec is None:
        raise ValueError("predict needs settings: set CMMD.generation to a GenerationSpec, or use cmmd predict")
    began = time.monotonic()
    by_length: dict[int, list[Loaded]] = {}
    batch.on_progress("reading")
    for item, loaded in batch.load(spec.task, model.clip):
        if isinstance(loaded, str):
            yield Generated(item, error=loaded)
        else:
            by_length.setdefault(loaded.num_frames, []).append(loaded)
    reading = (time.monotonic() - began) / max(1, len(batch))
    for num_frames, same in by_length.items():
        examples = _examples_at_once(model, num_frames, batch.max_examples)
        together = max(1, examples // len(same[0].input.names))
        for i in range(0, len(same), together):
            yield from _attempt(model, same[i : i + together], examples, spec, batch, reading)


def _examples_at_once(model: LatentDiffusion, num_frames: int, max_examples: int) -> int:
    """Examples of a length that go through the network at once.

    One on a CPU: more save 15 % of the time there, but then the last digits depend on the company an example is in,
    which Griffin-Lim, on sound that no spectrogram fits well, blows up a thousandfold.
    """
    if model.device.type == "cpu":
        return 1
    return max(1, max_examples // len(window_starts(num_frames, model.clip.num_frames)))


def _attempt(
    model: LatentDiffusion, group: list[Loaded], examples: int, spec: GenerationSpec, batch: InputBatch, reading: float
) -> Iterator[Generated]:
    """Results of a group of equally long inputs, or the reason why there are none."""
    began = time.monotonic()
    try:
        samples = iter(_samples(model, group, examples, spec, batch))
    except (OSError, ValueError, RuntimeError) as error:
        logger.debug("generation failed", exc_info=True)
        for loaded in group:
            yield Generated(loaded.input, error=one_line(error, loaded.input.source))
        return
    seconds = reading + (time.monotonic() - began) / len(group)
    for loaded in group:
        made = [next(samples) for _ in loaded.input.names]
        yield Generated(loaded.input, loaded.num_frames, made, seconds)


def _samples(
    model: LatentDiffusion, group: list[Loaded], examples: int, spec: GenerationSpec, batch: InputBatch
) -> list[Sample]:
    """The samples of a group, input by input."""
    inputs = [loaded.input for loaded in group]
    names = [name for item in inputs for name in item.names]
    stems = [stem for item in inputs for stem in item.stems]
    video = mel = None
    copies = len(inputs[0].names)
    what = inputs[0].stem if len(inputs) == 1 else f"{len(inputs)} inputs"
    batch.on_progress(f"{what}, encoding")
    if spec.task == "video_to_audio":
        video = torch.cat([_encoded_frames(model, loaded) for loaded in group]).repeat_interleave(copies, 0)
    elif spec.task == "audio_to_video":
        sounds = [model.encode_sound(loaded.sound[None]) for loaded in group if loaded.sound is not None]
        mel = torch.cat(sounds).repeat_interleave(copies, 0)
    made: list[Sample] = []
    for i in range(0, len(names), examples):
        part = slice(i, i + examples)
        out_video, out_mel = model.sample(
            spec.task,
            None if video is None else video[part],
            None if mel is None else mel[part],
            group[0].num_frames,
            names=names[part],
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
            guidance_from=spec.guidance_from,
            ddim_eta=spec.ddim_eta,
            seed=spec.seed,
            on_step=lambda step: batch.on_progress(f"{what}, step {step + 1}/{spec.num_inference_steps}"),
        )
        made += _decoded(model, spec, stems[part], out_video, out_mel, group[0].num_frames)
    return made


def _decoded(
    model: LatentDiffusion, spec: GenerationSpec, stems: Sequence[str], video: Tensor, mel: Tensor, num_frames: int
) -> list[Sample]:
    samples = [Sample(stem) for stem in stems]
    if spec.task != "audio_to_video":
        sounds = decode_long_sound(model, mel, model.clip.samples_of(num_frames))
        for sample, sound in zip(samples, sounds, strict=True):
            sample.sound = sound
    if spec.task != "video_to_audio":
        for sample, latents in zip(samples, video, strict=True):
            sample.frames = DecodedFrames(model, latents)
    return samples


def _encoded_frames(model: LatentDiffusion, loaded: Loaded) -> Tensor:
    """Normalised latents (1, C, T, h, w), encoded chunk by chunk."""
    chunks = (chunk.to(model.device).float().div(127.5).sub(1.0) for chunk in loaded.frame_chunks())
    return torch.cat([model.encode_frames(chunk.transpose(0, 1)[None]) for chunk in chunks], dim=2)


def decode_long_sound(
    model: LatentDiffusion, mel: Tensor, num_samples: int, piece_seconds: float = _PIECE_SECONDS
) -> Tensor:
    """Sound of a log-Mel, however long: pieces that fade into each other, so that the vocoder's memory is bounded.

    Of a vocoder that states its context, the pieces agree where they overlap, and are together what one would be.

    Args:
        model: Whose vocoder to use.
        mel: Normalised log-Mel (B, M, L).
        num_samples: Samples, N.
        piece_seconds: Length of a piece; sound that is no longer is one piece.

    Returns:
        (B, N), float32, on the CPU.
    """
    clip, total, context = model.clip, mel.shape[2], model.vocoder.context
    hop = clip.hop_length
    piece, margin = (max(1, math.ceil(s * clip.sample_rate / hop)) for s in (piece_seconds, _FADE_SECONDS))
    fade = (torch.arange(2 * margin * hop) + 0.5) / (2 * margin * hop)
    sound = torch.zeros(len(mel), num_samples)
    for start in range(0, max(1, total - margin), piece):
        last = start + piece >= total - margin
        low, high = max(0, start - margin), total if last else start + piece + margin
        first, stop = low * hop, num_samples if last else high * hop
        before, after = max(0, low - context), min(total, high + context)
        wide = model.decode_sound(mel[:, :, before:after], min(num_samples, after * hop) - before * hop)
        part = wide[:, first - before * hop : stop - before * hop].float().cpu()
        if start:
            part[:, : len(fade)] *= fade[: part.shape[1]]
        if not last:
            part[:, -len(fade) :] *= 1.0 - fade
        sound[:, first:stop] += part
    return sound
