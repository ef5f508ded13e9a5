"""From media files to training examples: sources, cache, negatives, the training stream."""

from cmmd_lightning.data.clips import ClipSpec
from cmmd_lightning.data.preparation import Failure, PrepareReport, prepare
from cmmd_lightning.data.preprocess.cache import Cache
from cmmd_lightning.data.preprocess.statistics import Statistics, measure_statistics
from cmmd_lightning.data.randomness import example_generator, example_rng, example_seed
from cmmd_lightning.data.sources.source import Source, folder_sources, of_split
from cmmd_lightning.data.stream.dataset import ClipDataset
from cmmd_lightning.data.stream.frames import FrameDataset, SoundDataset
from cmmd_lightning.data.stream.negatives import NEGATIVE_KINDS, NegativeSpec
from cmmd_lightning.data.stream.sampler import StreamSampler

__all__ = [
    "NEGATIVE_KINDS",
    "Cache",
    "ClipDataset",
    "ClipSpec",
    "Failure",
    "FrameDataset",
    "NegativeSpec",
    "PrepareReport",
    "SoundDataset",
    "Source",
    "Statistics",
    "StreamSampler",
    "example_generator",
    "example_rng",
    "example_seed",
    "folder_sources",
    "measure_statistics",
    "of_split",
    "prepare",
]
