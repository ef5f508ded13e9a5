"""AudioVideoDataModule: a folder of media files, or a known corpus, as training, validation and test data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cmmd_lightning.codecs import CodecConfig, LogMel, build_frame_codec, build_vocoder
from cmmd_lightning.codecs.quality import frame_round_trip, sound_round_trip
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.inspect.doctor import DEFAULT_EXCLUDE, FindingKind, examine, summary, write_report
from cmmd_lightning.data.preparation import PrepareReport, prepare
from cmmd_lightning.data.preprocess.cache import Cache
from cmmd_lightning.data.preprocess.statistics import Statistics, measure_statistics
from cmmd_lightning.data.sources.aist import aist_sources
from cmmd_lightning.data.sources.epic_sounds import epic_sounds_sources
from cmmd_lightning.data.sources.grid import grid_sources
from cmmd_lightning.data.sources.segments import segment_sources
from cmmd_lightning.data.sources.source import Source, folder_sources, of_split
from cmmd_lightning.data.stream.dataset import ClipDataset
from cmmd_lightning.data.stream.frames import FrameDataset, SoundDataset
from cmmd_lightning.data.stream.negatives import NegativeSpec
from cmmd_lightning.data.stream.sampler import StreamSampler
from cmmd_lightning.media import find_media, read_frames, read_sound
from cmmd_lightning.prediction.inputs import predict_dataloader
from cmmd_lightning.prediction.requests import GenerationSpec
from cmmd_lightning.training.preemption import leave_signals_to_trainer

logger = logging.getLogger(__name__)


class AudioVideoDataModule(pl.LightningDataModule):
    """Clips of picture and sound from a folder of media files or from a corpus as its owners ship it.

    The cache of latents and log-Mels is filled before training, by each process of the trainer on its own device a
    share of the files (``cmmd prepare`` does the same beforehand, on several machines if wanted). What the doctor
    excludes (``doctor.md`` in the cache's folder) enters no split. Training batches come from an endless stream indexed
    by the trainer's step, so a resumed run sees what an uninterrupted one sees, and several processes what one would:
    give the trainer ``max_steps``, and validate by ``val_check_interval`` with ``check_val_every_n_epoch=None``.

    Args:
        root: Folder of the media.
        source: What lies there. ``folder``: any videos; subfolders ``train``, ``val`` and ``test`` are the splits, else
            files are split by hash. ``aist``, ``epic_sounds``, ``grid``: see `aist_sources`, `epic_sounds_sources`,
            `grid_sources`.
        annotations: Of ``aist`` (split lists, ignore list) and ``epic_sounds`` (CSV files): their folder, or their
            paths by ``train``, ``val``, ``test`` and, for ``aist``, ``ignore``. None: ``aist`` is split by its test
            music, ``epic_sounds`` has them in ``root``.
        cameras: Of ``aist``: one camera, several, or ``all``.
        segments: Of ``folder``: a CSV file of stretches with splits, labels and periods, see `segment_sources`.
        short_segments: Of ``epic_sounds``: whether segments shorter than a clip are widened or dropped.
        max_segment_seconds: Of ``epic_sounds``: longer segments are cut to so many seconds; None keeps them whole.
        cache_dir: The cache's folder; by default ``cache`` beside ``root``.
        item: ``clip``: latents and log-Mel with wrong partners; ``frame``, ``sound``: for the frame VAE, the vocoder.
        clip: Lengths and rates; as the model's.
        codec: The frame codec; as the model's.
        negatives: Which wrong partners.
        batch_size: Examples per process and step.
        num_workers: Loader processes (and decoding processes of `prepare`).
        frames_per_item: Frames of one item where ``item`` is ``frame``; where it is ``sound``, its length in frames.
        clips_per_source: Validation clips per file; None tiles each file.
        val_fraction: Share of files for validation, where nothing else states the splits.
        test_fraction: Likewise for testing.
        render_scene: Of ``folder``: a procedural scene that is rendered into ``root`` where that holds no media.
        render_clips: Clips rendered for train, val and test.
        seed: Seed of everything random in the data; the model's, for one run.
        exclude: Of ``clip`` items: what excludes a source from every split, besides that it cannot be used; see
            `examine`. Nothing is deleted.
    """

    def __init__(
        self,
        root: str = "data",
        cache_dir: str | None = None,
        item: Literal["clip", "frame", "sound"] = "clip",
        clip: ClipSpec = ClipSpec(),
        codec: CodecConfig = CodecConfig(),
        negatives: NegativeSpec = NegativeSpec(),
        batch_size: int = 16,
        num_workers: int = 2,
        frames_per_item: int = 4,
        clips_per_source: int | None = 1,
        val_fraction: float = 0.05,
        test_fraction: float = 0.0,
        render_scene: Literal["bounce", "dance"] | None = None,
        render_clips: tuple[int, int, int] = (48, 8, 8),
        seed: int = 0,
        source: Literal["folder", "aist", "epic_sounds", "grid"] = "folder",
        annotations: dict[str, str] | str | None = None,
        cameras: list[str] | str = "c01",
        segments: str | None = None,
        short_segments: Literal["widen", "drop"] = "widen",
        max_segment_seconds: float | None = None,
        exclude: tuple[FindingKind, ...] = DEFAULT_EXCLUDE,
    ) -> None:
        super().__init__()
        if segments is not None and source != "folder":
            raise ValueError(f"AudioVideoDataModule: expected segments with source folder, got source {source}")
        self.root, self.item = root, item
        self.source, self.annotations, self.cameras, self.segments = source, annotations, cameras, segments
        self.short_segments, self.max_segment_seconds = short_segments, max_segment_seconds
        self.exclude = tuple(exclude)
        self.cache_dir = cache_dir or str(Path(root).parent / "cache")
        self.clip, self.negatives = ClipSpec.of(clip), NegativeSpec.of(negatives)
        self.codec = CodecConfig(**codec) if isinstance(codec, Mapping) else codec
        self.batch_size, self.num_workers = batch_size, num_workers
        self.frames_per_item, self.clips_per_source = frames_per_item, clips_per_source
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.render_scene, self.render_clips, self.seed = render_scene, render_clips, seed
        self._sources: list[Source] | None = None
        self.statistics: Statistics | None = None
        self.generation: GenerationSpec | None = None
        self.datasets: dict[str, ClipDataset | FrameDataset] = {}

    def sources(self) -> list[Source]:
        """The sources of all splits, which are looked for once.

        Raises:
            ValueError: If ``root`` or the annotations do not hold what they should.
        """
        if self._sources is None:
            self._sources = self._find_sources()
        return list(self._sources)

    def _find_sources(self) -> list[Source]:
        if self.source == "epic_sounds":
            return epic_sounds_sources(
                self.root,
                clip_seconds=self.clip.duration,
                annotations=self.annotations,
                short_segments=self.short_segments,
                max_seconds=self.max_segment_seconds,
            )
        val, test, seed, sound = self.val_fraction, self.test_fraction, self.seed, self.item == "sound"
        if self.source == "aist":
            return aist_sources(
                self.root, cameras=self.cameras, annotations=self.annotations, val_fraction=val, seed=seed
            )
        if self.source == "grid":
            return grid_sources(self.root, val_fraction=val, test_fraction=test, seed=seed)
        if self.segments is not None:
            return segment_sources(self.root, self.segments, val_fraction=val, test_fraction=test, seed=seed)
        return folder_sources(self.root, val_fraction=val, test_fraction=test, seed=seed, sound_files=sound)

    def prepare(
        self, shard: tuple[int, int] = (1, 1), *, device: str | None = None, progress: bool = True
    ) -> PrepareReport:
        """Renders the data where that was asked for, and fills the cache; what is there already is kept.

        Args:
            shard: (i, n), to take the i-th of n shares of the files.
            device: Where to encode; None is the first GPU where there is one.
            progress: Whether to show a progress bar.

        Returns:
            What was done; files that could not be used are listed with the reason.
        """
        self._render()
        codec, mel = self._codecs()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return prepare(
            self.sources(),
            self.clip,
            codec,
            mel,
            self.cache_dir,
            num_workers=self.num_workers,
            shard=shard,
            device=device,
            progress=progress,
            exclude=self.exclude,
        )

    def round_trip(self, count: int = 4) -> tuple[int, float, float] | None:
        """Quality of the codecs on the first clips of the validation split, or of training where there is none.

        Args:
            count: Clips at most.

        Returns:
            Clips measured, PSNR of frames through the codec, log-spectral distance of sound through log-Mel and
            Griffin-Lim, both in dB; None where no clip can be read.
        """
        clip, sources = self.clip, self.sources()
        codec, mel = self._codecs()
        frames, sounds = [], []
        for source in (of_split(sources, "val") or sources)[:count]:
            try:
                size, length = (clip.height, clip.width), clip.num_frames
                pictures = read_frames(
                    source.path, start=source.start, num_frames=length, fps=clip.fps, size=size, fit=clip.fit
                )
                sound = read_sound(
                    source.path, start=source.start, num_samples=clip.num_samples, sample_rate=clip.sample_rate
                )
            except (ValueError, OSError):
                continue  # prepare has named it
            frames.append(pictures.float() / 127.5 - 1)
            sounds.append(sound)
        if not sounds:
            return None
        vocoder = build_vocoder("griffin_lim", mel)
        distance = sound_round_trip(mel, vocoder, torch.stack(sounds))["log_spectral_distance"]
        return len(sounds), frame_round_trip(codec, torch.cat(frames))["psnr"], distance

    def prepare_data(self) -> None:
        """What training needs on disk; called by the trainer on one process."""
        if self.generation is not None:
            return
        if self.item != "clip" or self._num_processes() > 1:
            self._render()  # the cache is filled by all processes, in setup
            return
        report = self.prepare()
        if report.failed:
            logger.warning("%s: %d files were left out, see above", self.root, len(report.failed))

    def _num_processes(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    def _prepare_together(self) -> None:
        """Each process prepares its share of the files on its own device, and waits for the others."""
        assert self.trainer is not None
        rank, device = self.trainer.global_rank, str(self.trainer.strategy.root_device)
        self.prepare((rank + 1, self._num_processes()), device=device, progress=rank == 0)
        # A group of its own, for its time limit: that of the trainer's is made for training steps.
        group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30))
        torch.distributed.monitored_barrier(group)
        torch.distributed.destroy_process_group(group)

    def _kept(self, cache: Cache) -> list[Source]:
        """The sources that the doctor does not exclude; of several processes, the first writes the whole report."""
        diagnoses = examine(self.sources(), cache, exclude=self.exclude)
        if self._num_processes() > 1 and self.trainer is not None and self.trainer.is_global_zero:
            write_report(diagnoses, cache)
            logger.info("%s", summary(diagnoses))
        # What is not prepared is for the dataset to name.
        out = {d.source.key for d in diagnoses if not d.kept and d.findings[0].kind != "not_prepared"}
        kept = [source for source in self.sources() if source.key not in out]
        if out and not of_split(kept, "train") and of_split(self.sources(), "train"):
            report = cache.cache_dir / "doctor.md"
            raise ValueError(f"{self.root}: expected sources to train on, got none that the doctor keeps; see {report}")
        return kept

    def _render(self) -> None:
        if (
            self.render_scene is None
            or self.source != "folder"
            or (Path(self.root).is_dir() and find_media([self.root]))
        ):
            return
        from cmmd_lightning.procedural import render

        seconds = 2.5 * self.clip.duration
        for i, (split, count) in enumerate(zip(("train", "val", "test"), self.render_clips, strict=True)):
            folder, seed = Path(self.root) / split, self.seed + i
            render(
                self.render_scene,
                folder,
                count,
                seed,
                duration=seconds,
                fps=self.clip.fps,
                height=self.clip.height,
                width=self.clip.width,
                sample_rate=self.clip.sample_rate,
            )

    def _codecs(self) -> tuple[Any, LogMel]:
        return build_frame_codec(self.codec), LogMel(*self.clip.mel_settings)

    def setup(self, stage: str) -> None:
        """Opens the splits that ``stage`` needs and measures the statistics of the training split."""
        if stage == "predict":
            return
        splits = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}[stage]
        sources = self.sources()
        cache: Cache | None = None
        if self.item == "clip":
            if self._num_processes() > 1:
                self._prepare_together()
            cache = Cache(self.cache_dir, self.clip, *self._codecs())
            sources = self._kept(cache)
        for split in splits:
            chosen = of_split(sources, split)
            if not chosen and split != "train":
                continue
            self.datasets[split] = self._dataset(chosen, cache)
        if stage == "fit" and cache is not None:
            train = self.datasets["train"]
            self.statistics = measure_statistics(cache, train.keys)  # type: ignore[union-attr]

    def _dataset(self, sources: list[Source], cache: Cache | None) -> ClipDataset | FrameDataset:
        if cache is None:
            dataset = SoundDataset if self.item == "sound" else FrameDataset
            return dataset(sources, self.clip, frames_per_item=self.frames_per_item, seed=self.seed)
        return ClipDataset(
            sources, cache, negatives=self.negatives, seed=self.seed, clips_per_source=self.clips_per_source
        )

    def _start(self) -> int:
        """Position in the training stream where the trainer stands."""
        trainer = self.trainer
        return 0 if trainer is None else trainer.global_step * trainer.accumulate_grad_batches

    def _loader(self, dataset: Any, **options: Any) -> DataLoader[dict[str, Tensor]]:
        drawing = getattr(self.trainer and self.trainer.lightning_module, "drawing", None)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            collate_fn=None if drawing is None or self.item != "clip" else drawing.collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=leave_signals_to_trainer,
            **options,
        )

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The endless stream, from the trainer's step on."""
        world = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        sampler = StreamSampler(self.batch_size, num_replicas=world[0], rank=world[1], start=self._start)
        return self._loader(self.datasets["train"], sampler=sampler)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        """Fixed clips of the validation split; empty where there is none."""
        return self._loader(self.datasets["val"]) if "val" in self.datasets else []

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Fixed clips of the test split.

        Raises:
            ValueError: If there is no test split.
        """
        if "test" not in self.datasets:
            raise ValueError(f"{self.root}: expected a test split (a folder test/, or test_fraction above 0), got none")
        return self._loader(self.datasets["test"])

    def predict_dataloader(self) -> Any:
        """The media files that ``generation`` names.

        Raises:
            ValueError: If nothing was asked for.
        """
        if self.generation is None:
            raise ValueError("predict needs inputs: set AudioVideoDataModule.generation, or use cmmd predict")
        return predict_dataloader(self.generation, self.clip, batch_size=self.batch_size, num_workers=self.num_workers)
