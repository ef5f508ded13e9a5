"""What is drawn for a batch, by its place in the training stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import default_collate

from cmmd_lightning.data.randomness import example_generator
from cmmd_lightning.diffusion.draws import Draws, draw_batch
from cmmd_lightning.diffusion.noise import TimeNoise
from cmmd_lightning.diffusion.objective_spec import ObjectiveSpec


@dataclass(frozen=True)
class BatchDraws:
    """Draw tasks, times, noise and roles for batches: from (seed, position, index) and from nothing else.

    Args:
        seed: Seed of the run.
        objective: Settings of the loss.
        video_noise: The video's noise.
    """

    seed: int
    objective: ObjectiveSpec
    video_noise: TimeNoise = TimeNoise()

    def __call__(self, batch: Mapping[str, Any], position: int = 0, first: int = 0) -> Draws:
        """Draw for a batch, on the CPU.

        Args:
            batch: Has ``video_latents`` (B, C, T, h, w), ``mel`` (B, M, L) and, in the data module's stream,
                ``position`` and ``index`` (B,); at position -1, a validation, all examples are measured with negatives.
            position: Position in the stream of a batch that does not say it.
            first: Index of its first example likewise.
        """
        video, mel = batch["video_latents"], batch["mel"]
        if "position" in batch:
            position = int(batch["position"][0])
        indices = batch["index"].tolist() if "index" in batch else range(first, first + len(mel))
        generators = [example_generator(self.seed, position, index, "diffusion") for index in indices]
        shared = example_generator(self.seed, position, 0, "times")
        shapes = video.shape[1:], mel.shape[1:]
        return draw_batch(
            shared,
            generators,
            self.objective,
            position,
            indices,
            *shapes,
            every_side=position < 0,
            video_noise=self.video_noise,
        )

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate examples of the data module, with their draws; runs in the loader's workers."""
        batch = default_collate(examples)
        return {**batch, "draws": self(batch)}
