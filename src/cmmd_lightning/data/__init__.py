"""From media files to training examples: sources, cache, negatives, the training stream."""

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.preparation import Failure, PrepareReport, prepare
from cmmd_lightning.data.preprocess.cache import Cache
from cmmd_lightning.data.preprocess.statistics import Statistics, measure_statistics
from cmmd_lightning.data.randomness import example_generator, example_rng, example_seed
from cmmd_lightning.data.sources import Aist, DataSource, EpicSounds, Folder, Grid, Segments, Source, of_split
from cmmd_lightning.data.stream.dataset import ClipDataset
from cmmd_lightning.data.stream.frames import FrameDataset, SoundDataset
from cmmd_lightning.data.stream.negatives import NEGATIVE_KINDS, NegativeSpec
from cmmd_lightning.data.stream.sampler import StreamSampler

__all__ = [
    "NEGATIVE_KINDS",
    "Aist",
    "Cache",
    "ClipDataset",
    "ClipSpec",
    "DataSource",
    "EpicSounds",
    "Failure",
    "Folder",
    "FrameDataset",
    "Grid",
    "NegativeSpec",
    "PrepareReport",
    "Segments",
    "SoundDataset",
    "Source",
    "Statistics",
    "StreamSampler",
    "example_generator",
    "example_rng",
    "example_seed",
    "measure_statistics",
    "of_split",
    "prepare",
]
