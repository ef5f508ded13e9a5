"""CMMD: the LightningModule that trains the latent diffusion with the contrastive objective."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from cmmd_lightning.codecs import CodecConfig, Vocos, resolved
from cmmd_lightning.codecs.config import plain
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.diffusion.draws import Draws
from cmmd_lightning.diffusion.noise import TimeNoise
from cmmd_lightning.diffusion.objective import (
    Errors,
    contrastive_loss,
    diffusion_loss,
    error_totals,
    measure_errors,
    reference_errors,
)
from cmmd_lightning.diffusion.objective_spec import ObjectiveSpec
from cmmd_lightning.diffusion.sampling import Pair
from cmmd_lightning.evaluation.generated import EvaluationSpec, GeneratedClips, logged_values, save_report
from cmmd_lightning.models.fingerprint import fingerprint
from cmmd_lightning.models.unet import NetworkSpec
from cmmd_lightning.prediction.generation import generate
from cmmd_lightning.prediction.inputs import InputBatch
from cmmd_lightning.prediction.latent_diffusion import LatentDiffusion
from cmmd_lightning.training.batch_draws import BatchDraws
from cmmd_lightning.training.checkpoint import ExactResume
from cmmd_lightning.training.learning_rate import Decay, with_schedule


class CMMD(LatentDiffusion, ExactResume):
    """Contrastive multi-modal diffusion (arXiv 2312.05412): one model for video to sound, sound to video, and both.

    Letters in shapes: B examples, T frames of H x W pixels, C latent channels of h x w, M Mel bands, L Mel frames, N
    sound samples, K wrong partners. A batch is a dict of ``video_latents`` (B, C, T, h, w) and ``mel`` (B, M, L) as the
    codecs give them, not normalised; with ``video_negatives`` (B, K, C, T, h, w) and ``mel_negatives`` (B, K, M, L) the
    contrastive term acts; ``position`` and ``index`` (B,), the place in the training stream, decide all randomness.

    What a test generates, and how, is no part of a checkpoint: the attribute `evaluation`, such as
    ``model.evaluation = EvaluationSpec(tasks=("video_to_audio",), guidance_scale=1.5)``.

    Args:
        clip: Lengths and rates of a clip.
        network: Size of the joint network.
        codec: The frame codec; a path is read once, its weights then live in the checkpoint.
        objective: Settings of the loss.
        schedule_shift: See `NoiseSchedule`; below 1 for large latents. One number, or one each for ``video`` and
            ``audio``.
        learning_rate: Peak learning rate of AdamW.
        betas: Decay rates of AdamW's moments; a second one of 0.99 suits runs of some hundred steps.
        weight_decay: Weight decay of AdamW.
        warmup_steps: Steps of linear warm-up.
        decay: ``constant`` after the warm-up; down to zero at the trainer's last step as a ``cosine``, or by ``wsd``
            along a line over the last ``decay_share`` of the steps. See `rate_factor`.
        decay_share: Of ``wsd``.
        vocoder: ``griffin_lim``, the ``.ckpt`` of a `VocoderModule`, ``vocos:NAME`` with a hub name or path, or a class
            of your own; see `build_vocoder`. Read once, its weights then live in the checkpoint.
        seed: Seed of everything random in training.
        pretrained: Checkpoint of a CMMD of the same clip, network and codec, as for `from_pretrained`: every fit starts
            from its averaged weights and its statistics, not from those of the data, and with the objective's bound
            ``preference`` a frozen copy of its network is the reference. Read when a fit begins or goes on, only then.
        video_noise: How the video's noise is correlated along time, in training and in sampling; see `TimeNoise`.
        compile: Mode of ``torch.compile`` for the network, no part of a checkpoint. On a GPU, fusing what is not matrix
            products is the largest gain there is; the first step then takes minutes.

    Example:
        >>> model = CMMD(clip=ClipSpec(height=32, width=32), network=NetworkSpec((32, 32), (32, 32)))
        >>> model.video_to_audio(torch.zeros(1, 3, 16, 32, 32), num_inference_steps=2).shape
        torch.Size([1, 25600])
    """

    def __init__(
        self,
        clip: ClipSpec = ClipSpec(),
        network: NetworkSpec = NetworkSpec(),
        codec: CodecConfig = CodecConfig(),
        objective: ObjectiveSpec = ObjectiveSpec(),
        schedule_shift: float | dict[str, float] = 1.0,
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        decay: Decay = "constant",
        vocoder: str | dict[str, Any] = "griffin_lim",
        seed: int = 0,
        pretrained: str | None = None,
        video_noise: TimeNoise = TimeNoise(),
        decay_share: float = 0.2,
        compile: Literal["off", "default", "max-autotune-no-cudagraphs"] = "off",
    ) -> None:
        super().__init__(clip, network, codec, schedule_shift, vocoder, video_noise)
        if compile != "off":
            self.network.compile(mode=compile)  # in its place: names of weights stay
        self.objective = ObjectiveSpec.of(objective)
        self.evaluation = EvaluationSpec()
        self._reference: nn.Module | None = None
        self._reference_fingerprint: str | None = None
        # plain types only, so that checkpoints load with weights_only=True
        self.save_hyperparameters(
            {
                "_class_path": "cmmd_lightning.CMMD",
                "clip": self.clip.to_dict(),
                "network": self.network.spec.to_dict(),
                "codec": resolved(self.codec).to_dict(),
                "objective": self.objective.to_dict(),
                "schedule_shift": self.schedules.shift,
                "learning_rate": learning_rate,
                "betas": list(betas),
                "weight_decay": weight_decay,
                "warmup_steps": warmup_steps,
                "decay": decay,
                "decay_share": decay_share,
                "vocoder": self.vocoder.init_args if isinstance(self.vocoder, Vocos) else plain(vocoder),
                "seed": seed,
                "pretrained": None if pretrained is None else str(pretrained),
                "video_noise": self.video_noise.to_dict(),
            }
        )

    def setup(self, stage: str) -> None:
        """Takes over, before a fit, what ``pretrained`` holds, or else the statistics that the data module measured.

        Raises:
            FileNotFoundError: If ``pretrained`` is not there.
            ValueError: If it does not fit this model, or the bound ``preference`` has none.
        """
        if stage != "fit":
            return
        self._reference = self._reference_fingerprint = None
        name, prefers = self.hparams["pretrained"], self.objective.bound == "preference"
        if name is None and prefers:
            raise ValueError(
                "CMMD.pretrained: expected a checkpoint, the reference of the bound 'preference', got none"
            )
        statistics = getattr(getattr(self.trainer, "datamodule", None), "statistics", None)
        if name is not None:
            network = self.take_over(name).network.requires_grad_(False)
            if prefers:
                # not among the modules: neither trained, nor averaged, nor in checkpoints
                self.__dict__["_reference"] = network
                self._reference_fingerprint = fingerprint(network)
        elif statistics is not None:
            statistics.apply(self.codec, self.mel)

    def on_fit_start(self) -> None:
        """The reference goes where the network is."""
        if self._reference is not None:
            self._reference.to(next(self.network.parameters()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Notes what the reference is, of the bound ``preference``; see `ExactResume`."""
        super().on_save_checkpoint(checkpoint)
        if self._reference_fingerprint is not None:
            checkpoint["reference"] = self._reference_fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on as `ExactResume` says, against the same reference.

        Raises:
            ValueError: If ``pretrained`` holds another network than the one that the fit began with.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is None or self._trainer.state.fn != TrainerFn.FITTING:
            return
        expected, got = checkpoint.get("reference"), self._reference_fingerprint
        if expected is not None and got is not None and expected != got:
            raise ValueError(
                f"{self.hparams['pretrained']}: expected the network that the fit began with as its reference "
                f"({expected[:12]}), got another ({got[:12]})"
            )

    def configure_optimizers(self) -> Any:
        """AdamW over the network, with warm-up and, if wanted, decay."""
        settings = self.hparams
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, settings["learning_rate"], tuple(settings["betas"]), weight_decay=settings["weight_decay"]
        )
        end, share = self.trainer.max_steps, settings["decay_share"]
        return with_schedule(optimizer, settings["warmup_steps"], settings["decay"], end, share=share)

    @property
    def drawing(self) -> BatchDraws:
        """What draws tasks, times and noise for a batch; the data module's loaders call it in their workers."""
        return BatchDraws(self.hparams["seed"], self.objective, self.video_noise)

    def _draws(self, batch: dict[str, Any], batch_idx: int) -> Draws:
        """Everything random of a batch; that of somebody's own loader, without positions, takes the run's step."""
        if "draws" in batch:
            return batch["draws"]
        # unlike batch_idx it does not start over with the epoch
        training = self._trainer is not None and self._trainer.training
        position = self.trainer.fit_loop.epoch_loop.total_batch_idx if training else batch_idx
        return self.drawing(batch, position, self.global_rank * len(batch["mel"])).to(self.device)

    def _normalised(self, batch: dict[str, Tensor], with_negatives: bool) -> tuple[Pair, Pair | None]:
        """Clean data, and wrong partners where they are wanted and there."""
        data = self.codec.normalize(batch["video_latents"]), self.mel.normalize(batch["mel"])
        negatives: Pair | None = None
        if with_negatives and "video_negatives" in batch:
            wrong_video, wrong_mel = batch["video_negatives"], batch["mel_negatives"]
            negatives = (
                self.codec.normalize(wrong_video.flatten(0, 1)).unflatten(0, wrong_video.shape[:2]),
                self.mel.normalize(wrong_mel),
            )
        return data, negatives

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute L_diffusion + eta L_contrastive; logs both, each modality's error, that of its negatives, the gap."""
        draws, objective = self._draws(batch, batch_idx), self.objective
        data, negatives = self._normalised(batch, objective.contrastive_weight > 0)
        reference: Errors | None = None
        if self._reference is not None:
            reference = reference_errors(self._reference, self.schedules, data, negatives, draws, objective.form)
        errors = measure_errors(self.network, self.schedules, data, negatives, draws, objective.form)
        diffusion, contrastive = diffusion_loss(errors, draws), contrastive_loss(errors, draws, objective, reference)
        loss = diffusion + objective.contrastive_weight * contrastive
        parts = {"loss": loss, "diffusion": diffusion, "contrastive": contrastive}
        totals = {name: torch.stack([part.detach(), torch.ones_like(part)]) for name, part in parts.items()}
        totals = self._over_processes(totals | error_totals(errors, draws))
        # a mean is not a number where no example of the batch is of its kind: to leave it out would mean to wait for it
        means = {f"train/{name}": total / count for name, (total, count) in totals.items()}
        size, on_bar = len(errors.video), self.device.type == "cpu"  # Lightning's bar reads it at every step
        self.log("train/loss", means.pop("train/loss"), prog_bar=on_bar, batch_size=size)
        self.log_dict(means, batch_size=size)
        return loss

    def _over_processes(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over all processes of (2,), by name."""
        if self._trainer is None or self._trainer.world_size == 1 or not totals:
            return totals
        reduced = self._trainer.strategy.reduce(torch.stack(list(totals.values())), reduce_op="sum")
        return dict(zip(totals, reduced, strict=True))

    def on_validation_epoch_start(self) -> None:
        """Begin to sum up."""
        self._totals: dict[str, Tensor] = {}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Measure the same errors on held-out clips with fixed draws, all of them with negatives too."""
        self._evaluation_step("val", batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the errors of the clips of all processes."""
        self._log_totals("val")

    def on_test_epoch_start(self) -> None:
        """Begins to collect what `evaluation` asks for."""
        self._totals = {}
        self._generated = GeneratedClips(self, self.evaluation)

    def predict_step(self, batch: InputBatch, batch_idx: int) -> list[Any]:
        """Generates for a batch of input files as `generation` says; `PredictionWriter` writes each as it is made."""
        return [batch.done(result) for result in generate(self, batch, self.generation)]

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """As `validation_step`; and each task is generated for the clips and observed, see `GeneratedClips`."""
        self._evaluation_step("test", batch, batch_idx)
        video, mel = self.codec.normalize(batch["video_latents"]), self.mel.normalize(batch["mel"])
        self._generated.add(batch["index"].tolist(), video, mel)

    def on_test_epoch_end(self) -> None:
        """Scores the clips of all processes once, logs every measure, and leaves ``test_report.json`` and its page.

        ``test/TASK/MEASURE``, and its ``/floor`` and ``/ceiling``, are those of `cmmd evaluate`. The report lies in the
        logger's folder, or in the trainer's ``default_root_dir`` where there is no logger; a ``fast_dev_run`` has none.
        """
        self._log_totals("test")
        report = self._generated.report()
        values = self.trainer.strategy.broadcast({} if report is None else logged_values(report))
        self.log_dict(values, sync_dist=True)  # the same everywhere; Lightning warns of values that are not averaged
        folder = self.trainer.log_dir or self.trainer.default_root_dir
        if report is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            save_report(report, folder)
        del self._generated

    def _evaluation_step(self, stage: str, batch: dict[str, Any], batch_idx: int) -> None:
        draws = self._draws(batch, batch_idx)
        data, negatives = self._normalised(batch, with_negatives=True)
        errors = measure_errors(self.network, self.schedules, data, negatives, draws, self.objective.form)
        self.log(
            f"{stage}/loss", diffusion_loss(errors, draws), prog_bar=True, sync_dist=True, batch_size=len(errors.video)
        )
        for name, total in error_totals(errors, draws).items():
            self._totals[name] = self._totals.get(name, 0) + total

    def _log_totals(self, stage: str) -> None:
        totals = self._over_processes(self._totals)
        means = {f"{stage}/{name}": total / count for name, (total, count) in totals.items() if count > 0}
        self.log_dict(means, sync_dist=True)  # the same everywhere; Lightning warns of values that are not averaged
