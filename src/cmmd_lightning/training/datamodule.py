"""AudioVideoDataModule: a folder of media files, or a known corpus, as training, validation and test data."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cmmd_lightning.codecs import CodecConfig, LogMel, build_frame_codec
from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.inspect.report import DEFAULT_EXCLUDE, FindingKind, Inspection, inspect_sources
from cmmd_lightning.data.inspect.round_trip import measure_round_trip
from cmmd_lightning.data.inspect.written import keep_report, kept_report, recorded_sources, summary
from cmmd_lightning.data.preparation import PrepareReport, prepare
from cmmd_lightning.data.preprocess.cache import Cache
from cmmd_lightning.data.preprocess.statistics import Statistics, measure_statistics
from cmmd_lightning.data.sources import Aist, DataSource, EpicSounds, Folder, Grid, Source, of_split
from cmmd_lightning.data.sources.source import counts_by_split
from cmmd_lightning.data.stream.dataset import ClipDataset
from cmmd_lightning.data.stream.frames import FrameDataset, SoundDataset
from cmmd_lightning.data.stream.negatives import NegativeSpec
from cmmd_lightning.data.stream.sampler import StreamSampler
from cmmd_lightning.prediction.inputs import InputLoader
from cmmd_lightning.prediction.requests import PredictInput
from cmmd_lightning.training.preemption import leave_signals_to_trainer

logger = logging.getLogger(__name__)

# Batches travel from loader processes by shared memory; containers often have 64 MB of it.
_SHARED_BYTES = 128 * 2**20

ShortName = Literal["folder", "aist", "epic_sounds", "grid"]
_CLASSES: dict[str, type[DataSource]] = dict(zip(get_args(ShortName), (Folder, Aist, EpicSounds, Grid), strict=True))


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
        item: ``clip``: latents and log-Mel with negatives, for `CMMD`; ``frame``, ``sound``: for the frame VAE, the
            vocoder.
        clip: Lengths and rates; as the model's.
        codec: The frame codec; as the model's.
        negatives: Which negatives.
        batch_size: Examples per process and step.
        num_workers: Loader processes (and decoding processes of `prepare`).
        frames_per_item: Frames of one item where ``item`` is ``frame``; where it is ``sound``, its length in frames.
        clips_per_source: Validation and test clips per source, evenly spread (1 is its beginning); None tiles each
            source. Or by split: ``{val: 1, test: null}``.
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
        item: Literal["clip", "frame", "sound"] = "clip",
        clip: ClipSpec = ClipSpec(),
        codec: CodecConfig = CodecConfig(),
        negatives: NegativeSpec = NegativeSpec(),
        batch_size: int = 16,
        num_workers: int = 2,
        frames_per_item: int = 4,
        clips_per_source: int | dict[str, int | None] | None = 1,
        seed: int = 0,
        source: DataSource | list[Source] | ShortName = "folder",
        exclude: tuple[FindingKind, ...] = DEFAULT_EXCLUDE,
    ) -> None:
        super().__init__()
        self.root, self.item, self.seed = root, item, seed
        if isinstance(source, str) and source not in _CLASSES:
            wanted = f"{', '.join(_CLASSES)}, a DataSource or a list of Source"
            raise ValueError(f"source: expected {wanted}, got {source!r}")
        self.source = _CLASSES[source]() if isinstance(source, str) else source
        if item == "sound" and isinstance(self.source, Folder):
            self.source.sound_files = True
        every = clips_per_source
        clips = dict(every) if isinstance(every, Mapping) else {"val": every, "test": every}
        if not set(clips) <= {"val", "test"} or any(count is not None and count < 1 for count in clips.values()):
            raise ValueError(
                f"clips_per_source: expected a number from 1 or null, or such by val and test, got {every}"
            )
        self.exclude = tuple(exclude)
        self.cache_dir = cache_dir or str(Path(root).parent / "cache")
        self.clip, self.negatives = ClipSpec.of(clip), NegativeSpec.of(negatives)
        self.codec = CodecConfig.of(codec)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.frames_per_item, self.clips_per_source = frames_per_item, clips
        self._sources: list[Source] | None = None
        self._inspections: list[Inspection] = []
        self.statistics: Statistics | None = None
        self.inputs: list[PredictInput] | None = None
        self.datasets: dict[str, ClipDataset | FrameDataset] = {}

    def sources(self) -> list[Source]:
        """Find the sources of all splits, once.

        Raises:
            ValueError: If ``root`` or what describes it does not hold what it should.
        """
        if self._sources is None:
            self._sources = self.source if isinstance(self.source, list) else self._find(self.source)
        return list(self._sources)

    def _find(self, source: DataSource) -> list[Source]:
        try:
            return source.sources(self.root, self.clip, self.seed)
        except (ValueError, OSError):
            root = os.path.abspath(Path(self.root).expanduser())
            recorded = [] if os.path.exists(root) or self.item != "clip" else recorded_sources(self.cache_dir)
            recorded = [one for one in recorded if os.path.abspath(one.path).startswith(f"{root}{os.sep}")]
            if not recorded:
                raise
            line = "%s: no such folder; what was prepared of it is used: %s"
            logger.warning(line, self.root, counts_by_split(recorded))
            return recorded

    def _provide(self) -> None:
        if not isinstance(self.source, list):
            self.source.provide(self.root, self.clip, self.seed)

    def prepare(
        self,
        shard: tuple[int, int] = (1, 1),
        *,
        device: str | None = None,
        progress: bool = True,
        inspect: bool = True,
    ) -> PrepareReport:
        """Make the data where that was asked for, and fill the cache; what is there already is kept.

        Args:
            shard: (i, n), to take the i-th of n shares of the files.
            device: Where to encode; None is one of this machine's GPUs where there are some, by the share's number.
            progress: Whether to show a progress bar.
            inspect: Whether to write the data report and the index.

        Returns:
            What was done; files that could not be used are listed with the reason.
        """
        self._provide()
        if device is None:
            count = torch.cuda.device_count()
            device = f"cuda:{(shard[0] - 1) % count}" if count else "cpu"
        report = prepare(
            self.sources(),
            self.clip,
            *self._codecs,
            self.cache_dir,
            num_workers=self.num_workers,
            shard=shard,
            device=device,
            progress=progress,
            exclude=self.exclude,
            cache=self.cache,
            inspect=inspect,
        )
        self._inspections = report.inspections
        return report

    def round_trip(self, count: int = 4) -> tuple[int, float, float] | None:
        """Measure the codecs on the first clips of the validation split, or of training; see `measure_round_trip`."""
        sources = self.sources()
        return measure_round_trip((of_split(sources, "val") or sources)[:count], self.clip, *self._codecs)

    def prepare_data(self) -> None:
        """What training needs on disk; called by the trainer on one process."""
        if self.inputs is not None:
            return
        if self.item != "clip" or self._num_processes() > 1:
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
        # A group of its own, for its time limit: that of the trainer's is made for training steps.
        group = torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30))
        self.prepare((rank + 1, self._num_processes()), device=device, progress=rank == 0, inspect=False)
        torch.distributed.monitored_barrier(group)
        if rank == 0:
            self.cache.reload()
            self._inspections = keep_report(self.sources(), self.cache, exclude=self.exclude)
            logger.info("%s; see %s", summary(self._inspections), self.cache.cache_dir / "doctor.md")
        torch.distributed.monitored_barrier(group)
        torch.distributed.destroy_process_group(group)
        if rank > 0:
            self.cache.reload()
            self._inspections = kept_report(self.cache)

    def _kept(self) -> list[Source]:
        """Find the sources that the data report does not exclude; their entries are known then."""
        inspections = self._inspections or inspect_sources(self.sources(), self.cache, exclude=self.exclude)
        self.cache.adopt({i.source: i.entry for i in inspections if i.entry})
        # What is not prepared is for the dataset to name.
        kept = [i.source for i in inspections if i.kept or i.findings[0].kind == "not_prepared"]
        if len(kept) < len(inspections) and not of_split(kept, "train") and of_split(self.sources(), "train"):
            report = self.cache.cache_dir / "doctor.md"
            wanted = "sources to train on, got none that the data report keeps"
            raise ValueError(f"{self.root}: expected {wanted}; see {report}")
        return kept

    @cached_property
    def cache(self) -> Cache:
        """The cache of these clips."""
        return Cache(self.cache_dir, self.clip, *self._codecs)

    @cached_property
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
            cache, sources = self.cache, self._kept()
            self.__dict__.pop("_codecs", None)  # the model has its own
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
            dataset = SoundDataset if self.item == "sound" else FrameDataset
            return dataset(sources, self.clip, frames_per_item=self.frames_per_item, seed=self.seed)
        count = self.clips_per_source.get(split, 1)
        return ClipDataset(sources, cache, negatives=self.negatives, seed=self.seed, clips_per_source=count)

    def _start(self) -> int:
        """Position in the training stream where the trainer stands."""
        trainer = self.trainer
        return 0 if trainer is None else trainer.global_step * trainer.accumulate_grad_batches

    def _loader(self, dataset: Any, **options: Any) -> DataLoader[dict[str, Tensor]]:
        shared = Path("/dev/shm")
        free = shutil.disk_usage(shared).free if self.num_workers and shared.is_dir() else _SHARED_BYTES
        if free < _SHARED_BYTES:
            line = "/dev/shm: %.0f MB are free, which may be too few for loader processes: if they die, %s"
            logger.warning(line, free / 1e6, "--data.num_workers 0, or more shared memory (docker run --shm-size 1g)")
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
            wanted = "a test split (a folder test/, or --data.source.test_fraction above 0)"
            raise ValueError(f"{self.root}: expected {wanted}, got none")
        return self._loader(self.datasets["test"])

    def predict_dataloader(self) -> Any:
        """The media files of ``inputs``, as `plan_inputs` plans them.

        Raises:
            ValueError: If nothing was asked for.
        """
        if self.inputs is None:
            raise ValueError("predict needs inputs: set AudioVideoDataModule.inputs, or use cmmd predict")
        return InputLoader(self.inputs, self.batch_size, self.num_workers)
