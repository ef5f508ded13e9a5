"""AudioVideoDataModule: a folder of media files, or a known corpus, as training, validation and test data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
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
from cmmd_lightning.data.sources import Aist, DataSource, EpicSounds, Folder, Grid, Source, of_split
from cmmd_lightning.data.stream.dataset import ClipDataset
from cmmd_lightning.data.stream.frames import FrameDataset
from cmmd_lightning.data.stream.negatives import NegativeSpec
from cmmd_lightning.data.stream.sampler import StreamSampler
from cmmd_lightning.media import read_frames, read_sound
from cmmd_lightning.prediction.inputs import predict_dataloader
from cmmd_lightning.prediction.requests import GenerationSpec

logger = logging.getLogger(__name__)

ShortName = Literal["folder", "aist", "epic_sounds", "grid"]
BUILT_IN: dict[str, type[DataSource]] = {"folder": Folder, "aist": Aist, "epic_sounds": EpicSounds, "grid": Grid}


@dataclass(frozen=True)
class ClipsPerSource:
    """How many fixed clips a source gives, evenly spread; 1 is its beginning, None tiles it.

    Args:
        val: For validation.
        test: For the test.
    """

    val: int | None = 1
    test: int | None = 1


class AudioVideoDataModule(pl.LightningDataModule):
    """Clips of picture and sound from a folder of media files or from a corpus as its owners ship it.

    The cache of latents and log-Mels is filled before training, by each process of the trainer on its own device a
    share of the files (``cmmd prepare`` does the same beforehand, on several machines if wanted). What the data report
    excludes (``doctor.md`` in the cache's folder) enters no split. Training batches come from an endless stream indexed
    by the trainer's step, so a resumed run sees what an uninterrupted one sees, and several processes what one would:
    give the trainer ``max_steps``, and validate by ``val_check_interval`` with ``check_val_every_n_epoch=None``.

    Args:
        root: Folder of the media.
        cache_dir: The cache's folder; by default ``cache`` beside ``root``.
        item: ``clip``: latents and log-Mel with negatives, for `CMMD`. ``frame``: frames, for the frame VAE.
        clip: Lengths and rates; as the model's.
        codec: The frame codec; as the model's.
        negatives: Which negatives.
        batch_size: Examples per process and step.
        num_workers: Loader processes (and decoding processes of `prepare`).
        frames_per_item: Frames of one item where ``item`` is ``frame``.
        clips_per_source: Validation and test clips per source.
        seed: Seed of everything random in the data; the model's, for one run.
        source: Where clips come from: ``Folder`` (any videos; the default), ``Aist``, ``EpicSounds``, ``Grid``,
            ``Segments``, or a `DataSource` of one's own by its class path, with its settings in ``init_args``; in
            Python an instance, or a list of `Source`. ``folder``, ``aist``, ``epic_sounds`` and ``grid`` are these
            classes with their default settings.
        exclude: Of ``clip`` items: what excludes a source from every split, besides that it cannot be used; see
            `inspect_sources`. Nothing is deleted.
    """

    def __init__(
        self,
        root: str = "data",
        cache_dir: str | None = None,
        item: Literal["clip", "frame"] = "clip",
        clip: ClipSpec = ClipSpec(),
        codec: CodecConfig = CodecConfig(),
        negatives: NegativeSpec = NegativeSpec(),
        batch_size: int = 16,
        num_workers: int = 2,
        frames_per_item: int = 4,
        clips_per_source: ClipsPerSource = ClipsPerSource(),
        seed: int = 0,
        source: DataSource | list[Source] | ShortName = "folder",
        exclude: tuple[FindingKind, ...] = DEFAULT_EXCLUDE,
    ) -> None:
        super().__init__()
        self.root, self.item, self.seed = root, item, seed
        if isinstance(source, str) and source not in BUILT_IN:
            raise ValueError(
                f"source: expected {', '.join(BUILT_IN)}, a DataSource or a list of Source, got {source!r}"
            )
        self.source = BUILT_IN[source]() if isinstance(source, str) else source
        self.exclude = tuple(exclude)
        self.cache_dir = cache_dir or str(Path(root).parent / "cache")
        self.clip, self.negatives = ClipSpec.of(clip), NegativeSpec.of(negatives)
        self.codec = CodecConfig(**codec) if isinstance(codec, Mapping) else codec
        self.batch_size, self.num_workers = batch_size, num_workers
        self.frames_per_item, self.clips_per_source = frames_per_item, clips_per_source
        self._sources: list[Source] | None = None
        self.statistics: Statistics | None = None
        self.generation: GenerationSpec | None = None
        self.datasets: dict[str, ClipDataset | FrameDataset] = {}

    def sources(self) -> list[Source]:
        """Find the sources of all splits, once.

        Raises:
            ValueError: If ``root`` or what describes it does not hold what it should.
        """
        if self._sources is None:
            given = self.source
            self._sources = given if isinstance(given, list) else given.sources(self.root, self.clip, self.seed)
        return list(self._sources)

    def _provide(self) -> None:
        if not isinstance(self.source, list):
            self.source.provide(self.root, self.clip, self.seed)

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
        self._provide()
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
        if self.item == "frame" or self._num_processes() > 1:
            self._provide()  # the cache is filled by all processes, in setup
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
            self.datasets[split] = self._dataset(split, chosen, cache)
        if stage == "fit" and cache is not None:
            train = self.datasets["train"]
            self.statistics = measure_statistics(cache, train.keys)  # type: ignore[union-attr]

    def _dataset(self, split: str, sources: list[Source], cache: Cache | None) -> ClipDataset | FrameDataset:
        if cache is None:
            return FrameDataset(sources, self.clip, frames_per_item=self.frames_per_item, seed=self.seed)
        count = getattr(self.clips_per_source, split, 1)
        return ClipDataset(sources, cache, negatives=self.negatives, seed=self.seed, clips_per_source=count)

    # ---- loaders

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
            raise ValueError(
                f"{self.root}: expected a test split (a folder test/, or --data.source.test_fraction above 0), got none"
            )
        return self._loader(self.datasets["test"])

    def predict_dataloader(self) -> Any:
        """The media files that ``generation`` names.

        Raises:
            ValueError: If nothing was asked for.
        """
        if self.generation is None:
            raise ValueError("predict needs inputs: set AudioVideoDataModule.generation, or use cmmd predict")
        return predict_dataloader(self.generation, self.clip, batch_size=self.batch_size, num_workers=self.num_workers)
