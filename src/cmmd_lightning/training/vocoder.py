"""Training of the vocoder that turns log-Mels into sound."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from cmmd_lightning.codecs import LogMel, Vocos, log_spectral_distance
from cmmd_lightning.codecs.spectral import multi_resolution_distance
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.training.checkpoint import ExactResume
from cmmd_lightning.training.learning_rate import with_schedule


class VocoderModule(ExactResume):
    """Trains `Vocos` on sound: loss = multi-resolution STFT distance + ``mel_weight`` * L1 of the log-Mels.

    The checkpoint is the vocoder: ``vocoder: runs/vocoder/vocoder.ckpt`` in a config of `CMMD` whose clip has the same
    Mel. Under weight averaging its ``state_dict`` holds the averages.

    A batch is ``{"sound": (B, N)}``, values in [-1, 1], at the clip's sample rate.

    Args:
        clip: As the model's: its Mel is what the vocoder will be given.
        dim: Channels of the network.
        intermediate_dim: Channels inside of its blocks.
        num_layers: Blocks.
        synthesis_n_fft: Window of the inverse transform in samples; None is the Mel's.
        mel_weight: Weight of the log-Mels' L1 distance, a mean in nats.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises from 0.
        decay_steps: Steps after which the learning rate, falling along a half cosine from the end of the warm-up, has
            reached 0; None keeps it constant.

    Example:
        >>> module = VocoderModule(dim=16, intermediate_dim=32, num_layers=1)
        >>> module(torch.zeros(2, 4000)).shape
        torch.Size([2, 4000])
    """

    def __init__(
        self,
        clip: ClipSpec = ClipSpec(),
        dim: int = 256,
        intermediate_dim: int = 768,
        num_layers: int = 8,
        synthesis_n_fft: int | None = None,
        mel_weight: float = 1.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        decay_steps: int | None = None,
    ) -> None:
        super().__init__()
        clip = ClipSpec.of(clip)
        self.mel = LogMel(*clip.mel_settings)
        self.vocoder = Vocos(self.mel.settings, dim, intermediate_dim, num_layers, synthesis_n_fft)
        self.save_hyperparameters()
        self.hparams["clip"] = clip.to_dict()
        self.hparams["vocoder"] = self.vocoder.init_args
        self.hparams["_class_path"] = "cmmd_lightning.VocoderModule"

    def forward(self, sound: Tensor) -> Tensor:
        """Sound (B, N) through its log-Mel and back."""
        again: Tensor = self.vocoder(self.mel(sound), sound.shape[1])
        return again

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        losses = self._losses(self(batch["sound"]), batch["sound"])
        self._log("train", losses, len(batch["sound"]))
        return losses["loss"]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Logs the losses and the log-spectral distance in dB."""
        self._evaluate("val", batch["sound"])

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """As `validation_step`, on the test split."""
        self._evaluate("test", batch["sound"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; linear warm-up, then a half cosine or a constant."""
        settings = self.hparams
        optimizer = torch.optim.AdamW(
            self.parameters(), settings["learning_rate"], (0.8, 0.99), weight_decay=settings["weight_decay"]
        )
        warmup, end = settings["warmup_steps"], settings["decay_steps"]
        return with_schedule(optimizer, warmup, "cosine" if end else "constant", end or 0, begin=warmup)

    def _losses(self, estimate: Tensor, sound: Tensor) -> dict[str, Tensor]:
        spectra = multi_resolution_distance(estimate, sound)
        mel = (self.mel(estimate) - self.mel(sound)).abs().mean()
        return {"loss": spectra + self.hparams["mel_weight"] * mel, "spectra": spectra, "mel": mel}

    def _evaluate(self, stage: str, sound: Tensor) -> None:
        estimate = self(sound)
        distance = log_spectral_distance(estimate, sound)
        self._log(stage, {**self._losses(estimate, sound), "log_spectral_distance": distance}, len(sound))

    def _log(self, stage: str, values: dict[str, Tensor], examples: int) -> None:
        training = stage == "train"
        named = {f"{stage}/{name}": value.detach() for name, value in values.items()}
        on_bar = not training or self.device.type == "cpu"  # Lightning's bar reads it at every step
        self.log_dict(named, prog_bar=on_bar, batch_size=examples, sync_dist=not training)
