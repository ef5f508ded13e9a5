"""Training of the Gaussian VAE that turns frames into latents."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from cmmd_lightning.codecs import CodecConfig, build_frame_codec, psnr, sample_posterior
from cmmd_lightning.data.randomness import example_generator
from cmmd_lightning.training.checkpoint import ExactResume
from cmmd_lightning.training.learning_rate import with_schedule

_FIRST_LOGVAR = -8.0


class FrameAutoencoderModule(ExactResume):
    """Train a Gaussian VAE of frames: loss = L1 + ``mse_weight`` * MSE + ``kl_weight`` * KL(posterior || N(0, 1)).

    L1 and MSE are means over pixel values in [-1, 1], KL is a mean over latent values (nats per value), so
    ``kl_weight`` means the same at every size. The defaults are a small network for 64x64 to 128x128 frames on a CPU:
    pixel-unshuffle by 4 first, then one halving, 8 pixels per latent cell.

    A model draws latents with errors. With ``latent_noise`` the decoder learns to live with them: noise of a standard
    deviation of 0 to ``latent_noise`` of the latents' own is added to each clip's, part of it alike in all its frames.
    With ``kind`` ``clip_autoencoder`` it sees neighbouring frames, and with ``temporal_weight`` the loss counts what
    changes from frame to frame where nothing should: the L1 of temporal differences.

    The checkpoint is the codec: ``build_frame_codec({"kind": "autoencoder_kl", "path": "vae.ckpt"})``. Its
    hyperparameters hold the resolved ``CodecConfig`` under ``codec``; under weight averaging its ``state_dict`` holds
    the averages.

    A batch is ``{"frames": (B, n, 3, H, W)}``, values in [-1, 1], all B * n of them used. ``position`` and ``index``
    (B,), where the data gives them, seed the posterior's noise; else the global step and the place in the global batch
    do.

    Args:
        latent_channels: Channels of the latents, C.
        block_out_channels: Channels of each level; every level after the first halves height and width.
        layers_per_block: Residual blocks per level of the encoder; the decoder has one more.
        unshuffle: Pixel-unshuffle factor in front of the network; 1 is none.
        norm_num_groups: Groups of the group norms; divides every entry of ``block_out_channels``.
        shortcut: Whether a linear codec runs beside the network; see ``AutoencoderKLCodec``. Without it the same
            quality takes many times the steps, but the network is one that diffusers alone can run.
        mid_block_attention: Self-attention at the coarsest level.
        kl_weight: Weight of the KL term.
        kind: ``autoencoder_kl``, or ``clip_autoencoder``: a `ClipAutoencoderCodec`, with two ``block_out_channels``.
        kernels: Of a ``clip_autoencoder``: frames that a block of the decoder sees, at the finer resolution and at the
            coarser one.
        mse_weight: Weight of the MSE beside the L1.
        latent_noise: Largest noise on the latents, in their standard deviations.
        temporal_weight: Weight of the L1 of differences between neighbouring frames.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises from 0.
        decay_steps: Steps after which the learning rate, falling along a half cosine from the end of the warm-up, has
            reached 0; None keeps it constant. A number of its own, so that a run stopped half-way resumes exactly.
        seed: Of the posterior's noise.

    Example:
        >>> module = FrameAutoencoderModule(block_out_channels=[16, 32], norm_num_groups=4)
        >>> module.codec.latent_shape(64, 64)
        (4, 8, 8)
    """

    def __init__(
        self,
        latent_channels: int = 4,
        block_out_channels: list[int] | tuple[int, ...] = (32, 64),
        layers_per_block: int = 1,
        unshuffle: int = 4,
        norm_num_groups: int = 8,
        mid_block_attention: bool = False,
        shortcut: bool = True,
        kl_weight: float = 1e-4,
        kind: Literal["autoencoder_kl", "clip_autoencoder"] = "autoencoder_kl",
        kernels: tuple[int, int] = (3, 5),
        mse_weight: float = 1.0,
        latent_noise: float = 0.0,
        temporal_weight: float = 0.0,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-4,
        warmup_steps: int = 20,
        decay_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        block_out_channels = [int(channels) for channels in block_out_channels]
        network: dict[str, Any] = {"latent_channels": latent_channels}
        if kind == "clip_autoencoder":
            blocks = {"encoder_blocks": layers_per_block, "decoder_blocks": layers_per_block + 1}
            network |= {"channels": block_out_channels, "kernels": list(kernels), "negative_slope": 0.1, **blocks}
        else:
            network |= {
                "block_out_channels": block_out_channels,
                "layers_per_block": layers_per_block,
                "norm_num_groups": norm_num_groups,
                "mid_block_add_attention": mid_block_attention,
            }
        self.codec = build_frame_codec(CodecConfig(kind, None, unshuffle, network, shortcut))
        self.codec.requires_grad_(True).train()
        # The posterior starts narrow: latents that are mostly noise would leave the decoder nothing to learn from.
        name = "encoder_out.bias" if kind == "clip_autoencoder" else "vae.quant_conv.bias"
        bias = self.codec.get_parameter(name)
        torch.nn.init.constant_(bias[latent_channels:], _FIRST_LOGVAR)
        self.save_hyperparameters()
        self.hparams["kernels"] = list(kernels)
        self.hparams["codec"] = self.codec.config.to_dict()
        self.hparams["_class_path"] = "cmmd_lightning.FrameAutoencoderModule"

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [-1, 1] through the mean of their latents and back, clamped."""
        return self.codec.decode(self.codec.encode(frames)[0])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch, latents sampled from the posterior."""
        examples = len(batch["frames"])
        frames = batch["frames"].flatten(0, 1)
        mean, logvar = self.codec.encode(frames)
        generators = self._generators(batch)
        parts = zip(mean.chunk(examples), logvar.chunk(examples), generators, strict=True)
        latents = torch.stack([sample_posterior(*part) for part in parts])
        if self.hparams["latent_noise"] > 0:
            spread = latents.detach().std((0, 1, 3, 4), keepdim=True)
            noise = torch.stack([self._latent_noise(latents[0], generator) for generator in generators])
            latents = latents + spread * noise
        estimate = self.codec.reconstruct_clips(latents.transpose(1, 2)).transpose(1, 2)
        losses = self._losses(estimate, batch["frames"], mean, logvar)
        self._log("train", losses, examples)
        return losses["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Logs losses and PSNR of the latents' mean."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """As ``validation_step``, on the test split."""
        self._evaluate("test", batch, batch_idx)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; linear warm-up, then a half cosine or a constant."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"]
        )
        warmup, end = self.hparams["warmup_steps"], self.hparams["decay_steps"]
        return with_schedule(optimizer, warmup, "cosine" if end else "constant", end or 0, begin=warmup)

    def _generators(self, batch: dict[str, Tensor]) -> list[torch.Generator]:
        """One generator per example, from its place in the stream: the same in one process and in two."""
        examples = len(batch["frames"])
        positions = batch["position"].tolist() if "position" in batch else [self.global_step] * examples
        first = self.global_rank * examples
        indices = batch["index"].tolist() if "index" in batch else list(range(first, first + examples))
        seed = self.hparams["seed"]
        return [example_generator(seed, *place, "posterior") for place in zip(positions, indices, strict=True)]

    def _latent_noise(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Noise for the latents (n, C, h, w) of one clip, in standard deviations."""
        size, shared = torch.rand(2, generator=generator)
        alike, apart = (torch.randn((count, *like.shape[1:]), generator=generator) for count in (1, len(like)))
        mixed = (0.5 * shared).sqrt() * alike + (1 - 0.5 * shared).sqrt() * apart
        return (self.hparams["latent_noise"] * size * mixed).to(like.device)

    def _losses(self, estimate: Tensor, frames: Tensor, mean: Tensor, logvar: Tensor) -> dict[str, Tensor]:
        """Of clips (B, n, 3, H, W), and of the posteriors of their frames."""
        error = estimate.float() - frames
        reconstruction = error.abs().mean() + self.hparams["mse_weight"] * error.square().mean()
        if self.hparams["temporal_weight"] > 0 and frames.shape[1] > 1:
            reconstruction = reconstruction + self.hparams["temporal_weight"] * error.diff(dim=1).abs().mean()
        mean, logvar = mean.float(), logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
        return {"loss": reconstruction + self.hparams["kl_weight"] * kl, "reconstruction": reconstruction, "kl": kl}

    def _evaluate(self, stage: str, batch: dict[str, Tensor], batch_idx: int) -> None:
        frames = batch["frames"].flatten(0, 1)
        mean, logvar = self.codec.encode(frames)
        clips = mean.unflatten(0, batch["frames"].shape[:2]).transpose(1, 2)
        estimate = self.codec.reconstruct_clips(clips).transpose(1, 2)
        losses = self._losses(estimate, batch["frames"], mean, logvar)
        measured = {"psnr": psnr(estimate.clamp(-1.0, 1.0).flatten(0, 1), frames)}
        if self.hparams["latent_noise"] > 0:
            generator = torch.Generator().manual_seed(batch_idx)
            noise = torch.randn(clips.shape, generator=generator).to(clips.device)
            noisy = clips + 0.2 * clips.std((0, 2, 3, 4), keepdim=True) * noise
            decoded = self.codec.decode_clips(noisy).transpose(1, 2).flatten(0, 1)
            measured["psnr_at_noise_0.2"] = psnr(decoded, estimate.clamp(-1.0, 1.0).flatten(0, 1))
        self._log(stage, {**losses, **measured}, len(batch["frames"]))

    def _log(self, stage: str, values: dict[str, Tensor], examples: int) -> None:
        training = stage == "train"
        named = {f"{stage}/{name}": value.detach() for name, value in values.items()}
        on_bar = not training or self.device.type == "cpu"  # Lightning's bar reads it at every step
        self.log_dict(named, prog_bar=on_bar, batch_size=examples, sync_dist=not training)
